"""Ends containers that nobody uses, and those whose time is over: a look a second at those that have such a limit."""

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta

import structlog

from services.common.activity import Activity, ActivitySource, boot_time_s
from services.common.errors import HzelError
from services.lifecycle.cgroups import Cgroups
from services.lifecycle.container import Container
from services.lifecycle.idleness import Reading, idle_since, latest
from services.lifecycle.operations import Operations
from services.lifecycle.state import Desired, State
from services.lifecycle.store import Store

log = structlog.get_logger(__name__)

EVERY_S = 1.0
TOLD_BEFORE = timedelta(seconds=60)
ENDED_AT_A_TIME = 4
Ending = Callable[[str], Awaitable[None]]


class Lifespans:
    """`sources` say what goes on in containers; nothing is stopped while one of them does not answer."""

    def __init__(
        self, store: Store, operations: Operations, cgroups: Cgroups, sources: Sequence[ActivitySource]
    ) -> None:
        self._store = store
        self._operations = operations
        self._cgroups = cgroups
        self._sources = sources
        self._readings: dict[str, Reading] = {}
        self._free = asyncio.Semaphore(ENDED_AT_A_TIME)
        self._ending: dict[str, asyncio.Task[None]] = {}

    async def run(self) -> None:
        """Until cancelled; what is being ended then is finished by its operation, or by the next process."""
        await self._operations.node_ready.wait()
        try:
            while True:
                try:
                    await self._look()
                except HzelError as error:
                    log.warning("look_failed", error=repr(error))
                await asyncio.sleep(EVERY_S)
        finally:
            for task in self._ending.values():
                task.cancel()

    async def _look(self) -> None:
        rows = [row for row in await self._store.limited() if row.desired is not Desired.DELETED]
        now = datetime.now(UTC)
        for row in rows:
            if row.expires_at is not None:
                await self._look_at_expiry(row, row.expires_at, now)
        watched = [row for row in rows if row.wanted.auto_stop_s is not None and row.state is State.RUNNING]
        self._readings = {row.id: self._readings[row.id] for row in watched if row.id in self._readings}
        if watched:
            activities = await self._activities([row.id for row in watched])
            for row in watched:
                await self._look_for_use(row, activities[row.id])

    async def _look_at_expiry(self, row: Container, expires_at: datetime, now: datetime) -> None:
        if not row.is_expiry_told and expires_at - now <= TOLD_BEFORE:
            row = await self._store.tell_expiry(row)
        if expires_at <= now:
            self._end(row.id, self._expire)

    async def _look_for_use(self, row: Container, activities: Sequence[Activity]) -> None:
        cpu_ns = self._cgroups.cpu_usage_ns(row.id)
        if cpu_ns is None:
            return
        before = self._readings.get(row.id)
        now = self._readings[row.id] = Reading(row.started_at, cpu_ns, boot_time_s())
        if before is None or before.started_at != now.started_at:
            return
        since = idle_since(row.idle_since, before, now, row.wanted.cpu_cores, activities)
        if since != row.idle_since:
            await self._store.note_idle(row, since)
        if since is not None and _is_over(row, since, now.at_s):
            self._end(row.id, self._stop)

    def _end(self, container_id: str, how: Ending) -> None:
        if container_id not in self._ending:
            task = self._ending[container_id] = asyncio.create_task(self._finish(container_id, how))
            task.add_done_callback(lambda _: self._ending.pop(container_id, None))

    async def _finish(self, container_id: str, how: Ending) -> None:
        async with self._free:
            try:
                await how(container_id)
            except HzelError as error:
                # Tried again with the next look.
                log.warning("end_failed", container_id=container_id, error=repr(error))

    async def _expire(self, container_id: str) -> None:
        log.info("expired", container_id=container_id)
        await self._operations.expire(container_id)

    async def _stop(self, container_id: str) -> None:
        log.info("idle", container_id=container_id)
        await self._operations.stop_idle(container_id, self._is_still_idle)

    async def _is_still_idle(self, row: Container) -> bool:
        """Of a row that was read just now; asked when nothing else can be done with the container."""
        if row.idle_since is None:
            return False
        activities = (await self._activities([row.id]))[row.id]
        if any(one.is_active for one in activities):
            return False
        return _is_over(row, latest(row.idle_since, activities), boot_time_s())

    async def _activities(self, container_ids: Sequence[str]) -> Mapping[str, Sequence[Activity]]:
        found: dict[str, list[Activity]] = defaultdict(list)
        for source in self._sources:
            for activity in await source(container_ids):
                found[activity.container_id].append(activity)
        return found


def _is_over(row: Container, since: float, now_s: float) -> bool:
    return row.wanted.auto_stop_s is not None and now_s - since >= row.wanted.auto_stop_s
