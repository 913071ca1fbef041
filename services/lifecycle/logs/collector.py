"""Moves what the processes of containers write from their FIFOs to their logs, from before a start to after the end.

Runs in one event loop; see thread. What there is to be read after a crash is found in the FIFOs' folders.
"""

import asyncio
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import structlog

from services.common.containerd.tasks import Output
from services.common.quiet import ended_or_quiet
from services.lifecycle.logs.fifos import Fifos
from services.lifecycle.logs.holding import Holding
from services.lifecycle.logs.pace import Pace
from services.lifecycle.logs.segment import Stream
from services.lifecycle.logs.writer import Limits, LogWriter

log = structlog.get_logger(__name__)

# After the end of a container it is read until nothing has come for so long.
QUIET_S = 1.0
DRAINED_WITHIN_S = 10.0
DISK_FULL_RETRY_S = 1.0
# Shorter waits than a turn of the loop are not worth one.
SHORTEST_WAIT_S = 0.01


class Collector:
    """Ids are those of containers; nothing is done twice at a time for one of them."""

    def __init__(
        self, folder: Path, fifos: Fifos, keeper: Path, limits: Limits, on_news: Callable[[str], None]
    ) -> None:
        """`on_news` is told in which log there is something new, from the loop's thread."""
        self._folder = folder
        self._fifos = fifos
        self._holding = Holding(keeper)
        self._limits = limits
        self._on_news = on_news
        self._runs: dict[str, _Run] = {}
        self._waiting: set[_Run] = set()

    def resume(self) -> None:
        """Reads on whatever ran when the process before us ended."""
        for container_id in self._fifos.container_ids():
            try:
                self._begin(container_id)
            except OSError as error:
                # Its process waits when its FIFO is full; the other containers must not suffer from it.
                log.warning("log_not_resumed", container_id=container_id, error=str(error))

    async def open(self, container_id: str) -> Output:
        """Makes the FIFOs for a start, and reads from them. Raises OSError."""
        await self.finish(container_id)
        output = self._fifos.make(container_id)
        self._begin(container_id)
        return output

    async def finish(self, container_id: str) -> None:
        """After the end of a run, and before its task is deleted: takes in all that is left of its output."""
        run = self._runs.pop(container_id, None)
        if run is not None:
            await run.finish()
            self._holding.release(container_id)
            self._on_news(container_id)
        self._fifos.remove(container_id)

    async def remove(self, container_id: str) -> None:
        """The log itself."""
        await self.finish(container_id)
        shutil.rmtree(self._folder / container_id, ignore_errors=True)
        self._on_news(container_id)

    def close(self) -> None:
        """Reads no more; what is written now waits for the next process of us."""
        for run in self._runs.values():
            run.close()
        self._holding.close()

    def _begin(self, container_id: str) -> None:
        writer = LogWriter(self._folder / container_id, self._limits)
        readers = self._fifos.open(container_id)
        run = self._runs[container_id] = _Run(container_id, readers, writer, self._waiting, self._on_news)
        self._holding.hold(container_id, run.descriptors)
        run.start()


class _Run:
    def __init__(
        self,
        container_id: str,
        readers: dict[Stream, int],
        writer: LogWriter,
        waiting: set["_Run"],
        on_news: Callable[[str], None],
    ) -> None:
        self._container_id = container_id
        self._readers = readers
        self._writer = writer
        self._waiting = waiting
        self._on_news = on_news
        self._pace = Pace()
        self._pieces = 0
        self._ended = asyncio.Event()
        self._is_finishing = False
        self._timer: asyncio.TimerHandle | None = None

    def descriptors(self) -> list[int]:
        return list(self._readers.values())

    def start(self) -> None:
        if not self._readers:
            self._ended.set()
        for stream, descriptor in self._readers.items():
            asyncio.get_running_loop().add_reader(descriptor, self._read, stream, descriptor)

    async def finish(self) -> None:
        """Reads what is left at once, however much the container has written before."""
        self._is_finishing = True
        if self._timer is not None:
            self._go_on()
        for stream, descriptor in list(self._readers.items()):
            # A FIFO that had no writer since it was opened is never reported to have ended.
            self._read(stream, descriptor)
        await ended_or_quiet(self._ended, lambda: self._pieces, QUIET_S, DRAINED_WITHIN_S)
        try:
            self._writer.end_run()
        except OSError as error:
            log.warning("log_line_unfinished", container_id=self._container_id, error=str(error))
        self.close()

    def close(self) -> None:
        self._cancel_timer()
        for stream in list(self._readers):
            self._close(stream)
        self._writer.close()

    def _read(self, stream: Stream, descriptor: int) -> None:
        """One piece, so that one container does not keep the others waiting."""
        try:
            moved = self._writer.absorb(stream, descriptor)
        except BlockingIOError:
            return
        except OSError as error:
            # Nothing is lost: the process waits until there is room again.
            if self._timer is None:
                log.warning("log_not_written", container_id=self._container_id, error=str(error))
                self._wait(DISK_FULL_RETRY_S)
            return
        if not moved:
            self._close(stream)
            return
        self._pieces += 1
        self._on_news(self._container_id)
        loop = asyncio.get_running_loop()
        wait_s = self._pace.spend(moved, loop.time(), len(self._waiting))
        if wait_s >= SHORTEST_WAIT_S and not self._is_finishing and self._timer is None:
            self._wait(wait_s)

    def _wait(self, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        for descriptor in self._readers.values():
            loop.remove_reader(descriptor)
        self._waiting.add(self)
        self._timer = loop.call_later(seconds, self._go_on)

    def _go_on(self) -> None:
        self._cancel_timer()
        self.start()

    def _cancel_timer(self) -> None:
        self._waiting.discard(self)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _close(self, stream: Stream) -> None:
        descriptor = self._readers.pop(stream)
        asyncio.get_running_loop().remove_reader(descriptor)
        os.close(descriptor)
        if not self._readers:
            self._ended.set()
