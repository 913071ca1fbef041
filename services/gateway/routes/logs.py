"""The logs of containers: what their own processes wrote."""

from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import APIRouter, Query
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from services.common.errors import ContainerNotFound, FieldError, Forbidden, RateLimited, ValidationFailed
from services.gateway.api_route import ApiRoute, KnownCaller
from services.gateway.http_protocol import ENDLESS_ANSWER
from services.gateway.log_client import LogQuery, LogStreamName
from services.gateway.log_frames import stamp_of
from services.gateway.log_schemas import LogEntry
from services.gateway.openapi import COMMON_RESPONSES, described
from services.gateway.parts import TheParts
from services.gateway.routes.containers import ContainerId

MEDIA_TYPE = "application/x-ndjson"
MAX_TAIL = 10_000

router = APIRouter(route_class=ApiRoute, tags=["logs"], responses=COMMON_RESPONSES)


class LogResponse(StreamingResponse):
    media_type = MEDIA_TYPE

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["extensions"][ENDLESS_ANSWER]["hold_back"]()
        await super().__call__(scope, receive, send)


@router.get(
    "/api/v1/containers/{container_id}/logs",
    response_class=LogResponse,
    responses={
        **described(Forbidden, ContainerNotFound, RateLimited),
        200: {
            "model": LogEntry,
            "content": {MEDIA_TYPE: {}},
            "description": "the JSON that is described here, one on each line",
        },
    },
)
async def read_logs(
    parts: TheParts,
    caller: KnownCaller,
    container_id: ContainerId,
    stream: Annotated[LogStreamName | None, Query(description="only this one")] = None,
    since: Annotated[
        str | None, Query(max_length=64, description="lines after this time, RFC 3339: that of the last one you have")
    ] = None,
    tail: Annotated[int | None, Query(ge=0, le=MAX_TAIL, description="at most so many of the last lines")] = None,
    follow: Annotated[
        bool, Query(description="goes on with what comes, over stops and starts, until the container is deleted")
    ] = False,
) -> LogResponse:
    """What the container's own process wrote, line by line. The oldest is removed when there is too much."""
    pieces = parts.logs.read(caller, container_id, LogQuery(stream, _stamp(since), tail, follow))
    # The first piece decides whether there is anything to answer with but a refusal.
    first = await anext(pieces, b"")

    async def whole() -> AsyncIterator[bytes]:
        try:
            yield first
            async for piece in pieces:
                yield piece
        finally:
            await pieces.aclose()

    # For proxies that collect answers before they pass them on.
    return LogResponse(whole(), headers={"X-Accel-Buffering": "no"})


def _stamp(since: str | None) -> int | None:
    """Raises ValidationFailed."""
    if since is None:
        return None
    try:
        return stamp_of(since)
    except ValueError as error:
        details = (FieldError("since", str(error)),)
        raise ValidationFailed("the request is not valid: since", details) from error
