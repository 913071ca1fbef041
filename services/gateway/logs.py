"""Reading and following the logs of containers: who may, how many may, and over what it goes on."""

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from dataclasses import replace

from services.common.errors import ContainerNotFound, RateLimited, TimedOut, Unauthenticated, Unavailable
from services.gateway.authentication import Authentication, Caller
from services.gateway.containers import Containers
from services.gateway.log_client import LogClient, LogInterruption, LogPiece, LogQuery
from services.gateway.log_frames import LogFrames

# So long a reading waits for a node's service that restarts.
PATIENCE_S = 30.0
RETRY_S = 0.25
CHECKED_EVERY_S = 5.0
Event = LogInterruption | list[LogPiece]


class Logs:
    def __init__(
        self,
        client: LogClient,
        containers: Containers,
        authentication: Authentication,
        most_readers: int,
        most_per_user: int,
    ) -> None:
        self._client = client
        self._containers = containers
        self._authentication = authentication
        self._most_readers = most_readers
        self._most_per_user = most_per_user
        self._of_user: Counter[str] = Counter()
        self._stopping = asyncio.Event()
        self._turn = asyncio.Lock()

    def stop(self) -> None:
        """Ends every reading."""
        self._stopping.set()

    async def read(self, caller: Caller, container_id: str, query: LogQuery) -> AsyncGenerator[bytes, None]:
        """Lines of JSON, many at a time; the first piece may be empty and comes when all is well.

        Raises Forbidden, ContainerNotFound, RateLimited; later what has ended it before its end.
        """
        container_id = (await self._containers.get(caller, container_id)).id
        self._refuse_many(caller)
        self._of_user[caller.user_id] += 1
        try:
            async for data in self._persistent(caller, container_id, query):
                yield data
        finally:
            self._of_user[caller.user_id] -= 1
            if not self._of_user[caller.user_id]:
                del self._of_user[caller.user_id]

    async def _persistent(self, caller: Caller, container_id: str, query: LogQuery) -> AsyncIterator[bytes]:
        """Goes on behind the last line where the node's service went away meanwhile."""
        loop = asyncio.get_running_loop()
        frames = LogFrames(query.after)
        give_up_at: float | None = None
        while True:
            if frames.last != query.after:
                query = replace(query, after=frames.last, tail=None)
            try:
                async with contextlib.aclosing(self._events(caller, container_id, query)) as events:
                    async for event in events:
                        give_up_at = loop.time() + PATIENCE_S
                        if isinstance(event, LogInterruption):
                            yield b""
                        lines = frames.of(event)
                        while data := await self._in_turn(lines):
                            yield data
                return
            except (Unavailable, TimedOut):
                if give_up_at is None or loop.time() >= give_up_at or self._stopping.is_set():
                    raise
                await asyncio.sleep(RETRY_S)
            except ContainerNotFound:
                if give_up_at is None or not query.follow:
                    raise
                return  # it was deleted meanwhile

    async def _events(self, caller: Caller, container_id: str, query: LogQuery) -> AsyncGenerator[Event, None]:
        """What the node says, as long as we go on and the caller may listen."""
        answers = self._client.read(container_id, query)
        stopping = asyncio.create_task(self._stopping.wait())
        following: asyncio.Task[Event | None] | None = None
        loop = asyncio.get_running_loop()
        check_at = loop.time() + CHECKED_EVERY_S
        try:
            while True:
                following = following or asyncio.create_task(_next(answers))
                await asyncio.wait((following, stopping), timeout=CHECKED_EVERY_S, return_when=asyncio.FIRST_COMPLETED)
                if stopping.done():
                    raise Unavailable("the service is stopping, try again")
                if loop.time() >= check_at:
                    await self._check(caller)
                    check_at = loop.time() + CHECKED_EVERY_S
                if following.done():
                    event, following = following.result(), None
                    if event is None:
                        return
                    yield event
        finally:
            stopping.cancel()
            if following is not None:
                following.cancel()

    async def _in_turn(self, lines: Iterator[bytes]) -> bytes:
        """The next ones; empty at their end. Cutting lines takes the time of everybody here: half of it at most."""
        async with self._turn:
            begun_at = time.perf_counter()
            data = next(lines, b"")
            await asyncio.sleep(time.perf_counter() - begun_at)
        return data

    async def _check(self, caller: Caller) -> None:
        with contextlib.suppress(Unavailable):
            if caller not in await self._authentication.still_known({caller}):
                raise Unauthenticated("the token is expired or revoked, or its user has changed")

    def _refuse_many(self, caller: Caller) -> None:
        if self._of_user[caller.user_id] >= self._most_per_user:
            raise RateLimited(f"you read {self._most_per_user} logs already")
        if self._of_user.total() >= self._most_readers:
            raise RateLimited("too many logs are read, try again")


async def _next(events: AsyncIterator[Event]) -> Event | None:
    return await anext(events, None)
