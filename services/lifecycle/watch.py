"""One Wait per running container: the truth about its end."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

import structlog

from services.common.containerd.errors import ContainerdError, ContainerdNotFound
from services.common.containerd.tasks import TaskExit, Tasks

log = structlog.get_logger(__name__)

RETRY_S = 0.1


@dataclass(frozen=True)
class RunEnded:
    """`started_at` tells this run from later ones; no exit means that nobody knows it any more."""

    container_id: str
    started_at: datetime | None
    exit: TaskExit | None


class Watches:
    def __init__(self, tasks: Tasks) -> None:
        self._tasks = tasks
        self._waiting: dict[str, asyncio.Task[None]] = {}
        self._ended: Callable[[RunEnded], None] | None = None

    def on_end(self, ended: Callable[[RunEnded], None]) -> None:
        """Says who is told; before anything is watched."""
        self._ended = ended

    def watch(self, container_id: str, started_at: datetime | None) -> None:
        self.forget(container_id)
        self._waiting[container_id] = asyncio.create_task(self._watch(container_id, started_at))

    def knows(self, container_id: str) -> bool:
        return container_id in self._waiting

    def forget(self, container_id: str) -> None:
        """Its end is no news any more: somebody is ending it."""
        waiting = self._waiting.pop(container_id, None)
        if waiting is not None:
            waiting.cancel()

    async def close(self) -> None:
        waiting = list(self._waiting.values())
        for container_id in list(self._waiting):
            self.forget(container_id)
        await asyncio.gather(*waiting, return_exceptions=True)

    async def _watch(self, container_id: str, started_at: datetime | None) -> None:
        exit_seen = await self._wait(container_id)
        self._waiting.pop(container_id, None)
        if self._ended is None:
            raise RuntimeError("nobody is told of ends")
        self._ended(RunEnded(container_id, started_at, exit_seen))

    async def _wait(self, container_id: str) -> TaskExit | None:
        while True:
            try:
                return await self._tasks.wait(container_id)
            except ContainerdNotFound:
                return None
            except ContainerdError as error:
                # containerd restarts, or the shim is gone and containerd has not noticed yet.
                log.debug("wait_broken", container_id=container_id, error=str(error))
                await asyncio.sleep(RETRY_S)
