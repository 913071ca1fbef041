"""The one sampler of a node: once a second, every container that runs.

Which containers run is what the kernel says: those whose control group has processes. Nobody has to be asked for
it, so it goes on while lifecycle or containerd is down, and a container that ended is never taken for a running one.
"""

import asyncio
import math
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass

import structlog

from services.common.errors import Conflict, Unavailable
from services.metrics.clock import started_unix_s
from services.metrics.disk import Disk
from services.metrics.fallback import Fallback, not_running
from services.metrics.groups import Group, GroupGone, Groups
from services.metrics.history import History, Values
from services.metrics.links import LinkBytes
from services.metrics.sample import NS_PER_S, DiskIo, Reading, Sample, derive
from services.metrics.surroundings import Surroundings

log = structlog.get_logger(__name__)

# A sample that a lookup may return; an older one means that the sampler is behind.
FRESH_NS = 1_500_000_000
# What two readings must be apart for their difference to mean something: two periods of the CPU quota.
APART_NS = 200_000_000
# The runtime makes a group tree by tree: what is missing later than this is missing for good.
COMPLETE_WITHIN_NS = 5 * NS_PER_S
# Two rounds that follow closer upon one another would tell little.
SHORTEST_WAIT_S = 0.25
ATTEMPTS = 2
# So many containers are read before others have their turn.
SLICE = 16
HISTORY_KEPT_AFTER_END_S = 3600.0
HISTORIES_OF_ENDED = 1000


@dataclass
class Run:
    """A container since it last started: `latest` is the reading of the last round, or the first one."""

    group: Group
    disk: Disk
    opened_ns: int
    started_unix_s: float
    latest: Reading
    sample: Sample | None = None

    def close(self) -> None:
        self.group.close()
        self.disk.close()


class Sampler:
    def __init__(self, groups: Groups, surroundings: Surroundings, fallback: Fallback, cores_of_node: int) -> None:
        self._groups = groups
        self._surroundings = surroundings
        self._fallback = fallback
        self._cores_of_node = cores_of_node
        self._runs: dict[str, Run] = {}
        self._histories: dict[str, History] = {}
        self._ended: dict[str, float] = {}  # in the order in which they did, on the monotonic clock
        self._round_done = asyncio.Event()
        self._is_closed = False

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await asyncio.sleep(until_next_round(time.time()))
            await self._sample_all()
            self._round_done.set()
            self._round_done = asyncio.Event()

    def close(self) -> None:
        """Ends what is being watched, too."""
        self._is_closed = True
        self._round_done.set()
        for run in self._runs.values():
            run.close()
        self._runs.clear()

    async def snapshot(self, container_id: str) -> Sample:
        """The latest; of a container that has just started, one from two readings made now.

        Raises Conflict for a container that is not running, and Unavailable.
        """
        for _ in range(ATTEMPTS):
            try:
                return await self._fresh(container_id)
            except GroupGone:
                # It may have been started anew while its second reading was waited for.
                continue
        return await self._sample_elsewhere(container_id)

    def snapshots(self) -> list[Sample]:
        """Of the containers that were running in the last round; those that came later have none yet."""
        return [run.sample for run in self._runs.values() if run.sample is not None]

    @property
    def running(self) -> int:
        return len(self._runs)

    async def history(self, container_id: str) -> History:
        """Raises Conflict for a container that is not running, and Unavailable."""
        try:
            self._live_or_open(container_id)
        except GroupGone:
            sample = await self._sample_elsewhere(container_id)
            return History(sample.reading.unix_s)
        return self._histories[container_id]

    async def watch(self, container_id: str) -> AsyncIterator[Sample]:
        """A snapshot at once and one after every round, until the container ends.

        Raises Conflict if it does not run in the beginning, Unavailable when the service stops. Nothing is queued:
        who is slow gets fewer.
        """
        yield await self.snapshot(container_id)
        while True:
            await self._round_done.wait()
            if self._is_closed:
                raise Unavailable("the service is stopping, try again")
            try:
                sample = await self.snapshot(container_id)
            except Conflict:
                return
            yield sample

    async def _sample_elsewhere(self, container_id: str) -> Sample:
        if self._groups.are_here():
            raise not_running()
        return await self._fallback.sample(container_id, self._cores_of_node)

    async def _sample_all(self) -> None:
        links = self._surroundings.links()
        there = self._groups.container_ids()
        for container_id in self._runs.keys() - there:
            self._end(container_id)
        for number, container_id in enumerate(there, 1):
            self._sample(container_id, links)
            if number % SLICE == 0:
                await asyncio.sleep(0)
        self._forget_ended()

    def _sample(self, container_id: str, links: Mapping[bytes, LinkBytes]) -> None:
        run = self._live(container_id)
        try:
            if run is None:
                self._open(container_id, links)
                return
            now = self._read(container_id, run, links)
        except GroupGone:
            self._end(container_id)
            return
        run.sample = derive(container_id, run.started_unix_s, run.latest, now, self._cores_of_node)
        run.latest = now
        self._histories[container_id].add(now.unix_s, values(run.sample))

    def _live(self, container_id: str) -> Run | None:
        """The run that is known, if it is still that: another one of the same container has another group."""
        run = self._runs.get(container_id)
        try:
            if run is not None and run.group.pids() > 0:
                return run
        except GroupGone:
            log.debug("group_gone", container_id=container_id)
        self._end(container_id)
        return None

    async def _fresh(self, container_id: str) -> Sample:
        """Raises GroupGone."""
        run = self._live_or_open(container_id)
        if run.sample is not None and time.monotonic_ns() - run.sample.reading.monotonic_ns < FRESH_NS:
            return run.sample
        await asyncio.sleep(max(0, run.latest.monotonic_ns + APART_NS - time.monotonic_ns()) / NS_PER_S)
        now = self._read(container_id, run, self._surroundings.links())
        run.sample = derive(container_id, run.started_unix_s, run.latest, now, self._cores_of_node)
        return run.sample

    def _live_or_open(self, container_id: str) -> Run:
        """Raises GroupGone."""
        return self._live(container_id) or self._open(container_id, self._surroundings.links())

    def _open(self, container_id: str, links: Mapping[bytes, LinkBytes]) -> Run:
        """Begins to follow a container. Raises GroupGone where it has no processes."""
        with ExitStack() as undo:
            group = self._groups.open(container_id)
            undo.callback(group.close)
            started = started_unix_s(group.processes())
            if started is None:
                raise GroupGone(container_id)
            disk = self._surroundings.disk(container_id)
            undo.callback(disk.close)
            at = time.monotonic_ns()
            latest = self._surroundings.reading(container_id, group.read(), at, links, disk)
            undo.pop_all()
        run = self._runs[container_id] = Run(group, disk, at, started, latest)
        self._ended.pop(container_id, None)
        self._histories.setdefault(container_id, History(latest.unix_s))
        return run

    def _read(self, container_id: str, run: Run, links: Mapping[bytes, LinkBytes]) -> Reading:
        at = time.monotonic_ns()
        if not run.group.is_complete and at - run.opened_ns < COMPLETE_WITHIN_NS:
            fuller = self._groups.open(container_id)
            run.group.close()
            run.group = fuller
        return self._surroundings.reading(container_id, run.group.read(), at, links, run.disk)

    def _end(self, container_id: str) -> None:
        run = self._runs.pop(container_id, None)
        if run is not None:
            run.close()
            self._ended[container_id] = time.monotonic()

    def _forget_ended(self) -> None:
        """Histories are kept for a container that is started again, not for all that ever were."""
        for container_id, at in list(self._ended.items()):
            if at > time.monotonic() - HISTORY_KEPT_AFTER_END_S and len(self._ended) <= HISTORIES_OF_ENDED:
                return
            del self._ended[container_id]
            self._histories.pop(container_id, None)


def until_next_round(unix_s: float) -> float:
    """Seconds until the middle of a second: rounds vary a little, and yet each second has its sample."""
    wait_s = 1.0 - (unix_s + 0.5) % 1.0
    return wait_s if wait_s > SHORTEST_WAIT_S else wait_s + 1.0


def values(sample: Sample) -> Values:
    """The columns of a history's point."""
    now, since = sample.reading, sample.since
    return (
        sample.cpu_percent,
        float(now.counters.memory_used_bytes),
        float(now.disk.used) if now.disk is not None else math.nan,
        float(now.counters.pids),
        # A link that was made anew counts from zero.
        float(max(0, now.network_received - since.network_received)),
        float(max(0, now.network_sent - since.network_sent)),
        *_disk_io(since.disk_io, now.disk_io),
    )


def _disk_io(since: DiskIo | None, now: DiskIo | None) -> tuple[float, float]:
    if since is None or now is None:
        return math.nan, math.nan
    return float(now.read - since.read), float(now.written - since.written)
