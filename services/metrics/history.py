"""The past of one container, in memory (pure): every second for a while, then coarser and coarser.

    seconds ──► 1 s, 15 minutes ──► 10 s, 6 hours ──► 60 s, 7 days

Each level keeps points of single precision: those of the last minutes as they are, older ones in blocks that are
compressed by column, which an idle container's hardly outgrow.
"""

import zlib
from array import array
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

# The columns of a point. The first ones are averaged over a step, the others summed.
MEANS = ("cpu_percent", "memory_used_bytes", "disk_used_bytes", "pids")
SUMS = ("network_rx_bytes", "network_tx_bytes", "io_read_bytes", "io_write_bytes")
COLUMNS = (*MEANS, *SUMS)
POINTS_PER_BLOCK = 60
# A clock that is set back by less makes one step longer; by more, it takes the past that it contradicts with it.
CLOCK_TOLERANCE_S = 60
_WIDTH = 1 + len(COLUMNS)

Values = tuple[float, ...]


@dataclass(frozen=True)
class Level:
    step_s: int
    points: int

    @property
    def span_s(self) -> int:
        return self.step_s * self.points


LEVELS = (Level(1, 900), Level(10, 2160), Level(60, 10080))


@dataclass(frozen=True, slots=True)
class Point:
    """`time` is where the step begins, in seconds since 1970; `values` go with COLUMNS."""

    time: int
    values: Values


@dataclass(frozen=True)
class Series:
    """Points at one distance; nothing older than `holds_since` is kept at it. What was not sampled is not there."""

    holds_since: float
    step_s: int
    points: Sequence[Point]


class History:
    def __init__(self, begun: float) -> None:
        """`begun` is the time of the first sample to come."""
        self.begun = begun
        self._tracks = [_Track(level) for level in LEVELS]

    def add(self, time: float, values: Values) -> None:
        """Values of the moment, and amounts since the values before."""
        self.begun = min(self.begun, time)
        points: Iterable[Point] = (Point(int(time), values),)
        for track in self._tracks:
            points = [done for point in points for done in track.add(point)]

    def series(self, since: float, step_s: int | None, now: float) -> Series:
        """From `since` on, or from where it begins: at the finest level that reaches back so far, or the coarsest
        that still has the step."""
        track, step_s = self._choose(now - max(since, self.begun), step_s)
        oldest = max(self.begun, now - track.level.span_s)
        begin = max(since, oldest - step_s)
        points = [point for point in track.points() if point.time >= begin]
        return Series(oldest, step_s, points if step_s == track.level.step_s else list(merged(points, step_s)))

    def size_bytes(self) -> int:
        """Of the points, without what Python adds."""
        return sum(track.size_bytes() for track in self._tracks)

    def _choose(self, age_s: float, step_s: int | None) -> tuple["_Track", int]:
        reaching = [track for track in self._tracks if track.level.span_s >= age_s] or self._tracks[-1:]
        if step_s is None:
            return reaching[0], reaching[0].level.step_s
        fitting = [track for track in reaching if track.level.step_s <= step_s] or reaching[:1]
        base = fitting[-1].level.step_s
        return fitting[-1], -(-step_s // base) * base


def merged(points: Iterable[Point], step_s: int) -> Iterator[Point]:
    """The points of each step made one."""
    together: list[Point] = []
    for point in points:
        if together and point.time // step_s != together[0].time // step_s:
            yield _merge(together, step_s)
            together = []
        together.append(point)
    if together:
        yield _merge(together, step_s)


def _merge(points: list[Point], step_s: int) -> Point:
    if len(points) == 1:
        return Point(points[0].time // step_s * step_s, points[0].values)
    columns = list(zip(*(point.values for point in points), strict=True))
    means = tuple(sum(column) / len(points) for column in columns[: len(MEANS)])
    return Point(points[0].time // step_s * step_s, means + tuple(sum(column) for column in columns[len(MEANS) :]))


class _Track:
    """The points of one level, in the order of time; the step that is under way is not among them yet."""

    def __init__(self, level: Level) -> None:
        self.level = level
        self._under_way: list[Point] = []
        self._latest = _Rows()
        self._blocks: deque[_Block] = deque(maxlen=-(-level.points // POINTS_PER_BLOCK))

    def add(self, point: Point) -> list[Point]:
        """Returns the point that is complete now, if one is."""
        step = self.level.step_s
        begins = self._under_way[0].time // step * step if self._under_way else point.time
        if point.time < begins - CLOCK_TOLERANCE_S:
            self._under_way = []
            self._latest = _Rows()
            self._blocks.clear()
        if not self._under_way or point.time < begins + step:
            self._under_way.append(point)
            return []
        done = _merge(self._under_way, step)
        self._under_way = [point]
        self._latest.append(done)
        if len(self._latest) == POINTS_PER_BLOCK:
            self._blocks.append(self._latest.sealed())
            self._latest = _Rows()
        return [done]

    def points(self) -> Iterator[Point]:
        for block in self._blocks:
            yield from block.points()
        yield from self._latest.points()

    def size_bytes(self) -> int:
        return sum(len(block.data) for block in self._blocks) + self._latest.size_bytes()


class _Rows:
    """Up to a block of points, one behind the other: the seconds since the first, then COLUMNS."""

    def __init__(self) -> None:
        self._first = 0
        self._cells = array("f")

    def __len__(self) -> int:
        return len(self._cells) // _WIDTH

    def append(self, point: Point) -> None:
        if not self._cells:
            self._first = point.time
        self._cells.append(point.time - self._first)
        self._cells.extend(point.values)

    def points(self) -> Iterator[Point]:
        for start in range(0, len(self._cells), _WIDTH):
            after, *values = self._cells[start : start + _WIDTH]
            yield Point(self._first + int(after), tuple(values))

    def sealed(self) -> "_Block":
        columns = b"".join(self._cells[column::_WIDTH].tobytes() for column in range(_WIDTH))
        return _Block(self._first, zlib.compress(columns))

    def size_bytes(self) -> int:
        return len(self._cells) * self._cells.itemsize


@dataclass(frozen=True, slots=True)
class _Block:
    """The same by column, compressed."""

    first: int
    data: bytes

    def points(self) -> Iterator[Point]:
        cells = array("f", zlib.decompress(self.data))
        count = len(cells) // _WIDTH
        for after, *values in zip(
            *(cells[start : start + count] for start in range(0, len(cells), count)), strict=True
        ):
            yield Point(self.first + int(after), tuple(values))
