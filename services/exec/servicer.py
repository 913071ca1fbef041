"""hzel.exec.v1 over gRPC: parse, call, convert."""

from collections.abc import AsyncIterator
from datetime import datetime
from typing import Any

import grpc
from google.protobuf.timestamp_pb2 import Timestamp
from hzel.exec.v1 import exec_pb2 as pb
from hzel.exec.v1 import exec_pb2_grpc

from services.exec import requests
from services.exec.command import Command, Status
from services.exec.operations import Operations
from services.exec.output import Piece

SERVICE_NAME = pb.DESCRIPTOR.services_by_name["ExecService"].full_name
# Of each stream in an answer; the rest is for ReadOutput.
INLINE_BYTES = 4 * 1024 * 1024
Context = grpc.aio.ServicerContext[Any, Any]

_STATUS = {
    Status.QUEUED: pb.COMMAND_STATUS_QUEUED,
    Status.RUNNING: pb.COMMAND_STATUS_RUNNING,
    Status.SUCCEEDED: pb.COMMAND_STATUS_SUCCEEDED,
    Status.FAILED: pb.COMMAND_STATUS_FAILED,
    Status.CANCELLED: pb.COMMAND_STATUS_CANCELLED,
}


class ExecServicer(exec_pb2_grpc.ExecServiceServicer):
    def __init__(self, operations: Operations) -> None:
        self._operations = operations

    async def SubmitCommand(self, request: pb.SubmitCommandRequest, context: Context) -> pb.SubmitCommandResponse:
        command = await self._operations.submit(
            requests.new_id("id", request.id),
            requests.new_id("container_id", request.container_id),
            request.requested_by,
            requests.spec(request.spec),
            requests.wait(request.wait_s),
        )
        return pb.SubmitCommandResponse(command=self._with_output(command))

    async def GetCommand(self, request: pb.GetCommandRequest, context: Context) -> pb.GetCommandResponse:
        command = await self._operations.get(requests.command_id(request.id), requests.wait(request.wait_s))
        return pb.GetCommandResponse(
            command=to_proto(command) if request.without_output else self._with_output(command)
        )

    async def ListCommands(self, request: pb.ListCommandsRequest, context: Context) -> pb.ListCommandsResponse:
        limit = requests.page_limit(request.limit)
        container_id = requests.new_id("container_id", request.container_id)
        # One more than asked for tells whether anything follows.
        found = await self._operations.page(container_id, request.before_id, limit + 1)
        return pb.ListCommandsResponse(
            commands=[to_proto(command) for command in found[:limit]],
            next_before_id=found[limit - 1].id if len(found) > limit else "",
        )

    async def CancelCommand(self, request: pb.CancelCommandRequest, context: Context) -> pb.CancelCommandResponse:
        command = await self._operations.cancel(requests.command_id(request.id))
        return pb.CancelCommandResponse(command=self._with_output(command))

    async def WatchCommand(
        self, request: pb.WatchCommandRequest, context: Context
    ) -> AsyncIterator[pb.WatchCommandResponse]:
        command_id, offset = requests.command_id(request.id), requests.offset(request.offset)
        async for event in self._operations.watch(command_id, offset):
            yield _event(event)

    async def SendInput(self, request: pb.SendInputRequest, context: Context) -> pb.SendInputResponse:
        command_id = requests.command_id(request.id)
        match request.WhichOneof("input"):
            case "data":
                await self._operations.send_input(command_id, requests.input_data(request.data))
            case "eof":
                await self._operations.end_input(command_id)
            case "signal":
                await self._operations.send_signal(command_id, requests.signal_number(request.signal))
        return pb.SendInputResponse()

    async def ReadOutput(self, request: pb.ReadOutputRequest, context: Context) -> AsyncIterator[pb.ReadOutputResponse]:
        command_id, stream = requests.command_id(request.id), requests.stream(request.stream)
        async for data in self._operations.read_output(command_id, stream, requests.offset(request.offset)):
            yield pb.ReadOutputResponse(data=data)

    def _with_output(self, command: Command) -> pb.Command:
        message = to_proto(command)
        message.stdout, message.stderr, message.output_omitted = self._operations.beginning(command, INLINE_BYTES)
        return message


def to_proto(command: Command) -> pb.Command:
    spec = command.spec
    return pb.Command(
        id=command.id,
        container_id=command.container_id,
        requested_by=command.requested_by,
        spec=pb.CommandSpec(
            program=spec.program,
            args=spec.args,
            command=spec.command,
            env=spec.env,
            cwd=spec.cwd,
            user=spec.user,
            stdin_open=spec.stdin_open,
            timeout_s=spec.timeout_s,
            max_output_bytes=spec.max_output_bytes,
        ),
        status=_STATUS[command.status],
        exit_code=command.exit_code,
        signal=command.signal,
        timed_out=command.timed_out,
        error=command.error,
        stdout_bytes=command.stdout_bytes,
        stderr_bytes=command.stderr_bytes,
        truncated=command.truncated,
        created_at=_stamp(command.created_at),
        started_at=_stamp(command.started_at),
        finished_at=_stamp(command.finished_at),
    )


def _event(event: Status | Piece | Command) -> pb.WatchCommandResponse:
    match event:
        case Status():
            return pb.WatchCommandResponse(status=_STATUS[event])
        case Piece():
            stream = requests.STREAMS[event.stream]
            output = pb.Output(stream=stream, offset=event.offset, data=event.data, before=event.is_before)
            return pb.WatchCommandResponse(output=output)
        case Command():
            return pb.WatchCommandResponse(exit=to_proto(event))


def _stamp(time: datetime | None) -> Timestamp | None:
    if time is None:
        return None
    stamp = Timestamp()
    stamp.FromDatetime(time)
    return stamp
