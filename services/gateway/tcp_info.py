"""What the kernel knows of a TCP connection and of the kernel at its other end: `struct tcp_info` of linux/tcp.h."""

import socket
import struct
from dataclasses import dataclass

# Up to what is read of it: Linux 4.6.
_LENGTH = 148
_RETRANSMITS, _LAST_ACK_RECEIVED, _BYTES_ACKED, _NOTSENT_BYTES = 2, 56, 120, 144


@dataclass(frozen=True)
class TcpInfo:
    """Of one moment. `unanswered` counts repetitions of data, and probes where the peer has no room for any."""

    unanswered: int
    answered_s: float  # since the peer's kernel last acknowledged anything
    acknowledged: int  # bytes since the beginning
    not_sent: int  # bytes that the kernel may not send yet

    @classmethod
    def of(cls, connection: socket.socket) -> "TcpInfo":
        """Raises OSError."""
        data = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _LENGTH)
        retransmits, probes = data[_RETRANSMITS], data[_RETRANSMITS + 1]
        (answered_ms,) = struct.unpack_from("I", data, _LAST_ACK_RECEIVED)
        (acknowledged,) = struct.unpack_from("Q", data, _BYTES_ACKED)
        (not_sent,) = struct.unpack_from("I", data, _NOTSENT_BYTES)
        return cls(retransmits + probes, answered_ms / 1000, acknowledged, not_sent)
