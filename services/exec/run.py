"""One command from its start, or from where an earlier process of this service left it, to its outcome."""

import asyncio
import signal
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

import structlog

from services.common import inside
from services.common.containerd.accounts import NoSuchUser, find_account
from services.common.containerd.errors import ContainerdAlreadyExists, ContainerdError, ContainerdUnavailable
from services.common.containerd.processes import Processes, Streams
from services.common.containerd.running import RunningContainer, RunningContainers
from services.common.containerd.spec import INIT_IN_CONTAINER, process_spec
from services.common.containerd.tasks import TaskExit, TaskStatus
from services.exec.command import Command, Outcome, Status
from services.exec.exit_events import Ending
from services.exec.keeper_client import KeeperClient
from services.exec.output import OutputFiles, Stream
from services.exec.process import Fifos, InputWriter, OutputReader, is_disk_full, wait_for_end
from services.exec.tree import GRACE_S, NotGone, ProcessTree

log = structlog.get_logger(__name__)

NOT_RUNNING = "the container is not running"
LOST = "exit status unknown: the container runtime lost it"
CONTAINER_STOPPED = "the container stopped while the command ran"
SEEN_LATELY_S = 0.5
# containerd restarts within seconds.
DELETE_ATTEMPTS, DELETE_RETRY_S = 60, 0.5
KILLED = 128 + signal.SIGKILL


class CouldNotStart(Exception):
    """The message is for the owner."""


class StopReason(Enum):
    CANCELLED = "cancelled"
    TIMED_OUT = "timed out"
    OUTPUT_LOST = "its output could not be kept: the node has no room for it"


@dataclass(frozen=True)
class Node:
    """What runs need of the node."""

    processes: Processes
    containers: RunningContainers
    keeper: KeeperClient
    files: OutputFiles
    fifos: Path


class Run:
    def __init__(self, node: Node, command: Command, container: RunningContainer | None = None) -> None:
        """`container` has just been seen running, if it is given."""
        self._node = node
        self.command = command
        self.started = asyncio.Event()
        self.ended = asyncio.Event()
        # Set once its stdin and its processes can be reached, or never will be.
        self._reachable = asyncio.Event()
        self.output = node.files.log(command.id, command.spec.max_output_bytes)
        self._seen, self._seen_at = container, time.monotonic()
        self._fifos = Fifos(node.fifos / command.id)
        self._reader: OutputReader | None = None
        self._input: InputWriter | None = None
        self._tree: ProcessTree | None = None
        self._pid = 0
        self._child = 0
        self._stop_reason: StopReason | None = None
        self._waiting: asyncio.Task[TaskExit | None] | None = None
        self._ending: asyncio.Task[None] | None = None
        self._feeding: asyncio.Task[None] | None = None
        self._failing: asyncio.Task[None] | None = None

    async def execute(self, mark_running: Callable[[], Awaitable[Command]]) -> Outcome:
        """Starts the command and follows it to its end; `mark_running` is done before it can have run."""
        try:
            await self._start(mark_running)
        except CouldNotStart as error:
            if self._reader is not None:
                await self._reader.finish(quiet_s=0)
            return self._outcome(Status.FAILED, error=str(error))
        return await self._follow()

    async def adopt(self) -> Outcome:
        """Goes on with a command that was marked as running by an earlier process."""
        self.started.set()
        task = await self._node.processes.get(self.command.container_id, self.command.id)
        if self._fifos.folder.exists():
            self._attach_output()
        if task is None:
            await self._read_rest()
            return await self._judge(None)
        self._pid = task.pid
        if task.status is TaskStatus.CREATED:
            try:
                self._pid = await self._node.processes.start(self.command.container_id, self.command.id)
            except ContainerdError as error:
                log.info("already_started", command_id=self.command.id, error=str(error))
        if task.status is not TaskStatus.STOPPED:
            self._attach_process()
        return await self._follow()

    def broken(self, error: Exception) -> Outcome:
        """For a run that failed on our side."""
        unavailable = isinstance(error, ContainerdUnavailable)
        return self._outcome(
            Status.FAILED,
            error="the container runtime went away" if unavailable else "something went wrong on our side",
        )

    async def stop(self, reason: StopReason) -> None:
        """Ends the command with all it has started; the outcome says why. Returns when its processes are gone."""
        if self._stop_reason is None:
            self._stop_reason = reason
        if self._tree is not None:
            if self._ending is None:
                self._child = self._child or self._tree.first_child()
                self._ending = asyncio.create_task(self._end_tree(self._tree))
            await asyncio.shield(self._ending)

    async def write_input(self, data: bytes) -> bool:
        """Whether its stdin is open for input."""
        await self._reachable.wait()
        if self._input is None or not self._input.is_open or not self.command.spec.stdin_open:
            return False
        await self._input.write(data)
        return True

    async def end_input(self) -> bool:
        await self._reachable.wait()
        if self._input is None or not self._input.is_open:
            return False
        await self._input.end()
        return True

    async def signal(self, number: signal.Signals) -> None:
        await self._reachable.wait()
        if self._tree is not None:
            self._tree.signal_command(number)

    async def wait_until_started(self) -> None:
        """Returns when it runs, or never will."""
        waits = [asyncio.create_task(event.wait()) for event in (self.started, self.ended)]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()

    async def clean_up(self) -> None:
        """Once the outcome is written down: leaves nothing of the process."""
        if self._waiting is not None:
            self._waiting.cancel()
        if self._reader is not None:
            await self._reader.finish(quiet_s=0)
        self._node.keeper.release(self.command.id)
        if self._tree is not None:
            self._tree.close()
            self._tree = None
        if await self._delete():
            self._fifos.remove()

    async def _delete(self) -> bool:
        """Whether containerd has forgotten the process. If not, the folder stays for the sweep of the next start."""
        for _ in range(DELETE_ATTEMPTS):
            try:
                await self._node.processes.delete(self.command.container_id, self.command.id)
            except ContainerdUnavailable:
                await asyncio.sleep(DELETE_RETRY_S)
            except ContainerdError as error:
                log.warning("delete_failed", command_id=self.command.id, error=str(error))
                return False
            else:
                return True
        return False

    async def _start(self, mark_running: Callable[[], Awaitable[Command]]) -> None:
        command, processes = self.command, self._node.processes
        container = await self._find_container()
        spec = self._process(container)
        has_input = command.spec.stdin is not None or command.spec.stdin_open
        streams = self._fifos.make(has_input)
        self._attach_output()
        try:
            _, self.command = await asyncio.gather(self._add(streams, spec), mark_running())
            # Asked before it can have ended, so that its end is known at once.
            self._waiting = self._wait_for_end()
            self._pid = await processes.start(command.container_id, command.id)
        except ContainerdError as error:
            log.warning("start_failed", command_id=command.id, error=str(error))
            raise CouldNotStart(await self._why_not_started()) from error
        self._attach_process()

    async def _add(self, streams: Streams, spec: Mapping[str, object]) -> None:
        container_id, exec_id = self.command.container_id, self.command.id
        try:
            await self._node.processes.add(container_id, exec_id, streams, spec)
        except ContainerdAlreadyExists:
            # Left by an earlier process of this service, which had not marked it as running: it never ran.
            await self._node.processes.delete(container_id, exec_id)
            await self._node.processes.add(container_id, exec_id, streams, spec)

    async def _find_container(self) -> RunningContainer:
        if self._seen is not None and time.monotonic() - self._seen_at < SEEN_LATELY_S:
            return self._seen
        try:
            container = await self._node.containers.find(self.command.container_id)
        except ContainerdError as error:
            raise CouldNotStart("the container runtime is not available") from error
        if container is None:
            raise CouldNotStart(NOT_RUNNING)
        return container

    async def _why_not_started(self) -> str:
        self._seen = None
        try:
            await self._find_container()
        except CouldNotStart as reason:
            return str(reason)
        return "the container runtime could not start it"

    def _process(self, container: RunningContainer) -> dict[str, object]:
        """The process to add, looked up in the container's own files. Raises CouldNotStart."""
        spec = self.command.spec
        working_dir = spec.cwd or container.working_dir
        try:
            with inside.opened_root(container.root) as root:
                account = find_account(root, spec.user)
                env = {**container.env, "HOME": account.home, **spec.env}
                if not inside.is_directory(root, working_dir):
                    raise CouldNotStart(f"there is no directory {working_dir!r} in the container")
                program = spec.arguments[0]
                if inside.find_executable(root, program, env.get("PATH", ""), working_dir) is None:
                    raise CouldNotStart(f"there is no executable {program!r} in the container")
        except NoSuchUser as error:
            raise CouldNotStart(str(error)) from error
        except OSError as error:
            raise CouldNotStart(NOT_RUNNING) from error
        arguments = (INIT_IN_CONTAINER, "-s", "--", *spec.arguments)
        variables = [f"{name}={value}" for name, value in env.items()]
        return process_spec(arguments, variables, working_dir, account.user, container.open_files_limit, False)

    def _attach_output(self) -> None:
        readers = self._fifos.open_readers()
        self._reader = OutputReader(readers, self.output, self._on_output_failure)
        self._node.keeper.hold(self.command.id, list(readers.values()))

    def _attach_process(self) -> None:
        """The process has been started: what it says, what it is told, and how it can be ended."""
        command = self.command
        self._node.keeper.watch(command.id, self._pid)
        try:
            self._tree = ProcessTree(self._pid)
            self._child = self._tree.first_child()
        except ProcessLookupError:
            log.debug("ended_at_once", command_id=command.id)
        stdin = self._fifos.folder / "stdin"
        if stdin.exists() and self._tree is not None:
            try:
                self._input = InputWriter(stdin, self._node.processes, command.container_id, command.id)
            except OSError as error:
                log.debug("nobody_reads_stdin", command_id=command.id, error=str(error))
                return
            self._feeding = asyncio.create_task(self._feed(self._input))

    async def _feed(self, stdin: InputWriter) -> None:
        if self.command.spec.stdin is not None:
            await stdin.write(self.command.spec.stdin)
        if not self.command.spec.stdin_open:
            await stdin.end()

    async def _follow(self) -> Outcome:
        self._reachable.set()
        if self._reader is not None:
            self._reader.start()
        if self._stop_reason is not None:
            # Cancelled in the moment it was started.
            await self.stop(self._stop_reason)
        timer = asyncio.create_task(self._expire())
        try:
            if self._waiting is None:
                self._waiting = self._wait_for_end()
            exit_seen = await self._waiting
        finally:
            timer.cancel()
        if self._feeding is not None:
            self._feeding.cancel()
        if self._input is not None:
            self._input.close()
        if self._ending is not None:
            await self._ending
        await self._read_rest()
        return await self._judge(exit_seen)

    def _wait_for_end(self) -> asyncio.Task[TaskExit | None]:
        return asyncio.create_task(wait_for_end(self._node.processes, self.command.container_id, self.command.id))

    async def _read_rest(self) -> None:
        if self._reader is not None:
            self._reader.start()
            await self._reader.finish()
        self.output.complete()

    async def _expire(self) -> None:
        if self.command.spec.timeout_s is not None:
            await asyncio.sleep(self.command.spec.timeout_s)
            await self.stop(StopReason.TIMED_OUT)

    async def _end_tree(self, tree: ProcessTree) -> None:
        try:
            await tree.end(GRACE_S)
        except NotGone:
            log.error("processes_stuck", command_id=self.command.id)

    def _on_output_failure(self, error: OSError) -> None:
        log.error("output_lost", command_id=self.command.id, error=str(error), disk_full=is_disk_full(error))
        self._failing = asyncio.create_task(self.stop(StopReason.OUTPUT_LOST))

    async def _judge(self, exit_seen: TaskExit | None) -> Outcome:
        """From the runtime's status and what the kernel said of the command itself."""
        status = exit_seen.status if exit_seen is not None else None
        ending = await self._ask_for_ending(status)
        exit_code = ending.exit_code if ending is not None else status
        if self._stop_reason is not None and ending is None:
            # The status is that of the init, which we have killed ourselves.
            exit_code = None
        signal_name = ending.signal if ending is not None else ""
        error = LOST if status is None and ending is None else ""
        if self._stop_reason is StopReason.CANCELLED:
            return self._outcome(Status.CANCELLED, exit_code, signal_name)
        if self._stop_reason is not None:
            timed_out = self._stop_reason is StopReason.TIMED_OUT
            error = "" if timed_out else self._stop_reason.value
            return self._outcome(Status.FAILED, exit_code, signal_name, timed_out, error)
        if status in (None, KILLED) and signal_name in ("", "KILL") and await self._container_is_gone():
            # The kernel has killed everything in it.
            return self._outcome(Status.FAILED, None, "KILL", error=CONTAINER_STOPPED)
        succeeded = exit_code == 0 and not error
        return self._outcome(Status.SUCCEEDED if succeeded else Status.FAILED, exit_code, signal_name, error=error)

    async def _ask_for_ending(self, status: int | None) -> Ending | None:
        """What the kernel said of the command's end, where the runtime's status leaves anything open."""
        if self._stop_reason is not None:
            return await self._node.keeper.ending(self.command.id, self._pid, 0, self._child) if self._child else None
        if status is None:
            return await self._node.keeper.ending(self.command.id, self._pid, KILLED, self._child)
        return await self._node.keeper.ending(self.command.id, self._pid, status) if status > 128 else None

    async def _container_is_gone(self) -> bool:
        try:
            container = await self._node.containers.find(self.command.container_id)
        except ContainerdError:
            return False
        return container is None or container.is_ending

    def _outcome(
        self,
        status: Status,
        exit_code: int | None = None,
        signal_name: str = "",
        timed_out: bool = False,
        error: str = "",
    ) -> Outcome:
        self._reachable.set()
        output = self.output
        output.complete()
        return Outcome(
            status=status,
            exit_code=exit_code,
            signal=signal_name,
            timed_out=timed_out,
            error=error,
            stdout_bytes=output.written(Stream.STDOUT),
            stderr_bytes=output.written(Stream.STDERR),
            truncated=output.truncated,
        )
