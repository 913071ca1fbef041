"""Alive, and ready."""

from typing import Literal

from fastapi import APIRouter, Response
from fastapi.responses import PlainTextResponse

from services.common.errors import Unavailable
from services.gateway.errors import enveloped_error, error_body
from services.gateway.health import Health
from services.gateway.openapi import described
from services.gateway.parts import TheParts
from services.gateway.schemas import Envelope, Ready

router = APIRouter(tags=["service"])


@router.get("/healthz", response_class=PlainTextResponse)
async def is_alive() -> str:
    """The process answers."""
    return "ok\n"


@router.get("/api/v1/healthz")
async def is_healthy() -> Envelope[Literal["ok"]]:
    """The process answers."""
    return Envelope(data="ok")


@router.get("/readyz", response_model=Envelope[Ready], responses=described(Unavailable))
async def is_ready(parts: TheParts) -> Envelope[Ready] | Response:
    """Everything the gateway needs answers; if not, `details` names each dependency and its state."""
    states = await parts.readiness.states()
    missing = [name for name, state in states.items() if state is not Health.OK]
    if not missing:
        return Envelope(data=Ready(dependencies=dict(states)))
    error = Unavailable(f"not ready: {', '.join(missing)}")
    body = error_body(error)
    body["error"]["details"] = [{"field": name, "message": state} for name, state in states.items()]
    return enveloped_error(error.http_status, body, {"Retry-After": str(error.retry_after_s)})
