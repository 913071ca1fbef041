"""What the gateway asks of the logs of a node, in its own words."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Literal

import grpc
from hzel.lifecycle.v1 import logs_pb2 as pb
from hzel.lifecycle.v1 import logs_pb2_grpc

from services.common.errors import Internal
from services.common.rpc.channel import stream

LogStreamName = Literal["stdout", "stderr"]


@dataclass(frozen=True)
class LogQuery:
    """Of both streams, if `stream` is None. `after` is a stamp, in nanoseconds since 1970."""

    stream: LogStreamName | None
    after: int | None
    tail: int | None
    follow: bool


@dataclass(frozen=True)
class LogPiece:
    """The n-th byte has the stamp of the first one + n."""

    stream: LogStreamName
    stamp: int
    data: bytes


@dataclass(frozen=True)
class LogInterruption:
    """Lines begin anew here, the first one of each stream perhaps without so many of its bytes, or as the next part of
    a long one: `before` are the last bytes of the part before.

    `is_lost`: something before is not there any more, up to the stamp; how much is not always known.
    """

    stamp: int
    is_lost: bool
    lost_bytes: int | None
    missing: dict[LogStreamName, int]
    before: dict[LogStreamName, bytes]


class LogClient:
    """Raises the HzelError that lifecycle reported, Unavailable or TimedOut."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub = logs_pb2_grpc.LogsServiceStub(channel)

    async def read(self, container_id: str, query: LogQuery) -> AsyncIterator[LogInterruption | list[LogPiece]]:
        """The first is an interruption."""
        request = pb.ReadLogsRequest(
            container_id=container_id,
            stream=_NUMBERS[query.stream],
            after=query.after,
            tail=query.tail,
            follow=query.follow,
        )
        async for answer in stream(self._stub.ReadLogs, request):
            match answer.WhichOneof("event"):
                case "interruption":
                    yield _interruption(answer.interruption)
                case "output":
                    yield [_piece(piece) for piece in answer.output.pieces]


_NUMBERS: dict[LogStreamName | None, pb.LogStream.ValueType] = {
    None: pb.LOG_STREAM_UNSPECIFIED,
    "stdout": pb.LOG_STREAM_STDOUT,
    "stderr": pb.LOG_STREAM_STDERR,
}
_NAMES: dict[int, LogStreamName] = {int(number): name for name, number in _NUMBERS.items() if name is not None}


def _interruption(message: pb.LogInterruption) -> LogInterruption:
    missing: dict[LogStreamName, int] = {"stdout": message.stdout_missing, "stderr": message.stderr_missing}
    before: dict[LogStreamName, bytes] = {"stdout": message.stdout_before, "stderr": message.stderr_before}
    lost_bytes = message.lost_bytes if message.HasField("lost_bytes") else None
    return LogInterruption(message.stamp, message.lost, lost_bytes, missing, before)


def _piece(message: pb.LogPiece) -> LogPiece:
    if message.stream not in _NAMES:
        raise Internal
    return LogPiece(_NAMES[message.stream], message.stamp, message.data)
