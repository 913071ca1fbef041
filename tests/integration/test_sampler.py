"""The sampler on real control groups with real processes in them, without containers around."""

import asyncio
import os
import subprocess
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from services.common.containerd.connection import Connection
from services.common.containerd.containers import Containers
from services.common.containerd.metrics import Metrics
from services.common.containerd.tasks import Tasks
from services.common.errors import Conflict, Unavailable
from services.common.ids import new_id
from services.metrics.fallback import Fallback
from services.metrics.groups import CGROUP_ROOT, Group, GroupGone, Groups
from services.metrics.sampler import Sampler
from services.metrics.surroundings import Surroundings

BUSY = ["sh", "-c", "while :; do :; done"]
IDLE = ["sleep", "1000"]
UNIFIED = (CGROUP_ROOT / "cgroup.controllers").exists()


class ControlGroup:
    """A group in every tree, as a runtime makes it, and the processes that were put into it."""

    def __init__(self, instance: str, container_id: str) -> None:
        trees = [""] if UNIFIED else ["cpu", "cpuacct", "memory", "pids"]
        self._by_tree = {tree: CGROUP_ROOT / tree / instance / container_id for tree in trees}
        # Two controllers may share a tree.
        self.folders = list({folder.parent.resolve() / folder.name: None for folder in self._by_tree.values()})
        self.id = container_id
        self._processes: list[subprocess.Popen[bytes]] = []

    def make(self) -> "ControlGroup":
        for folder in self.folders:
            folder.mkdir(parents=True)
        return self

    def limit(self, cores: float) -> None:
        if UNIFIED:
            (self._by_tree[""] / "cpu.max").write_text(f"{round(cores * 100_000)} 100000")
        else:
            (self._by_tree["cpu"] / "cpu.cfs_quota_us").write_text(str(round(cores * 100_000)))

    def burnt_s(self) -> float:
        """CPU time, as the kernel counts it."""
        if UNIFIED:
            return int((self._by_tree[""] / "cpu.stat").read_text().split()[1]) / 1e6
        return int((self._by_tree["cpuacct"] / "cpuacct.usage").read_text()) / 1e9

    def run(self, command: list[str]) -> None:
        process = subprocess.Popen(command)
        self._processes.append(process)
        for folder in self.folders:
            (folder / "cgroup.procs").write_text(str(process.pid))

    def end(self) -> None:
        for process in self._processes:
            process.kill()
            process.wait()
        self._processes.clear()

    def remove(self) -> None:
        self.end()
        for folder in self.folders:
            # A process that has just ended may still be leaving.
            deadline = time.monotonic() + 5
            while folder.exists():
                try:
                    folder.rmdir()
                except OSError:
                    if time.monotonic() > deadline:
                        raise
                    time.sleep(0.01)


@pytest.fixture
def instance() -> Iterator[str]:
    name = f"s{uuid.uuid4().hex[:6]}"
    if UNIFIED:
        (CGROUP_ROOT / name).mkdir()
        (CGROUP_ROOT / name / "cgroup.subtree_control").write_text("+cpu +memory +pids")
    yield name
    for tree in CGROUP_ROOT.iterdir() if not UNIFIED else [CGROUP_ROOT]:
        if (tree / name).is_dir():
            (tree / name).rmdir()


@pytest.fixture
def group(instance: str) -> Iterator[ControlGroup]:
    made = ControlGroup(instance, new_id()).make()
    yield made
    made.remove()


@pytest.fixture
async def sampler(instance: str, tmp_path: Path) -> AsyncIterator[Sampler]:
    """Not running; there is no containerd."""
    connection = Connection(tmp_path / "nobody.sock", instance)
    surroundings = Surroundings(instance, tmp_path)
    fallback = Fallback(Tasks(connection, tmp_path), Containers(connection), Metrics(connection), surroundings)
    sampler = Sampler(Groups(instance), surroundings, fallback, os.cpu_count() or 1)
    yield sampler
    sampler.close()
    surroundings.close()
    await connection.close()


async def test_the_first_answer_is_right(group: ControlGroup, sampler: Sampler) -> None:
    group.limit(0.5)
    group.run(BUSY)
    await asyncio.sleep(0.3)
    before, begun = group.burnt_s(), time.monotonic()
    sample = await sampler.snapshot(group.id)
    used = (group.burnt_s() - before) / (time.monotonic() - begun) / 0.5
    assert sample.cpu_cores == 0.5
    # The two windows are not quite the same, and a quota's period is half of them.
    assert abs(sample.cpu_percent - min(100.0, 100 * used)) < 35
    assert sample.cpu_percent > 10
    assert sample.reading.counters.pids == 1
    assert 0 < time.time() - sample.started_unix_s < 5


async def test_rounds_fill_the_history(group: ControlGroup, sampler: Sampler) -> None:
    group.run(BUSY)
    running = asyncio.create_task(sampler.run())
    seen = []
    async for sample in sampler.watch(group.id):
        seen.append(sample)
        if len(seen) == 5:
            break
    running.cancel()
    gaps = [later.reading.unix_s - earlier.reading.unix_s for earlier, later in pairwise(seen[1:])]
    assert all(0.7 < gap < 1.5 for gap in gaps)
    now = time.time()
    series = (await sampler.history(group.id)).series(now - 60, None, now)
    assert len(series.points) >= 2
    assert all(0 < point.values[0] <= 100 for point in series.points)


async def test_what_has_no_process_does_not_run(group: ControlGroup, sampler: Sampler) -> None:
    with pytest.raises(Conflict):
        await sampler.snapshot(group.id)
    group.run(IDLE)
    await sampler.snapshot(group.id)
    group.end()
    with pytest.raises(Conflict):
        await sampler.snapshot(group.id)
    with pytest.raises(Conflict):
        await sampler.history(group.id)
    with pytest.raises(Conflict):
        await sampler.snapshot(new_id())


async def test_a_watch_ends_with_what_it_watches(group: ControlGroup, sampler: Sampler) -> None:
    group.run(IDLE)
    running = asyncio.create_task(sampler.run())
    async with asyncio.timeout(10):
        async for _ in sampler.watch(group.id):
            group.end()
    running.cancel()


async def test_a_watch_says_when_the_service_ends(group: ControlGroup, sampler: Sampler) -> None:
    group.run(IDLE)
    watched = sampler.watch(group.id)
    await anext(watched)
    sampler.close()
    with pytest.raises(Unavailable):
        await anext(watched)


async def test_a_container_that_is_started_again_counts_from_zero(
    instance: str, group: ControlGroup, sampler: Sampler
) -> None:
    group.run(BUSY)
    await asyncio.sleep(0.5)
    first = await sampler.snapshot(group.id)
    group.remove()
    again = ControlGroup(instance, group.id).make()
    again.run(IDLE)
    try:
        second = await sampler.snapshot(group.id)
        assert second.reading.counters.cpu_usage_ns < first.reading.counters.cpu_usage_ns
        assert second.cpu_percent < 20
        assert second.started_unix_s > first.started_unix_s
    finally:
        again.remove()


async def test_without_groups_containerd_is_asked(instance: str, sampler: Sampler) -> None:
    if UNIFIED:
        (CGROUP_ROOT / instance).rmdir()
    with pytest.raises(Unavailable):
        await sampler.snapshot(new_id())


def test_files_of_a_group_that_is_gone_say_so(instance: str, group: ControlGroup) -> None:
    group.run(IDLE)
    groups = Groups(instance)
    held: Group = groups.open(group.id)
    assert (held.is_complete, held.pids(), len(held.processes())) == (True, 1, 1)
    assert groups.container_ids() == {group.id}
    group.remove()
    for look in (held.read, held.pids, held.processes):
        with pytest.raises(GroupGone):
            look()
    held.close()
    with pytest.raises(GroupGone):
        held.read()
    with pytest.raises(GroupGone):
        groups.open(group.id)
    assert groups.container_ids() == set()


def test_a_group_that_is_half_made_is_known_as_such(instance: str, group: ControlGroup) -> None:
    if UNIFIED:
        pytest.skip("version 2 makes a group in one step")
    group.folders[-1].rmdir()
    half = Groups(instance).open(group.id)
    assert not half.is_complete
    half.close()
