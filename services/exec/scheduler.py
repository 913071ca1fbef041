"""Owns every command that has not ended: starts them in turn, follows each to its end, takes over after a crash."""

import asyncio
import contextlib
import signal
from collections.abc import Sequence
from datetime import UTC, datetime

import psutil
import structlog

from services.common.activity import Activity, LastActive
from services.common.containerd.errors import ContainerdError
from services.common.containerd.running import RunningContainer
from services.common.errors import Unavailable
from services.common.rpc.figures import Figure
from services.exec.command import Command, Outcome, Status
from services.exec.output import Stream
from services.exec.process import Fifos
from services.exec.queue import FairQueue
from services.exec.run import Node, Run, StopReason
from services.exec.store import Store

log = structlog.get_logger(__name__)

RETRY_S = 0.5
NODE_RESTARTED = "exit status unknown: the node was restarted while the command ran"
NEVER_RAN = "the node was restarted before the command ran"


class Scheduler:
    def __init__(self, store: Store, node: Node, queue: FairQueue) -> None:
        self._store = store
        self._node = node
        self._queue = queue
        self._runs: dict[str, Run] = {}
        self._last_active = LastActive()
        self._following: set[asyncio.Task[None]] = set()

    def find(self, command_id: str) -> Run | None:
        """The run of a command that has not ended."""
        return self._runs.get(command_id)

    def check_room(self, container_id: str) -> None:
        """Raises QueueFull."""
        self._queue.check_room(container_id)

    def activities(self, container_ids: Sequence[str]) -> list[Activity]:
        """A command that waits for its turn is one that goes on."""
        return self._last_active.activities(container_ids, {run.command.container_id for run in self._runs.values()})

    async def figures(self) -> list[Figure]:
        return [
            Figure("commands_queued", "Commands that wait for a slot.", self._queue.waiting),
            Figure("commands_running", "Commands that have one.", self._queue.running),
        ]

    def enqueue(self, command: Command, container: RunningContainer | None = None) -> None:
        """`container` has just been seen running, if it is given."""
        self._runs[command.id] = Run(self._node, command, container)
        self._last_active.touch(command.container_id)
        self._queue.add(command.container_id, command.id)
        self._start_next()

    async def cancel(self, run: Run) -> None:
        """Returns when it has ended."""
        if self._queue.remove(run.command.container_id, run.command.id):
            await self._write_down(run, Outcome(Status.CANCELLED))
            self._let_go(run)
            return
        await run.stop(StopReason.CANCELLED)
        await run.ended.wait()

    async def recover(self) -> None:
        """Takes over what an earlier process of this service left: runs, the queue, and what nobody owns."""
        booted = datetime.fromtimestamp(psutil.boot_time(), UTC)
        queued = []
        for command in await self._store.unfinished():
            if (command.started_at or command.created_at) < booted:
                await self._write_off(command)
            elif command.status is Status.RUNNING:
                self._runs[command.id] = run = Run(self._node, command)
                self._queue.occupy(command.container_id)
                self._begin(run, adopted=True)
            else:
                queued.append(command)
        await self._sweep(set(self._runs))
        for command in queued:
            self.enqueue(command)

    async def close(self) -> None:
        """Lets go of the running commands: they run on, and the next process takes them over."""
        for task in self._following:
            task.cancel()
        await asyncio.gather(*self._following, return_exceptions=True)

    def _start_next(self) -> None:
        while (command_id := self._queue.next()) is not None:
            self._begin(self._runs[command_id], adopted=False)

    def _begin(self, run: Run, adopted: bool) -> None:
        task = asyncio.create_task(self._follow(run, adopted))
        self._following.add(task)
        task.add_done_callback(self._following.discard)

    async def _follow(self, run: Run, adopted: bool) -> None:
        async def mark_running() -> Command:
            run.command = await self._store.mark_running(run.command)
            run.started.set()
            return run.command

        with run.output.in_use():
            try:
                outcome = await (run.adopt() if adopted else run.execute(mark_running))
            except Exception as error:
                # Whatever it is, the command's record must not stay open, nor its slot taken.
                log.exception("run_failed", command_id=run.command.id)
                outcome = run.broken(error)
            await self._write_down(run, outcome)
            self._let_go(run)
            self._queue.release(run.command.container_id)
            self._start_next()
            await run.clean_up()

    async def _write_down(self, run: Run, outcome: Outcome) -> None:
        """As often as it takes: what has happened can't be undone because the database is away."""
        while True:
            try:
                run.command = await self._store.finish(run.command, outcome)
            except Unavailable as error:
                log.warning("outcome_not_written", command_id=run.command.id, error=type(error).__name__)
                await asyncio.sleep(RETRY_S)
            else:
                return

    def _let_go(self, run: Run) -> None:
        self._runs.pop(run.command.id, None)
        self._last_active.touch(run.command.container_id)
        run.output.complete()
        run.ended.set()

    async def _write_off(self, command: Command) -> None:
        """It was there before the node was restarted."""
        output = self._node.files.log(command.id, command.spec.max_output_bytes)
        outcome = Outcome(
            Status.FAILED,
            error=NODE_RESTARTED if command.status is Status.RUNNING else NEVER_RAN,
            stdout_bytes=output.written(Stream.STDOUT),
            stderr_bytes=output.written(Stream.STDERR),
            truncated=output.truncated,
        )
        await self._store.finish(command, outcome)

    async def _sweep(self, owned: set[str]) -> None:
        """Ends what was prepared and never marked as running, and what had ended but was not cleaned up."""
        folders = list(self._node.fifos.iterdir()) if self._node.fifos.exists() else []
        for folder in folders:
            if folder.name in owned:
                continue
            command = await self._store.find(folder.name)
            if command is not None:
                # One that was only prepared can't be killed, but deleted.
                with contextlib.suppress(ContainerdError):
                    await self._node.processes.kill(command.container_id, command.id, signal.SIGKILL)
                with contextlib.suppress(ContainerdError):
                    await self._node.processes.delete(command.container_id, command.id)
            self._node.keeper.forget(folder.name)
            Fifos(folder).remove()
