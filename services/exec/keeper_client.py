"""The exec service's side of the keeper."""

import asyncio
import json
import socket
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import structlog

from services.exec.exit_events import Ending

log = structlog.get_logger(__name__)

ANSWER_TIMEOUT_S = 1.0
ATTEMPTS = 5
PAUSE_S = 0.01
MESSAGE_BYTES = 4096


class KeeperClient:
    """Tells the keeper what to keep; a keeper that was restarted is told everything again.

    A keeper that can't be reached is no reason not to run commands: only a crash of exec in that time loses
    anything.
    """

    def __init__(self, socket_path: Path) -> None:
        self._path = socket_path
        self._connection: socket.socket | None = None
        self._held: dict[str, tuple[Sequence[int], int | None]] = {}
        self._lock = threading.Lock()

    def hold(self, command_id: str, descriptors: Sequence[int]) -> None:
        """The keeper gets copies; ours stay ours."""
        self._held[command_id] = (descriptors, None)
        self._tell({"hold": command_id}, descriptors)

    def watch(self, command_id: str, pid: int) -> None:
        descriptors, _ = self._held[command_id]
        self._held[command_id] = (descriptors, pid)
        self._tell({"watch": command_id, "pid": pid})

    def release(self, command_id: str) -> None:
        if self._held.pop(command_id, None) is not None:
            self._tell({"release": command_id})

    def forget(self, command_id: str) -> None:
        """Releases what an earlier process of this service has had held."""
        self._held.pop(command_id, None)
        self._tell({"release": command_id})

    async def ending(self, command_id: str, pid: int, status: int, child: int = 0) -> Ending | None:
        """How a child of `pid` ended: `child`, or the one the runtime reports with `status`; None if nobody knows."""
        question = {"ending": command_id, "pid": pid, "status": status, "child": child}
        for _ in range(ATTEMPTS):
            answer = await asyncio.to_thread(self._ask, question)
            if answer:
                return Ending(**answer)
            # The kernel tells the parent before it tells the connector.
            await asyncio.sleep(PAUSE_S)
        return None

    def close(self) -> None:
        self._disconnect()

    def _ask(self, message: dict[str, Any]) -> dict[str, Any]:
        with self._lock:
            if not self._send(message):
                return {}
            try:
                answer: dict[str, Any] = json.loads(self._connected().recv(MESSAGE_BYTES) or b"{}")
            except OSError as error:
                log.warning("keeper_silent", error=str(error))
                self._disconnect()
                return {}
            return answer

    def _tell(self, message: dict[str, Any], descriptors: Sequence[int] = ()) -> None:
        with self._lock:
            self._send(message, descriptors)

    def _send(self, message: dict[str, Any], descriptors: Sequence[int] = ()) -> bool:
        for _ in range(2):
            try:
                socket.send_fds(self._connected(), [json.dumps(message).encode()], descriptors)
            except OSError as error:
                log.warning("keeper_unreachable", error=str(error))
                self._disconnect()
                continue
            return True
        return False

    def _connected(self) -> socket.socket:
        if self._connection is None:
            connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            connection.settimeout(ANSWER_TIMEOUT_S)
            try:
                connection.connect(str(self._path))
                for command_id, (descriptors, pid) in self._held.items():
                    socket.send_fds(connection, [json.dumps({"hold": command_id}).encode()], descriptors)
                    if pid is not None:
                        connection.send(json.dumps({"watch": command_id, "pid": pid}).encode())
            except OSError:
                connection.close()
                raise
            self._connection = connection
        return self._connection

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
