"""A scrape: everything that is known now, from whoever answers."""

import asyncio
import hmac
from collections.abc import Awaitable, Mapping, Sequence
from typing import TypeVar

from services.common.errors import Forbidden, HzelError
from services.common.rpc.figures import Figure, FiguresClient
from services.gateway.authentication import Authentication
from services.gateway.clients import Container, LifecycleClient
from services.gateway.metrics_client import MetricsClient
from services.gateway.prometheus import text_of
from services.gateway.scrape_families import (
    container_families,
    inventory_families,
    node_families,
    service_families,
    traffic_families,
)
from services.gateway.traffic import Traffic

PAGE = 500
Answer = TypeVar("Answer")


class Scrape:
    def __init__(
        self,
        authentication: Authentication,
        token: str,
        lifecycle: LifecycleClient,
        metrics: MetricsClient,
        figures: Mapping[str, FiguresClient],
        traffic: Traffic,
    ) -> None:
        """`token` is all that a scraper needs; empty: only admins may. `figures` has the node's services."""
        self._authentication = authentication
        self._token = token.encode()
        self._lifecycle = lifecycle
        self._metrics = metrics
        self._figures = figures
        self._traffic = traffic

    async def admit(self, authorization: str | None) -> None:
        """From the value of the Authorization header. Raises Unauthenticated or Forbidden."""
        if self._token and authorization is not None:
            scheme, _, token = authorization.partition(" ")
            if scheme.lower() == "bearer" and hmac.compare_digest(token.strip().encode(), self._token):
                return
        caller = await self._authentication.caller(authorization)
        if not caller.is_admin:
            raise Forbidden("only admins may see the figures of everything")

    async def text(self) -> str:
        """In Prometheus' format. A service that does not answer is told as down, and what it knows is left out."""
        async with asyncio.TaskGroup() as group:
            snapshots = group.create_task(_if_answered(self._metrics.snapshots()))
            node = group.create_task(_if_answered(self._metrics.node()))
            containers = group.create_task(_if_answered(self._containers()))
            figures = {name: group.create_task(_if_answered(client.get())) for name, client in self._figures.items()}
        families = []
        usage = node.result()
        if usage is not None:
            families += node_families(usage)
            families += container_families(snapshots.result() or [], usage.name)
        families += inventory_families(containers.result() or [])
        told: dict[str, Sequence[Figure] | None] = {name: task.result() for name, task in figures.items()}
        return text_of([*families, *service_families(told), *traffic_families(self._traffic)])

    async def _containers(self) -> list[Container]:
        found: list[Container] = []
        after_id: str | None = None
        while True:
            page = await self._lifecycle.list(None, [], {}, after_id, PAGE)
            found += page.containers
            after_id = page.next_after_id
            if after_id is None:
                return found


async def _if_answered(call: Awaitable[Answer]) -> Answer | None:
    try:
        return await call
    except HzelError:
        return None
