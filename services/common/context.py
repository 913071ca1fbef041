"""What travels with a request: REST header → gRPC metadata → event, as a context variable."""

from contextvars import ContextVar

import structlog

REQUEST_ID_METADATA = "x-request-id"

_request_id: ContextVar[str] = ContextVar("hzel_request_id", default="")


def request_id() -> str:
    """The id of the request being served; empty outside of one."""
    return _request_id.get()


def enter_request(request: str) -> None:
    """Binds the id for this task and the tasks it starts, in logs too."""
    _request_id.set(request)
    structlog.contextvars.bind_contextvars(request_id=request)
