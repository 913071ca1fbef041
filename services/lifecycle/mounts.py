"""The mount system calls that neither Python nor its libraries have."""

import ctypes
import os
import re
from pathlib import Path

AT_FDCWD = -100
AT_EMPTY_PATH = 0x1000
AT_RECURSIVE = 0x8000
OPEN_TREE_CLONE = 1
MOVE_MOUNT_F_EMPTY_PATH = 0x4
MOUNT_ATTR_RDONLY = 0x1
MOUNT_ATTR_NOSUID = 0x2
MOUNT_ATTR_IDMAP = 0x100000
MNT_DETACH = 0x2
UMOUNT_NOFOLLOW = 0x8
MS_NODEV = 0x4
MS_NOATIME = 0x400

# The same numbers on every architecture with the common table (x86_64, arm64).
_OPEN_TREE, _MOVE_MOUNT, _MOUNT_SETATTR = 428, 429, 442

_libc = ctypes.CDLL(None, use_errno=True)


class _MountAttr(ctypes.Structure):
    _fields_ = (
        ("attr_set", ctypes.c_uint64),
        ("attr_clr", ctypes.c_uint64),
        ("propagation", ctypes.c_uint64),
        ("userns_fd", ctypes.c_uint64),
    )


def mount(source: str, target: Path, kind: str, flags: int, options: str) -> None:
    """mount(2). Raises OSError; options that do not fit in a page are refused by the kernel."""
    arguments = (source.encode(), os.fsencode(target), kind.encode(), ctypes.c_ulong(flags), options.encode())
    _check(_libc.mount(*arguments), str(target))


def unmount(target: Path) -> None:
    """Unmounts, lazily where it is still in use; a target that is no mount point, or gone, is no error."""
    if _libc.umount2(os.fsencode(target), MNT_DETACH | UMOUNT_NOFOLLOW) != 0:
        number = ctypes.get_errno()
        if number not in (22, 2):  # EINVAL: not a mount point; ENOENT
            raise OSError(number, os.strerror(number), str(target))


def bind_idmapped(source: Path, target: Path, user_namespace: int) -> None:
    """Shows the tree at `source`, read-only, at `target` with its owners shifted as the user namespace maps them."""
    tree = _check(_libc.syscall(_OPEN_TREE, AT_FDCWD, os.fsencode(source), OPEN_TREE_CLONE | os.O_CLOEXEC), str(source))
    try:
        attributes = _MountAttr(attr_set=MOUNT_ATTR_IDMAP | MOUNT_ATTR_RDONLY, userns_fd=user_namespace)
        size = ctypes.sizeof(attributes)
        _check(
            _libc.syscall(_MOUNT_SETATTR, tree, b"", AT_EMPTY_PATH, ctypes.byref(attributes), size),
            str(source),
        )
        _check(
            _libc.syscall(_MOVE_MOUNT, tree, b"", AT_FDCWD, os.fsencode(target), MOVE_MOUNT_F_EMPTY_PATH),
            str(target),
        )
    finally:
        os.close(tree)


def mount_points_below(folder: Path) -> list[Path]:
    """Every mount point of this mount namespace at or below the folder, innermost first."""
    return parse_mount_points(Path("/proc/self/mountinfo").read_text(), folder)


def parse_mount_points(mountinfo: str, folder: Path) -> list[Path]:
    """The same from the text of a mountinfo file (proc(5): the fifth field, octal escapes)."""
    points = [Path(_unescape(line.split(" ")[4])) for line in mountinfo.splitlines()]
    below = [point for point in points if point == folder or folder in point.parents]
    return below[::-1]


def _unescape(text: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match.group(1), 8)), text)


def _check(result: int, path: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), path)
    return result
