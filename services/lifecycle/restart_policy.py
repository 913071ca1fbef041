"""Whether a container that has ended is started again by itself, and when (pure).

The policies are Docker's: `no`, `on-failure`, `on-failure:<restarts at most>`, `always`. What its owner has stopped is
never started again, with `always` neither; that is Docker's `unless-stopped`. What ends with the node, by a reboot or
because hzel goes down, has not failed: of that, `always` alone is started again.
"""

import re
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum
from typing import Self

FIRST_DELAY_MS = 100
LONGEST_DELAY_MS = 60_000
# Whoever has run so long has not failed at once.
GOOD_RUN_S = 10.0
_TEXT = re.compile(r"(no|always|on-failure)(?::([1-9][0-9]{0,5}))?")


class When(Enum):
    NO = "no"
    ON_FAILURE = "on-failure"
    ALWAYS = "always"


@dataclass(frozen=True)
class RestartPolicy:
    """`most` is how many restarts there are at most; None: no limit."""

    when: When = When.NO
    most: int | None = None

    @classmethod
    def parse(cls, text: str) -> Self:
        """Raises ValueError."""
        match = _TEXT.fullmatch(text)
        if match is None or (match[2] is not None and match[1] != When.ON_FAILURE.value):
            raise ValueError("must be no, on-failure, on-failure:<restarts at most> or always")
        return cls(When(match[1]), int(match[2]) if match[2] is not None else None)

    def __str__(self) -> str:
        return self.when.value if self.most is None else f"{self.when.value}:{self.most}"

    @property
    def outlives_node(self) -> bool:
        """Whether it applies to what ended with the node."""
        return self.when is When.ALWAYS

    def applies(self, exit_status: int | None, restarts: int) -> bool:
        """After an end by itself, and so many restarts before; a status that nobody knows is no success."""
        if self.when is When.ON_FAILURE:
            return exit_status != 0 and (self.most is None or restarts < self.most)
        return self.when is When.ALWAYS


@dataclass(frozen=True)
class Restarts:
    """`count` since its owner last started it, the latest wait, and when the next is due; None: none is."""

    count: int = 0
    delay_ms: int = 0
    due_at: datetime | None = None

    def planned(self, ran_s: float, now: datetime) -> "Restarts":
        """The next one, after a run of so many seconds: each waits twice as long as the one before."""
        delay_ms = FIRST_DELAY_MS
        if self.delay_ms and ran_s < GOOD_RUN_S:
            delay_ms = min(self.delay_ms * 2, LONGEST_DELAY_MS)
        return Restarts(self.count, delay_ms, now + timedelta(milliseconds=delay_ms))

    def at_once(self, now: datetime) -> "Restarts":
        return Restarts(self.count, self.delay_ms, now)

    def begun(self) -> "Restarts":
        return Restarts(self.count + 1, self.delay_ms)

    def left_s(self, now: datetime) -> float:
        """Seconds to wait, never more than were meant: the clock may have been set back."""
        if self.due_at is None:
            return 0.0
        return max(0.0, min((self.due_at - now).total_seconds(), self.delay_ms / 1000))
