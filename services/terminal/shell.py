"""A session's shell: an exec of containerd on a terminal, its FIFOs, its control group, its end."""

import asyncio
import contextlib
import fcntl
import os
import shutil
import signal
from dataclasses import dataclass
from pathlib import Path

import structlog

from services.common.containerd.errors import ContainerdError, ContainerdFailedPrecondition, ContainerdNotFound
from services.common.containerd.processes import Processes, Streams
from services.common.containerd.running import RunningContainer
from services.common.containerd.spec import process_spec
from services.terminal.login import HOLDER, Login
from services.terminal.session_cgroup import NotGone, SessionCgroup

log = structlog.get_logger(__name__)

FIFO_BYTES = 256 * 1024
# The runtime sets the terminal's size beside the start of the program, which may look at it first; and until it
# is in its control group, it may start others outside. So a shell of the container halts itself, and becomes
# the program when it is told to go on.
HOLD = 'kill -STOP $$; unset SHLVL; exec "$@"'
HELD_WITHIN_S = 5.0
HELD_POLL_S = 0.0005
EXIT_KNOWN_WITHIN_S = 2.0
RETRY_S = 0.1


class ShellGone(Exception):
    """It ended before it was there."""


@dataclass(frozen=True)
class Size:
    columns: int
    rows: int


class Shell:
    """`folder`, named like the session, is also the record that there may be an exec of that name to clean up."""

    def __init__(self, processes: Processes, container: RunningContainer, session_id: str, folder: Path) -> None:
        self._processes = processes
        self._container = container
        self._session_id = session_id
        self._folder = folder
        self._pid = 0
        self._pidfd = -1
        self.output = -1
        self.input = -1
        self.cgroup = SessionCgroup.of(container.pid, session_id)
        self.ended = asyncio.Event()

    async def start(self, login: Login, size: Size) -> None:
        """Raises ContainerdError, ShellGone or OSError; `clean_up` is due in any case."""
        streams = self._make_fifos()
        spec = process_spec(
            ((HOLDER, "-c", HOLD, HOLDER) if login.can_be_held else ()) + login.arguments,
            [f"{name}={value}" for name, value in login.env.items()],
            login.working_dir,
            login.account.user,
            self._container.open_files_limit,
            terminal=True,
        )
        spec["consoleSize"] = {"width": size.columns, "height": size.rows}
        await self._processes.add(self._container.id, self._session_id, streams, spec)
        self._pid = await self._processes.start(self._container.id, self._session_id)
        try:
            self._pidfd = os.pidfd_open(self._pid)
        except ProcessLookupError as error:
            raise ShellGone from error
        asyncio.get_running_loop().add_reader(self._pidfd, self._on_end)
        if login.can_be_held:
            await self._wait_until_held()
        with contextlib.suppress(ProcessLookupError):
            self.cgroup.add(self._pid)
        if login.can_be_held:
            self._send(signal.SIGCONT)
        else:
            await self.resize(size)

    async def resize(self, size: Size) -> None:
        """Raises ContainerdError."""
        await self._processes.resize(self._container.id, self._session_id, size.columns, size.rows)

    def signal_foreground(self, number: signal.Signals) -> None:
        """To the processes that the terminal's keys would reach."""
        fields = _stat(self._pid)
        if fields is None or int(fields[5]) <= 0:
            return
        processes = ((pid, _stat(pid)) for pid in self.cgroup.pids())
        reached = [pid for pid, process in processes if process is not None and process[2] == fields[5]]
        self.cgroup.signal(reached, number)

    async def end(self) -> None:
        """Ends it and all that it has started; logs what cannot be killed."""
        try:
            await self.cgroup.end()
        except NotGone:
            log.error("session_not_killed", session_id=self._session_id, container_id=self._container.id)

    async def exit_code(self) -> int | None:
        """Once it has ended; None where containerd does not know any more."""
        with contextlib.suppress(TimeoutError, ContainerdNotFound):
            async with asyncio.timeout(EXIT_KNOWN_WITHIN_S):
                while True:
                    try:
                        return (await self._processes.wait(self._container.id, self._session_id)).status
                    except ContainerdNotFound:
                        raise
                    except ContainerdError as error:
                        log.debug("exit_not_known_yet", session_id=self._session_id, error=str(error))
                        await asyncio.sleep(RETRY_S)
        return None

    async def clean_up(self) -> None:
        """Removes everything of it from the node, however far it had come. Raises ContainerdError: then again later."""
        if self._pidfd >= 0:
            asyncio.get_running_loop().remove_reader(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = -1
        for descriptor in (self.output, self.input):
            if descriptor >= 0:
                os.close(descriptor)
        self.output = self.input = -1
        await delete_exec(self._processes, self._container.id, self._session_id)
        shutil.rmtree(self._folder, ignore_errors=True)

    def _make_fifos(self) -> Streams:
        self._folder.mkdir(mode=0o700)
        (self._folder / "container").write_text(self._container.id)
        streams = Streams(self._folder / "input", self._folder / "output", None, terminal=True)
        for path in (self._folder / "input", self._folder / "output"):
            os.mkfifo(path, 0o600)
        self.output = os.open(self._folder / "output", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        # For reading too, or it could not be opened before its reader is there.
        self.input = os.open(self._folder / "input", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        fcntl.fcntl(self.output, fcntl.F_SETPIPE_SZ, FIFO_BYTES)
        return streams

    async def _wait_until_held(self) -> None:
        try:
            async with asyncio.timeout(HELD_WITHIN_S):
                while (fields := _stat(self._pid)) is not None and fields[0] != "T":
                    if self.ended.is_set():
                        raise ShellGone
                    await asyncio.sleep(HELD_POLL_S)
        except TimeoutError as error:
            raise ShellGone from error

    def _on_end(self) -> None:
        asyncio.get_running_loop().remove_reader(self._pidfd)
        self.ended.set()

    def _send(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._pidfd, number)


async def delete_exec(processes: Processes, container_id: str, session_id: str) -> None:
    """Makes containerd forget the exec, however far it had come. Raises ContainerdError."""
    try:
        await processes.delete(container_id, session_id)
    except ContainerdFailedPrecondition:
        # It runs, or has ended a moment ago.
        await processes.kill(container_id, session_id, signal.SIGKILL)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(EXIT_KNOWN_WITHIN_S):
                await processes.wait(container_id, session_id)
        await processes.delete(container_id, session_id)


def _stat(pid: int) -> list[str] | None:
    """Fields of /proc/<pid>/stat behind the name: state, parent, group, session, terminal, its foreground group…"""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
