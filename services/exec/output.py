"""The output of commands: a file for each stream, and an index of which bytes came when.

Bytes move from the FIFO to the file inside the kernel, in one call, so that whenever this process is killed
each byte is in exactly one of them. The index is a list of records `<BQ` (kind, length): kinds 1 and 2 are
runs of stdout and stderr in the order they were read, 3 and 4 bytes of them that were dropped. A run is
written down before the first byte of the other stream is read: what the files hold beyond the index after a
crash is the run that was being read.
"""

import asyncio
import bisect
import contextlib
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

_RECORD = struct.Struct("<BQ")
_DROPPED = 2  # added to the stream's number
PIECE_BYTES = 1 << 20


class Stream(IntEnum):
    STDOUT = 1
    STDERR = 2


@dataclass
class _Run:
    """`start` in the sequence over both streams, `stream_start` in the stream's file."""

    start: int
    stream: Stream
    stream_start: int
    length: int


@dataclass(frozen=True)
class Piece:
    stream: Stream
    offset: int
    data: bytes
    is_before: bool = False


class OutputFiles:
    """The folder of all outputs."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def log(self, command_id: str, limit: int) -> "OutputLog":
        """The output of one command, with what there is of it already. At most `limit` bytes are kept."""
        return OutputLog(self._base(command_id), limit)

    def remove(self, command_id: str) -> None:
        base = self._base(command_id)
        for name in (*(stream.name.lower() for stream in Stream), "index"):
            base.with_suffix(f".{name}").unlink(missing_ok=True)

    def size(self, command_id: str) -> int:
        """Bytes on disk."""
        total = 0
        for stream in Stream:
            with contextlib.suppress(FileNotFoundError):
                total += self._base(command_id).with_suffix(f".{stream.name.lower()}").stat().st_size
        return total

    def _base(self, command_id: str) -> Path:
        return self._folder / command_id[-2:] / command_id


class OutputLog:
    """Written by one reader of FIFOs, read by any number of watchers."""

    def __init__(self, base: Path, limit: int) -> None:
        self._base = base
        self._limit = limit
        self._files: dict[str, int] = {}
        self._runs: list[_Run] = []
        self._kept = dict.fromkeys(Stream, 0)
        self._dropped = dict.fromkeys(Stream, 0)
        self._written_down = 0
        self._changed = asyncio.Event()
        self._users = 0
        self.is_complete = False
        self._recover()

    @property
    def total(self) -> int:
        """Kept bytes over both streams: the end of the sequence."""
        return self._kept[Stream.STDOUT] + self._kept[Stream.STDERR]

    @property
    def truncated(self) -> bool:
        return any(self._dropped.values())

    def written(self, stream: Stream) -> int:
        """Bytes the command wrote to a stream, kept or not."""
        return self._kept[stream] + self._dropped[stream]

    def kept(self, stream: Stream) -> int:
        return self._kept[stream]

    def absorb(self, stream: Stream, fifo: int) -> int:
        """Moves what a FIFO holds, at most a piece; returns the bytes moved, 0 at its end.

        Raises BlockingIOError when it is empty, OSError when the disk is full.
        """
        room = self._limit - self.total
        if room <= 0:
            moved = os.splice(fifo, self._file("null"), PIECE_BYTES, flags=os.SPLICE_F_NONBLOCK)
            if moved:
                self._dropped[stream] += moved
                self._write_down(stream + _DROPPED, moved)
            return moved
        last = self._runs[-1] if self._runs else None
        if last is not None and last.stream is not stream:
            self._write_down_run()
        position = self._kept[stream]
        count = min(room, PIECE_BYTES)
        file = self._file(stream.name.lower())
        moved = os.splice(fifo, file, count, offset_dst=position, flags=os.SPLICE_F_NONBLOCK)
        if moved:
            self._extend(stream, moved)
            self._wake()
        return moved

    def complete(self) -> None:
        """Nothing comes any more: watchers come to their end."""
        # The files tell the last run too; a full disk must not keep the command from its end.
        with contextlib.suppress(OSError):
            self._write_down_run()
        self.is_complete = True
        self._wake()

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """The files stay open as long as anybody is inside."""
        self._users += 1
        try:
            yield
        finally:
            self._users -= 1
            if not self._users:
                for descriptor in self._files.values():
                    os.close(descriptor)
                self._files.clear()

    def read(self, offset: int, most: int) -> Piece | None:
        """The bytes at an offset, of one stream; None where there are none yet."""
        place = bisect.bisect_right(self._runs, offset, key=lambda run: run.start) - 1
        if place < 0 or offset >= self.total:
            return None
        run = self._runs[place]
        inside = offset - run.start
        count = min(most, run.length - inside)
        data = os.pread(self._file(run.stream.name.lower()), count, run.stream_start + inside)
        return Piece(run.stream, offset, data)

    def before(self, offset: int, stream: Stream, most: int) -> Piece | None:
        """The last bytes of a stream that lie before an offset in the sequence, None if it has none there."""
        end = sum(
            min(run.length, offset - run.start) for run in self._runs if run.stream is stream and run.start < offset
        )
        start = max(0, end - most)
        return Piece(stream, offset, self.read_stream(stream, start, end - start), is_before=True) if end else None

    def read_stream(self, stream: Stream, offset: int, most: int) -> bytes:
        """Kept bytes of one stream, from an offset in it."""
        count = min(most, self._kept[stream] - offset)
        return os.pread(self._file(stream.name.lower()), count, offset) if count > 0 else b""

    async def wait_beyond(self, offset: int) -> None:
        """Returns when there are bytes at the offset, or will never be."""
        while self.total <= offset and not self.is_complete:
            await self._changed.wait()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    def _extend(self, stream: Stream, length: int) -> None:
        last = self._runs[-1] if self._runs else None
        if last is not None and last.stream is stream:
            last.length += length
        else:
            self._runs.append(_Run(self.total, stream, self._kept[stream], length))
        self._kept[stream] += length

    def _write_down_run(self) -> None:
        """The last run, as far as it is not in the index yet."""
        if self._runs and self.total > self._written_down:
            self._write_down(self._runs[-1].stream, self.total - self._written_down)
            self._written_down = self.total

    def _write_down(self, kind: int, length: int) -> None:
        os.write(self._file("index"), _RECORD.pack(kind, length))

    def _file(self, name: str) -> int:
        """Opened when first needed: most commands write little or nothing."""
        if name not in self._files:
            if name == "null":
                self._files[name] = os.open("/dev/null", os.O_WRONLY | os.O_CLOEXEC)
            else:
                self._base.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                # Not appending: a splice wants to be told where.
                append = os.O_APPEND if name == "index" else 0
                flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | append
                self._files[name] = os.open(self._base.with_suffix(f".{name}"), flags, 0o600)
        return self._files[name]

    def _recover(self) -> None:
        with contextlib.suppress(FileNotFoundError):
            path = self._base.with_suffix(".index")
            index = path.read_bytes()
            whole = len(index) // _RECORD.size * _RECORD.size
            if whole < len(index):
                # A record that was being written when everything ended: the next must not follow half of it.
                os.truncate(path, whole)
            for kind, length in _RECORD.iter_unpack(index[:whole]):
                if kind > _DROPPED:
                    self._dropped[Stream(kind - _DROPPED)] += length
                else:
                    self._extend(Stream(kind), length)
        self._written_down = self.total
        for stream in Stream:
            with contextlib.suppress(FileNotFoundError):
                size = self._base.with_suffix(f".{stream.name.lower()}").stat().st_size
                if size > self._kept[stream]:
                    self._extend(stream, size - self._kept[stream])
