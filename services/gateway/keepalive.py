"""Whether somebody is still at the other end of a WebSocket (pure).

Any byte from the peer is a sign of life, and its program is asked for one with pings. After a silence it is given up,
but for two cases in which its answer can't come and its kernel still answers ours:

- It does not read, and our question waits behind what it has not taken. It is given up when nothing of that has moved
  for much longer. What moves is a sign of life: there is room for it only because somebody reads.
- We do not read, because the application is behind. The answer may lie among what we have not read.
"""

from dataclasses import dataclass

from services.gateway.tcp_info import TcpInfo

# A client may stop reading for a minute and go on; half of one is for its pings and the kernel's probes.
STALLED_S = 90.0


@dataclass(frozen=True)
class Look:
    """What is seen of a connection at a time (of the loop, seconds)."""

    at: float
    connection: TcpInfo
    buffered: int  # bytes that the kernel has not taken from us
    is_read: bool


class Keepalive:
    def __init__(self, silent_s: float, now: float) -> None:
        """`silent_s` is the silence after which a peer is given up that could have answered."""
        self._silent_s = silent_s
        self._heard_at = now
        self._moved_at = now
        self._acknowledged = 0

    def heard(self, now: float) -> None:
        self._heard_at = now

    def is_silent(self, now: float) -> bool:
        return now - self._heard_at >= self._silent_s

    def silent_in(self, now: float) -> float:
        """Seconds from now, 0 where it is silent already."""
        return max(self._heard_at + self._silent_s - now, 0.0)

    def is_there(self, look: Look) -> bool:
        """To be asked again and again: what has moved since is part of the answer."""
        waits = look.buffered + look.connection.not_sent > 0
        if look.connection.acknowledged != self._acknowledged or not waits:
            self._acknowledged = look.connection.acknowledged
            self._moved_at = look.at
        if not self.is_silent(look.at):
            return True
        if look.connection.unanswered and look.connection.answered_s >= self._silent_s:
            return False
        return not look.is_read or (waits and look.at - self._moved_at < STALLED_S)
