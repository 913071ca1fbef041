"""The figures of containers, and who may see them."""

from collections.abc import AsyncIterator
from datetime import datetime

from services.common.errors import Conflict
from services.gateway.authentication import Caller
from services.gateway.containers import Containers
from services.gateway.metrics_client import History, MetricsClient, Snapshot


class Metrics:
    """Every method raises Forbidden for another's container, ContainerNotFound for none, Conflict for one that is
    not running."""

    def __init__(self, metrics: MetricsClient, containers: Containers) -> None:
        self._metrics = metrics
        self._containers = containers

    async def snapshot(self, caller: Caller, container_id: str) -> Snapshot:
        container_id = await self._containers.admit(caller, container_id)
        try:
            return await self._metrics.snapshot(container_id)
        except Conflict:
            await self._refuse_missing(caller, container_id)
            raise

    async def history(self, caller: Caller, container_id: str, since: datetime | None, step_s: int | None) -> History:
        container_id = await self._containers.admit(caller, container_id)
        try:
            return await self._metrics.history(container_id, since, step_s)
        except Conflict:
            await self._refuse_missing(caller, container_id)
            raise

    async def watch(self, caller: Caller, container_id: str) -> AsyncIterator[Snapshot]:
        """One at once and one a second, until the container ends."""
        container_id = await self._containers.admit(caller, container_id)
        try:
            async for snapshot in self._metrics.watch(container_id):
                yield snapshot
        except Conflict:
            await self._refuse_missing(caller, container_id)
            raise

    async def _refuse_missing(self, caller: Caller, container_id: str) -> None:
        """What is not running may not be there at all."""
        await self._containers.get(caller, container_id)
