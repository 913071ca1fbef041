"""What containers use: now, in the past, and as it goes on; and everything for Prometheus."""

from collections.abc import AsyncGenerator
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response, Security, WebSocket
from fastapi.security.base import SecurityBase
from pydantic import AwareDatetime, BeforeValidator

from services.common.errors import Conflict, ContainerNotFound, Forbidden
from services.gateway.api_route import BEARER, BEARER_NAME, ApiRoute, KnownCaller
from services.gateway.authentication import Caller
from services.gateway.metrics import Metrics
from services.gateway.metrics_schemas import ContainerMetrics, MetricsHistory, MetricsSample
from services.gateway.openapi import COMMON_RESPONSES, described
from services.gateway.parts import TheParts, parts
from services.gateway.prometheus import CONTENT_TYPE
from services.gateway.routes.containers import ContainerId
from services.gateway.schemas import Envelope, rfc_3339
from services.gateway.websockets import Frame, SocketCaller, converse

MAX_STEP_S = 7 * 86400
OF_ONE_THAT_RUNS = described(Forbidden, ContainerNotFound, Conflict)

router = APIRouter(route_class=ApiRoute, tags=["metrics"], responses=COMMON_RESPONSES)
scrape_router = APIRouter(tags=["service"], responses=COMMON_RESPONSES)


@router.get("/api/v1/containers/{container_id}/metrics", responses=OF_ONE_THAT_RUNS)
async def get_metrics(parts: TheParts, caller: KnownCaller, container_id: ContainerId) -> Envelope[ContainerMetrics]:
    """What a running container uses, at most a second ago."""
    return Envelope(data=ContainerMetrics.of(await parts.metrics.snapshot(caller, container_id)))


@router.get("/api/v1/containers/{container_id}/metrics/history", responses=OF_ONE_THAT_RUNS)
async def get_metrics_history(
    parts: TheParts,
    caller: KnownCaller,
    container_id: ContainerId,
    since: Annotated[
        AwareDatetime | None, BeforeValidator(rfc_3339), Query(description="15 minutes ago if absent")
    ] = None,
    step: Annotated[
        int | None,
        Query(ge=1, le=MAX_STEP_S, description="seconds; as fine as is kept for that long if absent, or too fine"),
    ] = None,
) -> Envelope[MetricsHistory]:
    """What it has used: every second for 15 minutes, every 10 seconds for 6 hours, every minute for 7 days."""
    return Envelope(data=MetricsHistory.of(await parts.metrics.history(caller, container_id, since, step)))


@router.websocket("/ws/metrics/{container_id}")
async def watch_metrics(socket: WebSocket, parts: TheParts, caller: SocketCaller, container_id: str) -> None:
    """A sample at once and one a second, until the container ends: then a normal close."""
    await converse(socket, _frames(parts.metrics, caller, container_id), first_decides=True)


async def _frames(metrics: Metrics, caller: Caller, container_id: str) -> AsyncGenerator[Frame, None]:
    async for snapshot in metrics.watch(caller, container_id):
        yield MetricsSample.of(snapshot).model_dump_json()


class _ScrapeToken(SecurityBase):
    """A scraper is no caller of the API: see Scrape.admit."""

    def __init__(self) -> None:
        self.model = BEARER
        self.scheme_name = BEARER_NAME

    async def __call__(self, request: Request) -> None:
        await parts(request).scrape.admit(request.headers.get("authorization"))


@scrape_router.get(
    "/metrics",
    dependencies=[Security(_ScrapeToken())],
    response_class=Response,
    responses={
        **described(Forbidden),
        200: {"content": {"text/plain": {}}, "description": "Prometheus' text format"},
    },
)
async def scrape(parts: TheParts) -> Response:
    """Everything for Prometheus: an admin's token, or the one of HZEL_SCRAPE_TOKEN."""
    return Response(await parts.scrape.text(), media_type=CONTENT_TYPE)
