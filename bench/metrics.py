"""What metrics cost: a snapshot over REST, and sampling many containers.

    bench/metrics.py [--containers 200] [--seconds 60]

Starts a stack of its own, fills it with containers that each wake up once a second, measures, and takes all of it
down again. CPU time is what the process used, not what passed: other load on the machine matters little.
Run it with the project's interpreter and path: PYTHONPATH=.:gen .venv/bin/python bench/metrics.py
"""

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import tempfile
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil

from bench.side_by_side.docker import Docker
from bench.side_by_side.measure import milliseconds
from tests.stack import ROOT, Client, Stack, remove_folder

TICKING = ["sh", "-c", "while sleep 1; do echo x > /tmp/x; done"]
REQUESTS = 1000
CREATED_AT_ONCE = 4


def snapshot_latency(admin: Client, container_id: str) -> dict[str, float]:
    """Milliseconds of a request on an open connection, one after the other."""
    path = f"/api/v1/containers/{container_id}/metrics"
    taken = []
    for _ in range(REQUESTS):
        begun = time.perf_counter()
        assert admin.http.get(path).status_code == 200
        taken.append((time.perf_counter() - begun) * 1000)
    return {"median_ms": statistics.median(taken), "p99_ms": statistics.quantiles(taken, n=100)[98]}


def docker_stats_latency(folder: Path) -> float | None:
    """Milliseconds of Docker's stats of one running container, asked for once, over its API; None without a Docker."""
    address = os.environ.get("DOCKER_HOST", "")
    if not address.startswith("unix://"):
        return None
    tar = folder / "busybox.tar"
    subprocess.run([str(ROOT / "deploy/local/images/busybox.sh"), str(tar)], check=True)

    async def measure() -> float:
        docker = Docker(Path(address.removeprefix("unix://")))
        await docker.import_image(tar)
        container_id = await docker.create()
        try:
            return statistics.median([await milliseconds(docker.stats(container_id)) for _ in range(5)])
        finally:
            await docker.delete(container_id)
            await docker.close()

    return asyncio.run(measure())


def sampling_cost(process: psutil.Process, seconds: float) -> dict[str, float]:
    """Percent of one core, and MiB."""

    def used() -> float:
        times = process.cpu_times()
        return float(times.user + times.system)

    before, begun = used(), time.monotonic()
    time.sleep(seconds)
    percent = 100 * (used() - before) / (time.monotonic() - begun)
    return {"cpu_percent": percent, "memory_mib": process.memory_info().rss / 1024**2}


def measure(stack: Stack, containers: int, seconds: float) -> dict[str, float | int | None]:
    admin = stack.client()
    process = psutil.Process(stack.pid_of("metrics"))
    idle = sampling_cost(process, 10)
    with ThreadPoolExecutor(CREATED_AT_ONCE) as pool:
        records = list(pool.map(lambda _: admin.create(command=TICKING, memory_mb=32), range(containers)))
    assert {record["state"] for record in records} == {"running"}
    time.sleep(5)
    busy = sampling_cost(process, seconds)
    latency = snapshot_latency(admin, records[0]["id"])
    begun = time.perf_counter()
    scraped = admin.http.get("/metrics")
    assert scraped.text.count("\nhzel_container_pids{") == containers
    return {
        "containers": containers,
        "cpu_percent_idle": idle["cpu_percent"],
        "cpu_percent": busy["cpu_percent"],
        "memory_mib_idle": idle["memory_mib"],
        "memory_mib": busy["memory_mib"],
        "snapshot_median_ms": latency["median_ms"],
        "snapshot_p99_ms": latency["p99_ms"],
        "scrape_ms": (time.perf_counter() - begun) * 1000,
        "docker_stats_ms": docker_stats_latency(stack.state_dir),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--containers", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=60)
    wanted = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="hzel-bench-", dir="/var/tmp"))
    folder.chmod(0o711)  # containers' roots are below it
    stack = Stack.settings(folder, f"b{uuid.uuid4().hex[:5]}")
    try:
        stack.up()
        found = measure(stack, wanted.containers, wanted.seconds)
    finally:
        stack.down("--purge")
        remove_folder(folder)
    print(json.dumps({name: round(value, 2) if value is not None else None for name, value in found.items()}, indent=2))


if __name__ == "__main__":
    main()
