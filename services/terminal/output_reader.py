"""Reading a session's output: at once when it trickles, in large pieces when it floods."""

import asyncio
import os
from collections.abc import Callable

# A terminal hands its output over in pieces of up to 4 KiB. Taken one by one, a flood would cost a turn of the
# loop each: once this much has come within the time of `FLOOD_WITHIN_S`, they are left to gather in the FIFO.
FLOOD_BYTES = 64 * 1024
FLOOD_WITHIN_S = 0.010
GATHER_S = 0.003
PIECE = 16 * 1024
FLOOD_PIECE = 256 * 1024


class OutputReader:
    """Hands what a FIFO brings to `on_data`; `on_end` is called once when all its writers are gone.

    The descriptor must not block; it stays its opener's, who closes it after `close`.
    """

    def __init__(self, descriptor: int, on_data: Callable[[bytes], None], on_end: Callable[[], None]) -> None:
        self._descriptor = descriptor
        self._on_data = on_data
        self._on_end = on_end
        self._loop = asyncio.get_running_loop()
        self._gathering: asyncio.TimerHandle | None = None
        # In a flood: when enough will have gathered.
        self._gathered_at: float | None = None
        self._is_watching = False
        self._is_open = True
        self._recent = 0
        self._recent_since = 0.0

    def resume(self) -> None:
        if not self._is_open or self._is_watching or self._gathering is not None:
            return
        if self._gathered_at is not None:
            self._gathering = self._loop.call_at(self._gathered_at, self._on_gathered)
        else:
            self._watch()

    def pause(self) -> None:
        """Reads nothing more until `resume`: the FIFO fills, and its writers wait."""
        if self._gathering is not None:
            self._gathering.cancel()
            self._gathering = None
        if self._is_watching:
            self._loop.remove_reader(self._descriptor)
            self._is_watching = False

    def close(self) -> None:
        self.pause()
        self._is_open = False

    def _watch(self) -> None:
        self._loop.add_reader(self._descriptor, self._on_readable)
        self._is_watching = True

    def _on_readable(self) -> None:
        data = self._read(PIECE)
        if not data:
            return
        now = self._loop.time()
        if now - self._recent_since > FLOOD_WITHIN_S:
            self._recent, self._recent_since = 0, now
        self._recent += len(data)
        if self._recent >= FLOOD_BYTES:
            self._loop.remove_reader(self._descriptor)
            self._is_watching = False
            self._gather()
        self._on_data(data)

    def _gather(self) -> None:
        self._gathered_at = self._loop.time() + GATHER_S
        self._gathering = self._loop.call_at(self._gathered_at, self._on_gathered)

    def _on_gathered(self) -> None:
        self._gathering = self._gathered_at = None
        data = self._read(FLOOD_PIECE)
        if data and len(data) >= PIECE:
            self._gather()
        elif self._is_open:
            # The flood is over.
            self._recent = 0
            self._watch()
        if data:
            self._on_data(data)

    def _read(self, most: int) -> bytes | None:
        """None where there is nothing now, or nothing ever again."""
        try:
            data = os.read(self._descriptor, most)
        except BlockingIOError:
            return None
        if not data:
            self.close()
            self._on_end()
            return None
        return data
