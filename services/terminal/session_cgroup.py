"""A control group for one session, below its container's: nothing that is started in it can leave it.

Whoever detaches from the terminal, changes its parent or clears its environment is still found here. On
version 1 the tree of the `pids` controller is used: it also forbids new processes while they are killed.
"""

import asyncio
import contextlib
import os
import signal
from collections.abc import Iterable
from pathlib import Path

CGROUP_ROOT = Path("/sys/fs/cgroup")
POLL_S = 0.01
HANG_UP_S = 0.25
KILL_CONFIRMED_WITHIN_S = 10.0


class NotGone(Exception):
    """Processes could not be killed: they are stuck in the kernel."""


class SessionCgroup:
    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @classmethod
    def of(cls, container_pid: int, session_id: str, root: Path = CGROUP_ROOT) -> "SessionCgroup":
        """The session's group in the container whose PID 1 this is. Raises OSError when that is gone."""
        text = Path(f"/proc/{container_pid}/cgroup").read_text()
        return cls(container_folder(text, root, (root / "cgroup.controllers").exists()) / f"session-{session_id}")

    def add(self, pid: int) -> None:
        """Makes the group and moves a process into it; whatever that one starts from now on is in it too."""
        self._folder.mkdir(exist_ok=True)
        (self._folder / "cgroup.procs").write_text(str(pid))

    def pids(self) -> list[int]:
        """Of the processes in the group, as the host counts; zombies are none of them."""
        try:
            return [pid for pid in map(int, (self._folder / "cgroup.procs").read_text().split()) if _is_alive(pid)]
        except OSError:
            return []

    async def end(self) -> None:
        """Hangs up on everything in the group, kills what is left, and removes the group. Raises NotGone."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + HANG_UP_S
        told: set[int] = set()
        while (alive := set(self.pids())) and loop.time() < deadline:
            # One that is halted hears it only when it goes on.
            self.signal(alive - told, signal.SIGHUP, signal.SIGCONT)
            told |= alive
            await asyncio.sleep(POLL_S)
        deadline = loop.time() + KILL_CONFIRMED_WITHIN_S
        while self.pids():
            if loop.time() > deadline:
                raise NotGone
            self._kill()
            await asyncio.sleep(POLL_S)
        await self._remove(deadline)

    def signal(self, pids: Iterable[int], *numbers: signal.Signals) -> None:
        """To processes of the group; one that is gone, or whose number is somebody else's now, gets nothing."""
        with contextlib.ExitStack() as stack:
            opened = {}
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    opened[pid] = os.pidfd_open(pid)
                    stack.callback(os.close, opened[pid])
            # What is opened stays what it is: only now can it be looked at.
            for pid in set(self.pids()) & set(opened):
                for number in numbers:
                    with contextlib.suppress(ProcessLookupError):
                        signal.pidfd_send_signal(opened[pid], number)

    def _kill(self) -> None:
        kill, most = self._folder / "cgroup.kill", self._folder / "pids.max"
        # The group may go at any moment, with its container.
        with contextlib.suppress(OSError):
            if kill.exists():
                kill.write_text("1")
                return
            # Version 1 kills one by one, so they must not multiply meanwhile.
            most.write_text("0")
        self.signal(self.pids(), signal.SIGKILL)

    async def _remove(self, deadline: float) -> None:
        while True:
            try:
                self._folder.rmdir()
            except FileNotFoundError:
                return
            except OSError:
                # Zombies count until they are reaped.
                if asyncio.get_running_loop().time() > deadline:
                    raise NotGone from None
                await asyncio.sleep(POLL_S)
            else:
                return


def container_folder(text: str, root: Path, is_unified: bool) -> Path:
    """From /proc/<pid>/cgroup: the group of version 2, else that of the `pids` controller."""
    for line in text.splitlines():
        _, controllers, path = line.split(":", 2)
        if is_unified and not controllers:
            return root / path[1:]
        if not is_unified and "pids" in controllers.split(","):
            return root / "pids" / path[1:]
    raise OSError("the process is in no control group that could be used")


def _is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False
