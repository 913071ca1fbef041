"""How fast logs may grow: each alone, and all those together that grow as fast as they may (pure).

Who is too fast waits, and its process with it when its FIFO is full: nothing is dropped.
"""

LOG_BYTES_PER_S = 8 * 1024**2
NODE_BYTES_PER_S = 32 * 1024**2
# What may come faster, if nothing came before.
BURST_S = 0.25


class Pace:
    """Of one log. Times are of any clock that does not jump, seconds."""

    def __init__(self) -> None:
        self._paid_until = 0.0

    def spend(self, moved: int, now: float, fast_logs: int) -> float:
        """Seconds to wait before anything more is read; `fast_logs` is how many wait now."""
        rate = min(LOG_BYTES_PER_S, NODE_BYTES_PER_S / max(fast_logs, 1))
        self._paid_until = max(self._paid_until, now - BURST_S) + moved / rate
        return max(0.0, self._paid_until - now)
