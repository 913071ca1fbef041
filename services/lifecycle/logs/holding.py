"""Has the keeper hold the reading ends of FIFOs, too: with the last one of them goes what a FIFO holds.

The messages are described in the keeper itself (services/exec/keeper.py).
"""

import asyncio
import json
import socket
from collections.abc import Callable
from pathlib import Path

import structlog

log = structlog.get_logger(__name__)

TIMEOUT_S = 1.0
RETRY_S = 0.5


class Holding:
    """A keeper that was restarted is told everything again. One that can't be reached is no reason not to start
    containers: only if this process dies in that time, and a container ends before the next one of it, anything is
    lost."""

    def __init__(self, keeper: Path) -> None:
        self._path = keeper
        self._connection: socket.socket | None = None
        self._held: dict[str, Callable[[], list[int]]] = {}
        self._retry: asyncio.TimerHandle | None = None

    def hold(self, container_id: str, descriptors: Callable[[], list[int]]) -> None:
        """The keeper gets copies of those that are open, until `release`; ours stay ours."""
        self._held[container_id] = descriptors
        if self._is_connected():
            self._tell_held(container_id)

    def release(self, container_id: str) -> None:
        self._held.pop(container_id, None)
        if self._is_connected():
            self._tell({"release": _name(container_id)})

    def close(self) -> None:
        """What is held stays so: by the keeper."""
        self._held.clear()
        if self._retry is not None:
            self._retry.cancel()
        self._disconnect()

    def _is_connected(self) -> bool:
        """Connects if need be, and then tells all that there is to be held."""
        if self._connection is not None:
            return True
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        connection.settimeout(TIMEOUT_S)
        try:
            connection.connect(str(self._path))
        except OSError:
            connection.close()
            self._try_again_later()
            return False
        self._connection = connection
        # It says nothing unasked: what there is to be read is its end.
        asyncio.get_running_loop().add_reader(connection, self._lost)
        for container_id in self._held:
            self._tell_held(container_id)
        return self._connection is not None

    def _tell_held(self, container_id: str) -> None:
        self._tell({"hold": _name(container_id)}, self._held[container_id]())

    def _tell(self, message: dict[str, str], descriptors: list[int] | None = None) -> None:
        if self._connection is None:
            return
        try:
            socket.send_fds(self._connection, [json.dumps(message).encode()], descriptors or [])
        except OSError as error:
            log.warning("keeper_unreachable", error=str(error))
            self._lost()

    def _lost(self) -> None:
        self._disconnect()
        self._try_again_later()

    def _try_again_later(self) -> None:
        if self._held and self._retry is None:
            self._retry = asyncio.get_running_loop().call_later(RETRY_S, self._try_again)

    def _try_again(self) -> None:
        self._retry = None
        self._is_connected()

    def _disconnect(self) -> None:
        if self._connection is not None:
            asyncio.get_running_loop().remove_reader(self._connection)
            self._connection.close()
            self._connection = None


def _name(container_id: str) -> str:
    return f"log-{container_id}"
