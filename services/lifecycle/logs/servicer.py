"""The gRPC API of the logs: parse, call, convert."""

from collections.abc import AsyncIterator, Sequence
from typing import Any

import grpc
from hzel.lifecycle.v1 import logs_pb2 as pb
from hzel.lifecycle.v1 import logs_pb2_grpc

from services.common.errors import ContainerNotFound, FieldError, ValidationFailed
from services.common.ids import is_id
from services.lifecycle.logs.logs import Logs, Reading
from services.lifecycle.logs.reader import Break, Piece
from services.lifecycle.logs.segment import Stream
from services.lifecycle.state import Desired
from services.lifecycle.store import Store

SERVICE_NAME = pb.DESCRIPTOR.services_by_name["LogsService"].full_name
MAX_TAIL = 10_000
Context = grpc.aio.ServicerContext[Any, Any]

_STREAMS = {
    pb.LOG_STREAM_UNSPECIFIED: frozenset(Stream),
    pb.LOG_STREAM_STDOUT: frozenset({Stream.STDOUT}),
    pb.LOG_STREAM_STDERR: frozenset({Stream.STDERR}),
}
_NUMBERS = {Stream.STDOUT: pb.LOG_STREAM_STDOUT, Stream.STDERR: pb.LOG_STREAM_STDERR}


class LogsServicer(logs_pb2_grpc.LogsServiceServicer):
    def __init__(self, logs: Logs, store: Store) -> None:
        self._logs = logs
        self._store = store

    async def ReadLogs(self, request: pb.ReadLogsRequest, context: Context) -> AsyncIterator[pb.ReadLogsResponse]:
        reading = _reading(request)

        async def is_there() -> bool:
            container = await self._store.find(reading.container_id)
            return container is not None and container.desired is not Desired.DELETED

        if not await is_there():
            raise ContainerNotFound
        async for found in self._logs.read(reading, is_there):
            for response in _responses(found):
                yield response


def _reading(request: pb.ReadLogsRequest) -> Reading:
    if not is_id(request.container_id):
        raise ContainerNotFound
    if request.stream not in _STREAMS:
        raise _invalid("stream", "must be stdout or stderr")
    if request.tail > MAX_TAIL:
        raise _invalid("tail", f"must be at most {MAX_TAIL}")
    return Reading(
        request.container_id,
        _STREAMS[request.stream],
        request.after if request.HasField("after") else None,
        request.tail if request.HasField("tail") else None,
        request.follow,
    )


def _responses(found: Sequence[Break | Piece]) -> list[pb.ReadLogsResponse]:
    """The pieces between two breaks in one."""
    responses: list[pb.ReadLogsResponse] = []
    for one in found:
        if isinstance(one, Break):
            responses.append(pb.ReadLogsResponse(interruption=_interruption(one)))
            continue
        if not responses or not responses[-1].HasField("output"):
            responses.append(pb.ReadLogsResponse(output=pb.LogOutput()))
        responses[-1].output.pieces.add(stream=_NUMBERS[one.stream], stamp=one.stamp, data=one.data)
    return responses


def _interruption(found: Break) -> pb.LogInterruption:
    return pb.LogInterruption(
        stamp=found.stamp,
        lost=found.lost_bytes != 0,
        lost_bytes=found.lost_bytes,
        stdout_missing=found.missing[Stream.STDOUT],
        stderr_missing=found.missing[Stream.STDERR],
        stdout_before=found.before[Stream.STDOUT],
        stderr_before=found.before[Stream.STDERR],
    )


def _invalid(field: str, message: str) -> ValidationFailed:
    return ValidationFailed(f"{field} {message}", (FieldError(field, message),))
