"""What the routes work with; made once, in `__main__`."""

from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends
from starlette.requests import HTTPConnection

from services.gateway.accounts import Accounts
from services.gateway.audit import Audit
from services.gateway.authentication import Authentication
from services.gateway.commands import Commands
from services.gateway.containers import Containers
from services.gateway.events import Events
from services.gateway.health import Readiness
from services.gateway.logs import Logs
from services.gateway.metrics import Metrics
from services.gateway.scrape import Scrape
from services.gateway.terminals import Terminals
from services.gateway.traffic import Traffic


@dataclass(frozen=True)
class Parts:
    accounts: Accounts
    audit: Audit
    authentication: Authentication
    containers: Containers
    commands: Commands
    terminals: Terminals
    logs: Logs
    metrics: Metrics
    events: Events
    scrape: Scrape
    readiness: Readiness
    traffic: Traffic


def parts(connection: HTTPConnection) -> Parts:
    """For a request and for a WebSocket."""
    found: Parts = connection.app.state.parts
    return found


async def _parts(connection: HTTPConnection) -> Parts:
    return parts(connection)


TheParts = Annotated[Parts, Depends(_parts)]
