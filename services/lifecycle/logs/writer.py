"""Fills a container's log from its FIFOs; see segment for the files.

Bytes move from the FIFO to the file inside the kernel, in one call, so that whenever this process is killed each byte
is in exactly one of them. The index is written right after: what a file holds beyond it after a crash was the last
piece read, and gets the time of the file's last change.
"""

import contextlib
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from services.common.log_lines import part_start
from services.lifecycle.logs.segment import (
    HEADER,
    RECORD,
    Header,
    Record,
    Segment,
    Stream,
    index_path,
    newlines_before,
    numbers,
    stream_path,
)

PIECE_BYTES = 64 * 1024
# Pieces of a stream that follow each other so closely become one record.
MERGED_WITHIN_NS = 5_000_000
# Of an index, as a share of what its streams may have: a process that writes byte by byte must not fill the disk.
INDEX_SHARE = 8


@dataclass(frozen=True)
class Limits:
    """At most `segments` (2 or more) of `segment_bytes` each are kept; their indexes come on top, with an eighth."""

    segment_bytes: int
    segments: int


class LogWriter:
    """The only writer of a log. Nothing is made before there is something to write."""

    def __init__(self, folder: Path, limits: Limits, now_ns: Callable[[], int] = time.time_ns) -> None:
        self._folder = folder
        self._limits = limits
        self._now_ns = now_ns
        self._number = 0
        self._header = Header(0, dict.fromkeys(Stream, 0), dict.fromkeys(Stream, 0), frozenset())
        self._next_stamp = 0
        self._lengths = dict.fromkeys(Stream, 0)
        self._records = 0
        self._last: Record | None = None
        self._is_last_written = True
        self._index: int | None = None
        self._files: dict[Stream, int] = {}
        self._recover()

    def absorb(self, stream: Stream, fifo: int) -> int:
        """Moves what a FIFO holds, at most a piece; returns the bytes moved, 0 at its end.

        Raises BlockingIOError when it is empty, OSError when the disk is full: then nothing is lost, and it can be
        called again.
        """
        file = self._ready(stream)
        room = self._limits.segment_bytes - sum(self._lengths.values())
        count = min(PIECE_BYTES, room)
        moved = os.splice(fifo, file, count, offset_dst=self._lengths[stream], flags=os.SPLICE_F_NONBLOCK)
        if moved:
            self._note(stream, moved, self._now_ns())
        return moved

    def end_run(self) -> None:
        """What the process has left of a line is a line: it gets its newline. Raises OSError when the disk is full."""
        for stream in Stream:
            if self._is_inside_line(stream):
                file = self._ready(stream)
                os.pwrite(file, b"\n", self._lengths[stream])
                self._note(stream, 1, self._now_ns())

    def close(self) -> None:
        """It can be written to again."""
        for descriptor in self._files.values():
            os.close(descriptor)
        self._files.clear()
        if self._index is not None:
            os.close(self._index)
            self._index = None

    def _ready(self, stream: Stream) -> int:
        """The file to write to; there is room in it."""
        if self._number == 0:
            self._begin(1, self._header)
        self._open()
        self._write_down()
        is_full = sum(self._lengths.values()) >= self._limits.segment_bytes
        if is_full or self._records * RECORD.size >= self._limits.segment_bytes // INDEX_SHARE:
            self._rotate()
        return self._files[stream]

    def _open(self) -> None:
        if self._index is None:
            for stream in Stream:
                path = stream_path(self._folder, self._number, stream)
                self._files[stream] = os.open(path, os.O_RDWR | os.O_CLOEXEC)
            self._index = os.open(index_path(self._folder, self._number), os.O_RDWR | os.O_CLOEXEC)

    def _note(self, stream: Stream, moved: int, now_ns: int) -> None:
        last = self._last
        if last is not None and last.stream is stream and 0 <= now_ns - last.stamp < MERGED_WITHIN_NS:
            self._last = Record(last.stamp, last.length + moved, stream)
        else:
            self._last = Record(max(now_ns, self._next_stamp), moved, stream)
            self._records += 1
        self._next_stamp = self._last.end
        self._lengths[stream] += moved
        self._is_last_written = False
        self._write_down()

    def _write_down(self) -> None:
        """The last record, in the index; where the disk is full it is tried again before anything else."""
        if self._last is None or self._is_last_written or self._index is None:
            return
        record = RECORD.pack(self._last.stamp, self._last.length, self._last.stream)
        os.pwrite(self._index, record, HEADER.size + (self._records - 1) * RECORD.size)
        self._is_last_written = True

    def _rotate(self) -> None:
        starts = {stream: self._header.starts[stream] + self._lengths[stream] for stream in Stream}
        parts = {stream: self._part_start(stream) for stream in Stream}
        unfinished = frozenset(stream for stream in Stream if self._is_inside_line(stream))
        number = self._number + 1
        self._begin(number, Header(self._next_stamp, starts, parts, unfinished))
        self._open()
        for old in numbers(self._folder):
            if old <= number - self._limits.segments:
                remove_segment(self._folder, old)

    def _begin(self, number: int, header: Header) -> None:
        """Makes an empty segment and goes on in it. Raises OSError, having changed nothing."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for stream in Stream:
            path = stream_path(self._folder, number, stream)
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600))
        unfinished = self._folder / "index.new"
        unfinished.write_bytes(header.packed())
        unfinished.rename(index_path(self._folder, number))
        self.close()
        self._number, self._header = number, header
        self._lengths = dict.fromkeys(Stream, 0)
        self._records, self._last, self._is_last_written = 0, None, True
        self._next_stamp = max(self._next_stamp, header.floor)

    def _part_start(self, stream: Stream) -> int:
        """Of the part that the stream's next byte belongs to, counted in the stream."""
        start, length = self._header.starts[stream], self._lengths[stream]
        newline = next(newlines_before(self._files[stream], length), None)
        line = self._header.parts[stream] if newline is None else start + newline + 1
        return part_start(line, start + length)

    def _is_inside_line(self, stream: Stream) -> bool:
        if not self._lengths[stream]:
            return stream in self._header.unfinished
        self._open()
        return os.pread(self._files[stream], 1, self._lengths[stream] - 1) != b"\n"

    def _recover(self) -> None:
        """Goes on with what is there; what files hold beyond the index becomes part of it."""
        while self._number == 0 and (found := numbers(self._folder)):
            segment = Segment.open(self._folder, found[-1])
            if segment is None:
                # A power cut took what was in it.
                remove_segment(self._folder, found[-1])
                continue
            self._number, self._header = segment.number, segment.header
            self._next_stamp = segment.header.floor
            for record in segment.records():
                if self._lengths[record.stream] + record.length > segment.size(record.stream):
                    break
                self._lengths[record.stream] += record.length
                self._records += 1
                self._last = record
                self._next_stamp = record.end
            segment.close()
        if self._number:
            self._take_in_rest()

    def _take_in_rest(self) -> None:
        self._open()
        if self._index is not None:
            os.ftruncate(self._index, HEADER.size + self._records * RECORD.size)
        for stream in Stream:
            status = os.fstat(self._files[stream])
            if rest := status.st_size - self._lengths[stream]:
                self._last = None
                # On a full disk it is written before the next piece is read.
                with contextlib.suppress(OSError):
                    self._note(stream, rest, status.st_mtime_ns)
        self.close()


def remove_segment(folder: Path, number: int) -> None:
    """The index first: what has none is no segment."""
    index_path(folder, number).unlink(missing_ok=True)
    for stream in Stream:
        stream_path(folder, number, stream).unlink(missing_ok=True)
