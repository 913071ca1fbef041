"""Events as server-sent events, as the HTML standard has them (section 9.2).

An answer that ends when the client leaves or for a reason, which its last event tells.
"""

import asyncio
from datetime import UTC, datetime
from operator import attrgetter
from typing import Any

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from services.common.errors import HzelError
from services.gateway.authentication import Caller
from services.gateway.event_frames import StreamFrame, closed_frame
from services.gateway.event_positions import Position
from services.gateway.event_reader import Reader, deliver
from services.gateway.events import Events
from services.gateway.http_protocol import ENDLESS_ANSWER

# A client waits so long before it comes back.
RETRY = b"retry: 1000\n\n"
COMMENT = b":\n\n"
LAST_WORD_WITHIN_S = 10.0


class EventStreamResponse(Response):
    """What is raised before it begins is answered like any other error."""

    media_type = "text/event-stream"

    def __init__(self, events: Events, caller: Caller, after: Position | None) -> None:
        self._events = events
        self._caller = caller
        self._after = after
        self.status_code = 200
        self.background = None
        # For proxies that collect answers before they pass them on.
        self.init_headers({"X-Accel-Buffering": "no"})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with self._events.reading(self._caller, self._after) as (reader, first):
            peer = scope["extensions"][ENDLESS_ANSWER]
            peer["hold_back"]()
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            async with asyncio.TaskGroup() as group:
                delivering = group.create_task(_deliver(reader, first, send, peer))
                # It has left, or has got all.
                while (await receive())["type"] != "http.disconnect":
                    pass
                delivering.cancel()


async def _deliver(reader: Reader, first: StreamFrame, send: Send, peer: dict[str, Any]) -> None:
    async def send_part(data: bytes) -> None:
        await send({"type": "http.response.body", "body": data, "more_body": True})

    try:
        await reader.write(send_part, RETRY + first.as_sse)
        await deliver(reader, first.position, attrgetter("as_sse"), send_part, COMMENT)
    except HzelError as error:
        last = closed_frame(reader.position, error.code, error.message, datetime.now(UTC))
        try:
            async with asyncio.timeout(LAST_WORD_WITHIN_S):
                await send({"type": "http.response.body", "body": last.as_sse, "more_body": False})
        except TimeoutError:
            peer["break_off"]()
