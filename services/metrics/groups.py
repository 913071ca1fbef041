"""The control groups of an instance as the kernel has them: which there are, and their files, held open."""

import errno
import os
from contextlib import ExitStack
from pathlib import Path

from services.common import layout
from services.common.counters import Counters
from services.common.ids import is_id
from services.metrics.cgroups import V1, V2, Version

CGROUP_ROOT = Path("/sys/fs/cgroup")
# Whatever a file of these holds for one container is far shorter.
MOST_BYTES = 64 * 1024


class GroupGone(Exception):
    """There is no such group (any more)."""


class Group:
    """One container's group. Its files stay open: reading them anew is one system call each.

    Reading never finds another group of the same name: the files of one that was removed say so.
    """

    def __init__(self, version: Version, descriptors: list[int | None], processes: int) -> None:
        self._version = version
        self._descriptors = descriptors
        self._processes = processes
        self._is_closed = False

    @property
    def is_complete(self) -> bool:
        """Whether it has every file: the runtime makes a group tree by tree, and some kernels lack a tree."""
        return None not in self._descriptors

    def read(self) -> Counters:
        """Raises GroupGone, also once it is closed."""
        if self._is_closed:
            raise GroupGone("closed")
        return self._version.parse([self._content(descriptor) for descriptor in self._descriptors])

    def pids(self) -> int:
        """How many processes and threads it holds. Raises GroupGone, also once it is closed."""
        if self._is_closed:
            raise GroupGone("closed")
        return int(self._content(self._descriptors[self._version.pids]) or b"0")

    def processes(self) -> list[int]:
        """Pids of its processes. Raises GroupGone."""
        text, piece = b"", b""
        while piece := _pread(self._processes, len(text)):
            text += piece
        return [int(line) for line in text.split()]

    def close(self) -> None:
        self._is_closed = True
        for descriptor in (self._processes, *self._descriptors):
            if descriptor is not None:
                os.close(descriptor)

    def _content(self, descriptor: int | None) -> bytes:
        return b"" if descriptor is None else _pread(descriptor, 0)


class Groups:
    """Those below `/<instance>`, on version 1 (a tree per controller) and version 2 (one tree)."""

    def __init__(self, instance: str, root: Path = CGROUP_ROOT) -> None:
        self._instance = instance
        self._root = root
        self._version = V2 if (root / "cgroup.controllers").exists() else V1
        # The tree that says which groups there are.
        self._leading = root / self._version.files[0][0]

    def are_here(self) -> bool:
        """Whether the groups of containers are where they are looked for; not before the first container."""
        return (self._leading / layout.cgroup_parent(self._instance)[1:]).is_dir()

    def container_ids(self) -> set[str]:
        """Of every container's group there is, with or without processes."""
        try:
            with os.scandir(self._leading / layout.cgroup_parent(self._instance)[1:]) as entries:
                return {entry.name for entry in entries if is_id(entry.name) and entry.is_dir()}
        except FileNotFoundError:
            return set()

    def open(self, container_id: str) -> Group:
        """Raises GroupGone."""
        path = layout.cgroup(self._instance, container_id)[1:]
        with ExitStack() as undo:
            processes = _open(self._leading / path / "cgroup.procs", undo)
            if processes is None:
                raise GroupGone(container_id)
            descriptors = [_open(self._root / tree / path / name, undo) for tree, name in self._version.files]
            undo.pop_all()
        return Group(self._version, descriptors, processes)


def _open(path: Path, undo: ExitStack) -> int | None:
    """None where there is no such file: not every kernel has every controller."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    undo.callback(os.close, descriptor)
    return descriptor


def _pread(descriptor: int, offset: int) -> bytes:
    try:
        return os.pread(descriptor, MOST_BYTES, offset)
    except OSError as error:
        if error.errno in (errno.ENODEV, errno.ENOENT):
            raise GroupGone(f"descriptor {descriptor}") from error
        raise
