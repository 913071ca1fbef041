"""What a running container is like for the processes that are added to it."""

import contextlib
import json
import os
import select
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from services.common.containerd.containers import Containers
from services.common.containerd.tasks import Tasks, TaskStatus

MAX_REMEMBERED = 4096
CGROUP_ROOT = Path("/sys/fs/cgroup")
THAWED = ("0", "THAWED")


@dataclass(frozen=True)
class RunningContainer:
    """`pid` is PID 1's on the host; `env` and the user are those its own process was started with."""

    id: str
    pid: int
    env: Mapping[str, str]
    working_dir: str
    open_files_limit: int

    @property
    def root(self) -> Path:
        """Its root filesystem, to be looked into only as services.common.inside does."""
        return Path(f"/proc/{self.pid}/root")

    @property
    def is_ending(self) -> bool:
        """PID 1 has begun to exit: the kernel takes its memory before it kills the others, and tells of it after."""
        try:
            Path(f"/proc/{self.pid}/exe").readlink()
        except OSError:
            return True
        return False


class RunningContainers:
    """Asks containerd which process is a container's PID 1, and then the kernel, as long as that process lives."""

    def __init__(self, tasks: Tasks, containers: Containers, cgroup_root: Path = CGROUP_ROOT) -> None:
        self._tasks = tasks
        self._containers = containers
        self._cgroup_root = cgroup_root
        self._known: dict[str, _Known] = {}

    async def find(self, container_id: str) -> RunningContainer | None:
        """None for one that does not run (or is paused). Raises ContainerdError."""
        known = self._known.get(container_id)
        if known is not None and known.runs():
            return known.container
        task = await self._tasks.get(container_id)
        if task is None or task.status is not TaskStatus.RUNNING:
            self._forget(container_id)
            return None
        # Another call may have been faster.
        known = self._known.get(container_id)
        if known is not None and known.container.pid == task.pid:
            return known.container
        process = json.loads(await self._containers.specification(container_id))["process"]
        found = RunningContainer(
            id=container_id,
            pid=task.pid,
            env=dict(entry.split("=", 1) for entry in process["env"]),
            working_dir=process["cwd"],
            open_files_limit=process["rlimits"][0]["hard"],
        )
        self._remember(found)
        return found

    def _remember(self, container: RunningContainer) -> None:
        self._forget(container.id)
        if len(self._known) >= MAX_REMEMBERED:
            self._forget(next(iter(self._known)))
        with contextlib.suppress(OSError):
            self._known[container.id] = _Known(container, self._cgroup_root)

    def _forget(self, container_id: str) -> None:
        known = self._known.pop(container_id, None)
        if known is not None:
            known.close()


class _Known:
    """A container whose PID 1 can be asked for without containerd: by a pidfd, which is never another process's."""

    def __init__(self, container: RunningContainer, cgroup_root: Path) -> None:
        """Raises OSError when the process is gone."""
        self.container = container
        self._pidfd = os.pidfd_open(container.pid)
        try:
            groups = Path(f"/proc/{container.pid}/cgroup").read_text()
        except OSError:
            os.close(self._pidfd)
            raise
        self._freezer = freezer_file(groups, cgroup_root)
        self._poll = select.poll()
        self._poll.register(self._pidfd, select.POLLIN)

    def runs(self) -> bool:
        """Whether it lives and is not frozen, as far as can be seen from here."""
        # Readable once it has ended, waited for or not.
        if self._poll.poll(0):
            return False
        try:
            return self._freezer is not None and self._freezer.read_text().strip() in THAWED
        except OSError:
            return False

    def close(self) -> None:
        os.close(self._pidfd)


def freezer_file(groups: str, root: Path) -> Path | None:
    """The file that says whether a process is frozen (pure), from its /proc/<pid>/cgroup; see cgroups(7).

    On version 1 the freezer has a tree of its own, on version 2 every group has one.
    """
    paths = {controllers: path for _, controllers, path in (line.split(":", 2) for line in groups.splitlines())}
    if "freezer" in paths:
        return root / "freezer" / paths["freezer"].lstrip("/") / "freezer.state"
    return root / paths[""].lstrip("/") / "cgroup.freeze" if "" in paths else None
