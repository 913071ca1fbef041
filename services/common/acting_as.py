"""Touching files with the rights of another user, in one thread.

The file system's idea of the user is each thread's own (setfsuid(2)), and so are the groups where the system
call is made directly: the C library would change them for the whole process.
"""

import ctypes
import os
import platform
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

_SETGROUPS = {"x86_64": 116, "aarch64": 159}
_libc = ctypes.CDLL(None, use_errno=True)


@contextmanager
def acting_as(uid: int, gid: int, groups: Sequence[int]) -> Iterator[None]:
    """The block opens, makes and renames files as that user of the host; not to be held over an `await`.

    Only for root, whose capabilities over files rest meanwhile. Raises OSError.
    """
    before = os.getgroups()
    try:
        _set_groups(groups)
        _libc.setfsgid(gid)
        _libc.setfsuid(uid)
        yield
    finally:
        _libc.setfsuid(os.geteuid())
        _libc.setfsgid(os.getegid())
        _set_groups(before)


def _set_groups(groups: Sequence[int]) -> None:
    array = (ctypes.c_uint32 * len(groups))(*groups)
    if _libc.syscall(_SETGROUPS[platform.machine()], len(groups), array) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
