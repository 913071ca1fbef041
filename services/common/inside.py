"""A container's files as seen from outside, where everything in them may be a trap.

A path is resolved as if the container's root were the only one; a file is opened only when it is known to be
a regular one, since opening a FIFO can block and opening a device can do anything.
"""

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from services.common.openat2 import RESOLVE_IN_ROOT, openat2

MAX_FILE_BYTES = 1024 * 1024


@contextmanager
def opened_root(root: Path) -> Iterator[int]:
    """A descriptor of a root filesystem: a mounted one, or /proc/<pid>/root. Raises OSError."""
    descriptor = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def read_file(root: int, path: str, most: int = MAX_FILE_BYTES) -> bytes:
    """The beginning of a regular file, `most` bytes of it. Raises OSError."""
    with _opened_path(root, path) as descriptor:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "no regular file", path)
        with Path(f"/proc/self/fd/{descriptor}").open("rb", buffering=0) as file:
            return file.read(most)


def is_directory(root: int, path: str) -> bool:
    try:
        with _opened_path(root, path) as descriptor:
            return stat.S_ISDIR(os.fstat(descriptor).st_mode)
    except OSError:
        return False


def find_executable(root: int, program: str, search_path: str, working_dir: str) -> str | None:
    """Where execvp would find a program, None where it would not.

    What is found may still not run (no interpreter, another architecture): that shows when it does.
    """
    if "/" in program:
        candidates = [PurePosixPath(working_dir, program)]
    else:
        candidates = [PurePosixPath(working_dir, folder or ".", program) for folder in search_path.split(":")]
    return next((str(candidate) for candidate in candidates if _is_executable(root, str(candidate))), None)


def _is_executable(root: int, path: str) -> bool:
    try:
        with _opened_path(root, path) as descriptor:
            mode = os.fstat(descriptor).st_mode
    except OSError:
        return False
    return stat.S_ISREG(mode) and mode & 0o111 != 0


@contextmanager
def _opened_path(root: int, path: str) -> Iterator[int]:
    descriptor = openat2(root, path.lstrip("/") or ".", os.O_PATH, RESOLVE_IN_ROOT)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
