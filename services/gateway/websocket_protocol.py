"""WebSocket on a connection: uvicorn's protocol, whose own refusals have no envelope and whose peers may hang it."""

import asyncio
import logging
import socket
from http import HTTPStatus
from typing import Any

from starlette.websockets import WebSocketDisconnect
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.datastructures import Headers
from websockets.http11 import Request, Response
from websockets.protocol import State
from websockets.server import ServerProtocol

from services.common import context
from services.common.errors import HzelError, InvalidRequest, MethodNotAllowed, Unavailable
from services.common.ids import sane_request_id
from services.gateway.errors import error_response
from services.gateway.keepalive import Keepalive, Look
from services.gateway.tcp_info import TcpInfo

MAX_MESSAGE_BYTES = 1024 * 1024
# Three questions before a peer is given up, `PONG_WITHIN_S` after it was last heard. See `keepalive`.
PING_EVERY_S = 10.0
PONG_WITHIN_S = 30.0
# How often it is looked whether the silence of a peer still has an excuse.
LOOK_EVERY_S = 1.0
# Whoever looks so much too late has been away itself, and may not have read what has come meanwhile.
LATE_S = 1.0
# After our close frame the peer has this long to answer it and to read what is on its way.
CLOSE_WITHIN_S = 10.0
TCP_NOTSENT_LOWAT = 25  # linux/tcp.h
UNSENT_BYTES = 128 * 1024
# The extension of the scope with which a route raises the limit: {"allow": function of the bytes}.
LARGER_MESSAGES = "hzel.larger_messages"
# The one with which it sends whole messages that are encoded already, many at once and the same to many clients:
# {"send": function of the bytes, "close_at_once": function}.
ENCODED_MESSAGES = "hzel.encoded_messages"
# The one that tells of the end of the connection: {"code": future of the close code}, whatever is still to be received.
LOST = "hzel.lost"


class WebSocketProtocol(WebSocketsSansIOProtocol):
    """Answers what is no handshake with our envelope; breaks a connection whose peer reads no more."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.conn = Handshake(max_size=MAX_MESSAGE_BYTES, logger=logging.getLogger("uvicorn.error"))
        self.close_timeout = CLOSE_WITHIN_S
        self._lost: asyncio.Future[int] = self.loop.create_future()
        self._keepalive = Keepalive(PONG_WITHIN_S, self.loop.time())
        self._look_at = self._ping_at = 0.0

    def data_received(self, data: bytes) -> None:
        self._keepalive.heard(self.loop.time())
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
            extensions[ENCODED_MESSAGES] = {"send": self._send_encoded, "close_at_once": self.writable.set}
            extensions[LOST] = {"code": self._lost}

    def connection_lost(self, exc: Exception | None) -> None:
        # There was no closing handshake, or its code is on its way already: this one is 1006.
        self.handshake_complete = False
        super().connection_lost(exc)
        self._lost.set_result(1006 if self.conn.close_rcvd is None else self.conn.close_rcvd.code)

    def _allow_messages_of(self, most: int) -> None:
        self.conn.max_message_size = most

    async def _send_encoded(self, messages: bytes) -> None:
        """Waits as `send` does for a peer that reads slowly. Raises WebSocketDisconnect."""
        await self.writable.wait()
        if self.disconnected or self.conn.state is not State.OPEN:
            raise WebSocketDisconnect(1006)
        self.transport.write(messages)

    def start_keepalive(self) -> None:
        now = self.loop.time()
        self._keepalive = Keepalive(PONG_WITHIN_S if self.ping_timeout is None else self.ping_timeout, now)
        self._ping_at = now + self._ping_every_s
        self._look_in(self._ping_every_s)

    def _look_in(self, seconds: float) -> None:
        self._look_at = self.loop.time() + seconds
        self.ping_timer = self.loop.call_at(self._look_at, self._look)

    def _look(self) -> None:
        """Asks the peer, or gives it up."""
        if self.close_sent or self.transport.is_closing():
            return
        now = self.loop.time()
        if now - self._look_at > LATE_S:
            self._look_in(LATE_S)
            return
        connection = TcpInfo.of(self.transport.get_extra_info("socket"))
        if not self._keepalive.is_there(
            Look(now, connection, self.transport.get_write_buffer_size(), not self.read_paused)
        ):
            self.keepalive_timeout()
            # It would go on trying to hand over what is buffered.
            self.transport.abort()
            return
        if now >= self._ping_at:
            self._ping_at = now + self._ping_every_s
            self.conn.send_ping(b"")
            self.transport.write(b"".join(self.conn.data_to_send()))
        silent_in = LOOK_EVERY_S if self._keepalive.is_silent(now) else self._keepalive.silent_in(now)
        self._look_in(min(self._ping_at - now, silent_in))

    @property
    def _ping_every_s(self) -> float:
        return PING_EVERY_S if self.ping_interval is None else self.ping_interval

    async def send(self, message: Any) -> None:
        await super().send(message)
        if message["type"] == "websocket.http.response.body":
            # A refusal is all there will be; the library would complain that nothing else comes.
            self.handshake_complete = True
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
