"""Commands: submit, look at, cancel, read and follow."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable
from typing import Annotated, Literal

from fastapi import APIRouter, Path, Query, Request, Response, WebSocket
from pydantic import ValidationError
from starlette.responses import StreamingResponse

from services.common.errors import (
    CommandNotFound,
    Conflict,
    ContainerNotFound,
    FieldError,
    Forbidden,
    HzelError,
    IdempotencyMismatch,
    PayloadTooLarge,
    RateLimited,
    ValidationFailed,
)
from services.gateway import audit_draft
from services.gateway.api_route import ApiRoute, KnownCaller
from services.gateway.audit_entry import Action
from services.gateway.authentication import Caller
from services.gateway.command_schemas import ClientFrame, CommandRecord, EofFrame, InputFrame, SubmitCommand
from services.gateway.commands import Commands
from services.gateway.exec_client import Command, StreamName
from services.gateway.idempotency import KeyedRequest
from services.gateway.job_frames import JobFrames, error_frame
from services.gateway.openapi import COMMON_RESPONSES, described
from services.gateway.pagination import decode_cursor, next_link
from services.gateway.parts import TheParts
from services.gateway.routes.containers import ContainerId, IdempotencyKey, kept
from services.gateway.schemas import Envelope
from services.gateway.websockets import Frame, SocketCaller, converse

MAX_WAIT_S = 60

router = APIRouter(route_class=ApiRoute, tags=["commands"], responses=COMMON_RESPONSES)

CommandId = Annotated[str, Path(description="UUID")]
Wait = Annotated[int, Query(ge=0, le=MAX_WAIT_S, description="answer when it has ended, or after this many seconds")]
Offset = Annotated[int, Query(ge=0, le=2**62)]
OF_ONE = described(Forbidden, CommandNotFound)


@router.post(
    "/api/v1/containers/{container_id}/commands",
    status_code=201,
    response_model=Envelope[CommandRecord],
    responses=described(Forbidden, ContainerNotFound, Conflict, IdempotencyMismatch, PayloadTooLarge, RateLimited),
)
async def submit_command(
    request: Request,
    parts: TheParts,
    caller: KnownCaller,
    container_id: ContainerId,
    body: SubmitCommand,
    wait: Wait = 0,
    idempotency_key: IdempotencyKey = None,
) -> Envelope[CommandRecord] | Response:
    """Queues a command in a running container."""
    if idempotency_key is None:
        return _record(await parts.commands.submit(caller, container_id, body, wait))
    sent = await request.json()
    keyed = KeyedRequest.of(caller.user_id, idempotency_key, request.method, request.url.path, sent)
    answer, is_replayed = await parts.commands.submit_once(caller, container_id, body, wait, keyed)
    return kept(answer, is_replayed)


@router.get("/api/v1/containers/{container_id}/commands", responses=described(Forbidden, ContainerNotFound))
async def list_commands(
    request: Request,
    response: Response,
    parts: TheParts,
    caller: KnownCaller,
    container_id: ContainerId,
    limit: Annotated[int, Query(ge=1, le=500)] = 100,
    cursor: Annotated[str | None, Query(max_length=255, description="from the Link header of the page before")] = None,
) -> Envelope[list[CommandRecord]]:
    """A container's commands, the newest first, without their output. The next page is in the header `Link`."""
    before_id = decode_cursor(cursor) if cursor is not None else None
    page = await parts.commands.list(caller, container_id, before_id, limit)
    if page.next_before_id is not None:
        parameters = request.query_params.multi_items()
        response.headers["Link"] = next_link(request.url.path, parameters, page.next_before_id)
    return Envelope(data=[CommandRecord.of(command) for command in page.commands])


@router.get("/api/v1/commands/{command_id}", responses=OF_ONE)
async def get_command(
    parts: TheParts, caller: KnownCaller, command_id: CommandId, wait: Wait = 0
) -> Envelope[CommandRecord]:
    """One command, with the beginning of its output once it has ended."""
    return _record(await parts.commands.get(caller, command_id, wait))


@router.post("/api/v1/commands/{command_id}/cancel", responses=OF_ONE)
async def cancel_command(parts: TheParts, caller: KnownCaller, command_id: CommandId) -> Envelope[CommandRecord]:
    """Ends it with all it has started: TERM, after 5 seconds KILL. One that has ended is returned as it is."""
    return _record(await parts.commands.cancel(caller, command_id))


@router.get(
    "/api/v1/commands/{command_id}/output",
    responses={**OF_ONE, 200: {"content": {"application/octet-stream": {}}, "description": "raw bytes"}},
    response_class=StreamingResponse,
)
async def read_output(
    parts: TheParts,
    caller: KnownCaller,
    command_id: CommandId,
    stream: Annotated[Literal["stdout", "stderr"], Query()] = "stdout",
    offset: Offset = 0,
) -> StreamingResponse:
    """What is kept of one stream, from an offset in it, as far as there is any now."""
    name: StreamName = stream
    pieces = parts.commands.read_output(caller, command_id, name, offset)
    # The first piece decides whether there is anything to answer with but a refusal.
    first = await anext(pieces, b"")

    async def whole() -> AsyncIterator[bytes]:
        yield first
        async for piece in pieces:
            yield piece

    return StreamingResponse(whole(), media_type="application/octet-stream")


@router.websocket("/ws/jobs/{command_id}")
async def follow_command(
    socket: WebSocket,
    parts: TheParts,
    caller: SocketCaller,
    command_id: str,
) -> None:
    """Replays the output from `?offset=` and follows it; see job_frames. Disconnecting never ends the command."""
    offset, as_base64 = _query(socket)
    conversation = _Conversation(socket, parts.commands, command_id.lower())
    frames = _frames(parts.commands, caller, command_id, offset, as_base64)
    await converse(socket, frames, conversation.hear, first_decides=True)


async def _frames(
    commands: Commands, caller: Caller, command_id: str, offset: int, as_base64: bool
) -> AsyncGenerator[Frame, None]:
    frames = JobFrames(as_base64)
    async for event in commands.watch(caller, command_id, offset):
        for frame in frames.of(event):
            yield frame


class _Conversation:
    """What a client says. Input waits until the command takes it; a signal doesn't wait for input."""

    def __init__(self, socket: WebSocket, commands: Commands, command_id: str) -> None:
        self._socket = socket
        self._commands = commands
        self._command_id = command_id
        self._input: asyncio.Task[None] | None = None
        self._is_input_recorded = False

    async def hear(self, message: Frame) -> None:
        try:
            frame = ClientFrame.validate_json(message)
        except ValidationError:
            await self._socket.send_text(error_frame("a frame must be input, eof or signal"))
            return
        if isinstance(frame, InputFrame | EofFrame):
            if self._input is not None:
                await self._input
            self._input = asyncio.create_task(self._told(frame))
        else:
            await self._answered(self._signal(frame.signal))

    async def _told(self, frame: InputFrame | EofFrame) -> None:
        await self._answered(self._pass_on(frame))

    async def _pass_on(self, frame: InputFrame | EofFrame) -> None:
        if not self._is_input_recorded:
            # That there is any, once: what it is is nobody's business.
            await audit_draft.record(Action.COMMAND_INPUT)
            self._is_input_recorded = True
        if isinstance(frame, InputFrame):
            await self._commands.send_input(self._command_id, frame.data.encode())
        else:
            await self._commands.end_input(self._command_id)

    async def _signal(self, name: str) -> None:
        await audit_draft.record(Action.COMMAND_SIGNAL, signal=name)
        await self._commands.send_signal(self._command_id, name)

    async def _answered(self, call: Awaitable[None]) -> None:
        try:
            await call
        except HzelError as error:
            await self._socket.send_text(error_frame(error.message))


def _query(socket: WebSocket) -> tuple[int, bool]:
    """`offset` and whether the encoding is base64. Raises ValidationFailed."""
    offset, encoding = socket.query_params.get("offset", "0"), socket.query_params.get("encoding", "text")
    if not (offset.isascii() and offset.isdigit() and len(offset) < 19):
        raise _invalid("offset", "must be a number of bytes")
    if encoding not in ("text", "base64"):
        raise _invalid("encoding", "must be text or base64")
    return int(offset), encoding == "base64"


def _invalid(field: str, message: str) -> ValidationFailed:
    return ValidationFailed(f"the request is not valid: {field}", (FieldError(field, message),))


def _record(command: Command) -> Envelope[CommandRecord]:
    return Envelope(data=CommandRecord.of(command))
