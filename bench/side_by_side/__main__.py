"""`python -m bench.side_by_side FOLDER [--readme] GROUP…`, started by bench/run.

The stack runs and its settings are in HZEL_BENCH_STACK; a dockerd listens on FOLDER/docker/docker.sock. FOLDER is for
temporary files. Prints the table, and leaves it with every sample in bench/out.
"""

import argparse
import asyncio
import json
import os
import subprocess
import tempfile
from contextlib import AsyncExitStack
from pathlib import Path

import uvloop

from bench.side_by_side.comparison import Comparison
from bench.side_by_side.docker import Docker
from bench.side_by_side.hzel import Hzel
from bench.side_by_side.runtime import CommitLog, opened_runtime
from bench.side_by_side.table import machine, put_into, table
from tests.stack import ROOT, Stack

BENCH = ROOT / "bench"


async def compare(folder: Path, tar: Path, groups: list[str], readme: bool) -> None:
    load_before = os.getloadavg()[0]
    stack = Stack(json.loads(os.environ["HZEL_BENCH_STACK"]))
    async with AsyncExitStack() as closing:
        hzel, docker = Hzel(stack), Docker(folder / "docker/docker.sock")
        closing.push_async_callback(hzel.close)
        closing.push_async_callback(docker.close)
        await docker.import_image(tar)
        pattern = await hzel.create()
        parts = Path(tempfile.mkdtemp(prefix="parts-", dir=folder))
        parts.chmod(0o711)  # a container's root is below it
        runtime = await closing.enter_async_context(opened_runtime(stack, pattern, tar, parts))
        await hzel.delete(pattern)
        log = CommitLog(stack.state_dir / "bench.db")
        closing.callback(log.close)
        comparison = Comparison(stack, hzel, docker, runtime, log)
        for group in groups:
            print(f"measuring {group}", flush=True)
            await comparison.groups[group]()
        about = machine(await docker.versions(), load_before)
    samples = comparison.samples.by_row
    text = f"{table(samples)}\n\n{about}"
    print(f"\n{text}")
    (BENCH / "out/side_by_side.json").write_text(json.dumps({"machine": about, "samples": samples}, indent=1))
    (BENCH / "out/side_by_side.md").write_text(f"{text}\n")
    if readme:
        put_into(BENCH / "README.md", text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("groups", nargs="+")
    parser.add_argument("--readme", action="store_true")
    wanted = parser.parse_args()
    tar = wanted.folder / "busybox.tar"
    subprocess.run([str(ROOT / "deploy/local/images/busybox.sh"), str(tar)], check=True)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(compare(wanted.folder, tar, wanted.groups, wanted.readme))


if __name__ == "__main__":
    main()
