"""Putting a file into a container from outside: whole or not at all, and nowhere but into it.

Where the path leads is decided by the container's own root: `..` ends there, links are followed as the container
would follow them, the links of /proc that lead elsewhere are not. What is there already is replaced by a rename,
never opened: it may be a device, or lead to one.
"""

import contextlib
import errno
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from services.common.acting_as import acting_as
from services.common.containerd.spec import User
from services.common.openat2 import RESOLVE_IN_ROOT, openat2

MODE = 0o644
MAX_LINKS = 40
MAX_NAME = 255


@dataclass(frozen=True)
class Owner:
    """Ids on the host; `is_root` inside the container, who may write everywhere in it."""

    uid: int
    gid: int
    groups: tuple[int, ...]
    is_root: bool

    @classmethod
    def of(cls, pid: int, user: User) -> "Owner":
        """A user of the container that this process is in. Raises OSError, also for one it does not have."""
        uids, gids = (Path(f"/proc/{pid}/{kind}_map").read_text() for kind in ("uid", "gid"))
        groups = tuple(mapped(gids, group) for group in user.groups)
        return cls(mapped(uids, user.uid), mapped(gids, user.gid), groups, user.uid == 0)

    @contextmanager
    def acting(self) -> Iterator[None]:
        if self.is_root:
            yield
        else:
            with acting_as(self.uid, self.gid, self.groups):
                yield


class NewFile:
    """Blocks: not for the event loop. Raises OSError throughout, with what a user of the container would be told."""

    def __init__(self, root: int, path: str, owner: Owner) -> None:
        """`root` is a descriptor of the container's root; a path that exists must be a regular file's."""
        self._owner = owner
        with owner.acting():
            self._folder, self._name, mode = _find(root, path)
            try:
                self._unfinished = f".{self._name[: MAX_NAME // 4]}.{secrets.token_hex(8)}.part"
                flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
                self._file = os.open(self._unfinished, flags, 0o600, dir_fd=self._folder)
            except OSError:
                os.close(self._folder)
                raise
        try:
            os.fchown(self._file, owner.uid, owner.gid)
            os.fchmod(self._file, mode)
        except OSError:
            self.abandon()
            raise

    def write(self, data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(self._file, rest) :]

    def commit(self) -> None:
        """The file is there, under its name and on the disk; `abandon` has nothing left to do but close."""
        os.fsync(self._file)
        with self._owner.acting():
            os.rename(self._unfinished, self._name, src_dir_fd=self._folder, dst_dir_fd=self._folder)

    def abandon(self) -> None:
        """Takes away what was not committed, and closes."""
        with contextlib.suppress(OSError):
            os.unlink(self._unfinished, dir_fd=self._folder)
        os.close(self._file)
        os.close(self._folder)


def mapped(id_map: str, number: int) -> int:
    """The host's id for one inside, from the text of /proc/<pid>/{uid,gid}_map. Raises OSError."""
    for line in id_map.splitlines():
        inside, outside, count = map(int, line.split())
        if inside <= number < inside + count:
            return outside + number - inside
    raise OSError(errno.EINVAL, "the container has no such id")


def _find(root: int, path: str) -> tuple[int, str, int]:
    """A descriptor of the folder, the name in it, and the mode to have there."""
    for _ in range(MAX_LINKS):
        parent, _, name = path.rpartition("/")
        if name in ("", ".", ".."):
            raise OSError(errno.EISDIR, os.strerror(errno.EISDIR))
        folder = openat2(root, parent.lstrip("/") or ".", os.O_PATH | os.O_DIRECTORY, RESOLVE_IN_ROOT)
        try:
            mode = _mode(folder, name)
            if mode is None:
                target = os.readlink(name, dir_fd=folder)
        except OSError:
            os.close(folder)
            raise
        if mode is not None:
            return folder, name, mode
        os.close(folder)
        # Joined and not normalised: the kernel knows which folder a `..` in it starts from.
        path = target if target.startswith("/") else f"{parent}/{target}"
    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))


def _mode(folder: int, name: str) -> int | None:
    """Of what is there, else `MODE`; None for a link."""
    try:
        found = os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode
    except FileNotFoundError:
        return MODE
    if stat.S_ISLNK(found):
        return None
    if stat.S_ISDIR(found):
        raise OSError(errno.EISDIR, os.strerror(errno.EISDIR))
    if not stat.S_ISREG(found):
        raise OSError(errno.EINVAL, "Not a regular file")
    return stat.S_IMODE(found) & 0o777
