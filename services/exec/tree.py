"""Ending a command with everything it has started.

The root of the tree is the init that runs the command: a subreaper, so whatever a process of the command
starts and leaves behind stays a descendant of it. It is halted first: if it ended with its main child, the
others would be handed to the container's PID 1 and escape.

Signals go through pidfds, and to nobody whose parent is not in the tree: a number may have been given to
another process of the host meanwhile.
"""

import asyncio
import contextlib
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

POLL_S = 0.02
GRACE_S = 5.0
KILL_CONFIRMED_WITHIN_S = 10.0


class NotGone(Exception):
    """Processes could not be killed: they are stuck in the kernel."""


class ProcessTree:
    """A process and its descendants, by host pids. The process must be known to run while this is made."""

    def __init__(self, pid: int) -> None:
        """Raises ProcessLookupError."""
        self._pid = pid
        self._pidfd = os.pidfd_open(pid)

    def close(self) -> None:
        os.close(self._pidfd)

    async def end(self, grace_s: float = GRACE_S) -> None:
        """TERM, after `grace_s` KILL, to all descendants, then KILL to the root. Raises NotGone."""
        if not _send(self._pidfd, signal.SIGSTOP):
            return
        told: set[int] = set()
        loop = asyncio.get_running_loop()
        deadline = loop.time() + grace_s
        while (alive := self.living_descendants()) and loop.time() < deadline:
            # One that is halted takes a TERM only when it goes on.
            self._tell(alive - told, signal.SIGTERM, signal.SIGCONT)
            told |= alive
            await asyncio.sleep(POLL_S)
        deadline = loop.time() + KILL_CONFIRMED_WITHIN_S
        while alive := self.living_descendants():
            if loop.time() > deadline:
                # Frozen, perhaps: all are killed when they go on, and the root must not stay behind halted.
                _send(self._pidfd, signal.SIGKILL)
                raise NotGone
            self._tell(alive, signal.SIGKILL)
            await asyncio.sleep(POLL_S)
        _send(self._pidfd, signal.SIGKILL)

    def signal_command(self, number: signal.Signals) -> None:
        """To the command itself."""
        self._tell({child} if (child := self.first_child()) else set(), number)

    def first_child(self) -> int:
        """The pid of the command itself, as long as its init has not reaped it; 0 then."""
        return next(iter(_children(self._pid)), 0)

    def living_descendants(self) -> set[int]:
        """Pids of everything below the root, but for those that have ended and wait to be reaped."""
        return {pid for pid in self._descendants() if _is_alive(pid)}

    def _descendants(self) -> set[int]:
        found: set[int] = set()
        waiting = [self._pid]
        while waiting:
            for child in _children(waiting.pop()):
                if child not in found:
                    found.add(child)
                    waiting.append(child)
        return found

    def _tell(self, pids: set[int], *numbers: signal.Signals) -> None:
        family = self._descendants() | {self._pid}
        for pid in pids:
            with _opened(pid) as pidfd:
                if pidfd is not None and _parent(pid) in family:
                    for number in numbers:
                        _send(pidfd, number)


@contextmanager
def _opened(pid: int) -> Iterator[int | None]:
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        yield None
        return
    try:
        yield pidfd
    finally:
        os.close(pidfd)


def _send(pidfd: int, number: signal.Signals) -> bool:
    try:
        signal.pidfd_send_signal(pidfd, number)
    except ProcessLookupError:
        return False
    return True


def _children(pid: int) -> list[int]:
    """Of all its threads; none where it is gone."""
    found: list[int] = []
    with contextlib.suppress(OSError):
        for thread in Path(f"/proc/{pid}/task").iterdir():
            found += map(int, (thread / "children").read_text().split())
    return found


def _is_alive(pid: int) -> bool:
    fields = _stat(pid)
    return fields is not None and fields[0] not in "ZX"


def _parent(pid: int) -> int | None:
    fields = _stat(pid)
    return int(fields[1]) if fields is not None else None


def _stat(pid: int) -> list[str] | None:
    """The fields behind the name: state, parent, …"""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
