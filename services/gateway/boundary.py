"""The outermost layer: what is true of every request, whatever becomes of it."""

import asyncio
import time

import structlog
from starlette.datastructures import MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from services.common import context
from services.common.errors import HzelError, Internal, Unavailable
from services.common.ids import sane_request_id
from services.gateway.errors import error_response

log = structlog.get_logger(__name__)

REQUEST_ID_HEADER = "X-Request-Id"
QUIET_ROUTES = frozenset({"/healthz", "/readyz", "/api/v1/healthz"})
CLIENT_GONE = 499


class Boundary:
    """Gives the request its id, answers what nobody answered, and writes the one log line of a request.

    The line holds the route's template, never the path or the query: those may carry secrets.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        request_id = sane_request_id(_header(scope, b"x-request-id"))
        context.enter_request(request_id)
        status = 0

        async def send_marked(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers[REQUEST_ID_HEADER] = request_id
                headers["X-Content-Type-Options"] = "nosniff"
                headers["Cache-Control"] = "no-store"
            await send(message)

        try:
            await self._app(scope, receive, send_marked)
        except ClientDisconnect:
            status = CLIENT_GONE
        except asyncio.CancelledError:
            # Only the end of a graceful stop cancels a request, and nothing runs in this task after it.
            await self._answer(Unavailable("the service is stopping, try again"), status, scope, receive, send_marked)
        except Exception:
            log.exception("request_failed")
            await self._answer(Internal(), status, scope, receive, send_marked)
        finally:
            _log_request(scope, status, time.perf_counter() - started)

    async def _answer(self, error: HzelError, status: int, scope: Scope, receive: Receive, send: Send) -> None:
        if status:
            # Half an answer is out; only breaking the connection tells the client so.
            raise error
        await error_response(error)(scope, receive, send)


def _log_request(scope: Scope, status: int, seconds: float) -> None:
    route = getattr(scope.get("route"), "path", None)
    write = log.debug if route in QUIET_ROUTES and status < 500 else log.info
    write("request", method=scope["method"], route=route, status=status, duration_ms=round(seconds * 1000, 2))


def _header(scope: Scope, name: bytes) -> str | None:
    for key, value in scope["headers"]:
        if key == name:
            text: str = value.decode("latin-1")
            return text
    return None
