"""What the gateway asks of the terminal service, in its own words: protobuf ends here."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import grpc
from grpc_health.v1 import health_pb2
from hzel.terminal.v1 import terminal_pb2 as pb
from hzel.terminal.v1 import terminal_pb2_grpc

from services.common import context
from services.common.errors import Internal, Unavailable
from services.common.rpc.channel import call, stream
from services.common.rpc.interceptors import domain_error

ACCEPTED_WITHIN_S = 20.0
UPLOAD_TIMEOUT_S = 120.0
PROBE_TIMEOUT_S = 2.0
# Both ways, as the service's definition says.
WINDOW = 256 * 1024
ACKNOWLEDGED_AFTER = 64 * 1024


@dataclass(frozen=True)
class Size:
    columns: int
    rows: int


@dataclass(frozen=True)
class TerminalOrder:
    """What a new session is to be; empty texts mean the container's own."""

    container_id: str
    requested_by: str
    shell: str
    user: str
    cwd: str
    size: Size | None
    resume_s: int
    record: bool


@dataclass(frozen=True)
class Opened:
    session_id: str


@dataclass(frozen=True)
class Output:
    data: bytes


@dataclass(frozen=True)
class Closed:
    """`reason` is exited, client, idle, taken_over or stopping."""

    reason: str
    exit_code: int | None


@dataclass(frozen=True)
class Recording:
    container_id: str
    requested_by: str


Told = Opened | Output | Size | Closed


class Link:
    """One client's stream to its session. Everything raises the HzelError that the service reported, or Unavailable."""

    def __init__(self, stream_call: Any, request: Any) -> None:
        self._call = stream_call
        self._request = request
        self._writing = asyncio.Lock()
        self._output_taken = 0
        self._output_acknowledged = 0
        self._input_sent = 0
        self._input_taken = 0
        self._input_wanted = asyncio.Event()
        self.session_id = ""

    async def begin(self, **first: Any) -> None:
        """Returns once the service has accepted."""
        async with asyncio.timeout(ACCEPTED_WITHIN_S):
            await self._write(**first)
            message = await self._read()
        if message is None or message.WhichOneof("message") != "accepted":
            raise Internal
        self.session_id = message.accepted.session_id

    async def told(self) -> AsyncIterator[Told]:
        """Until the session has ended. Output counts as taken when the next is asked for."""
        while (message := await self._read()) is not None:
            match message.WhichOneof("message"):
                case "output":
                    yield Output(message.output)
                    await self._acknowledge(len(message.output))
                case "input_taken":
                    self._input_taken = min(message.input_taken, self._input_sent)
                    self._input_wanted.set()
                case "resized":
                    yield Size(message.resized.columns, message.resized.rows)
                case "opened":
                    yield Opened(message.opened.session_id)
                case "closed":
                    yield _closed(message.closed)
                    return

    async def type(self, data: bytes) -> None:
        """Waits while the shell takes no more."""
        for start in range(0, len(data), ACKNOWLEDGED_AFTER):
            piece = data[start : start + ACKNOWLEDGED_AFTER]
            while self._input_sent - self._input_taken >= WINDOW:
                self._input_wanted.clear()
                await self._input_wanted.wait()
            self._input_sent += len(piece)
            await self._write(input=piece)

    async def resize(self, size: Size) -> None:
        await self._write(resize=pb.Size(columns=size.columns, rows=size.rows))

    async def end(self) -> None:
        """Says that the session is to end, which it may not if the stream just breaks; `told` ends soon."""
        await self._write(end=pb.End())

    async def _acknowledge(self, count: int) -> None:
        self._output_taken += count
        if self._output_taken - self._output_acknowledged >= ACKNOWLEDGED_AFTER:
            self._output_acknowledged = self._output_taken
            await self._write(output_taken=self._output_taken)

    async def _read(self) -> Any:
        """None at the end."""
        try:
            message = await self._call.read()
        except grpc.aio.AioRpcError as error:
            raise domain_error(error) from error
        if message is not grpc.aio.EOF:
            return message
        if await self._call.code() is not grpc.StatusCode.OK:
            raise domain_error(await _error(self._call))
        return None

    async def _write(self, **message: Any) -> None:
        async with self._writing:
            try:
                await self._call.write(self._request(**message))
            except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
                # It is over: whoever reads will hear why.
                return


class TerminalClient:
    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub = terminal_pb2_grpc.TerminalServiceStub(channel)
        self._check_health = channel.unary_unary(
            "/grpc.health.v1.Health/Check",
            request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
            response_deserializer=health_pb2.HealthCheckResponse.FromString,
        )

    @asynccontextmanager
    async def open(self, order: TerminalOrder) -> AsyncIterator[Link]:
        """A new session, accepted; its shell starts with its first size."""
        first = pb.Open(
            container_id=order.container_id,
            requested_by=order.requested_by,
            shell=order.shell,
            user=order.user,
            working_dir=order.cwd,
            size=pb.Size(columns=order.size.columns, rows=order.size.rows) if order.size else None,
            resume_s=order.resume_s,
            record=order.record,
        )
        async with _linked(self._stub.OpenSession(metadata=_metadata()), pb.OpenSessionRequest) as link:
            await link.begin(open=first)
            yield link

    @asynccontextmanager
    async def attach(self, container_id: str, session_id: str, watch: bool) -> AsyncIterator[Link]:
        first = pb.Attach(session_id=session_id, container_id=container_id, watch=watch)
        async with _linked(self._stub.AttachSession(metadata=_metadata()), pb.AttachSessionRequest) as link:
            await link.begin(attach=first)
            yield link

    async def upload(self, session_id: str, path: str, content: Iterable[bytes]) -> None:
        """`content` comes in pieces of less than a megabyte, which a message may have."""

        async def pieces() -> AsyncIterator[pb.UploadFileRequest]:
            yield pb.UploadFileRequest(target=pb.UploadTarget(session_id=session_id, path=path))
            for piece in content:
                yield pb.UploadFileRequest(content=piece)

        await call(self._stub.UploadFile, pieces(), UPLOAD_TIMEOUT_S)

    async def recording(self, recording_id: str) -> AsyncIterator[Recording | bytes]:
        """First whose it is, then its bytes."""
        async for part in stream(self._stub.GetRecording, pb.GetRecordingRequest(id=recording_id)):
            if part.HasField("recording"):
                yield Recording(part.recording.container_id, part.recording.requested_by)
            else:
                yield part.content

    async def check(self) -> None:
        """Raises Unavailable unless the service says that it serves."""
        answer = await call(self._check_health, health_pb2.HealthCheckRequest(), PROBE_TIMEOUT_S)
        if answer.status != health_pb2.HealthCheckResponse.SERVING:
            raise Unavailable("the terminal service is not serving")


@asynccontextmanager
async def _linked(stream_call: Any, request: Any) -> AsyncIterator[Link]:
    try:
        yield Link(stream_call, request)
    finally:
        stream_call.cancel()


def _metadata() -> tuple[tuple[str, str], ...]:
    return ((context.REQUEST_ID_METADATA, context.request_id()),)


async def _error(stream_call: Any) -> grpc.aio.AioRpcError:
    return grpc.aio.AioRpcError(
        await stream_call.code(),
        await stream_call.initial_metadata(),
        await stream_call.trailing_metadata(),
        details=await stream_call.details(),
    )


def _closed(message: pb.Closed) -> Closed:
    reason = pb.CloseReason.Name(message.reason).removeprefix("CLOSE_REASON_").lower()
    return Closed(reason, message.exit_code if message.HasField("exit_code") else None)
