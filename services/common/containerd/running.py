"""What a running container is like for the processes that are added to it."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from services.common.containerd.containers import Containers
from services.common.containerd.tasks import Tasks, TaskStatus

MAX_REMEMBERED = 4096


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
    """Asks containerd each time whether a container runs; its specification is read once a run."""

    def __init__(self, tasks: Tasks, containers: Containers) -> None:
        self._tasks = tasks
        self._containers = containers
        self._known: dict[str, RunningContainer] = {}

    async def find(self, container_id: str) -> RunningContainer | None:
        """None for one that does not run (or is paused). Raises ContainerdError."""
        task = await self._tasks.get(container_id)
        if task is None or task.status is not TaskStatus.RUNNING:
            self._known.pop(container_id, None)
            return None
        known = self._known.get(container_id)
        if known is not None and known.pid == task.pid:
            return known
        process = json.loads(await self._containers.specification(container_id))["process"]
        found = RunningContainer(
            id=container_id,
            pid=task.pid,
            env=dict(entry.split("=", 1) for entry in process["env"]),
            working_dir=process["cwd"],
            open_files_limit=process["rlimits"][0]["hard"],
        )
        if len(self._known) >= MAX_REMEMBERED:
            self._known.clear()
        self._known[container_id] = found
        return found
