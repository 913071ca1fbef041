"""openat2(2): opening a path inside a folder that an attacker has filled."""

import ctypes
import os

RESOLVE_NO_MAGICLINKS = 0x02
RESOLVE_NO_SYMLINKS = 0x04
RESOLVE_BENEATH = 0x08
RESOLVE_IN_ROOT = 0x10

_OPENAT2 = 437  # the same on x86_64 and arm64

_libc = ctypes.CDLL(None, use_errno=True)


class _OpenHow(ctypes.Structure):
    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


def openat2(folder: int, path: str, flags: int, resolve: int, mode: int = 0) -> int:
    """Opens `path` as if `folder` were the root, never outside of it; returns a descriptor. Raises OSError."""
    how = _OpenHow(flags=flags | os.O_CLOEXEC, mode=mode, resolve=resolve | RESOLVE_NO_MAGICLINKS)
    size = ctypes.sizeof(how)
    result = int(_libc.syscall(_OPENAT2, folder, os.fsencode(path), ctypes.byref(how), size))
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), path)
    return result
