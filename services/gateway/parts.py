"""What the routes work with; made once, in `__main__`."""

from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request

from services.gateway.accounts import Accounts
from services.gateway.authentication import Authentication
from services.gateway.containers import Containers
from services.gateway.health import Readiness


@dataclass(frozen=True)
class Parts:
    accounts: Accounts
    authentication: Authentication
    containers: Containers
    readiness: Readiness


def parts(request: Request) -> Parts:
    found: Parts = request.app.state.parts
    return found


async def _parts(request: Request) -> Parts:
    return parts(request)


TheParts = Annotated[Parts, Depends(_parts)]
