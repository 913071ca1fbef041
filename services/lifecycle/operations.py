"""What can be done with containers: one operation at a time for each, finished whatever its caller does."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from typing import Any, TypeVar

import structlog

from services.common.errors import Conflict, Unavailable
from services.common.locks import KeyedLocks
from services.lifecycle.container import Container, Update, Wanted
from services.lifecycle.numbering import Numbering
from services.lifecycle.state import State
from services.lifecycle.store import Store
from services.lifecycle.transitions import Transitions
from services.lifecycle.watch import RunEnded

log = structlog.get_logger(__name__)

NODE_READY_WITHIN_S = 5.0
Result = TypeVar("Result")


class Operations:
    def __init__(self, store: Store, transitions: Transitions, numbering: Numbering, concurrency: int) -> None:
        self._store = store
        self._transitions = transitions
        self._numbering = numbering
        self._starting = asyncio.Semaphore(concurrency)
        self._locks = KeyedLocks()
        self._under_way: set[asyncio.Task[Any]] = set()
        # Set once the node has been reconciled with the database: nothing is changed on it before.
        self.node_ready = asyncio.Event()

    async def create(self, container_id: str, user_id: str, wanted: Wanted, ttl_s: int | None, wait: bool) -> Container:
        """Creates and starts it; the same id again joins the first call. Raises Conflict."""
        await self._wait_for_node()
        async with self._locks.holding(container_id):
            container = await self._store.find(container_id)
            if container is None:
                container = await self._transitions.create(container_id, user_id, wanted, self._numbering, ttl_s)
                begun = self._begin(self._start(container_id))
            elif container.user_id != user_id:
                raise Conflict("this id belongs to another container")
            else:
                begun = self._begin(self._when_settled(container_id))
        return await asyncio.shield(begun) if wait else container

    async def get(self, container_id: str) -> Container:
        """Raises ContainerNotFound."""
        return await self._store.get(container_id)

    async def page(
        self, user_id: str, states: Sequence[State], labels: Mapping[str, str], after_id: str, limit: int
    ) -> list[Container]:
        return await self._store.page(user_id, states, labels, after_id, limit)

    async def start(self, container_id: str) -> Container:
        return await self._finish(self._start(container_id))

    async def stop(self, container_id: str, timeout_s: float) -> Container:
        async def stop(container: Container) -> Container:
            return await self._transitions.stop(container, timeout_s)

        return await self._finish(self._changing(container_id, stop))

    async def restart(self, container_id: str, timeout_s: float) -> Container:
        async def restart() -> Container:
            async with self._locks.holding(container_id), self._starting:
                return await self._transitions.restart(await self._store.get(container_id), timeout_s)

        return await self._finish(restart())

    async def pause(self, container_id: str) -> Container:
        return await self._finish(self._changing(container_id, self._transitions.pause))

    async def resume(self, container_id: str) -> Container:
        return await self._finish(self._changing(container_id, self._transitions.resume))

    async def update(self, container_id: str, update: Update) -> Container:
        async def change(container: Container) -> Container:
            return await self._transitions.update(container, update)

        return await self._finish(self._changing(container_id, change))

    async def delete(self, container_id: str) -> None:
        async def delete() -> None:
            async with self._locks.holding(container_id):
                await self._transitions.delete(await self._store.get(container_id))

        await self._finish(delete())

    async def expire(self, container_id: str) -> None:
        """Deletes it if its time is over, whatever it does."""

        async def delete() -> None:
            async with self._locks.holding(container_id):
                container = await self._store.find(container_id)
                if container is not None:
                    await self._transitions.expire(container)

        await self._finish(delete())

    async def stop_idle(self, container_id: str, is_idle: Callable[[Container], Awaitable[bool]]) -> None:
        """Stops one that runs if it is idle still, which is asked when nobody else can do anything with it."""

        async def stop() -> None:
            async with self._locks.holding(container_id):
                container = await self._store.find(container_id)
                if container is not None and container.state is State.RUNNING and await is_idle(container):
                    await self._transitions.stop_idle(container)

        await self._finish(stop())

    async def settle(self, container_id: str) -> None:
        """For the reconciler: see `Transitions.settle`. A row that is gone meanwhile needs nothing."""
        async with self._locks.holding(container_id), self._starting:
            container = await self._store.find(container_id)
            if container is not None:
                await self._transitions.settle(container)

    def run_ended(self, run: RunEnded) -> None:
        """A container ended by itself."""

        async def ended() -> None:
            async with self._locks.holding(run.container_id):
                container = await self._store.find(run.container_id)
                if container is not None:
                    await self._transitions.ended(container, run)

        self._begin(ended())

    def restart_due(self, container_id: str) -> None:
        """A container has waited long enough to be started again."""

        async def restart() -> None:
            async with self._locks.holding(container_id), self._starting:
                container = await self._store.find(container_id)
                if container is not None:
                    await self._transitions.restart_by_policy(container)

        self._begin(restart())

    async def close(self) -> None:
        """Waits for the operations under way."""
        while self._under_way:
            await asyncio.wait(self._under_way)

    async def _start(self, container_id: str) -> Container:
        async with self._locks.holding(container_id), self._starting:
            return await self._transitions.start(await self._store.get(container_id))

    async def _changing(
        self, container_id: str, change: Callable[[Container], Coroutine[Any, Any, Container]]
    ) -> Container:
        async with self._locks.holding(container_id):
            return await change(await self._store.get(container_id))

    async def _when_settled(self, container_id: str) -> Container:
        async with self._locks.holding(container_id):
            return await self._store.get(container_id)

    async def _finish(self, operation: Coroutine[Any, Any, Result]) -> Result:
        """Begins an operation once the node is ready and waits for it; a caller who leaves doesn't end it."""
        try:
            await self._wait_for_node()
        except Unavailable:
            operation.close()
            raise
        return await asyncio.shield(self._begin(operation))

    def _begin(self, operation: Coroutine[Any, Any, Result]) -> asyncio.Task[Result]:
        task = asyncio.create_task(operation)
        self._under_way.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._under_way.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            # Its caller, if it is still there, gets the error too.
            log.info("operation_failed", error=repr(error))

    async def _wait_for_node(self) -> None:
        try:
            async with asyncio.timeout(NODE_READY_WITHIN_S):
                await self.node_ready.wait()
        except TimeoutError as error:
            raise Unavailable("the node's container runtime is not available, try again") from error
