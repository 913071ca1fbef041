"""The REST application: routes, error handlers, boundary."""

from fastapi import FastAPI

from services.gateway.audit_actions import unrecorded
from services.gateway.audit_trail import AuditTrail
from services.gateway.boundary import Boundary
from services.gateway.errors import install_error_handlers, nothing_there
from services.gateway.openapi import openapi_document
from services.gateway.parts import Parts
from services.gateway.routes import audit, commands, containers, events, health, logs, metrics, terminals, tokens
from services.gateway.routes.documentation import documentation_router

API_VERSION = "1"


def create_app(parts: Parts) -> FastAPI:
    app = FastAPI(openapi_url=None, redirect_slashes=False)
    app.state.parts = parts
    install_error_handlers(app)
    # The last one is the outermost.
    app.add_middleware(AuditTrail, audit=parts.audit)
    app.add_middleware(Boundary, traffic=parts.traffic)
    app.router.default = nothing_there
    # The routes themselves, not the routers: matching a request then walks one short list.
    for router in (
        containers.router,
        commands.router,
        logs.router,
        metrics.router,
        terminals.router,
        events.router,
        tokens.router,
        audit.router,
        health.router,
        metrics.scrape_router,
    ):
        app.router.routes.extend(router.routes)
    if forgotten := unrecorded(app.routes):
        raise ValueError(f"no action in audit_actions: {', '.join(forgotten)}")
    document = openapi_document(app.routes, API_VERSION)
    app.router.routes.extend(documentation_router(document).routes)
    return app
