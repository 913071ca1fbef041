"""The control groups of containers: memory kills, CPU time, whether they are frozen; taking empty ones away."""

import contextlib
import os
import shutil
from pathlib import Path

from services.common import layout

# In cgroup.freeze (version 2), or freezer.state (version 1).
FROZEN = ("1", "FROZEN", "FREEZING")
CGROUP_ROOT = Path("/sys/fs/cgroup")


class Cgroups:
    """Groups below `/<instance>`, on version 1 (a tree per controller) and version 2 (one tree)."""

    def __init__(self, instance: str, root: Path = CGROUP_ROOT) -> None:
        self._instance = instance
        self.parent = layout.cgroup_parent(instance)
        unified = (root / "cgroup.controllers").exists()
        self._trees = [root] if unified else sorted({tree.resolve() for tree in root.iterdir() if tree.is_dir()})
        self._cpu = ("cpu.stat", root) if unified else ("cpuacct.usage", root / "cpuacct")
        self._freezer = ("cgroup.freeze", root) if unified else ("freezer.state", root / "freezer")
        self._events = ("memory.events", root) if unified else ("memory.oom_control", root / "memory")

    def path(self, container_id: str) -> str:
        """The group as the runtime specification names it."""
        return layout.cgroup(self._instance, container_id)

    def memory_kills(self, container_id: str) -> int:
        """Processes the kernel has killed for want of memory; 0 where the group is gone."""
        name, tree = self._events
        try:
            text = (tree / self.path(container_id)[1:] / name).read_text()
        except OSError:
            return 0
        return memory_kills(text)

    def cpu_usage_ns(self, container_id: str) -> int | None:
        """CPU time of all its processes since the group was made; None where the group is gone."""
        name, tree = self._cpu
        try:
            text = (tree / self.path(container_id)[1:] / name).read_text()
        except OSError:
            return None
        return cpu_usage_ns(text)

    def is_frozen(self, container_id: str) -> bool:
        """Whether its processes are, or shall be."""
        try:
            return self._freezer_file(container_id).read_text().strip() in FROZEN
        except OSError:
            return False

    def thaw(self, container_id: str) -> None:
        """Lets its processes go on, whoever has frozen them; one that has none needs nothing."""
        if self.is_frozen(container_id):
            # The group may go at any moment, with its container.
            with contextlib.suppress(OSError):
                file = self._freezer_file(container_id)
                file.write_text("0" if file.name == "cgroup.freeze" else "THAWED")

    def _freezer_file(self, container_id: str) -> Path:
        name, tree = self._freezer
        return tree / self.path(container_id)[1:] / name

    def remove(self, container_id: str) -> None:
        """Removes what the runtime left of a container's groups, children first; processes must be gone."""
        for tree in self._trees:
            group = tree / self.path(container_id)[1:]
            if not (tree / "cgroup.procs").exists():
                # Not a tree of groups: where version 2 is hidden from crun, it takes a plain folder for one.
                shutil.rmtree(group, ignore_errors=True)
            for folder, _, _ in os.walk(group, topdown=False):
                # A terminal session's group is removed by its own service, perhaps at this moment.
                with contextlib.suppress(FileNotFoundError):
                    Path(folder).rmdir()

    def container_ids(self) -> set[str]:
        """Of every group there is below ours."""
        found: set[str] = set()
        for tree in self._trees:
            parent = tree / self.parent[1:]
            if parent.is_dir():
                found |= {entry.name for entry in parent.iterdir() if entry.is_dir()}
        return found

    def remove_parent(self) -> None:
        for tree in self._trees:
            parent = tree / self.parent[1:]
            if parent.is_dir():
                parent.rmdir()


def cpu_usage_ns(text: str) -> int:
    """Reads `usage_usec` from cpu.stat (version 2), or cpuacct.usage (version 1)."""
    for line in text.splitlines():
        name, _, value = line.partition(" ")
        if name == "usage_usec":
            return int(value) * 1000
    return int(text)


def memory_kills(text: str) -> int:
    """Reads `oom_kill` from memory.events (version 2) or memory.oom_control (version 1)."""
    for line in text.splitlines():
        name, _, value = line.partition(" ")
        if name == "oom_kill":
            return int(value)
    return 0
