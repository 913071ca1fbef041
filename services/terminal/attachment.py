"""One client of a session: what of the output it has, and what else it is to be told."""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from enum import Enum

from services.common.errors import HzelError
from services.terminal.scrollback import Scrollback
from services.terminal.shell import Size

# How far the output may be ahead of what a client has acknowledged, and the input of what the shell has taken.
WINDOW = 256 * 1024
ACKNOWLEDGED_AFTER = 64 * 1024
PIECE = 128 * 1024
# After the end, for a client that takes nothing of the last output any more.
LAST_OUTPUT_S = 60.0
# For a watcher that was left behind: its screen is no longer what it should be.
CLEARED = b"\x1bc"


class CloseReason(Enum):
    EXITED = "exited"
    CLIENT = "client"
    IDLE = "idle"
    TAKEN_OVER = "taken_over"
    STOPPING = "stopping"


@dataclass(frozen=True)
class Opened:
    pass


@dataclass(frozen=True)
class Output:
    data: bytes


@dataclass(frozen=True)
class Resized:
    size: Size


@dataclass(frozen=True)
class InputTaken:
    """Bytes of this client's, since it attached."""

    total: int


@dataclass(frozen=True)
class Closed:
    reason: CloseReason
    exit_code: int | None


Told = Opened | Output | Resized | InputTaken | Closed


class Attachment:
    """Output goes by `WINDOW`s; what else is to be told overtakes it, but for the end."""

    def __init__(self, scrollback: Scrollback) -> None:
        """Begins with what the scrollback has."""
        self._scrollback = scrollback
        self._at = scrollback.start
        self._sent = 0
        self._acknowledged = 0
        self._input_taken = 0
        self._input_acknowledged = 0
        self._to_tell: deque[Told] = deque()
        self._end: Closed | HzelError | None = None
        self._has_left = False
        self._last_chance: asyncio.TimerHandle | None = None
        self._news = asyncio.Event()

    @property
    def taken(self) -> int:
        """The offset up to which the client has the output."""
        return self._at - (self._sent - self._acknowledged)

    def on_output(self) -> None:
        self._news.set()

    def tell(self, what: Opened | Resized) -> None:
        self._to_tell.append(what)
        self._news.set()

    def close(self, reason: CloseReason, exit_code: int | None = None) -> None:
        """The last it will hear, once it has all output; the first end counts."""
        self._end_with(Closed(reason, exit_code))

    def fail(self, error: HzelError) -> None:
        """`told` raises it in the end."""
        self._end_with(error)

    def leave(self) -> None:
        """The client wants no more: `told` ends, whatever it has not said."""
        self._has_left = True
        self._news.set()

    def acknowledge(self, total: int) -> None:
        """The client has taken that many bytes since it attached."""
        self._acknowledged = max(self._acknowledged, min(total, self._sent))
        if self._end is not None:
            self._expect_more()
        self._news.set()

    def on_input_taken(self, count: int) -> None:
        self._input_taken += count
        if self._input_taken - self._input_acknowledged >= ACKNOWLEDGED_AFTER:
            self._input_acknowledged = self._input_taken
            self._to_tell.append(InputTaken(self._input_taken))
            self._news.set()

    async def told(self) -> AsyncGenerator[Told, None]:
        """Everything for this client in its order, as it comes, until the end. Raises the HzelError that it was."""
        while not self._has_left:
            self._news.clear()
            while self._to_tell:
                yield self._to_tell.popleft()
            if data := self._next_output():
                yield Output(data)
            elif self._end is not None and self._at == self._scrollback.end:
                if isinstance(self._end, HzelError):
                    raise self._end
                yield self._end
                return
            elif not self._to_tell:
                await self._news.wait()

    def _end_with(self, end: Closed | HzelError) -> None:
        if self._end is None:
            self._end = end
            self._news.set()
            self._expect_more()

    def _expect_more(self) -> None:
        if self._last_chance is not None:
            self._last_chance.cancel()
        self._last_chance = asyncio.get_running_loop().call_later(LAST_OUTPUT_S, self.leave)

    def _next_output(self) -> bytes:
        credit = WINDOW - (self._sent - self._acknowledged)
        if credit <= 0 or self._at == self._scrollback.end:
            return b""
        if self._at < self._scrollback.start:
            self._at = self._scrollback.start
            self._sent += len(CLEARED)
            return CLEARED
        data = self._scrollback.read(self._at, min(PIECE, credit))
        self._at += len(data)
        self._sent += len(data)
        return data
