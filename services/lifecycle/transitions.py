"""The changes of state of one container; whoever calls holds its lock.

Before anything changes on the node the row says what is wanted, so that whoever starts after a crash can
go on from there (see `settle`).
"""

import asyncio
import signal
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import UTC, datetime

import psutil
import structlog

from services.common.containerd.errors import ContainerdError
from services.common.containerd.tasks import TaskExit, Tasks, TaskStatus
from services.common.errors import Conflict, Unavailable
from services.lifecycle import ends, reasons
from services.lifecycle.cgroups import Cgroups
from services.lifecycle.confirmation import StartedNothing
from services.lifecycle.container import Change, Container, Update, Wanted
from services.lifecycle.entrypoint import EntrypointMissing
from services.lifecycle.freezer import Freezer
from services.lifecycle.network import NetworkError
from services.lifecycle.numbering import Numbering
from services.lifecycle.restart_policy import Restarts
from services.lifecycle.runner import ImageMissing, ImageUnsupported, Runner
from services.lifecycle.state import LIVE, Desired, State
from services.lifecycle.store import Store
from services.lifecycle.waits import Waits
from services.lifecycle.watch import RunEnded, Watches

log = structlog.get_logger(__name__)

STOP_TIMEOUT_S = 10
KILL_CONFIRMED_WITHIN_S = 20.0
EXIT_KNOWN_WITHIN_S = 2.0
NODE_FAILURES = (ContainerdError, NetworkError, OSError, TimeoutError)
START_FAILURES = (*NODE_FAILURES, ImageMissing, ImageUnsupported, EntrypointMissing, StartedNothing)


class Transitions:
    def __init__(
        self,
        store: Store,
        runner: Runner,
        tasks: Tasks,
        cgroups: Cgroups,
        watches: Watches,
        waits: Waits,
        start_timeout_s: float,
    ) -> None:
        self._store = store
        self._runner = runner
        self._tasks = tasks
        self._freezer = Freezer(tasks, cgroups)
        self._cgroups = cgroups
        self._watches = watches
        self._waits = waits
        self._start_timeout_s = start_timeout_s

    async def create(
        self, container_id: str, user_id: str, wanted: Wanted, numbering: Numbering, ttl_s: int | None
    ) -> Container:
        """Writes the row; an image that can't be looked up now is looked up by the start."""
        try:
            image = await self._runner.find_image(wanted.image)
        except ContainerdError:
            image = None
        return await self._store.add(container_id, user_id, wanted, image, numbering, ttl_s)

    async def start(self, container: Container) -> Container:
        _refuse_deleted(container)
        if container.state is State.RUNNING:
            return container
        if container.state is State.PAUSED:
            raise Conflict("the container is paused: resume it")
        return await self._bring_up(await self._provision(container))

    async def pause(self, container: Container) -> Container:
        """What the task's status says is the truth, also if we die between the two: see `_adopt`."""
        return await self._freeze(container, State.PAUSED, self._freezer.pause)

    async def resume(self, container: Container) -> Container:
        return await self._freeze(container, State.RUNNING, self._freezer.resume)

    async def stop(self, container: Container, timeout_s: float) -> Container:
        """TERM to PID 1, KILL to everything after `timeout_s`; FAILED where the end can't be confirmed."""
        _refuse_deleted(container)
        self._waits.forget(container.id)
        if container.state is State.STOPPED and container.desired is Desired.STOPPED:
            return container
        container = await self._store.want(container, Desired.STOPPED)
        return container if container.state is State.STOPPED else await self._stop(container, timeout_s)

    async def stop_idle(self, container: Container) -> None:
        if container.desired is Desired.RUNNING:
            container = await self._store.want(container, Desired.STOPPED)
            await self._stop(container, STOP_TIMEOUT_S, reasons.IDLE)

    async def stop_with_node(self, container: Container, timeout_s: float) -> Container:
        """As `stop`, but by nobody's wish: what shall always run, or waits to be started again, is when we are back."""
        _refuse_deleted(container)
        if container.restarts.due_at is not None:
            return container
        outlives = container.desired is Desired.RUNNING and container.wanted.restart_policy.outlives_node
        if not outlives or container.state in (State.STOPPED, State.FAILED):
            return await self.stop(container, timeout_s)
        restarts = container.restarts.at_once(datetime.now(UTC))
        return await self._stop(container, timeout_s, reasons.NODE_STOPPED, restarts)

    async def restart(self, container: Container, timeout_s: float) -> Container:
        _refuse_deleted(container)
        if container.state in LIVE:
            container = await self._stop(container, timeout_s)
            if container.state is State.FAILED:
                return container
        return await self._bring_up(await self._provision(container))

    async def update(self, container: Container, update: Update) -> Container:
        """The row first, then what runs: a name that does not come as far as that is set by the next process of us."""
        _refuse_deleted(container)
        container = await self._store.update(container, update)
        if update.name is not None and container.state in LIVE:
            try:
                await self._runner.rename(container)
            except NODE_FAILURES as error:
                log.warning("rename_unfinished", container_id=container.id, error=repr(error))
                raise Unavailable("the name was changed, the host name inside was not yet: try again") from error
        return container

    async def expire(self, container: Container) -> None:
        if container.expires_at is not None and container.expires_at <= datetime.now(UTC):
            await self.delete(container)

    async def delete(self, container: Container) -> None:
        container = await self._store.want(container, Desired.DELETED)
        self._watches.forget(container.id)
        self._waits.forget(container.id)
        try:
            await self._runner.destroy(container)
        except NODE_FAILURES as error:
            log.warning("delete_unfinished", container_id=container.id, error=repr(error))
            raise Unavailable("the container could not be destroyed yet; it will be as soon as possible") from error
        is_expired = container.expires_at is not None and container.expires_at <= datetime.now(UTC)
        await self._store.remove(replace(container, state_reason=reasons.EXPIRED) if is_expired else container)

    async def ended(self, container: Container, run: RunEnded) -> None:
        """Writes down that a run is over, unless somebody ended it or started another meanwhile."""
        if container.state not in LIVE or container.started_at != run.started_at:
            return
        if container.desired is Desired.DELETED:
            return  # and it will be, with whatever is left of it
        if run.exit is None:
            await self._write_down_end(container, None, reasons.EXIT_UNKNOWN)
            return
        kills = await asyncio.to_thread(self._cgroups.memory_kills, container.id)
        await self._write_down_end(container, run.exit, reasons.of_exit(run.exit.status, kills))

    async def restart_by_policy(self, container: Container) -> None:
        """One that has waited long enough, unless somebody has decided otherwise meanwhile."""
        if container.restarts.due_at is None:
            return
        begun = container.restarts.begun()
        reason = reasons.of_restart(begun.count, container.state_reason)
        # How it ended the last time stays to be seen.
        change = Change(State.PROVISIONING, reason, restarts=begun)
        await self._bring_up(await self._store.change(container, change))

    async def settle(self, container: Container) -> None:
        """Goes on from whatever a row says after a crash: of ours, of containerd, of the node."""
        if container.desired is Desired.DELETED:
            await self.delete(container)
        elif container.desired is Desired.STOPPED:
            if container.state in (State.STOPPED, State.FAILED):
                await self._runner.take_down(container)
            else:
                await self._stop(container, STOP_TIMEOUT_S)
        elif container.state in LIVE:
            await self._adopt(container)
        elif container.restarts.due_at is not None:
            await self._runner.take_down(container)
            self._wait_for_restart(container)
        elif container.state is State.FAILED:
            await self._runner.take_down(container)
        else:
            await self._runner.take_down(container)
            await self._bring_up(await self._provision(container))

    async def _adopt(self, container: Container) -> None:
        """Watches a container that ran on without us, or writes down that it did not, and whether it is paused."""
        task = await self._freezer.find(container)
        if task is not None and task.status is not TaskStatus.STOPPED:
            state = await self._freezer.align(task)
            if state is not container.state:
                container = await self._store.change(container, Change(state, container.state_reason))
        if self._watches.knows(container.id):
            return
        if task is not None:
            # One that has ended meanwhile is reported at once.
            self._watches.watch(container.id, container.started_at)
            await self._finish_rename(container)
            return
        booted = datetime.fromtimestamp(psutil.boot_time(), UTC)
        rebooted = container.started_at is not None and container.started_at < booted
        await self._write_down_end(container, None, reasons.NODE_RESTARTED if rebooted else reasons.EXIT_UNKNOWN)

    async def _freeze(self, container: Container, wanted: State, act: Callable[[str], Awaitable[None]]) -> Container:
        _refuse_deleted(container)
        if container.state not in LIVE:
            raise Conflict(f"the container is {container.state.value}, not running")
        await act(container.id)
        if container.state is wanted:
            return container
        return await self._store.change(container, Change(wanted, container.state_reason))

    async def _finish_rename(self, container: Container) -> None:
        """One that was begun by a process of ours that has died."""
        try:
            await self._runner.rename(container)
        except NODE_FAILURES as error:
            log.warning("rename_unfinished", container_id=container.id, error=repr(error))

    async def _provision(self, container: Container) -> Container:
        """By its owner's wish: it begins anew."""
        if container.state is State.PROVISIONING:
            return container
        self._waits.forget(container.id)
        change = Change(State.PROVISIONING, desired=Desired.RUNNING, forget_last_run=True, restarts=Restarts())
        return await self._store.change(container, change)

    async def _bring_up(self, container: Container) -> Container:
        try:
            async with asyncio.timeout(self._start_timeout_s):
                await self._runner.bring_up(await self._with_image(container))
        except START_FAILURES as error:
            log.warning("start_failed", container_id=container.id, error=repr(error))
            status = await self._exit_status(container.id) if isinstance(error, StartedNothing) else None
            await self._take_down(container)
            change = ends.failed(container, reasons.of_failed_start(error), status, datetime.now(UTC))
            return self._wait_for_restart(await self._store.change(container, change))
        change = Change(State.RUNNING, container.state_reason, started_at=datetime.now(UTC))
        running = await self._store.change(container, change)
        self._watches.watch(container.id, running.started_at)
        return running

    async def _exit_status(self, container_id: str) -> int | None:
        """Of a program that nobody has seen run; None where nobody knows it."""
        try:
            async with asyncio.timeout(EXIT_KNOWN_WITHIN_S):
                return (await self._tasks.wait(container_id)).status
        except (ContainerdError, TimeoutError):
            return None

    async def _with_image(self, container: Container) -> Container:
        """The node may have got the image since the container was made."""
        if container.image is not None:
            return container
        image = await self._runner.find_image(container.wanted.image)
        return container if image is None else await self._store.resolve(container, image)

    def _wait_for_restart(self, container: Container) -> Container:
        if container.restarts.due_at is not None and not self._waits.knows(container.id):
            self._waits.wait(container.id, container.restarts.left_s(datetime.now(UTC)))
        return container

    async def _stop(
        self, container: Container, timeout_s: float, reason: str = "", restarts: Restarts | None = None
    ) -> Container:
        self._watches.forget(container.id)
        try:
            exit_seen = await self._end(container.id, timeout_s)
            await self._runner.take_down(container)
        except NODE_FAILURES as error:
            log.warning("stop_unconfirmed", container_id=container.id, error=repr(error))
            return await self._store.change(container, Change(State.FAILED, reasons.STOP_UNCONFIRMED))
        change = replace(ends.stopped(exit_seen, reason, datetime.now(UTC)), restarts=restarts)
        return await self._store.change(container, change)

    async def _end(self, container_id: str, timeout_s: float) -> TaskExit | None:
        # Nobody who is frozen hears anything.
        self._cgroups.thaw(container_id)
        task = await self._tasks.get(container_id)
        if task is None:
            return None
        if task.status is TaskStatus.PAUSED:
            await self._tasks.resume(container_id)
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
        change = ends.ended(container, exit_seen, reason, datetime.now(UTC))
        self._wait_for_restart(await self._store.change(container, change))

    async def _take_down(self, container: Container) -> None:
        """As far as it goes now: what is left over is found by the reconciler, which looks at the node."""
        try:
            await self._runner.take_down(container)
        except NODE_FAILURES as error:
            log.warning("take_down_unfinished", container_id=container.id, error=repr(error))


def _refuse_deleted(container: Container) -> None:
    if container.desired is Desired.DELETED:
        raise Conflict("the container is being deleted")
