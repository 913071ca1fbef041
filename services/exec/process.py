"""One command as a process: its FIFOs, its output on the way to the files, its input, its end."""

import asyncio
import contextlib
import errno
import fcntl
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import structlog

from services.common.containerd.errors import ContainerdError, ContainerdNotFound
from services.common.containerd.processes import Processes, Streams
from services.common.containerd.tasks import TaskExit
from services.common.quiet import ended_or_quiet
from services.exec.output import OutputLog, Stream

log = structlog.get_logger(__name__)

FIFO_BYTES = 1 << 20
# What one turn of the loop reads at most, so that one command does not keep the others waiting.
TURN_PIECES = 4
# After the end of a command a child it left behind may hold its output open: it is read until nothing has come
# for so long, or the child has had enough time for what it still says.
QUIET_S = 1.0
DRAINED_WITHIN_S = 5.0
RETRY_S = 0.1
INPUT_PIECE = 64 * 1024


class Fifos:
    """The three FIFOs of a command in a folder of its own, which is also the record that it may have been started."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def make(self, with_stdin: bool) -> Streams:
        self.folder.mkdir(mode=0o700, parents=True)
        for name in ("stdout", "stderr", *(("stdin",) if with_stdin else ())):
            os.mkfifo(self.folder / name, 0o600)
        return Streams(self.folder / "stdin" if with_stdin else None, self.folder / "stdout", self.folder / "stderr")

    def open_readers(self) -> dict[Stream, int]:
        """Descriptors that do not block; they see an end only after there has been a writer."""
        readers = {}
        for stream in Stream:
            descriptor = os.open(self.folder / stream.name.lower(), os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            with contextlib.suppress(PermissionError):
                fcntl.fcntl(descriptor, fcntl.F_SETPIPE_SZ, FIFO_BYTES)
            readers[stream] = descriptor
        return readers

    def remove(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)


class OutputReader:
    """Moves the output from the FIFOs to the log, from `start` on, until both have ended or `finish` gives up."""

    def __init__(self, readers: dict[Stream, int], output: OutputLog, on_failure: Callable[[OSError], None]) -> None:
        self._readers = dict(readers)
        self._output = output
        self._on_failure = on_failure
        self._ended = asyncio.Event()
        self._pieces = 0

    @property
    def descriptors(self) -> list[int]:
        return list(self._readers.values())

    def start(self) -> None:
        for stream, descriptor in self._readers.items():
            asyncio.get_running_loop().add_reader(descriptor, self._read, stream, descriptor)

    async def finish(self, quiet_s: float = QUIET_S) -> None:
        """The process has ended: reads what is left, and waits a moment for who else holds the output open."""
        await ended_or_quiet(self._ended, lambda: self._pieces, quiet_s, DRAINED_WITHIN_S)
        for stream in list(self._readers):
            self._close(stream)

    def _read(self, stream: Stream, descriptor: int) -> None:
        try:
            for _ in range(TURN_PIECES):
                if not self._output.absorb(stream, descriptor):
                    self._close(stream)
                    return
                self._pieces += 1
        except BlockingIOError:
            return
        except OSError as error:
            # The disk is full, or worse: nothing more can be kept, and nobody is to wait for it.
            self._close(stream)
            self._on_failure(error)

    def _close(self, stream: Stream) -> None:
        descriptor = self._readers.pop(stream)
        asyncio.get_running_loop().remove_reader(descriptor)
        os.close(descriptor)
        if not self._readers:
            self._ended.set()


class InputWriter:
    """Feeds a process's stdin in the order of the calls, at the process's own pace."""

    def __init__(self, fifo: Path, processes: Processes, container_id: str, exec_id: str) -> None:
        self._descriptor = os.open(fifo, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        self._processes = processes
        self._container_id = container_id
        self._exec_id = exec_id
        self._turn = asyncio.Lock()
        self._ready: asyncio.Future[None] | None = None
        self.is_open = True

    async def write(self, data: bytes) -> None:
        """Returns when all has been taken; what a process that has closed its stdin doesn't take is dropped."""
        async with self._turn:
            view = memoryview(data)
            while view and self.is_open:
                try:
                    view = view[os.write(self._descriptor, view[:INPUT_PIECE]) :]
                except BlockingIOError:
                    await self._writable()
                except BrokenPipeError:
                    return

    async def end(self) -> None:
        """The process reads its end of file."""
        async with self._turn:
            if self.is_open:
                self.close()
                with contextlib.suppress(ContainerdNotFound):
                    await self._processes.close_stdin(self._container_id, self._exec_id)

    def close(self) -> None:
        if self.is_open:
            self.is_open = False
            if self._ready is not None:
                # Whoever waits for room is told, before the number may become another file's.
                asyncio.get_running_loop().remove_writer(self._descriptor)
                _settle(self._ready)
            os.close(self._descriptor)

    async def _writable(self) -> None:
        loop = asyncio.get_running_loop()
        self._ready = loop.create_future()
        loop.add_writer(self._descriptor, _settle, self._ready)
        try:
            await self._ready
        finally:
            self._ready = None
            if self.is_open:
                loop.remove_writer(self._descriptor)


def _settle(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


async def wait_for_end(processes: Processes, container_id: str, exec_id: str) -> TaskExit | None:
    """The end of a process as containerd knows it; None when it does not know it any more."""
    while True:
        try:
            return await processes.wait(container_id, exec_id)
        except ContainerdNotFound:
            return None
        except ContainerdError as error:
            # containerd restarts, or the container's shim is gone and containerd has not noticed yet.
            log.debug("wait_broken", command_id=exec_id, error=str(error))
            await asyncio.sleep(RETRY_S)


def is_disk_full(error: OSError) -> bool:
    return error.errno in (errno.ENOSPC, errno.EDQUOT)
