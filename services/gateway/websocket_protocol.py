"""WebSocket on a connection: uvicorn's protocol, whose own refusals have no envelope and whose peers may hang it."""

import logging
import socket
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
UNANSWERED = 1
TCP_NOTSENT_LOWAT = 25  # linux/tcp.h
UNSENT_BYTES = 128 * 1024
# The extension of the scope with which a route raises the limit: {"allow": function of the bytes}.
LARGER_MESSAGES = "hzel.larger_messages"


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
        # What a slow peer has not got yet is kept where it can still be held back, not in the kernel.
        self.transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, TCP_NOTSENT_LOWAT, UNSENT_BYTES)
        super().handle_connect(event)
        if self.handshake_initiated and not self.close_sent:
            extensions = self.scope["extensions"] = dict(self.scope["extensions"] or {})
            extensions[LARGER_MESSAGES] = {"allow": self._allow_messages_of}

    def connection_lost(self, exc: Exception | None) -> None:
        # There was no closing handshake, or its code is on its way already: this one is 1006.
        self.handshake_complete = False
        super().connection_lost(exc)

    def _allow_messages_of(self, most: int) -> None:
        self.conn.max_message_size = most

    def keepalive_timeout(self) -> None:
        if self.transport.get_write_buffer_size() > 0 and peer_acknowledges(self.transport.get_extra_info("socket")):
            # The peer reads slowly or not at all, but is there: our question waits among what it has not read.
            self.pong_timer = self.loop.call_later(PONG_WITHIN_S, self.keepalive_timeout)
            return
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
        if message["type"] == "websocket.http.response.body":
            # A refusal is all there will be; the library would complain that nothing else comes.
            self.handshake_complete = True
        if message["type"] == "websocket.close":
            self.loop.call_later(CLOSE_WITHIN_S, self.transport.abort)


def peer_acknowledges(connection: socket.socket) -> bool:
    """Whether the peer's kernel answers what ours sends: TCP data, or probes where it has no room for data.

    From the first bytes of `struct tcp_info` (linux/tcp.h): how often either was repeated without an answer.
    """
    _, _, retransmits, probes = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 4)
    return retransmits <= UNANSWERED and probes <= UNANSWERED


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
