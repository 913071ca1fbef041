"""The API's description of itself, as OpenAPI."""

from collections.abc import Sequence
from typing import Any

from fastapi.openapi.utils import get_openapi
from starlette.routing import BaseRoute

from services.common.errors import (
    HzelError,
    Internal,
    InvalidRequest,
    TimedOut,
    Unauthenticated,
    Unavailable,
    ValidationFailed,
)
from services.gateway.schemas import ErrorEnvelope

DESCRIPTION = (
    'Success is `{"data": …}`, failure `{"error": {"code", "message", "request_id"}}`. Every answer carries '
    "`X-Request-Id`. Times are UTC, RFC 3339."
)
Responses = dict[int | str, dict[str, Any]]


def described(*errors: type[HzelError]) -> Responses:
    """For a route's `responses`: each status with its codes."""
    codes: dict[int, list[str]] = {}
    for error in errors:
        codes.setdefault(error.http_status, []).append(error.code)
    return {
        status: {"model": ErrorEnvelope, "description": ", ".join(f"`{code}`" for code in names)}
        for status, names in sorted(codes.items())
    }


# Any route of the API may answer with these.
COMMON_RESPONSES = described(InvalidRequest, ValidationFailed, Unauthenticated, Internal, Unavailable, TimedOut)


def openapi_document(routes: Sequence[BaseRoute], version: str) -> dict[str, Any]:
    document = get_openapi(title="hzel", version=version, description=DESCRIPTION, routes=routes)
    for operations in document["paths"].values():
        for operation in operations.values():
            # The framework believes that it answers what is not valid.
            if "HTTPValidationError" in str(operation["responses"].get("422")):
                del operation["responses"]["422"]
    for unused in ("HTTPValidationError", "ValidationError"):
        document["components"]["schemas"].pop(unused, None)
    return document
