"""One timer per container that waits to be started again. The row says so too: a timer that is lost is set anew."""

import asyncio
from collections.abc import Callable


class Waits:
    def __init__(self) -> None:
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._due: Callable[[str], None] | None = None
        self._is_closed = False

    def on_due(self, due: Callable[[str], None]) -> None:
        """Says who is told; before anything waits."""
        self._due = due

    def wait(self, container_id: str, delay_s: float) -> None:
        self.forget(container_id)
        if not self._is_closed:
            timer = asyncio.get_running_loop().call_later(delay_s, self._fire, container_id)
            self._timers[container_id] = timer

    def knows(self, container_id: str) -> bool:
        return container_id in self._timers

    def forget(self, container_id: str) -> None:
        timer = self._timers.pop(container_id, None)
        if timer is not None:
            timer.cancel()

    def close(self) -> None:
        """Nobody waits any more, nor will: the next process goes on from the rows."""
        self._is_closed = True
        for container_id in list(self._timers):
            self.forget(container_id)

    def _fire(self, container_id: str) -> None:
        self._timers.pop(container_id, None)
        if self._due is None:
            raise RuntimeError("nobody is told of restarts that are due")
        self._due(container_id)
