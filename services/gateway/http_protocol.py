"""HTTP/1.1 on a connection: uvicorn's protocol, which alone sets no bound to the head of a request."""

import asyncio
import socket

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from services.common import context
from services.common.errors import InvalidRequest
from services.common.ids import new_id
from services.gateway.errors import error_response
from services.gateway.websocket_protocol import TCP_NOTSENT_LOWAT, UNSENT_BYTES

# The extension of the scope for answers that go on for as long as somebody reads them: {"hold_back": keeps what the
# peer has not got where its slowness is seen, "break_off": ends the connection, whatever is still to be sent}.
ENDLESS_ANSWER = "hzel.endless_answer"
MAX_HEAD_BYTES = 64 * 1024
HEAD_TIMEOUT_S = 30.0
PROBED_AFTER_S = 30
PROBED_EVERY_S = 10
PROBES = 3


class HttpProtocol(HttpToolsProtocol):
    """Refuses a head that is too large or too slow, and answers what is no HTTP with our envelope."""

    _awaits_head = True
    _heads = 0
    _head_bytes = 0
    _head_deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._start_head_deadline()

    def connection_lost(self, exc: Exception | None) -> None:
        self._cancel_head_deadline()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        awaited, heads = self._awaits_head, self._heads
        super().data_received(data)
        if awaited and self._awaits_head and heads == self._heads and not self.transport.is_closing():
            self._head_bytes += len(data)
            if self._head_bytes > MAX_HEAD_BYTES:
                self.send_400_response(f"the head of the request is larger than {MAX_HEAD_BYTES} bytes")
            elif self._head_deadline is None:
                self._start_head_deadline()

    def handle_websocket_upgrade(self) -> None:
        if self.cycle is not None and not self.cycle.response_complete:
            # Pipelined behind a request that is being answered: its answer would become part of the conversation.
            self.transport.close()
            return
        super().handle_websocket_upgrade()

    def on_headers_complete(self) -> None:
        self._awaits_head = False
        self._heads += 1
        self._head_bytes = 0
        self._cancel_head_deadline()
        self.scope["extensions"] = {
            ENDLESS_ANSWER: {"hold_back": self._hold_back, "break_off": self.transport.abort},
        }
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self._awaits_head = True
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        if self.cycle is not None and not self.cycle.response_complete:
            # Pipelined behind a request that is being answered: no place for a word in between.
            self.transport.close()
            return
        context.enter_request(new_id())
        response = error_response(InvalidRequest(msg))
        headers: list[tuple[bytes, bytes]] = [
            *self.server_state.default_headers,
            *response.raw_headers,
            (b"x-request-id", context.request_id().encode()),
            (b"connection", b"close"),
        ]
        head = b"".join(name + b": " + value + b"\r\n" for name, value in headers)
        self.transport.write(b"HTTP/1.1 400 Bad Request\r\n" + head + b"\r\n" + bytes(response.body))
        self.transport.close()

    def _hold_back(self) -> None:
        connection = self.transport.get_extra_info("socket")
        connection.setsockopt(socket.IPPROTO_TCP, TCP_NOTSENT_LOWAT, UNSENT_BYTES)
        # Where there is nothing to say for long: somebody must still be there.
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, PROBED_AFTER_S)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, PROBED_EVERY_S)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, PROBES)

    def _start_head_deadline(self) -> None:
        self._head_deadline = self.loop.call_later(HEAD_TIMEOUT_S, self._on_head_deadline)

    def _cancel_head_deadline(self) -> None:
        if self._head_deadline is not None:
            self._head_deadline.cancel()
            self._head_deadline = None

    def _on_head_deadline(self) -> None:
        if self._head_bytes:
            self.send_400_response(f"the head of the request did not arrive within {HEAD_TIMEOUT_S:.0f} seconds")
        else:
            self.transport.close()
