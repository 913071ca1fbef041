"""What the node holds: counted before and after, anything that stayed behind is a leak.

`python tests/leaks.py save FILE`, later `python tests/leaks.py compare FILE`.
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

SETTLE_S = 15.0
PROGRAMS = ("containerd --config", "containerd-shim", "crun", "nats-server", "-m services.", "supervisord", "tini")


def snapshot() -> dict[str, list[str]]:
    """Names of everything of a kind that containers and stacks make."""
    return {
        "mounts": sorted(line.split(" ")[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()),
        "loop devices": sorted(_lines("losetup", "--list", "--noheadings", "--output", "BACK-FILE")),
        "links": sorted(line.split()[0].split("@")[0] for line in _lines("ip", "-brief", "link")),
        "nft tables": sorted(_lines("nft", "list", "tables")),
        "cgroups": sorted(folder for folder, _, _ in os.walk("/sys/fs/cgroup")),
        "sockets of shims": sorted(
            f"{folder}/{name}" for folder, _, names in os.walk("/run/containerd") for name in names
        ),
        "processes": sorted(_processes()),
    }


def difference(before: dict[str, list[str]], after: dict[str, list[str]]) -> dict[str, list[str]]:
    """What is in `after` and was not in `before`, by kind; counts matter."""
    extra: dict[str, list[str]] = {}
    for kind, names in after.items():
        rest = list(before[kind])
        for name in names:
            if name in rest:
                rest.remove(name)
            else:
                extra.setdefault(kind, []).append(name)
    return extra


def settled_difference(before: dict[str, list[str]]) -> dict[str, list[str]]:
    """The difference once the kernel has finished what it does in the background, or after a while."""
    deadline = time.monotonic() + SETTLE_S
    while (extra := difference(before, snapshot())) and time.monotonic() < deadline:
        time.sleep(0.2)
    return extra


def _lines(*command: str) -> list[str]:
    result = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    return [line.strip() for line in result.stdout.splitlines() if line.strip()]


def _processes() -> list[str]:
    """Commands of the processes that a stack or a container could have left, zombies too."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            status = (folder / "status").read_text()
            command = (folder / "cmdline").read_text().replace("\0", " ").strip()
        except OSError:
            continue
        name = status.split("\n", 1)[0].removeprefix("Name:\t")
        shifted = int(status.split("Uid:\t", 1)[1].split("\t", 1)[0]) >= 1 << 28
        if shifted or any(word in f"{name} {command}" for word in PROGRAMS):
            found.append(command or f"[{name}]")
    return found


def main(action: str, file: Path) -> int:
    if action == "save":
        file.write_text(json.dumps(snapshot()))
        return 0
    extra = settled_difference(json.loads(file.read_text()))
    for kind, names in extra.items():
        print(f"left behind: {len(names)} {kind}:", *names[:20], sep="\n  ")
    return 1 if extra else 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1], Path(sys.argv[2])))
