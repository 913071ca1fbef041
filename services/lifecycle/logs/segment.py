"""The files of a container's log, as they lie in its folder.

A log is a row of segments, numbered from 1. Each has a file for each stream (`7.stdout`, `7.stderr`) and an index
(`7.index`): a header, then records of 16 bytes `<QII` (stamp, length, stream), which say which bytes came when. The
n-th byte of a record has the record's stamp + n, so stamps are places, too: no two bytes have the same one, and they
grow in the order in which the bytes were read. The last record may still grow.

The header is `<4sIQQQQQ`: a magic number; which streams are inside a line where the segment begins (1 stdout, 2
stderr); the least stamp that its bytes may have; for each stream how many bytes lie in the segments before; and for
each where the part of a line (see log_lines) begins, counted in the stream, to which the segment's first byte belongs.
An index appears last of a segment's files, and is removed first.
"""

import contextlib
import os
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

from services.common.log_lines import LINE_BYTES, part_start

MAGIC = b"hzl1"
HEADER = struct.Struct("<4sIQQQQQ")
RECORD = struct.Struct("<QII")
_SEARCH_BYTES = 64 * 1024


class Stream(IntEnum):
    STDOUT = 1
    STDERR = 2


@dataclass(frozen=True)
class Record:
    stamp: int
    length: int
    stream: Stream

    @property
    def end(self) -> int:
        """The stamp that follows its last byte's."""
        return self.stamp + self.length


@dataclass(frozen=True)
class Header:
    """`starts` and `parts` are counted in the stream."""

    floor: int
    starts: Mapping[Stream, int]
    parts: Mapping[Stream, int]
    unfinished: frozenset[Stream]

    def packed(self) -> bytes:
        places = [values[stream] for values in (self.starts, self.parts) for stream in Stream]
        return HEADER.pack(MAGIC, sum(self.unfinished), self.floor, *places)

    @classmethod
    def parse(cls, data: bytes) -> "Header":
        """Raises ValueError."""
        if len(data) < HEADER.size or not data.startswith(MAGIC):
            raise ValueError("no header of a log")
        _, unfinished, floor, *places = HEADER.unpack_from(data)
        starts, parts = (dict(zip(Stream, half, strict=True)) for half in (places[:2], places[2:]))
        return cls(floor, starts, parts, frozenset(stream for stream in Stream if unfinished & stream))

    @property
    def total_before(self) -> int:
        """Bytes of both streams in the segments before."""
        return sum(self.starts.values())


def numbers(folder: Path) -> list[int]:
    """Of the segments there are, the oldest first."""
    names = (path.stem for path in folder.glob("*.index"))
    return sorted(int(name) for name in names if name.isdecimal())


def index_path(folder: Path, number: int) -> Path:
    return folder / f"{number}.index"


def stream_path(folder: Path, number: int, stream: Stream) -> Path:
    return folder / f"{number}.{stream.name.lower()}"


class Segment:
    """One of them, open for reading: it stays readable when it is removed."""

    def __init__(self, number: int, index: int, files: Mapping[Stream, int]) -> None:
        """Takes the descriptors over. Raises ValueError where there is no header."""
        self.number = number
        self._index = index
        self._files = files
        self.header = Header.parse(os.pread(index, HEADER.size, 0))

    @classmethod
    def open(cls, folder: Path, number: int) -> "Segment | None":
        """None if it is gone, or was never whole."""
        opened: list[int] = []
        with contextlib.suppress(FileNotFoundError, ValueError), contextlib.ExitStack() as undo:
            for path in (index_path(folder, number), *(stream_path(folder, number, stream) for stream in Stream)):
                opened.append(os.open(path, os.O_RDONLY | os.O_CLOEXEC))
                undo.callback(os.close, opened[-1])
            segment = cls(number, opened[0], dict(zip(Stream, opened[1:], strict=True)))
            undo.pop_all()
            return segment
        return None

    def close(self) -> None:
        for descriptor in (self._index, *self._files.values()):
            os.close(descriptor)

    def records(self, first: int = 0, most: int = 1 << 24) -> list[Record]:
        """As many as there are now, from a place on; all but the last one are as they will stay."""
        start = HEADER.size + first * RECORD.size
        count = len(os.pread(self._index, most * RECORD.size, start)) // RECORD.size
        # Read again: one that was being written was the last one, and is finished where another was seen behind it.
        data = os.pread(self._index, count * RECORD.size, start)
        found = []
        for stamp, length, stream in RECORD.iter_unpack(data):
            if not length or stream not in _STREAMS:
                break  # torn in a power cut
            found.append(Record(stamp, length, _STREAMS[stream]))
        return found

    def data(self, stream: Stream, offset: int, count: int) -> bytes:
        return os.pread(self._files[stream], count, offset)

    def size(self, stream: Stream) -> int:
        """Bytes of its file: those of the records, and perhaps more."""
        return os.fstat(self._files[stream]).st_size

    def part_start(self, stream: Stream, offset: int) -> int:
        """Where the part of a line begins that holds the byte at an offset; negative: in a segment before."""
        line = next(newlines_before(self._files[stream], offset), None)
        if line is not None:
            return part_start(line + 1, offset)
        return part_start(self._part(stream), offset)

    def ends_before(self, stream: Stream, offset: int) -> Iterator[int]:
        """Offsets of the last bytes of lines, and of their parts, that end before an offset; the last one first."""
        stop = offset
        for newline in newlines_before(self._files[stream], offset):
            yield from _part_ends(newline + 1, stop)
            yield newline
            stop = newline
        yield from _part_ends(self._part(stream), stop)

    def _part(self, stream: Stream) -> int:
        return self.header.parts[stream] - self.header.starts[stream]


_STREAMS = {int(stream): stream for stream in Stream}


def newlines_before(file: int, offset: int) -> Iterator[int]:
    """Offsets of the newlines in a file before an offset, the last one first."""
    end = offset
    while end > 0:
        start = max(0, end - _SEARCH_BYTES)
        data = os.pread(file, end - start, start)
        at = len(data)
        while (at := data.rfind(b"\n", 0, at)) >= 0:
            yield start + at
        end = start


def _part_ends(start: int, stop: int) -> Iterator[int]:
    """Last bytes of the full parts of a line from `start` on, as far as they lie in this segment, the last first."""
    for number in range((stop - start) // LINE_BYTES, 0, -1):
        end = start + number * LINE_BYTES - 1
        if end < 0:
            return
        yield end
