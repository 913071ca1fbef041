"""WebSocket on a connection: uvicorn's protocol, whose own refusals have no envelope and whose peers may hang it."""

import logging
from http import HTTPStatus
from typing import Any

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.datastructures import Headers
from websockets.http11 import Request, Response
from websockets.server import ServerProtocol

from services.common import context
from services.common.errors import HzelError, InvalidRequest, MethodNotAllowed, Unavailable
from services.common.ids import sane_request_id
from services.gateway.errors import error_response

MAX_MESSAGE_BYTES = 1024 * 1024
PING_EVERY_S = 20.0
PONG_WITHIN_S = 30.0
# After our close frame the peer has this long to answer it and to read what is on its way.
CLOSE_WITHIN_S = 10.0


class WebSocketProtocol(WebSocketsSansIOProtocol):
    """Answers what is no handshake with our envelope; breaks a connection whose peer reads no more."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.conn = Handshake(max_size=MAX_MESSAGE_BYTES, logger=logging.getLogger("uvicorn.error"))
        self.close_timeout = CLOSE_WITHIN_S

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if not self.handshake_initiated and self.conn.handshake_exc is not None and not self.transport.is_closing():
            # The library has refused it without an event; for what is no request at all it has no answer.
            answer = b"".join(self.conn.data_to_send())
            self.transport.write(answer or refusal(HTTPStatus.BAD_REQUEST, "it is malformed").serialize())
            self.transport.close()

    def handle_connect(self, event: Request) -> None:
        context.enter_request(sane_request_id(next(iter(event.headers.get_all("X-Request-Id")), None)))
        super().handle_connect(event)

    def keepalive_timeout(self) -> None:
        if self.read_paused:
            # The application is behind, and the answer may wait among what we have not read: ask again.
            self.pong_timer = None
            self.pending_ping_payload = None
            self.schedule_ping()
            return
        super().keepalive_timeout()
        # It would go on trying to hand over what is buffered.
        self.transport.abort()

    async def send(self, message: Any) -> None:
        await super().send(message)
        if message["type"] == "websocket.close":
            self.loop.call_later(CLOSE_WITHIN_S, self.transport.abort)


class Handshake(ServerProtocol):
    """The library's side of a connection, refusing in our envelope."""

    def reject(self, status: int, text: str) -> Response:
        return refusal(status, text)


def refusal(status: int, text: str) -> Response:
    """The answer to a handshake that no route decides about: malformed, or (500) overtaken by the end of the service.

    `text` is the library's explanation, a sentence on its first line.
    """
    reason = text.strip().partition("\n")[0].removeprefix("Failed to open a WebSocket connection: ").rstrip(".")
    error: HzelError = InvalidRequest(f"this is no WebSocket handshake: {reason}")
    if status == HTTPStatus.METHOD_NOT_ALLOWED:
        error = MethodNotAllowed("a WebSocket is opened with GET")
    elif status == HTTPStatus.INTERNAL_SERVER_ERROR:
        error = Unavailable("the service is stopping, try again")
    answer = error_response(error)
    headers = Headers([(name.decode(), value.decode("latin-1")) for name, value in answer.raw_headers])
    headers["X-Request-Id"] = context.request_id()
    headers["Connection"] = "close"
    return Response(error.http_status, HTTPStatus(error.http_status).phrase, headers, bytes(answer.body))
