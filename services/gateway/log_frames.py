"""A container's log as lines of JSON (pure): see log_schemas for what is in one."""

import itertools
import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import lru_cache

from services.common.log_lines import LineCutter
from services.gateway.log_client import LogInterruption, LogPiece, LogStreamName

NS_PER_S = 1_000_000_000
LINES_AT_ONCE = 512
_LAST_S = 253_402_300_799  # of the year 9999


class LogFrames:
    """Of one reading: what is asked of the node again after a break comes here, too."""

    def __init__(self, after: int | None) -> None:
        self.last = after  # the stamp of the last line
        self._cutters: dict[LogStreamName, LineCutter] = {}

    def of(self, event: LogInterruption | list[LogPiece]) -> Iterator[bytes]:
        """The lines that end in it, as many at a time as take little time; perhaps none."""
        lines = self._interrupted(event) if isinstance(event, LogInterruption) else self._all_lines(event)
        while data := b"".join(itertools.islice(lines, LINES_AT_ONCE)):
            yield data

    def _interrupted(self, event: LogInterruption) -> Iterator[bytes]:
        self._cutters = {stream: LineCutter(event.missing[stream], event.before[stream]) for stream in event.missing}
        if event.is_lost:
            self.last = event.stamp
            yield _encoded({"time": time_of(event.stamp), "lost_bytes": event.lost_bytes})

    def _all_lines(self, pieces: list[LogPiece]) -> Iterator[bytes]:
        for piece in pieces:
            yield from self._lines(piece)

    def _lines(self, piece: LogPiece) -> Iterator[bytes]:
        for line in self._cutters[piece.stream].feed(piece.stamp, piece.data):
            # A time in the future may have been asked for.
            if self.last is None or line.stamp > self.last:
                self.last = line.stamp
                entry: dict[str, object] = {"time": time_of(line.stamp), "stream": piece.stream, "line": line.text}
                if line.is_partial:
                    entry["partial"] = True
                yield _encoded(entry)


def time_of(stamp: int) -> str:
    seconds, nanoseconds = divmod(stamp, NS_PER_S)
    return f"{_second(seconds)}.{nanoseconds:09d}Z"


def stamp_of(text: str) -> int:
    """Of a time as in RFC 3339, with up to nine digits of a second. Raises ValueError."""
    if (found := _RFC_3339.fullmatch(text)) is None:
        raise ValueError("must be a time as in RFC 3339, with at most nine digits of a second")
    moment = datetime.fromisoformat(f"{found['whole']}{found['offset']}")
    seconds = round((moment - _EPOCH).total_seconds())
    if seconds < 0:
        raise ValueError("must not be before 1970")
    return seconds * NS_PER_S + int((found["fraction"] or "0").ljust(9, "0"))


_RFC_3339 = re.compile(
    r"(?P<whole>\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(\.(?P<fraction>\d{1,9}))?(?P<offset>Z|[+-]\d\d:\d\d)", re.ASCII
)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@lru_cache(maxsize=64)
def _second(seconds: int) -> str:
    return datetime.fromtimestamp(min(seconds, _LAST_S), UTC).strftime("%Y-%m-%dT%H:%M:%S")


def _encoded(entry: dict[str, object]) -> bytes:
    return json.dumps(entry, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"
