"""What happens, as it happens: over WebSocket, and as server-sent events. See docs/events.md."""

from collections.abc import AsyncGenerator
from operator import attrgetter
from typing import Annotated

from fastapi import APIRouter, Header, Query, Response, WebSocket

from services.common.errors import FieldError, HzelError, RateLimited, ValidationFailed
from services.gateway.api_route import ApiRoute, KnownCaller
from services.gateway.authentication import Caller
from services.gateway.event_positions import Position
from services.gateway.event_reader import deliver
from services.gateway.event_schemas import StreamedEvent
from services.gateway.events import Events
from services.gateway.openapi import COMMON_RESPONSES, described
from services.gateway.parts import TheParts
from services.gateway.server_sent_events import EventStreamResponse
from services.gateway.websocket_protocol import ENCODED_MESSAGES
from services.gateway.websockets import Frame, SocketCaller, converse

router = APIRouter(route_class=ApiRoute, tags=["events"], responses=COMMON_RESPONSES)

LastEventId = Annotated[
    str | None,
    Query(max_length=64, description="the `id` after which to go on; `0` begins with the oldest that is kept"),
]


@router.get(
    "/api/v1/events",
    status_code=200,
    response_class=EventStreamResponse,
    responses={
        **described(RateLimited),
        200: {
            "model": StreamedEvent,
            "description": "server-sent events, each with an `id` and in `data` the JSON that is described here",
        },
    },
)
async def stream_events(
    parts: TheParts,
    caller: KnownCaller,
    last_event_id: LastEventId = None,
    last_event_id_header: Annotated[
        str | None, Header(alias="Last-Event-ID", max_length=64, description="the same; the header decides")
    ] = None,
) -> Response:
    """Whatever changes for the caller's containers, their commands and terminals; for admins, for everyone's."""
    return EventStreamResponse(parts.events, caller, _position(last_event_id_header or last_event_id))


@router.websocket("/ws/events")
async def follow_events(
    socket: WebSocket, parts: TheParts, caller: SocketCaller, last_event_id: LastEventId = None
) -> None:
    """The same, each event a message."""
    await converse(socket, _frames(socket, parts.events, caller, _position(last_event_id)), first_decides=True)


async def _frames(
    socket: WebSocket, events: Events, caller: Caller, after: Position | None
) -> AsyncGenerator[Frame, None]:
    """The first frame; all others it sends itself, many at once."""
    async with events.reading(caller, after) as (reader, first):
        yield first.text.decode()
        peer = socket.scope["extensions"][ENCODED_MESSAGES]
        try:
            await deliver(reader, first.position, attrgetter("as_websocket"), peer["send"], b"")
        except HzelError:
            # The reason must not wait for a client that reads nothing.
            peer["close_at_once"]()
            raise


def _position(text: str | None) -> Position | None:
    """Raises ValidationFailed."""
    if not text:
        return None
    try:
        return Position.parse(text)
    except ValueError as error:
        details = (FieldError("last_event_id", str(error)),)
        raise ValidationFailed("the request is not valid: last_event_id", details) from error
