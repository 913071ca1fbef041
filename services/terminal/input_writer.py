"""Writing a session's input: what the shell does not read yet waits here, as much as the window allows."""

import asyncio
import os
from collections import deque
from collections.abc import Callable


class InputWriter:
    """Writes to a FIFO in order; `on_taken` is called with how many bytes it has accepted since.

    The descriptor must not block; it stays its opener's, who closes it after `close`.
    """

    def __init__(self, descriptor: int, on_taken: Callable[[int], None]) -> None:
        self._descriptor = descriptor
        self._on_taken = on_taken
        self._waiting: deque[memoryview] = deque()
        self._is_open = True
        self.waiting_bytes = 0

    def write(self, data: bytes) -> None:
        if not self._is_open:
            return
        self._waiting.append(memoryview(data))
        self.waiting_bytes += len(data)
        if len(self._waiting) == 1 and self._write_some():
            asyncio.get_running_loop().add_writer(self._descriptor, self._on_writable)

    def close(self) -> None:
        """Drops what waits, and what is still to come: the descriptor may soon be another's."""
        self._is_open = False
        if self._waiting:
            asyncio.get_running_loop().remove_writer(self._descriptor)
            self._waiting.clear()
            self.waiting_bytes = 0

    def _on_writable(self) -> None:
        if not self._write_some():
            asyncio.get_running_loop().remove_writer(self._descriptor)

    def _write_some(self) -> bool:
        """Whether something is left."""
        taken = 0
        try:
            while self._waiting:
                written = os.write(self._descriptor, self._waiting[0])
                taken += written
                if written == len(self._waiting[0]):
                    self._waiting.popleft()
                else:
                    self._waiting[0] = self._waiting[0][written:]
        except BlockingIOError:
            pass
        self.waiting_bytes -= taken
        if taken:
            self._on_taken(taken)
        return bool(self._waiting)
