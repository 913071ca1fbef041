"""Following events: who may, how many may, and for how long."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime

import structlog

from services.common.errors import RateLimited, Unauthenticated, Unavailable
from services.gateway.authentication import Authentication, Caller
from services.gateway.clients import LifecycleClient
from services.gateway.event_feed import NOT_NOW, Feed
from services.gateway.event_frames import StreamFrame, gap_frame, opened_frame
from services.gateway.event_owners import Owners
from services.gateway.event_positions import Position
from services.gateway.event_reader import Reader

log = structlog.get_logger(__name__)

READY_WITHIN_S = 5.0
CALLERS_CHECKED_EVERY_S = 0.5


class Events:
    def __init__(
        self,
        nats_url: str,
        lifecycle: LifecycleClient,
        authentication: Authentication,
        most_streams: int,
        most_per_user: int,
    ) -> None:
        self._feed = Feed(nats_url, Owners(lifecycle))
        self._authentication = authentication
        self._most_streams = most_streams
        self._most_per_user = most_per_user
        self._readers: set[Reader] = set()
        self._of_user: Counter[str] = Counter()
        self._is_stopping = False

    async def run(self) -> None:
        """Until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._feed.run())
            group.create_task(self._check_callers())

    def stop(self) -> None:
        """Ends every stream."""
        self._is_stopping = True
        for reader in self._readers:
            reader.end(_stopping())

    @asynccontextmanager
    async def reading(self, caller: Caller, after: Position | None) -> AsyncIterator[tuple[Reader, StreamFrame]]:
        """A reader, behind `after` or else from now on, and the first frame it is to be told.

        Raises RateLimited where there are too many, Unavailable where NATS is not there within seconds.
        """
        self._refuse_many(caller)
        self._of_user[caller.user_id] += 1
        try:
            await self._readiness()
            reader = Reader(self._feed, caller)
            gap = await reader.seek(after) if after is not None else None
            now = datetime.now(UTC)
            first = opened_frame(reader.position, after is not None, now)
            if gap is not None:
                first = gap_frame(reader.position, gap, now)
            with self._registered(reader):
                yield reader, first
        finally:
            self._of_user[caller.user_id] -= 1
            if not self._of_user[caller.user_id]:
                del self._of_user[caller.user_id]

    @contextmanager
    def _registered(self, reader: Reader) -> Iterator[None]:
        self._readers.add(reader)
        user_id = None if reader.caller.is_admin else reader.caller.user_id
        self._feed.add(reader, user_id)
        if self._is_stopping:
            reader.end(_stopping())
        try:
            yield
        finally:
            self._feed.remove(reader, user_id)
            self._readers.discard(reader)

    def _refuse_many(self, caller: Caller) -> None:
        if self._of_user[caller.user_id] >= self._most_per_user:
            raise RateLimited(f"you follow events in {self._most_per_user} streams already")
        if self._of_user.total() >= self._most_streams:
            raise RateLimited("too many streams of events are open, try again")

    async def _readiness(self) -> None:
        if self._is_stopping:
            raise _stopping()
        try:
            async with asyncio.timeout(READY_WITHIN_S):
                await self._feed.ready.wait()
        except TimeoutError as error:
            raise Unavailable(NOT_NOW) from error

    async def _check_callers(self) -> None:
        """Ends the streams of those whose token would be refused now, or would let them be somebody else."""
        while True:
            await asyncio.sleep(CALLERS_CHECKED_EVERY_S)
            callers = {reader.caller for reader in self._readers}
            try:
                known = await self._authentication.still_known(callers)
            except Unavailable:
                # Nobody can have been refused meanwhile: that is written in the same database.
                log.warning("callers_not_checked", callers=len(callers))
                continue
            for reader in self._readers:
                if reader.caller in callers - known:
                    reader.end(Unauthenticated("the token is expired or revoked, or its user has changed"))


def _stopping() -> Unavailable:
    return Unavailable("the service is stopping, try again")
