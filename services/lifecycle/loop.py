"""Loop devices: a file as a block device (linux/loop.h)."""

import ctypes
import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

LOOP_CTL_GET_FREE = 0x4C82
LOOP_CONFIGURE = 0x4C0A
LO_FLAGS_AUTOCLEAR = 4
ATTEMPTS = 64


class _LoopInfo(ctypes.Structure):
    _fields_ = (
        ("device", ctypes.c_uint64),
        ("inode", ctypes.c_uint64),
        ("rdevice", ctypes.c_uint64),
        ("offset", ctypes.c_uint64),
        ("size_limit", ctypes.c_uint64),
        ("number", ctypes.c_uint32),
        ("encrypt_type", ctypes.c_uint32),
        ("encrypt_key_size", ctypes.c_uint32),
        ("flags", ctypes.c_uint32),
        ("file_name", ctypes.c_char * 64),
        ("crypt_name", ctypes.c_char * 64),
        ("encrypt_key", ctypes.c_uint8 * 32),
        ("init", ctypes.c_uint64 * 2),
    )


class _LoopConfig(ctypes.Structure):
    _fields_ = (
        ("fd", ctypes.c_uint32),
        ("block_size", ctypes.c_uint32),
        ("info", _LoopInfo),
        ("reserved", ctypes.c_uint64 * 8),
    )


@contextmanager
def attached(file: Path) -> Iterator[str]:
    """Yields the path of a loop device for the file.

    The kernel lets the device go by itself when its last user does: mount it inside the block, and it
    lives as long as that mount, whatever becomes of us.
    """
    backing = os.open(file, os.O_RDWR | os.O_CLOEXEC)
    try:
        device, path = _configure(backing, file.name)
    finally:
        os.close(backing)
    try:
        yield path
    finally:
        os.close(device)


def _configure(backing: int, name: str) -> tuple[int, str]:
    config = _LoopConfig(fd=backing)
    config.info.flags = LO_FLAGS_AUTOCLEAR
    config.info.file_name = name.encode()[:63]
    control = os.open("/dev/loop-control", os.O_RDWR | os.O_CLOEXEC)
    try:
        for _ in range(ATTEMPTS):
            path = f"/dev/loop{fcntl.ioctl(control, LOOP_CTL_GET_FREE)}"
            device = os.open(path, os.O_RDWR | os.O_CLOEXEC)
            try:
                fcntl.ioctl(device, LOOP_CONFIGURE, config)
            except OSError as error:
                os.close(device)
                if error.errno != errno.EBUSY:
                    raise
                # Somebody else took the same free device: ask for the next.
                continue
            return device, path
    finally:
        os.close(control)
    raise OSError(errno.EBUSY, "no free loop device")
