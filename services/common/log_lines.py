"""Where the lines of a container's log end (pure).

A log is a sequence of bytes for each stream, each byte with a stamp: nanoseconds since 1970, no two alike. A line
ends at a newline, and one that is longer than `LINE_BYTES` also after each so many of its bytes. Its stamp is that of
its last byte: so stamps grow from line to line over both streams, and whoever has got a line goes on right after it.
"""

import codecs
from collections.abc import Iterator
from dataclasses import dataclass

LINE_BYTES = 16 * 1024


@dataclass(frozen=True)
class Line:
    """`is_partial`: it goes on with the next one of its stream. What is no UTF-8 is U+FFFD."""

    stamp: int
    text: str
    is_partial: bool


class LineCutter:
    """Of one stream."""

    def __init__(self, missing: int = 0, before: bytes = b"") -> None:
        """`missing` bytes of the first line are not there any more; `before` are the last ones (three are enough) of
        the part of the same line that has ended already."""
        self._begun = bytearray()
        self._length = missing
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._decoder.decode(before)
        self._goes_on = bool(before)

    def feed(self, stamp: int, data: bytes) -> Iterator[Line]:
        """The lines that end in the next bytes of the stream, the first of which has this stamp."""
        start = 0
        while start < len(data):
            full = start + LINE_BYTES - self._length
            end = data.find(b"\n", start, full)
            if end >= 0:
                yield Line(stamp + end, self._text(data[start:end], is_last=True), False)
                start = end + 1
            elif full <= len(data):
                yield Line(stamp + full - 1, self._text(data[start:full], is_last=False), True)
                start = full
            else:
                self._begun += data[start:]
                self._length += len(data) - start
                return

    def _text(self, rest: bytes, is_last: bool) -> str:
        whole = bytes(self._begun) + rest if self._begun else rest
        self._begun.clear()
        self._length = 0
        if is_last and not self._goes_on:
            return whole.decode("utf-8", "replace")
        # A character that is cut in two belongs to the second part.
        text = self._decoder.decode(whole, final=is_last)
        self._goes_on = not is_last
        if is_last:
            self._decoder.reset()
        return text


def part_start(line_start: int, position: int) -> int:
    """Where the part of a line begins to which the byte at `position` belongs, both counted in the stream."""
    return line_start + (position - line_start) // LINE_BYTES * LINE_BYTES
