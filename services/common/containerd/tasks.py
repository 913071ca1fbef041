"""Tasks: the running side of a container. Wait is the truth about its end, events are hints."""

import signal
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum
from pathlib import Path

from containerd.runc.v1.options_pb2 import Options
from containerd.services.tasks.v1 import tasks_pb2, tasks_pb2_grpc
from containerd.types.task import task_pb2
from google.protobuf.timestamp_pb2 import Timestamp

from services.common.containerd.any import pack
from services.common.containerd.connection import Connection
from services.common.containerd.errors import ContainerdNotFound

START_TIMEOUT_S = 45.0
# A short deadline here leaves shims behind: containerd goes on deleting, nobody hears of its end.
DELETE_TIMEOUT_S = 60.0
KILL_TIMEOUT_S = 30.0
FREEZE_TIMEOUT_S = 30.0


class TaskStatus(Enum):
    CREATED = "created"
    RUNNING = "running"
    STOPPED = "stopped"
    PAUSED = "paused"
    UNKNOWN = "unknown"


_STATUS = {
    task_pb2.CREATED: TaskStatus.CREATED,
    task_pb2.RUNNING: TaskStatus.RUNNING,
    task_pb2.STOPPED: TaskStatus.STOPPED,
    task_pb2.PAUSED: TaskStatus.PAUSED,
    task_pb2.PAUSING: TaskStatus.PAUSED,
}


@dataclass(frozen=True)
class Output:
    """FIFOs for what a task's process writes; its stdin is /dev/null."""

    stdout: Path
    stderr: Path


@dataclass(frozen=True)
class TaskExit:
    """Exit status as the shim reports it: 0 to 255, 128 + n for signal n."""

    status: int
    at: datetime


@dataclass(frozen=True)
class Task:
    container_id: str
    pid: int
    status: TaskStatus


class Tasks:
    def __init__(self, connection: Connection, runtime_root: Path) -> None:
        """`runtime_root` is where the OCI runtime keeps its own state."""
        self._call = connection.call
        self._stub = tasks_pb2_grpc.TasksStub(connection.channel)
        self._runtime_root = runtime_root

    async def create(self, container_id: str, runtime: str, output: Output, owner: tuple[int, int]) -> int:
        """Makes the task with its root filesystem already mounted, nothing started yet; returns PID 1's pid.

        The FIFOs must have readers, or this blocks. `owner` (host's uid and gid) is whose the process's end of the
        output is: whoever else can't open it as /dev/stdout.
        """
        uid, gid = owner
        options = Options(binary_name=runtime, root=str(self._runtime_root), io_uid=uid, io_gid=gid)
        request = tasks_pb2.CreateTaskRequest(
            container_id=container_id,
            stdout=str(output.stdout),
            stderr=str(output.stderr),
            options=pack(options),
        )
        reply = await self._call("create task", container_id, self._stub.Create, request, START_TIMEOUT_S)
        return int(reply.pid)

    async def start(self, container_id: str) -> None:
        request = tasks_pb2.StartRequest(container_id=container_id)
        await self._call("start task", container_id, self._stub.Start, request, START_TIMEOUT_S)

    async def get(self, container_id: str) -> Task | None:
        try:
            reply = await self._call(
                "get task", container_id, self._stub.Get, tasks_pb2.GetRequest(container_id=container_id)
            )
        except ContainerdNotFound:
            return None
        return task_of(reply.process.id or container_id, reply.process)

    async def list(self) -> dict[str, Task]:
        reply = await self._call("list tasks", "", self._stub.List, tasks_pb2.ListTasksRequest())
        return {process.id: task_of(process.id, process) for process in reply.tasks}

    async def wait(self, container_id: str) -> TaskExit:
        """Answers when the task has ended, at once if it has already."""
        reply = await self._call(
            "wait for task", container_id, self._stub.Wait, tasks_pb2.WaitRequest(container_id=container_id), None
        )
        return task_exit(reply.exit_status, reply.exited_at)

    async def kill(self, container_id: str, number: signal.Signals, everything: bool = False) -> None:
        """Sends a signal to PID 1, or to all processes of the task; one that has ended already is no error."""
        request = tasks_pb2.KillRequest(container_id=container_id, signal=number, all=everything)
        try:
            await self._call("kill task", container_id, self._stub.Kill, request, KILL_TIMEOUT_S)
        except ContainerdNotFound:
            return

    async def pause(self, container_id: str) -> None:
        """Freezes every process of the task; answers when they are. One that is paused already is an error."""
        request = tasks_pb2.PauseTaskRequest(container_id=container_id)
        await self._call("pause task", container_id, self._stub.Pause, request, FREEZE_TIMEOUT_S)

    async def resume(self, container_id: str) -> None:
        """Lets them go on. One that runs is an error."""
        request = tasks_pb2.ResumeTaskRequest(container_id=container_id)
        await self._call("resume task", container_id, self._stub.Resume, request, FREEZE_TIMEOUT_S)

    async def delete(self, container_id: str) -> TaskExit | None:
        """Forgets an ended task and ends its shim; None if there is none."""
        request = tasks_pb2.DeleteTaskRequest(container_id=container_id)
        try:
            reply = await self._call("delete task", container_id, self._stub.Delete, request, DELETE_TIMEOUT_S)
        except ContainerdNotFound:
            return None
        return task_exit(reply.exit_status, reply.exited_at)


def task_of(container_id: str, process: task_pb2.Process) -> Task:
    return Task(container_id, process.pid, _STATUS.get(process.status, TaskStatus.UNKNOWN))


def task_exit(status: int, at: Timestamp) -> TaskExit:
    return TaskExit(status, at.ToDatetime(UTC))
