"""The logs of the node's containers: written by a thread of their own, read by any number of readers.

Writing to a disk that is busy waits, and reading may: neither must keep the service's own loop waiting.
"""

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from services.common.containerd.tasks import Output
from services.common.errors import ContainerNotFound, Unavailable
from services.lifecycle.logs.collector import Collector
from services.lifecycle.logs.fifos import Fifos
from services.lifecycle.logs.reader import Break, LogReader, Piece
from services.lifecycle.logs.segment import Stream
from services.lifecycle.logs.writer import Limits

READING_THREADS = 2
# Who follows a log in which nothing happens looks so often whether its container is still there.
LOOK_EVERY_S = 5.0
Result = TypeVar("Result")


@dataclass(frozen=True)
class Reading:
    """What of a log is read: lines behind the stamp `after`, at most the last `tail` ones, and with `follow` all that
    come until the container is deleted."""

    container_id: str
    streams: frozenset[Stream]
    after: int | None
    tail: int | None
    follow: bool


class Logs:
    def __init__(self, folder: Path, fifos: Path, keeper: Path, limits: Limits) -> None:
        """`folder` holds the logs, `fifos` those of the containers that run."""
        self._folder = folder
        self._fifos = Fifos(fifos)
        self._keeper = keeper
        self._limits = limits
        self._readers: dict[str, set[_Reader]] = {}
        self._is_stopping = False
        self._pool = ThreadPoolExecutor(READING_THREADS, "log-reading")
        self._loop: asyncio.AbstractEventLoop | None = None
        self._collector: Collector | None = None

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Collects, beginning with what an earlier process of us left."""
        home = asyncio.get_running_loop()
        self._loop = asyncio.new_event_loop()
        thread = threading.Thread(target=self._loop.run_forever, name="logs")
        thread.start()

        def tell(container_id: str) -> None:
            if container_id in self._readers:
                home.call_soon_threadsafe(self._wake, container_id)

        self._collector = Collector(self._folder, self._fifos, self._keeper, self._limits, tell)
        try:
            await self._there(_called(self._collector.resume))
            yield
        finally:
            await self._there(_called(self._collector.close))
            self._loop.call_soon_threadsafe(self._loop.stop)
            await asyncio.to_thread(thread.join)
            self._loop.close()
            self._pool.shutdown(wait=False)

    async def open(self, container_id: str) -> Output:
        """Makes the FIFOs of a container that is about to be started. Raises OSError."""
        return await self._there(self._collecting().open(container_id))

    async def finish(self, container_id: str) -> None:
        """Between the end of a container's task and its deletion: takes in the last words."""
        await self._there(self._collecting().finish(container_id))

    async def remove(self, container_id: str) -> None:
        """Of a container that is gone."""
        await self._there(self._collecting().remove(container_id))
        for reader in self._readers.get(container_id, ()):
            reader.looked_at = -LOOK_EVERY_S
            reader.news.set()

    def container_ids(self) -> set[str]:
        """Of every log there is, and of all FIFOs."""
        logs = {entry.name for entry in self._folder.iterdir()} if self._folder.exists() else set()
        return logs | self._fifos.container_ids()

    async def read(
        self, reading: Reading, is_there: Callable[[], Awaitable[bool]]
    ) -> AsyncIterator[list[Break | Piece]]:
        """The first one is a Break; who follows comes to the end when the container is not there any more.

        Raises Unavailable when the service stops, ContainerNotFound where a log is removed before its end is read.
        """
        with self._waking(reading.container_id) as reader:
            files = LogReader(self._folder / reading.container_id, reading.streams)
            try:
                yield await self._in_pool(files.seek, reading.after, reading.tail)
                if not reading.follow:
                    until = await self._in_pool(files.end)
                    while found := await self._in_pool(files.read, until):
                        yield found
                    if files.reached < until and not (self._folder / reading.container_id).exists():
                        raise ContainerNotFound  # it was deleted meanwhile
                    return
                while True:
                    reader.news.clear()
                    if found := await self._in_pool(files.read, None):
                        yield found
                    elif not await self._is_more_to_come(reader, is_there):
                        return
            finally:
                await asyncio.shield(self._in_pool(files.close))

    def end_reading(self) -> None:
        """Ends those who follow."""
        self._is_stopping = True
        for container_id in self._readers:
            self._wake(container_id)

    async def _is_more_to_come(self, reader: "_Reader", is_there: Callable[[], Awaitable[bool]]) -> bool:
        """Waits for news."""
        loop = asyncio.get_running_loop()
        while True:
            if self._is_stopping:
                raise Unavailable("the service is stopping, try again")
            if loop.time() - reader.looked_at >= LOOK_EVERY_S:
                reader.looked_at = loop.time()
                if not await is_there():
                    return False
            try:
                async with asyncio.timeout(LOOK_EVERY_S):
                    await reader.news.wait()
            except TimeoutError:
                continue
            if not self._is_stopping:
                return True

    @contextmanager
    def _waking(self, container_id: str) -> Iterator["_Reader"]:
        reader = _Reader(asyncio.get_running_loop().time())
        self._readers.setdefault(container_id, set()).add(reader)
        try:
            yield reader
        finally:
            self._readers[container_id].discard(reader)
            if not self._readers[container_id]:
                del self._readers[container_id]

    def _wake(self, container_id: str) -> None:
        for reader in self._readers.get(container_id, ()):
            reader.news.set()

    async def _there(self, work: Coroutine[Any, Any, Result]) -> Result:
        """Does it in the logs' own loop; it is finished there, whatever its caller does."""
        if self._loop is None:
            work.close()
            raise RuntimeError("the logs are not running")
        return await asyncio.shield(asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, self._loop)))

    def _collecting(self) -> Collector:
        if self._collector is None:
            raise RuntimeError("the logs are not running")
        return self._collector

    def _in_pool(self, work: Callable[..., Result], *arguments: Any) -> asyncio.Future[Result]:
        return asyncio.get_running_loop().run_in_executor(self._pool, work, *arguments)


@dataclass(eq=False)
class _Reader:
    """`looked_at`: when it was last seen that the container is there."""

    looked_at: float
    news: asyncio.Event = field(default_factory=asyncio.Event)


async def _called(work: Callable[[], None]) -> None:
    work()
