"""Terminals in containers, and their recordings."""

from typing import Annotated

from fastapi import APIRouter, Path, Query, Response, WebSocket
from fastapi.responses import StreamingResponse

from services.common.errors import FieldError, Forbidden, NotFound, ValidationFailed
from services.gateway.api_route import ApiRoute, KnownCaller
from services.gateway.openapi import COMMON_RESPONSES, described
from services.gateway.parts import TheParts
from services.gateway.terminal_client import Size, TerminalOrder
from services.gateway.terminal_frames import MAX_SIDE
from services.gateway.terminals import DEFAULT_SIZE, Attachment
from services.gateway.websockets import SocketCaller, allow_messages_of, converse

router = APIRouter(route_class=ApiRoute, tags=["terminals"], responses=COMMON_RESPONSES)

MAX_RESUME_S = 86400
ASCIICAST = "application/x-asciicast"

Side = Annotated[int | None, Query(ge=1, le=MAX_SIDE)]
Flag = Annotated[int, Query(ge=0, le=1)]
Name = Annotated[str, Query(max_length=4096)]
SessionId = Annotated[str | None, Query(max_length=64)]


@router.websocket("/ws/terminal/{container_id}")
async def open_terminal(
    socket: WebSocket,
    parts: TheParts,
    caller: SocketCaller,
    container_id: str,
    shell: Name = "",
    user: Name = "",
    cwd: Name = "",
    cols: Side = None,
    rows: Side = None,
    binary: Flag = 0,
    resume: Annotated[int, Query(ge=0, le=MAX_RESUME_S)] = 0,
    session: SessionId = None,
    watch: SessionId = None,
    record: Flag = 0,
) -> None:
    """A shell in the container, or with `session` or `watch` one that runs already; see terminal_frames."""
    wanted: TerminalOrder | Attachment
    if session is not None and watch is not None:
        raise ValidationFailed("session and watch exclude each other", (FieldError("watch", "not with session"),))
    if (existing := session or watch) is not None:
        wanted = Attachment(container_id, existing.lower(), watch is not None)
    else:
        size = None
        if cols is not None or rows is not None:
            size = Size(cols or DEFAULT_SIZE.columns, rows or DEFAULT_SIZE.rows)
        wanted = TerminalOrder(container_id, caller.user_id, shell, user, cwd, size, resume, bool(record))
    async with parts.terminals.conversation(caller, wanted, bool(binary), socket.send_text) as conversation:
        allow_messages_of(socket, parts.terminals.largest_message)
        await converse(socket, conversation.frames(), conversation.hear, hears_out=False, on_left=conversation.left)


@router.get(
    "/api/v1/terminal-recordings/{recording_id}",
    response_class=Response,
    responses={200: {"content": {ASCIICAST: {}}}, **described(Forbidden, NotFound)},
)
async def get_terminal_recording(
    parts: TheParts, caller: KnownCaller, recording_id: Annotated[str, Path(description="the session's id")]
) -> StreamingResponse:
    """The recording of a terminal session, as far as it goes: asciicast version 2."""
    content = await parts.terminals.recording(caller, recording_id.lower())
    return StreamingResponse(content, media_type=ASCIICAST)
