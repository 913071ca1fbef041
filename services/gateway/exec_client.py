"""What the gateway asks of exec, in its own words."""

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Literal

import grpc
from google.protobuf.timestamp_pb2 import Timestamp
from hzel.exec.v1 import exec_pb2 as pb
from hzel.exec.v1 import exec_pb2_grpc

from services.common.errors import Internal
from services.common.rpc.channel import call, stream

READ_TIMEOUT_S = 10.0
CANCEL_TIMEOUT_S = 30.0
# A process may take its input as slowly as it likes; the client is told then that it has not.
INPUT_TIMEOUT_S = 60.0

StreamName = Literal["stdout", "stderr"]


class CommandStatus(StrEnum):
    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def is_final(self) -> bool:
        return self not in (CommandStatus.QUEUED, CommandStatus.RUNNING)


@dataclass(frozen=True)
class CommandOrder:
    """What is asked for; either `program` or the shell text `command`."""

    program: str
    args: Sequence[str]
    command: str
    env: Mapping[str, str]
    cwd: str
    user: str
    stdin: bytes | None
    stdin_open: bool
    timeout_s: int | None
    max_output_bytes: int


@dataclass(frozen=True)
class Command:
    id: str
    container_id: str
    requested_by: str
    order: CommandOrder
    status: CommandStatus
    exit_code: int | None
    signal: str | None
    timed_out: bool
    error: str | None
    stdout_bytes: int
    stderr_bytes: int
    truncated: bool
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    stdout: bytes
    stderr: bytes
    output_omitted: bool


@dataclass(frozen=True)
class Output:
    """`offset` counts bytes over both streams; `is_before` marks bytes before the offset that was asked for."""

    stream: StreamName
    offset: int
    data: bytes
    is_before: bool


@dataclass(frozen=True)
class CommandPage:
    commands: list[Command]
    next_before_id: str | None


class ExecClient:
    """Calls raise the HzelError that exec reported, Unavailable or TimedOut; each but a stream has a deadline."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub = exec_pb2_grpc.ExecServiceStub(channel)

    async def submit(
        self, command_id: str, container_id: str, requested_by: str, order: CommandOrder, wait_s: int
    ) -> Command:
        request = pb.SubmitCommandRequest(
            id=command_id,
            container_id=container_id,
            requested_by=requested_by,
            wait_s=wait_s,
            spec=pb.CommandSpec(
                program=order.program,
                args=order.args,
                command=order.command,
                env=order.env,
                cwd=order.cwd,
                user=order.user,
                stdin=order.stdin,
                stdin_open=order.stdin_open,
                timeout_s=order.timeout_s,
                max_output_bytes=order.max_output_bytes,
            ),
        )
        return _command((await call(self._stub.SubmitCommand, request, READ_TIMEOUT_S + wait_s)).command)

    async def get(self, command_id: str, wait_s: int = 0, with_output: bool = True) -> Command:
        request = pb.GetCommandRequest(id=command_id, wait_s=wait_s, without_output=not with_output)
        return _command((await call(self._stub.GetCommand, request, READ_TIMEOUT_S + wait_s)).command)

    async def list(self, container_id: str, before_id: str | None, limit: int) -> CommandPage:
        """The newest first."""
        request = pb.ListCommandsRequest(container_id=container_id, before_id=before_id or "", limit=limit)
        page = await call(self._stub.ListCommands, request, READ_TIMEOUT_S)
        return CommandPage([_command(one) for one in page.commands], page.next_before_id or None)

    async def cancel(self, command_id: str) -> Command:
        request = pb.CancelCommandRequest(id=command_id)
        return _command((await call(self._stub.CancelCommand, request, CANCEL_TIMEOUT_S)).command)

    async def watch(self, command_id: str, offset: int) -> AsyncIterator[CommandStatus | Output | Command]:
        """The status and its changes, the output from an offset on, at last the ended command without output."""
        request = pb.WatchCommandRequest(id=command_id, offset=offset)
        async for answer in stream(self._stub.WatchCommand, request):
            match answer.WhichOneof("event"):
                case "status":
                    yield _STATUS[answer.status]
                case "output":
                    output = answer.output
                    yield Output(_STREAMS[output.stream], output.offset, output.data, output.before)
                case "exit":
                    yield _command(answer.exit)

    async def read_output(self, command_id: str, stream_name: StreamName, offset: int) -> AsyncIterator[bytes]:
        number = pb.OutputStream.Value(f"OUTPUT_STREAM_{stream_name.upper()}")
        request = pb.ReadOutputRequest(id=command_id, stream=number, offset=offset)
        async for answer in stream(self._stub.ReadOutput, request):
            yield answer.data

    async def send_input(self, command_id: str, data: bytes) -> None:
        await call(self._stub.SendInput, pb.SendInputRequest(id=command_id, data=data), INPUT_TIMEOUT_S)

    async def end_input(self, command_id: str) -> None:
        await call(self._stub.SendInput, pb.SendInputRequest(id=command_id, eof=True), INPUT_TIMEOUT_S)

    async def send_signal(self, command_id: str, name: str) -> None:
        await call(self._stub.SendInput, pb.SendInputRequest(id=command_id, signal=name), READ_TIMEOUT_S)


_STATUS = {
    pb.COMMAND_STATUS_QUEUED: CommandStatus.QUEUED,
    pb.COMMAND_STATUS_RUNNING: CommandStatus.RUNNING,
    pb.COMMAND_STATUS_SUCCEEDED: CommandStatus.SUCCEEDED,
    pb.COMMAND_STATUS_FAILED: CommandStatus.FAILED,
    pb.COMMAND_STATUS_CANCELLED: CommandStatus.CANCELLED,
}
_STREAMS: dict[int, StreamName] = {
    int(pb.OUTPUT_STREAM_STDOUT): "stdout",
    int(pb.OUTPUT_STREAM_STDERR): "stderr",
}


def _command(message: pb.Command) -> Command:
    if message.status not in _STATUS or not message.HasField("created_at"):
        raise Internal
    spec = message.spec
    return Command(
        id=message.id,
        container_id=message.container_id,
        requested_by=message.requested_by,
        order=CommandOrder(
            program=spec.program,
            args=tuple(spec.args),
            command=spec.command,
            env=dict(spec.env),
            cwd=spec.cwd,
            user=spec.user,
            stdin=None,
            stdin_open=spec.stdin_open,
            timeout_s=spec.timeout_s if spec.HasField("timeout_s") else None,
            max_output_bytes=spec.max_output_bytes,
        ),
        status=_STATUS[message.status],
        exit_code=message.exit_code if message.HasField("exit_code") else None,
        signal=message.signal or None,
        timed_out=message.timed_out,
        error=message.error or None,
        stdout_bytes=message.stdout_bytes,
        stderr_bytes=message.stderr_bytes,
        truncated=message.truncated,
        created_at=_moment(message.created_at),
        started_at=_moment(message.started_at) if message.HasField("started_at") else None,
        finished_at=_moment(message.finished_at) if message.HasField("finished_at") else None,
        stdout=message.stdout,
        stderr=message.stderr,
        output_omitted=message.output_omitted,
    )


def _moment(stamp: Timestamp) -> datetime:
    return stamp.ToDatetime(UTC)
