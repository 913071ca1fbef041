"""What can be asked of commands."""

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator, Sequence

from services.common.activity import Activity
from services.common.containerd.errors import ContainerdError
from services.common.containerd.running import RunningContainers
from services.common.errors import Conflict, RateLimited, Unavailable
from services.common.locks import KeyedLocks
from services.exec.command import Command, CommandSpec, Status
from services.exec.output import OutputFiles, OutputLog, Piece, Stream
from services.exec.queue import QueueFull
from services.exec.run import NOT_RUNNING, Run
from services.exec.scheduler import Scheduler
from services.exec.store import Store

PIECE_BYTES = 64 * 1024
READY_WITHIN_S = 5.0
CHARACTER_BYTES = 4  # the longest in UTF-8


class Operations:
    def __init__(self, store: Store, scheduler: Scheduler, containers: RunningContainers, files: OutputFiles) -> None:
        self._store = store
        self._scheduler = scheduler
        self._containers = containers
        self._files = files
        self._seq = 0
        self._submitting = KeyedLocks()
        self._recovered = asyncio.Event()

    async def recover(self) -> None:
        """Before anything is begun: takes over from an earlier process of this service."""
        self._seq = await self._store.last_seq()
        await self._scheduler.recover()
        self._recovered.set()

    async def submit(
        self, command_id: str, container_id: str, requested_by: str, spec: CommandSpec, wait_s: float
    ) -> Command:
        """Queues a command; the same id again answers for the first. Raises Conflict, RateLimited, Unavailable."""
        await self._wait_until_recovered()
        # Who waits for the end is told nothing before, and the end is durable with all that was before it.
        is_durable = wait_s == 0
        async with self._submitting.holding(command_id):
            command = await self._store.find(command_id)
            if command is None:
                command = await self._add(command_id, container_id, requested_by, spec, is_durable)
            elif (command.container_id, command.requested_by) != (container_id, requested_by):
                raise Conflict("this id belongs to another command")
            else:
                is_durable = False
        command = await self._settled(command, wait_s)
        if not is_durable and not command.status.is_final:
            await self._store.confirm(command)
        return command

    async def get(self, command_id: str, wait_s: float = 0) -> Command:
        """As it is when it has ended, or after `wait_s` seconds. Raises CommandNotFound."""
        return await self._settled(await self._store.get(command_id), wait_s)

    async def page(self, container_id: str, before_id: str, limit: int) -> list[Command]:
        """The newest first."""
        return await self._store.page(container_id, before_id, limit)

    async def cancel(self, command_id: str) -> Command:
        """Returns when the command has ended, however it has. Raises CommandNotFound."""
        await self._wait_until_recovered()
        command = await self._store.get(command_id)
        run = self._scheduler.find(command_id)
        if run is None:
            return command
        await self._scheduler.cancel(run)
        return run.command

    async def watch(self, command_id: str, offset: int) -> AsyncIterator[Status | Piece | Command]:
        """The status and its changes, the output from an offset on, at last the ended command."""
        command = await self._store.get(command_id)
        run = self._scheduler.find(command_id)
        if run is None:
            yield command.status
            output = self._ended_output(command)
        else:
            yield run.command.status
            output = run.output
            if run.command.status is Status.QUEUED:
                await run.wait_until_started()
                if not run.ended.is_set():
                    yield Status.RUNNING
        with output.in_use():
            for stream in Stream:
                if (earlier := output.before(offset, stream, CHARACTER_BYTES - 1)) is not None:
                    yield earlier
            while True:
                await output.wait_beyond(offset)
                piece = output.read(offset, PIECE_BYTES)
                if piece is None:
                    break
                offset += len(piece.data)
                yield piece
        if run is not None:
            await run.ended.wait()
            command = run.command
        yield command

    async def activities(self, container_ids: Sequence[str]) -> list[Activity]:
        """Raises Unavailable while it is not known what runs."""
        await self._wait_until_recovered()
        return self._scheduler.activities(container_ids)

    async def send_input(self, command_id: str, data: bytes) -> None:
        """Returns when the command's stdin has taken it. Raises Conflict unless that is open for input."""
        if not await (await self._running(command_id)).write_input(data):
            raise Conflict("the command's stdin is not open")

    async def end_input(self, command_id: str) -> None:
        if not await (await self._running(command_id)).end_input():
            raise Conflict("the command's stdin is not open")

    async def send_signal(self, command_id: str, number: signal.Signals) -> None:
        await (await self._running(command_id)).signal(number)

    async def read_output(self, command_id: str, stream: Stream, offset: int) -> AsyncIterator[bytes]:
        """What is kept of one stream now, from an offset in that stream."""
        command = await self._store.get(command_id)
        run = self._scheduler.find(command_id)
        output = self._ended_output(command) if run is None else run.output
        with output.in_use():
            while data := output.read_stream(stream, offset, PIECE_BYTES):
                offset += len(data)
                yield data

    def beginning(self, command: Command, most: int) -> tuple[bytes, bytes, bool]:
        """stdout and stderr of an ended command, `most` bytes of each, and whether more was kept."""
        if not command.status.is_final or command.stdout_bytes + command.stderr_bytes == 0:
            return b"", b"", False
        output = self._ended_output(command)
        with output.in_use():
            stdout, stderr = (output.read_stream(stream, 0, most) for stream in Stream)
            return stdout, stderr, any(output.kept(stream) > most for stream in Stream)

    async def _add(
        self, command_id: str, container_id: str, requested_by: str, spec: CommandSpec, durable: bool
    ) -> Command:
        try:
            self._scheduler.check_room(container_id)
            container = await self._containers.find(container_id)
        except QueueFull as error:
            raise RateLimited("too many commands wait for this container") from error
        except ContainerdError as error:
            raise Unavailable("the container runtime is not available, try again") from error
        if container is None:
            raise Conflict(NOT_RUNNING)
        self._seq += 1
        command = await self._store.add(command_id, self._seq, container_id, requested_by, spec, durable)
        self._scheduler.enqueue(command, container)
        return command

    def _ended_output(self, command: Command) -> OutputLog:
        output = self._files.log(command.id, command.spec.max_output_bytes)
        output.is_complete = True
        return output

    async def _running(self, command_id: str) -> Run:
        command = await self._store.get(command_id)
        run = self._scheduler.find(command_id)
        if run is None or not run.started.is_set():
            raise Conflict(f"the command is {command.status.value}, not running")
        return run

    async def _settled(self, command: Command, wait_s: float) -> Command:
        run = self._scheduler.find(command.id)
        if run is None:
            return command if command.status.is_final else await self._store.get(command.id)
        with contextlib.suppress(TimeoutError):
            if wait_s > 0:
                async with asyncio.timeout(wait_s):
                    await run.ended.wait()
        return run.command

    async def _wait_until_recovered(self) -> None:
        try:
            async with asyncio.timeout(READY_WITHIN_S):
                await self._recovered.wait()
        except TimeoutError as error:
            raise Unavailable("the node's container runtime is not available, try again") from error
