"""The changes of state of one container; whoever calls holds its lock.

Before anything changes on the node the row says what is wanted, so that whoever starts after a crash can
go on from there (see `settle`).
"""

import asyncio
import signal
from datetime import UTC, datetime

import psutil
import structlog

from services.common.containerd.errors import ContainerdError
from services.common.containerd.tasks import TaskExit, Tasks
from services.common.errors import Conflict, Unavailable
from services.lifecycle import reasons
from services.lifecycle.cgroups import Cgroups
from services.lifecycle.confirmation import StartedNothing
from services.lifecycle.container import Change, Container, Wanted
from services.lifecycle.entrypoint import EntrypointMissing
from services.lifecycle.network import NetworkError
from services.lifecycle.numbering import Numbering
from services.lifecycle.runner import ImageMissing, ImageUnsupported, Runner
from services.lifecycle.state import Desired, State
from services.lifecycle.store import Store
from services.lifecycle.watch import RunEnded, Watches

log = structlog.get_logger(__name__)

STOP_TIMEOUT_S = 10
KILL_CONFIRMED_WITHIN_S = 20.0
NODE_FAILURES = (ContainerdError, NetworkError, OSError, TimeoutError)
START_FAILURES = (*NODE_FAILURES, ImageMissing, ImageUnsupported, EntrypointMissing, StartedNothing)


class Transitions:
    def __init__(
        self, store: Store, runner: Runner, tasks: Tasks, cgroups: Cgroups, watches: Watches, start_timeout_s: float
    ) -> None:
        self._store = store
        self._runner = runner
        self._tasks = tasks
        self._cgroups = cgroups
        self._watches = watches
        self._start_timeout_s = start_timeout_s

    async def create(self, container_id: str, user_id: str, wanted: Wanted, numbering: Numbering) -> Container:
        """Writes the row; an image that can't be looked up now is looked up by the start."""
        try:
            image = await self._runner.find_image(wanted.image)
        except ContainerdError:
            image = None
        return await self._store.add(container_id, user_id, wanted, image, numbering)

    async def start(self, container: Container) -> Container:
        _refuse_deleted(container)
        if container.state is State.RUNNING:
            return container
        return await self._bring_up(await self._provision(container))

    async def stop(self, container: Container, timeout_s: float) -> Container:
        """TERM to PID 1, KILL to everything after `timeout_s`; FAILED where the end can't be confirmed."""
        _refuse_deleted(container)
        if container.state is State.STOPPED:
            return container
        return await self._stop(await self._store.want(container, Desired.STOPPED), timeout_s)

    async def restart(self, container: Container, timeout_s: float) -> Container:
        _refuse_deleted(container)
        if container.state is State.RUNNING:
            container = await self._stop(container, timeout_s)
            if container.state is State.FAILED:
                return container
        return await self._bring_up(await self._provision(container))

    async def delete(self, container: Container) -> None:
        container = await self._store.want(container, Desired.DELETED)
        self._watches.forget(container.id)
        try:
            await self._runner.destroy(container)
        except NODE_FAILURES as error:
            log.warning("delete_unfinished", container_id=container.id, error=repr(error))
            raise Unavailable("the container could not be destroyed yet; it will be as soon as possible") from error
        await self._store.remove(container)

    async def ended(self, container: Container, run: RunEnded) -> None:
        """Writes down that a run is over, unless somebody ended it or started another meanwhile."""
        if container.state is not State.RUNNING or container.started_at != run.started_at:
            return
        if run.exit is None:
            await self._write_down_end(container, None, reasons.EXIT_UNKNOWN)
            return
        kills = await asyncio.to_thread(self._cgroups.memory_kills, container.id)
        await self._write_down_end(container, run.exit, reasons.of_exit(run.exit.status, kills))

    async def settle(self, container: Container) -> None:
        """Goes on from whatever a row says after a crash: of ours, of containerd, of the node."""
        if container.desired is Desired.DELETED:
            await self.delete(container)
        elif container.desired is Desired.STOPPED:
            if container.state in (State.STOPPED, State.FAILED):
                await self._runner.take_down(container)
            else:
                await self._stop(container, STOP_TIMEOUT_S)
        elif container.state is State.RUNNING:
            await self._adopt(container)
        elif container.state is State.FAILED:
            await self._runner.take_down(container)
        else:
            await self._runner.take_down(container)
            await self._bring_up(await self._provision(container))

    async def _adopt(self, container: Container) -> None:
        """Watches a container that ran on without us, or writes down that it did not."""
        if self._watches.knows(container.id):
            return
        if await self._tasks.get(container.id) is not None:
            # One that has ended meanwhile is reported at once.
            self._watches.watch(container.id, container.started_at)
            return
        booted = datetime.fromtimestamp(psutil.boot_time(), UTC)
        rebooted = container.started_at is not None and container.started_at < booted
        await self._write_down_end(container, None, reasons.NODE_RESTARTED if rebooted else reasons.EXIT_UNKNOWN)

    async def _provision(self, container: Container) -> Container:
        if container.state is State.PROVISIONING:
            return container
        change = Change(State.PROVISIONING, desired=Desired.RUNNING, forget_last_run=True)
        return await self._store.change(container, change)

    async def _bring_up(self, container: Container) -> Container:
        try:
            async with asyncio.timeout(self._start_timeout_s):
                await self._runner.bring_up(await self._with_image(container))
        except START_FAILURES as error:
            log.warning("start_failed", container_id=container.id, error=repr(error))
            await self._take_down(container)
            return await self._store.change(container, Change(State.FAILED, reasons.of_failed_start(error)))
        running = await self._store.change(container, Change(State.RUNNING, started_at=datetime.now(UTC)))
        self._watches.watch(container.id, running.started_at)
        return running

    async def _with_image(self, container: Container) -> Container:
        """The node may have got the image since the container was made."""
        if container.image is not None:
            return container
        image = await self._runner.find_image(container.wanted.image)
        return container if image is None else await self._store.resolve(container, image)

    async def _stop(self, container: Container, timeout_s: float) -> Container:
        self._watches.forget(container.id)
        try:
            exit_seen = await self._end(container.id, timeout_s)
            await self._runner.take_down(container)
        except NODE_FAILURES as error:
            log.warning("stop_unconfirmed", container_id=container.id, error=repr(error))
            return await self._store.change(container, Change(State.FAILED, reasons.STOP_UNCONFIRMED))
        return await self._store.change(container, _ending(exit_seen, ""))

    async def _end(self, container_id: str, timeout_s: float) -> TaskExit | None:
        if await self._tasks.get(container_id) is None:
            return None
        await self._tasks.kill(container_id, signal.SIGTERM)
        try:
            async with asyncio.timeout(timeout_s):
                return await self._tasks.wait(container_id)
        except TimeoutError:
            await self._tasks.kill(container_id, signal.SIGKILL, everything=True)
        async with asyncio.timeout(KILL_CONFIRMED_WITHIN_S):
            return await self._tasks.wait(container_id)

    async def _write_down_end(self, container: Container, exit_seen: TaskExit | None, reason: str) -> None:
        await self._take_down(container)
        await self._store.change(container, _ending(exit_seen, reason, Desired.STOPPED))

    async def _take_down(self, container: Container) -> None:
        """As far as it goes now: what is left over is found by the reconciler, which looks at the node."""
        try:
            await self._runner.take_down(container)
        except NODE_FAILURES as error:
            log.warning("take_down_unfinished", container_id=container.id, error=repr(error))


def _ending(exit_seen: TaskExit | None, reason: str, desired: Desired | None = None) -> Change:
    if exit_seen is None:
        return Change(State.STOPPED, reason, desired, finished_at=datetime.now(UTC))
    return Change(State.STOPPED, reason, desired, finished_at=exit_seen.at, exit_code=exit_seen.status)


def _refuse_deleted(container: Container) -> None:
    if container.desired is Desired.DELETED:
        raise Conflict("the container is being deleted")
