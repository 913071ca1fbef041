"""/proc/net/dev (pure): the byte counters of every link, as proc(5) describes the file."""

from typing import NamedTuple


class LinkBytes(NamedTuple):
    received: int
    transmitted: int


NO_BYTES = LinkBytes(0, 0)


def parse(text: bytes) -> dict[bytes, LinkBytes]:
    """By the link's name."""
    found = {}
    for line in text.split(b"\n")[2:]:
        name, colon, figures = line.partition(b":")
        if colon:
            words = figures.split(None, 9)
            found[name.strip()] = LinkBytes(int(words[0]), int(words[8]))
    return found
