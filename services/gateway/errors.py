"""The envelope every failure is answered with, whoever noticed it first."""

import json
from collections.abc import Mapping
from typing import Any

import structlog
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError, WebSocketRequestValidationError
from starlette.exceptions import HTTPException
from starlette.routing import Match
from starlette.types import Receive, Scope, Send

from services.common import context
from services.common.errors import (
    FieldError,
    HzelError,
    Internal,
    InvalidRequest,
    MethodNotAllowed,
    NotFound,
    Unauthenticated,
    ValidationFailed,
)
from services.gateway import audit_draft

log = structlog.get_logger(__name__)

# A body of one MiB can be wrong in a hundred thousand places.
MAX_DETAILS = 20
MAX_FIELD_LENGTH = 128
MAX_CAUSE_LENGTH = 300


def error_body(error: HzelError) -> dict[str, Any]:
    """`{"error": {…}}` without the request id, as it may be kept for a later request."""
    body: dict[str, Any] = {"code": error.code, "message": error.message}
    if isinstance(error, ValidationFailed) and error.details:
        body["details"] = [{"field": detail.field, "message": detail.message} for detail in error.details]
    return {"error": body}


def error_response(error: HzelError, headers: Mapping[str, str] | None = None) -> Response:
    return enveloped_error(error.http_status, error_body(error), {**_headers(error), **(headers or {})})


def enveloped_error(status: int, body: dict[str, Any], headers: Mapping[str, str]) -> Response:
    """Answers with an `error_body`, naming the request that asks now."""
    audit_draft.failed(body["error"]["code"])
    body["error"]["request_id"] = context.request_id()
    return Response(json.dumps(body, separators=(",", ":")), status, headers, "application/json")


def install_error_handlers(app: FastAPI) -> None:
    """What is raised on purpose, by us or the framework. Anything else is a fault: `boundary` answers it."""
    app.add_exception_handler(HzelError, _on_hzel_error)
    app.add_exception_handler(RequestValidationError, _on_validation_error)
    app.add_exception_handler(WebSocketRequestValidationError, _on_validation_error)
    app.add_exception_handler(HTTPException, _on_http_exception)


async def nothing_there(_scope: Scope, _receive: Receive, _send: Send) -> None:
    """What the router does with a path that no route has; its own way would refuse a WebSocket without a word."""
    raise _nothing_there()


def _nothing_there() -> NotFound:
    return NotFound("there is nothing at this path")


def _headers(error: HzelError) -> dict[str, str]:
    headers = {}
    if error.retry_after_s is not None:
        headers["Retry-After"] = str(error.retry_after_s)
    if isinstance(error, Unauthenticated):
        headers["WWW-Authenticate"] = 'Bearer realm="hzel"'
    return headers


async def _on_hzel_error(_request: Request, error: Exception) -> Response:
    if not isinstance(error, HzelError):
        raise error
    if error.http_status >= 500:
        log.warning("request_not_served", code=error.code, reason=error.message, cause=_in_short(error.__cause__))
    return error_response(error)


def _in_short(cause: BaseException | None) -> str | None:
    return None if cause is None else f"{type(cause).__name__}: {' '.join(str(cause).split())[:MAX_CAUSE_LENGTH]}"


async def _on_validation_error(_request: Request, error: Exception) -> Response:
    if not isinstance(error, RequestValidationError | WebSocketRequestValidationError):
        raise error
    return error_response(validation_failed(error.errors()))


async def _on_http_exception(request: Request, error: Exception) -> Response:
    if not isinstance(error, HTTPException):
        raise error
    if error.status_code == 404:
        return error_response(_nothing_there())
    if error.status_code == 405:
        methods = ", ".join(_allowed_methods(request))
        return error_response(MethodNotAllowed(f"this path allows {methods}"), {"Allow": methods})
    if error.status_code < 500:
        return error_response(InvalidRequest("the request could not be read"))
    return error_response(Internal())


def validation_failed(errors: Any) -> ValidationFailed:
    """From Pydantic's list of errors; the fields are named as the client wrote them."""
    details = tuple(_detail(one) for one in errors[:MAX_DETAILS])
    fields = ", ".join(dict.fromkeys(detail.field for detail in details))
    return ValidationFailed(f"the request is not valid: {fields}", details)


def _detail(error: Mapping[str, Any]) -> FieldError:
    place, *path = [str(part) for part in error["loc"]]
    # A check of several fields says which one it blames.
    field = error.get("ctx", {}).get("field") or ".".join(path) or place
    return FieldError(field[:MAX_FIELD_LENGTH], str(error["msg"]).removeprefix("Value error, "))


def _allowed_methods(request: Request) -> list[str]:
    """Of every route at this path; the router itself knows only the first."""
    allowed: set[str] = set()
    for route in request.app.routes:
        match, _ = route.matches(request.scope)
        if match is not Match.NONE:
            allowed |= route.methods or set()
    return sorted(allowed)
