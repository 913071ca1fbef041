"""Keeps what must not be lost while the exec service is down: `python -m services.exec.keeper`.

- The reading ends of the FIFOs of running commands: without a reader, what a command wrote before it ended
  would be gone with it.
- How processes ended, which the kernel says once (see exit_events).

It is a process of its own that does nothing else, so that nothing ends it when exec dies. Messages go over a
SOCK_SEQPACKET socket, a JSON object each, descriptors beside it:
`{"hold": id}` with descriptors; `{"watch": id, "pid": pid}`; `{"release": id}`;
`{"ending": id, "pid": pid or 0, "status": n, "child": pid or 0}` answered by
`{"pid": …, "status": n, "signal": "KILL"}` or `{}`; a pid of 0 is one that the caller doesn't know.
"""

import dataclasses
import json
import os
import selectors
import signal
import socket
from pathlib import Path
from typing import Any

import structlog

from services.common import logging
from services.common.settings import Settings
from services.exec.exit_events import ExitEvents

log = structlog.get_logger(__name__)

MESSAGE_BYTES = 4096
DESCRIPTORS = 4


class Keeper:
    def __init__(self, socket_path: Path) -> None:
        socket_path.parent.mkdir(parents=True, exist_ok=True)
        socket_path.unlink(missing_ok=True)
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._listener.bind(str(socket_path))
        socket_path.chmod(0o600)
        self._listener.listen(8)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ, self._accept)
        self._held: dict[str, list[int]] = {}
        self._pids: dict[str, int] = {}
        self._endings = self._open_endings()

    def _open_endings(self) -> ExitEvents | None:
        try:
            endings = ExitEvents()
        except OSError as error:
            log.warning("no_exit_events", error=str(error))
            return None
        self._selector.register(endings, selectors.EVENT_READ, endings.receive)
        return endings

    def run(self) -> None:
        while True:
            for key, _ in self._selector.select():
                key.data()

    def _accept(self) -> None:
        connection, _ = self._listener.accept()
        self._selector.register(connection, selectors.EVENT_READ, lambda: self._receive(connection))

    def _receive(self, connection: socket.socket) -> None:
        try:
            data, descriptors, _, _ = socket.recv_fds(connection, MESSAGE_BYTES, DESCRIPTORS)
        except OSError:
            data, descriptors = b"", []
        if not data:
            self._selector.unregister(connection)
            connection.close()
            return
        answer = self._handle(json.loads(data), descriptors)
        if answer is not None:
            connection.send(json.dumps(answer).encode())

    def _handle(self, message: dict[str, Any], descriptors: list[int]) -> dict[str, Any] | None:
        match message:
            case {"hold": command_id}:
                # Held again by the next exec process: what is known of the command stays known.
                self._let_go(command_id)
                self._held[command_id] = descriptors
            case {"watch": command_id, "pid": pid}:
                self._pids[command_id] = pid
                if self._endings is not None:
                    self._endings.watch(pid)
            case {"release": command_id}:
                self._release(command_id)
            case {"ending": command_id, "pid": pid, "status": status, "child": child}:
                return self._ending(pid or self._pids.get(command_id, 0), status, child)
        return None

    def _release(self, command_id: str) -> None:
        self._let_go(command_id)
        pid = self._pids.pop(command_id, None)
        if pid is not None and self._endings is not None:
            self._endings.forget(pid)

    def _let_go(self, command_id: str) -> None:
        for descriptor in self._held.pop(command_id, []):
            os.close(descriptor)

    def _ending(self, pid: int, status: int, child: int) -> dict[str, Any]:
        if self._endings is None:
            return {}
        self._endings.receive()
        found = self._endings.of_child(pid, status, child)
        return {} if found is None else dataclasses.asdict(found)


def main() -> None:
    settings = Settings()
    logging.configure("keeper", settings.log_format, settings.log_level)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _leave)
    Keeper(settings.keeper_socket).run()


def _leave(*_: object) -> None:
    """There is nothing to finish: what is held is let go by the kernel."""
    raise SystemExit(0)


if __name__ == "__main__":
    main()
