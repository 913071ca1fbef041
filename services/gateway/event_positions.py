"""Places in the stream of events, and what it takes to go on from one (pure).

A place is the number of a message in the NATS stream and the time at which it was stored. The number alone would
not do: where NATS has lost its store, or the last writes before a power cut, numbers are given a second time.
"""

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Self

_FORMAT = re.compile(r"([0-9]{1,18})-([0-9]{1,18})")
# Another server of NATS may store what comes next, and a clock may be set.
CLOCKS_DIFFER_US = 60 * 1_000_000


@dataclass(frozen=True, slots=True)
class Position:
    """Behind message `seq`, which was stored `time_us` microseconds after 1970; without a message, when the stream
    was made."""

    seq: int
    time_us: int

    def __str__(self) -> str:
        return f"{self.seq}-{self.time_us}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """From an `id`; `0` is before everything that is kept. Raises ValueError."""
        found = _FORMAT.fullmatch("0-0" if text == "0" else text)
        if found is None:
            raise ValueError("must be the id of an event of this stream, or 0")
        return cls(int(found[1]), int(found[2]))


BEGINNING = Position(0, 0)


class Gap(StrEnum):
    EXPIRED = "expired"  # what came next is older than the retention
    LOST = "lost"  # NATS does not have what it had


@dataclass(frozen=True, slots=True)
class Kept:
    """What the stream holds: messages `first_seq` to `last_seq`; none where the first is behind the last."""

    created_us: int
    first_seq: int
    last_seq: int


@dataclass(frozen=True, slots=True)
class Start:
    """From message `seq` on, or where that is None from those on that were stored at `time_us`."""

    seq: int | None
    time_us: int = 0
    gap: Gap | None = None


def start_after(position: Position, kept: Kept, found_us: int | None) -> Start:
    """`found_us` is when the message was stored that now has the position's number, None where there is none."""
    if position == BEGINNING:
        return Start(kept.first_seq)
    is_kept = kept.first_seq <= position.seq <= kept.last_seq
    if position.seq > kept.last_seq or position.time_us < kept.created_us or (is_kept and found_us != position.time_us):
        # Whatever the reader has not seen was stored later than what he saw last, or is stored again now.
        return Start(None, max(0, position.time_us - CLOCKS_DIFFER_US), Gap.LOST)
    if is_kept or position.seq + 1 == kept.first_seq:
        return Start(position.seq + 1)
    return Start(kept.first_seq, gap=Gap.EXPIRED)
