"""All sessions of the node: opening within limits, finding, ending, and sweeping up after a crash."""

import asyncio
import contextlib
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import structlog

from services.common.activity import Activity, LastActive
from services.common.containerd.errors import ContainerdError
from services.common.containerd.processes import Processes
from services.common.containerd.running import RunningContainer, RunningContainers
from services.common.errors import Conflict, Internal, NotFound, RateLimited, Unavailable
from services.common.ids import is_id, new_id
from services.terminal.attachment import CloseReason
from services.terminal.login import find_login
from services.terminal.recording import Origin, Recorder, Recordings
from services.terminal.session import Order, Session
from services.terminal.session_cgroup import NotGone, SessionCgroup
from services.terminal.shell import Shell, delete_exec

log = structlog.get_logger(__name__)

IDLE_CHECK_S = 1.0
SWEEP_RETRY_S = 0.5


@dataclass(frozen=True)
class Limits:
    per_container: int
    per_node: int
    idle_s: float
    scrollback_bytes: int


@dataclass(frozen=True)
class Wanted:
    """What is asked for when a session is opened; empty texts mean the container's own."""

    order: Order
    shell: str
    working_dir: str
    record: bool


class Sessions:
    """`folder` holds a folder of FIFOs for each session; what is there at the start is somebody's who died."""

    def __init__(
        self,
        processes: Processes,
        containers: RunningContainers,
        recordings: Recordings,
        folder: Path,
        limits: Limits,
        on_opened: Callable[[Session], None],
        on_closed: Callable[[Session, CloseReason], None],
    ) -> None:
        self._processes = processes
        self._containers = containers
        self._recordings = recordings
        self._folder = folder
        self._limits = limits
        self._on_opened = on_opened
        self._on_closed = on_closed
        self._sessions: dict[str, Session] = {}
        self._opening: list[str] = []
        self._last_active = LastActive()
        self._runs: set[asyncio.Task[None]] = set()
        self._is_closed = False

    async def open(self, wanted: Wanted) -> Session:
        """Everything but the start of the shell, which its first size brings about. Raises HzelError."""
        container_id = wanted.order.container_id
        self._refuse_too_many(container_id)
        self._opening.append(container_id)
        try:
            container = await self.running(container_id)
            session_id = new_id()
            try:
                login = await asyncio.to_thread(
                    find_login, container, wanted.order.user, wanted.shell, wanted.working_dir
                )
                shell = Shell(self._processes, container, session_id, self._folder / session_id)
            except OSError as error:
                raise _not_running() from error
        finally:
            self._opening.remove(container_id)
        session = Session(session_id, wanted.order, login, shell, self._limits.scrollback_bytes, self._on_opened)
        self._sessions[session_id] = session
        self._last_active.touch(container_id)
        run = asyncio.create_task(self._run(session, wanted.record))
        self._runs.add(run)
        run.add_done_callback(self._runs.discard)
        return session

    def get(self, session_id: str) -> Session:
        session = self._sessions.get(session_id)
        if session is None:
            raise NotFound("there is no such session, or it has ended")
        return session

    def list(self, container_id: str) -> list[Session]:
        """Of one container, or of all; oldest first."""
        return [one for one in self._sessions.values() if container_id in ("", one.order.container_id)]

    async def activities(self, container_ids: Sequence[str]) -> Sequence[Activity]:
        """A session that waits for its client to come back is one that goes on."""
        open_in = {session.order.container_id for session in self._sessions.values()} | set(self._opening)
        return self._last_active.activities(container_ids, open_in)

    async def running(self, container_id: str) -> RunningContainer:
        """Raises Conflict where it does not run."""
        try:
            container = await self._containers.find(container_id)
        except ContainerdError as error:
            raise Unavailable("the container runtime is not available, try again") from error
        if container is None:
            raise _not_running()
        return container

    async def upkeep(self) -> None:
        """Sweeps, then ends the sessions in which nothing happens; until cancelled."""
        await self._sweep()
        while True:
            await asyncio.sleep(IDLE_CHECK_S)
            for session in self._sessions.values():
                if session.idle_s > self._limits.idle_s:
                    session.ask_end(CloseReason.IDLE)

    async def close(self) -> None:
        """Ends all sessions, and opens no more."""
        self._is_closed = True
        for session in self._sessions.values():
            session.ask_end(CloseReason.STOPPING)
        if self._runs:
            await asyncio.wait(self._runs)

    async def _sweep(self) -> None:
        """Ends what an earlier process of this service has left; waits for containerd if need be."""
        left = {entry.name for entry in self._folder.iterdir()} - set(self._sessions)
        for session_id in sorted(left):
            while True:
                try:
                    await self._sweep_one(session_id)
                    break
                except (ContainerdError, NotGone) as error:
                    log.warning("session_not_swept", session_id=session_id, error=str(error))
                    await asyncio.sleep(SWEEP_RETRY_S)

    async def _sweep_one(self, session_id: str) -> None:
        folder = self._folder / session_id
        record = folder / "container"
        container_id = record.read_text() if record.exists() else ""
        if is_id(container_id) and is_id(session_id):
            container = await self._containers.find(container_id)
            if container is not None:
                with contextlib.suppress(OSError):
                    await SessionCgroup.of(container.pid, session_id).end()
                # Its shell may never have come as far as its group.
                await delete_exec(self._processes, container_id, session_id)
        shutil.rmtree(folder, ignore_errors=True)
        log.info("session_swept", session_id=session_id, container_id=container_id)

    async def _run(self, session: Session, record: bool) -> None:
        try:
            await session.run(partial(self._new_recorder, session) if record else None)
        except Exception:  # a fault of ours ends this session and no other; the next start sweeps what it leaves
            log.exception("session_failed", session_id=session.id)
            session.fail(Internal())
        finally:
            del self._sessions[session.id]
            self._last_active.touch(session.order.container_id)
        if session.closed_for is not None:
            self._on_closed(session, session.closed_for)

    def _new_recorder(self, session: Session) -> Recorder:
        origin = Origin(session.order.container_id, session.order.requested_by)
        return self._recordings.new(session.id, origin, session.size, session.login.env, session.update_reading)

    def _refuse_too_many(self, container_id: str) -> None:
        if self._is_closed:
            raise Unavailable("the terminal service is stopping, try again")
        open_now = [session.order.container_id for session in self._sessions.values()] + self._opening
        if open_now.count(container_id) >= self._limits.per_container:
            raise RateLimited(f"this container has {self._limits.per_container} terminals open, the most it may")
        if len(open_now) >= self._limits.per_node:
            raise RateLimited(f"the node has {self._limits.per_node} terminals open, the most it may")


def _not_running() -> Conflict:
    return Conflict("the container does not run")
