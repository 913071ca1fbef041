"""The outermost layer: what is true of every request and every WebSocket, whatever becomes of it."""

import asyncio
import contextlib
import time
from dataclasses import dataclass
from http import HTTPStatus

import structlog
from fastapi import WebSocketDisconnect
from starlette.datastructures import MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from services.common import context
from services.common.errors import HzelError, Internal, Unavailable
from services.common.ids import sane_request_id
from services.gateway.errors import error_response
from services.gateway.traffic import Traffic
from services.gateway.websockets import close_code

log = structlog.get_logger(__name__)

REQUEST_ID_HEADER = "X-Request-Id"
QUIET_ROUTES = frozenset({"/healthz", "/readyz", "/api/v1/healthz"})
CLIENT_GONE = 499
STARTS = frozenset({"http.response.start", "websocket.http.response.start", "websocket.accept"})


@dataclass
class Outcome:
    """`status` is 0 until there is one; `close_code` is that of a WebSocket, whoever closed it first."""

    status: int = 0
    close_code: int | None = None

    @property
    def is_open_socket(self) -> bool:
        return self.status == HTTPStatus.SWITCHING_PROTOCOLS


class Boundary:
    """Gives the request its id, answers what nobody answered, counts, and writes the one log line of a request.

    The line holds the route's template, never the path or the query: those may carry secrets.
    """

    def __init__(self, app: ASGIApp, traffic: Traffic) -> None:
        self._app = app
        self._traffic = traffic

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        request_id = sane_request_id(_header(scope, b"x-request-id"))
        context.enter_request(request_id)
        outcome = Outcome()

        async def send_marked(message: Message) -> None:
            if message["type"] in STARTS:
                outcome.status = message.get("status", HTTPStatus.SWITCHING_PROTOCOLS)
                headers = MutableHeaders(scope=message)
                headers[REQUEST_ID_HEADER] = request_id
                headers["X-Content-Type-Options"] = "nosniff"
                headers["Cache-Control"] = "no-store"
                if outcome.is_open_socket:
                    self._traffic.open_socket(_route(scope) or "")
            elif message["type"] == "websocket.close" and outcome.close_code is None:
                outcome.close_code = message["code"]
            await send(message)

        async def receive_marked() -> Message:
            message = await receive()
            if message["type"] == "websocket.disconnect" and outcome.close_code is None:
                outcome.close_code = message["code"]
            return message

        try:
            await self._app(scope, receive_marked, send_marked)
        except (ClientDisconnect, WebSocketDisconnect):
            if not outcome.is_open_socket:
                outcome.status = CLIENT_GONE
        except asyncio.CancelledError:
            # Only the end of a graceful stop cancels a request, and nothing runs in this task after it.
            await _answer(Unavailable("the service is stopping, try again"), outcome, scope, receive, send_marked)
        except Exception:
            log.exception("request_failed")
            await _answer(Internal(), outcome, scope, receive, send_marked)
        finally:
            self._write_down(scope, outcome, time.perf_counter() - started)

    def _write_down(self, scope: Scope, outcome: Outcome, seconds: float) -> None:
        route, status, duration_ms = _route(scope), outcome.status, round(seconds * 1000, 2)
        if scope["type"] == "websocket":
            self._traffic.add_socket(route, status, outcome.is_open_socket)
            log.info(
                "websocket", route=route, status=int(status), close_code=outcome.close_code, duration_ms=duration_ms
            )
            return
        self._traffic.add_request(scope["method"], route, status, seconds)
        write = log.debug if route in QUIET_ROUTES and status < 500 else log.info
        write("request", method=scope["method"], route=route, status=status, duration_ms=duration_ms)


async def _answer(error: HzelError, outcome: Outcome, scope: Scope, receive: Receive, send: Send) -> None:
    if outcome.is_open_socket:
        with contextlib.suppress(OSError):  # it is closed already
            await send({"type": "websocket.close", "code": close_code(error), "reason": error.code})
    elif outcome.status:
        # Half an answer is out; only breaking the connection tells the client so.
        raise error
    else:
        await error_response(error)(scope, receive, send)


def _route(scope: Scope) -> str | None:
    path: str | None = getattr(scope.get("route"), "path", None)
    return path


def _header(scope: Scope, name: bytes) -> str | None:
    for key, value in scope["headers"]:
        if key == name:
            text: str = value.decode("latin-1")
            return text
    return None
