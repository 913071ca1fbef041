"""The last output of a session, by its offset in all of it (pure)."""

from collections import deque

# What is typed and echoed comes byte by byte: kept one by one, the pieces would weigh fifty times as much.
SMALL = 4096


class Scrollback:
    """Bytes from `start` to `end`, both counted from the beginning of the output.

    The pieces that large reads bring are kept, and handed out, as they are.
    """

    def __init__(self, kept: int) -> None:
        """`kept` is how many of the last bytes outlive every `trim`."""
        self._kept = kept
        self._pieces: deque[bytes | bytearray] = deque()
        self.start = 0
        self.end = 0

    def append(self, data: bytes) -> None:
        last = self._pieces[-1] if self._pieces else None
        if isinstance(last, bytearray) and len(last) + len(data) <= SMALL:
            last += data
        else:
            self._pieces.append(bytearray(data) if len(data) < SMALL else data)
        self.end += len(data)

    def read(self, offset: int, most: int) -> bytes:
        """Up to `most` bytes from `offset` on; empty only where nothing follows. `start` <= `offset` <= `end`."""
        if not self.start <= offset <= self.end:
            raise ValueError(f"offset {offset} is not from {self.start} to {self.end}")
        index, begin = len(self._pieces), self.end
        while begin > offset:
            index -= 1
            begin -= len(self._pieces[index])
        found: list[bytes] = []
        while index < len(self._pieces) and most > 0:
            piece = self._pieces[index]
            part = piece if begin >= offset and len(piece) <= most else piece[max(offset - begin, 0) :][:most]
            found.append(bytes(part))
            most -= len(part)
            begin += len(piece)
            index += 1
        return found[0] if len(found) == 1 else b"".join(found)

    def trim(self, needed_from: int) -> None:
        """Forgets what is before both `needed_from` and the last `kept` bytes."""
        floor = min(needed_from, self.end - self._kept)
        while self._pieces and self.start + len(self._pieces[0]) <= floor:
            self.start += len(self._pieces.popleft())
