"""Processes added to a running task: containerd's execs."""

import signal
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from containerd.services.tasks.v1 import tasks_pb2, tasks_pb2_grpc

from services.common.containerd.any import pack_spec
from services.common.containerd.connection import Connection
from services.common.containerd.errors import ContainerdNotFound
from services.common.containerd.tasks import (
    DELETE_TIMEOUT_S,
    KILL_TIMEOUT_S,
    START_TIMEOUT_S,
    Task,
    TaskExit,
    task_exit,
    task_of,
)


@dataclass(frozen=True)
class Streams:
    """FIFOs of a process; None for stdin means /dev/null. A terminal has no stderr of its own."""

    stdin: Path | None
    stdout: Path
    stderr: Path | None
    terminal: bool = False


class Processes:
    """Every id is that of a container and of an exec in it; both are ours to choose."""

    def __init__(self, connection: Connection) -> None:
        self._call = connection.call
        self._stub = tasks_pb2_grpc.TasksStub(connection.channel)

    async def add(self, container_id: str, exec_id: str, streams: Streams, process: Mapping[str, object]) -> None:
        """Prepares a process from an OCI `process` object; nothing runs yet."""
        request = tasks_pb2.ExecProcessRequest(
            container_id=container_id,
            exec_id=exec_id,
            stdin=str(streams.stdin or ""),
            stdout=str(streams.stdout),
            stderr=str(streams.stderr or ""),
            terminal=streams.terminal,
            spec=pack_spec("Process", process),
        )
        await self._call("add process", exec_id, self._stub.Exec, request, START_TIMEOUT_S)

    async def start(self, container_id: str, exec_id: str) -> int:
        """Starts it; returns its pid on the host. Its FIFOs must have readers, or this blocks."""
        request = tasks_pb2.StartRequest(container_id=container_id, exec_id=exec_id)
        return int((await self._call("start process", exec_id, self._stub.Start, request, START_TIMEOUT_S)).pid)

    async def get(self, container_id: str, exec_id: str) -> Task | None:
        """Its pid and status; None if containerd does not know it."""
        request = tasks_pb2.GetRequest(container_id=container_id, exec_id=exec_id)
        try:
            reply = await self._call("get process", exec_id, self._stub.Get, request)
        except ContainerdNotFound:
            return None
        return task_of(container_id, reply.process)

    async def wait(self, container_id: str, exec_id: str) -> TaskExit:
        """Answers when it has ended; perhaps never for one that was not started."""
        request = tasks_pb2.WaitRequest(container_id=container_id, exec_id=exec_id)
        reply = await self._call("wait for process", exec_id, self._stub.Wait, request, None)
        return task_exit(reply.exit_status, reply.exited_at)

    async def kill(self, container_id: str, exec_id: str, number: signal.Signals) -> None:
        """Sends it a signal; one that has ended already is no error."""
        request = tasks_pb2.KillRequest(container_id=container_id, exec_id=exec_id, signal=number)
        try:
            await self._call("kill process", exec_id, self._stub.Kill, request, KILL_TIMEOUT_S)
        except ContainerdNotFound:
            return

    async def delete(self, container_id: str, exec_id: str) -> TaskExit | None:
        """Forgets an ended process, and drops what its FIFOs still hold; None if there is none."""
        request = tasks_pb2.DeleteProcessRequest(container_id=container_id, exec_id=exec_id)
        try:
            reply = await self._call("delete process", exec_id, self._stub.DeleteProcess, request, DELETE_TIMEOUT_S)
        except ContainerdNotFound:
            return None
        return task_exit(reply.exit_status, reply.exited_at)

    async def close_stdin(self, container_id: str, exec_id: str) -> None:
        """Lets it read to the end: the shim holds a writer of the FIFO as well. Only after `start` has answered."""
        request = tasks_pb2.CloseIORequest(container_id=container_id, exec_id=exec_id, stdin=True)
        await self._call("close stdin", exec_id, self._stub.CloseIO, request)

    async def resize(self, container_id: str, exec_id: str, columns: int, rows: int) -> None:
        request = tasks_pb2.ResizePtyRequest(container_id=container_id, exec_id=exec_id, width=columns, height=rows)
        await self._call("resize terminal", exec_id, self._stub.ResizePty, request)
