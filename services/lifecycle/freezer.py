"""Pausing: every process of a container frozen, or let go on. The task's status is the truth about it.

A process that the runtime is just adding to a container is frozen half-way into it; then its shim waits for the
runtime, the runtime for the process, and nothing that is asked of the task is answered. The control group can be told
to go on all the same, which sets everything free.
"""

import asyncio

import structlog

from services.common.containerd.errors import ContainerdError, ContainerdUnavailable
from services.common.containerd.tasks import Task, Tasks, TaskStatus
from services.common.errors import Conflict, Unavailable
from services.lifecycle.cgroups import Cgroups
from services.lifecycle.container import Container
from services.lifecycle.state import LIVE, State

log = structlog.get_logger(__name__)

ATTEMPTS = 5
FROZEN_WITHIN_S = 3.0
LOOKS = 3
BETWEEN_LOOKS_S = 0.05


class Freezer:
    def __init__(self, tasks: Tasks, cgroups: Cgroups) -> None:
        self._tasks = tasks
        self._cgroups = cgroups

    async def pause(self, container_id: str) -> None:
        """Returns when it is. Raises Conflict where it has ended, or Unavailable: then it runs."""
        for _ in range(ATTEMPTS):
            if state_of(await self._task(container_id)) is State.PAUSED:
                return
            try:
                async with asyncio.timeout(FROZEN_WITHIN_S):
                    await self._tasks.pause(container_id)
                    # What was under way to the container when it was frozen gets stuck a moment later.
                    for _ in range(LOOKS):
                        await asyncio.sleep(BETWEEN_LOOKS_S)
                        await self._task(container_id)
                    return
            except (ContainerdError, Unavailable, TimeoutError) as error:
                log.info("pause_failed", container_id=container_id, error=repr(error))
                await self.resume(container_id)
        raise Unavailable("too much is being started in the container, try again")

    async def resume(self, container_id: str) -> None:
        """Returns when it runs. Raises Conflict where it has ended, or Unavailable."""
        self._cgroups.thaw(container_id)
        if state_of(await self._task(container_id)) is State.PAUSED:
            try:
                await self._tasks.resume(container_id)
            except ContainerdError as error:
                raise Unavailable("the container runtime could not do it, try again") from error

    async def find(self, container: Container) -> Task | None:
        """The task of one that somebody has left who may have died over a pause. Raises ContainerdError."""
        try:
            return await self._tasks.get(container.id)
        except ContainerdUnavailable:
            if container.state is not State.RUNNING:
                raise
            # Of a pause that nobody was told of; if that is why.
            self._cgroups.thaw(container.id)
            return await self._tasks.get(container.id)

    async def align(self, task: Task) -> State:
        """What a task is in the end that somebody has left who may have died half-way. Raises ContainerdError."""
        if state_of(task) is State.PAUSED and not self._cgroups.is_frozen(task.container_id):
            await self._tasks.resume(task.container_id)
            return State.RUNNING
        if state_of(task) is State.RUNNING:
            self._cgroups.thaw(task.container_id)
        return state_of(task)

    async def _task(self, container_id: str) -> Task:
        """One that has not ended. Raises Conflict, or Unavailable where nobody can say."""
        try:
            task = await self._tasks.get(container_id)
        except ContainerdError as error:
            raise Unavailable("the container runtime is not available, try again") from error
        if task is None or task.status is TaskStatus.STOPPED:
            raise Conflict("the container has just ended")
        return task


def state_of(task: Task) -> State:
    """Of a task that has not ended."""
    return State.PAUSED if task.status is TaskStatus.PAUSED else State.RUNNING


def is_paused_otherwise(container: Container, task: Task) -> bool:
    """Whether the row and the task disagree about that, and about nothing else."""
    is_live = container.state in LIVE and task.status in (TaskStatus.RUNNING, TaskStatus.PAUSED)
    return is_live and container.state is not state_of(task)
