"""Reads a container's log, also while it is written; see segment for the files. All of it may wait for a disk."""

import heapq
import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from services.lifecycle.logs.segment import Record, Segment, Stream, numbers

# Of one call; whoever is given it can't do anything else while it is cut into lines.
READ_BYTES = 32 * 1024
READ_PIECES = 256
# A character of UTF-8 has at most one more.
CHARACTER_BYTES = 3
_WINDOW = 256


@dataclass(frozen=True)
class Piece:
    """Bytes of one stream that follow each other. `stamp` is the first one's; 0 where no line ends in them."""

    stream: Stream
    stamp: int
    data: bytes


@dataclass(frozen=True)
class Break:
    """What comes next begins a line, or a part of one, of which so many bytes of each stream are not there any more.
    `before` are the last bytes of the parts before, of the same lines.

    `lost_bytes` of the log are not there; None: unknown how many, 0: none. `stamp` is that of the last one of them.
    """

    stamp: int
    lost_bytes: int | None
    missing: dict[Stream, int] = field(default_factory=lambda: dict.fromkeys(Stream, 0))
    before: dict[Stream, bytes] = field(default_factory=lambda: dict.fromkeys(Stream, b""))


@dataclass(frozen=True)
class _Begun:
    """Of a line that does not begin where we are: how many bytes of its part are not there any more, the last ones of
    the part before, and those that are there."""

    missing: int
    before: bytes
    data: bytes


class LogReader:
    """One reading, of one or both streams. The first thing read is a Break."""

    def __init__(self, folder: Path, streams: frozenset[Stream]) -> None:
        self._folder = folder
        self._streams = streams
        self.reached = 0  # the stamp behind the last byte that was read
        self._segment: Segment | None = None
        # The record to be read next, how much of it has been, and how much of each stream was before it.
        self._place = 0
        self._inside = 0
        self._before = dict.fromkeys(Stream, 0)
        self._window: list[Record] = []
        self._window_place = 0

    def close(self) -> None:
        if self._segment is not None:
            self._segment.close()
            self._segment = None

    def seek(self, after: int | None, tail: int | None) -> list[Break | Piece]:
        """Goes to the lines behind a stamp, and at most to the last `tail` ones; returns how they begin, to be read
        before all else."""
        if tail is not None and (stamp := self._before_tail(tail)) is not None:
            after = max(after or 0, stamp)
        self._go_to(after)
        self.reached = after + 1 if after is not None else 0
        if self._segment is None:
            return [Break(after or 0, 0)]
        floor = self._segment.header.floor
        is_lost = after is not None and after < floor - 1 and self._segment.header.total_before > 0
        begun = {stream: self._begun(stream) for stream in Stream}
        first = Break(
            stamp=floor - 1 if is_lost else after or 0,
            lost_bytes=None if is_lost else 0,
            missing={stream: one.missing for stream, one in begun.items()},
            before={stream: one.before for stream, one in begun.items()},
        )
        pieces = [Piece(stream, 0, one.data) for stream, one in begun.items() if one.data and stream in self._streams]
        return [first, *pieces]

    def end(self) -> int:
        """The stamp behind the last byte there is now."""
        for segment in self._newest_first():
            return max([segment.header.floor, *(record.end for record in segment.records()[-1:])])
        return 0

    def read(self, until: int | None) -> list[Break | Piece]:
        """What comes next, of bytes with stamps below `until`; nothing where there is nothing now."""
        found: list[Break | Piece] = []
        room = READ_BYTES
        while room > 0 and len(found) < READ_PIECES:
            record = self._record()
            if record is None:
                if (lost := self._go_on()) is None:
                    break
                found += lost
                continue
            count = min(record.length - self._inside, room)
            stamp = record.stamp + self._inside
            if until is not None:
                count = min(count, until - stamp)
            if count <= 0:
                break
            if record.stream in self._streams and self._segment is not None:
                data = self._segment.data(record.stream, self._before[record.stream] + self._inside, count)
                found.append(Piece(record.stream, stamp, data))
                room -= count
            self._inside += count
            self.reached = stamp + count
        return found

    def _record(self) -> Record | None:
        """The one to be read next, of which there is something to be read; None at the segment's end."""
        if self._segment is None:
            return None
        while True:
            window = self._place - self._window_place
            if not 0 <= window < len(self._window) - 1:
                # The last one that was seen may have grown, and others may have come.
                self._window, self._window_place = self._segment.records(self._place, _WINDOW), self._place
                window = 0
            if not self._window:
                return None
            record = self._window[window]
            if self._inside < record.length:
                return record
            if window == len(self._window) - 1:
                return None
            self._before[record.stream] += record.length
            self._place += 1
            self._inside = 0

    def _go_on(self) -> list[Break] | None:
        """To the next segment, and says what is lost between the two; None if there is none."""
        current = self._segment
        later = [number for number in numbers(self._folder) if current is None or number > current.number]
        for number in later:
            # Whoever began the next one had written the last of this one.
            if self._record() is not None:
                return []
            opened = Segment.open(self._folder, number)
            if opened is None:
                continue
            header = opened.header
            lost = header.total_before - (self._end_of(current) if current is not None else 0)
            self.close()
            self._enter(opened)
            if not lost:
                return []
            missing = {stream: header.starts[stream] - header.parts[stream] for stream in Stream}
            return [Break(header.floor - 1, lost, missing)]
        return None

    def _end_of(self, segment: Segment) -> int:
        """Bytes of the whole log up to where we are in a segment, which is its end."""
        return segment.header.total_before + sum(self._before.values()) + self._inside

    def _enter(self, segment: Segment) -> None:
        self._segment = segment
        self._place = self._inside = self._window_place = 0
        self._window = []
        self._before = dict.fromkeys(Stream, 0)

    def _go_to(self, after: int | None) -> None:
        """To the first byte behind a stamp, else to the first there is."""
        for segment in self._newest_first(keep=True):
            self.close()
            self._enter(segment)
            if after is not None and segment.header.floor <= after:
                break
        if after is None or self._segment is None:
            return
        for record in self._segment.records():
            if record.end > after:
                self._inside = max(0, after + 1 - record.stamp)
                return
            self._before[record.stream] += record.length
            self._place += 1
        self._step_back()

    def _step_back(self) -> None:
        """The last record may still grow: we are at its end, not behind it."""
        if self._place and self._segment is not None:
            (last,) = self._segment.records(self._place - 1, 1)
            self._place -= 1
            self._before[last.stream] -= last.length
            self._inside = last.length

    def _begun(self, stream: Stream) -> "_Begun":
        if self._segment is None:
            return _Begun(0, b"", b"")
        offset = self._before[stream]
        current = self._segment.records(self._place, 1)
        if current and current[0].stream is stream:
            offset += self._inside
        length = offset - self._segment.part_start(stream, offset)
        data = self._back(self._segment, stream, offset, length + CHARACTER_BYTES)
        before = data[: max(0, len(data) - length)].rpartition(b"\n")[2]
        return _Begun(max(0, length - len(data)), before, data[max(0, len(data) - length) :])

    def _back(self, segment: Segment, stream: Stream, offset: int, count: int) -> bytes:
        """At most so many bytes before an offset, also from the segments before, as far as they are there."""
        data = segment.data(stream, max(0, offset - count), min(offset, count))
        number = segment.number - 1
        while len(data) < count and (earlier := Segment.open(self._folder, number)) is not None:
            size = earlier.size(stream)
            taken = min(count - len(data), size)
            data = earlier.data(stream, size - taken, taken) + data
            earlier.close()
            number -= 1
        return data

    def _before_tail(self, lines: int) -> int | None:
        """The last stamp before the last so many lines; None where there are not more."""
        ends: list[int] = []
        for segment in self._newest_first():
            for stream in self._streams:
                ends += itertools.islice(_end_stamps(segment, stream), lines + 1)
            if len(ends) > lines:
                return heapq.nlargest(lines + 1, ends)[-1]
        return None

    def _newest_first(self, keep: bool = False) -> Iterator[Segment]:
        for number in reversed(numbers(self._folder)):
            segment = Segment.open(self._folder, number)
            if segment is not None:
                try:
                    yield segment
                finally:
                    if not keep:
                        segment.close()


def _end_stamps(segment: Segment, stream: Stream) -> Iterator[int]:
    """Stamps of the ends of lines in a segment, the last one first."""
    records = [record for record in segment.records() if record.stream is stream]
    end = sum(record.length for record in records)
    record = None
    for offset in segment.ends_before(stream, end):
        while record is None or offset < end:
            if not records:
                return
            record = records.pop()
            end -= record.length
        yield record.stamp + offset - end
