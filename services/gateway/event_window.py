"""The latest frames, in the order of the stream (pure). Readers have places in it, not queues of their own.

A gap begins a new segment: numbers of messages mean something only within one.
"""

from bisect import bisect_left
from collections.abc import Sequence

from services.gateway.event_frames import StreamFrame
from services.gateway.event_positions import Position


class Overtaken(Exception):
    """The frames at this index are not there any more."""


class Window:
    """Indexes count frames from the first one ever; the last `size` at least are there."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._frames: list[StreamFrame] = []
        self._first = 0
        # Of the present segment: where it begins, and the number of the first message that it has or will have.
        self.segment_start = 0
        self.first_seq = 0
        self.segment = 0

    @property
    def end(self) -> int:
        return self._first + len(self._frames)

    def begin(self, first_seq: int, gap: StreamFrame | None = None) -> None:
        """What is appended from now on has numbers of its own, from `first_seq` on."""
        self.segment += 1
        self.segment_start = self.end
        self.first_seq = first_seq
        if gap is not None:
            self._append(gap)
            self.segment_start = self.end

    def append(self, frame: StreamFrame) -> None:
        self._append(frame)

    def since(self, index: int, limit: int) -> Sequence[StreamFrame]:
        """Raises Overtaken."""
        if index < self._first:
            raise Overtaken
        return self._frames[index - self._first : index - self._first + limit]

    def after(self, position: Position) -> int | None:
        """The index behind the frame at this very position; None where it is not here."""
        low = max(self.segment_start - self._first, 0)
        at = bisect_left(self._frames, position.seq, low, key=lambda frame: frame.position.seq)
        if at < len(self._frames) and self._frames[at].position == position:
            return self._first + at + 1
        return None

    def at(self, seq: int) -> int | None:
        """The index from which on everything from message `seq` on is here or will be; None where it is not."""
        low = max(self.segment_start - self._first, 0)
        first_seq = self.first_seq
        if self._first > self.segment_start:
            first_seq = self._frames[0].position.seq
        if seq < first_seq:
            return None
        return self._first + bisect_left(self._frames, seq, low, key=lambda frame: frame.position.seq)

    def _append(self, frame: StreamFrame) -> None:
        self._frames.append(frame)
        # In large steps: each moves all that is kept.
        if len(self._frames) >= 2 * self._size:
            del self._frames[: self._size]
            self._first += self._size
