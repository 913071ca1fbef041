"""Which request is which action: one table, in which a route that changes anything must stand."""

from collections.abc import Iterable

from fastapi.routing import APIRoute, APIWebSocketRoute
from starlette.routing import BaseRoute
from starlette.types import Scope

from services.gateway.audit_entry import Action

READING = frozenset({"GET", "HEAD", "OPTIONS"})
_CONTAINER = "/api/v1/containers/{container_id}"

# Method and template of the path; None is an exemption, with its reason.
ACTIONS: dict[tuple[str, str], Action | None] = {
    ("POST", "/api/v1/containers"): Action.CONTAINER_CREATE,
    ("PATCH", _CONTAINER): Action.CONTAINER_UPDATE,
    ("DELETE", _CONTAINER): Action.CONTAINER_DELETE,
    ("POST", f"{_CONTAINER}/start"): Action.CONTAINER_START,
    ("POST", f"{_CONTAINER}/stop"): Action.CONTAINER_STOP,
    ("POST", f"{_CONTAINER}/restart"): Action.CONTAINER_RESTART,
    ("POST", f"{_CONTAINER}/pause"): Action.CONTAINER_PAUSE,
    ("POST", f"{_CONTAINER}/resume"): Action.CONTAINER_RESUME,
    ("POST", f"{_CONTAINER}/commands"): Action.COMMAND_ENQUEUE,
    ("POST", "/api/v1/commands/{command_id}/cancel"): Action.COMMAND_CANCEL,
    ("POST", "/api/v1/tokens"): Action.TOKEN_CREATE,
    ("DELETE", "/api/v1/tokens/{token_id}"): Action.TOKEN_REVOKE,
}

# Opening and closing of WebSockets.
SOCKETS: dict[str, tuple[Action, Action] | None] = {
    "/ws/terminal/{container_id}": (Action.TERMINAL_OPEN, Action.TERMINAL_CLOSE),
    # Following output is reading; the first input and each signal are entries of their own, which the route writes.
    "/ws/jobs/{command_id}": None,
    # Reading only.
    "/ws/metrics/{container_id}": None,
    "/ws/events": None,
}


def action_of(scope: Scope) -> Action | None:
    """Of a request whose route is found; opening is a WebSocket's."""
    if scope["type"] == "http":
        return ACTIONS.get((scope["method"], route_of(scope)))
    actions = SOCKETS.get(route_of(scope))
    return actions[0] if actions is not None else None


def route_of(scope: Scope) -> str:
    """The template of the path, which holds nothing that a client chose; empty where there is none."""
    template: str = getattr(scope.get("route"), "path", "")
    return template


def unrecorded(routes: Iterable[BaseRoute]) -> list[str]:
    """The routes that stand in neither table, but must."""
    found = []
    for route in routes:
        if isinstance(route, APIWebSocketRoute):
            if route.path not in SOCKETS:
                found.append(f"WebSocket {route.path}")
        elif isinstance(route, APIRoute):
            changing = set(route.methods or ()) - READING
            found += [f"{method} {route.path}" for method in changing if (method, route.path) not in ACTIONS]
        else:
            # Mounts and the like: nobody could say what lies behind them.
            found.append(repr(route))
    return found
