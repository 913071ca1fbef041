"""Containers whose control groups this process can't see: containerd is asked instead.

That costs a call to the container's shim for each reading; it is for hosts where the groups are made elsewhere than
we tell the runtime, and it keeps no history.
"""

import asyncio
import dataclasses
import json
import time
from contextlib import closing

from services.common.containerd.containers import Containers
from services.common.containerd.errors import ContainerdError, ContainerdNotFound
from services.common.containerd.metrics import Metrics
from services.common.containerd.tasks import Tasks
from services.common.counters import Counters
from services.common.errors import Conflict, Unavailable
from services.metrics.clock import started_unix_s
from services.metrics.disk import Disk
from services.metrics.sample import Reading, Sample, derive
from services.metrics.surroundings import Surroundings

INTERVAL_S = 0.2


class Fallback:
    def __init__(self, tasks: Tasks, containers: Containers, metrics: Metrics, surroundings: Surroundings) -> None:
        self._tasks = tasks
        self._containers = containers
        self._metrics = metrics
        self._surroundings = surroundings

    async def sample(self, container_id: str, cores_of_node: int) -> Sample:
        """From two readings in a row. Raises Conflict for a container that does not run, and Unavailable."""
        try:
            task = await self._tasks.get(container_id)
            if task is None or not task.pid:
                raise not_running()
            cores = _cores(json.loads(await self._containers.specification(container_id)))
            with closing(self._surroundings.disk(container_id)) as disk:
                since = await self._reading(container_id, cores, disk)
                await asyncio.sleep(INTERVAL_S)
                now = await self._reading(container_id, cores, disk)
        except ContainerdNotFound as error:
            raise not_running() from error
        except ContainerdError as error:
            raise Unavailable("the container's figures can't be read now, try again") from error
        return derive(container_id, started_unix_s([task.pid]) or now.unix_s, since, now, cores_of_node)

    async def _reading(self, container_id: str, cores: float | None, disk: Disk) -> Reading:
        counters: Counters | None = await self._metrics.get(container_id)
        if counters is None:
            raise not_running()
        at = time.monotonic_ns()
        limited = dataclasses.replace(counters, cpu_limit_cores=cores)
        return self._surroundings.reading(container_id, limited, at, self._surroundings.links(), disk)


def not_running() -> Conflict:
    return Conflict("the container is not running")


def _cores(specification: dict[str, dict[str, dict[str, dict[str, int]]]]) -> float | None:
    """From the section `linux.resources.cpu` of an OCI specification."""
    cpu = specification["linux"].get("resources", {}).get("cpu", {})
    return cpu["quota"] / cpu["period"] if cpu.get("quota", 0) > 0 else None
