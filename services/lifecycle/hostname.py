"""The host name inside a running container, read and set from outside: that of its UTS namespace."""

import contextlib
import ctypes
import errno
import os
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

CLONE_NEWUTS = 0x04000000
# What is larger is no file that we have written.
MAX_HOSTS_BYTES = 64 * 1024
Result = TypeVar("Result")

_libc = ctypes.CDLL(None, use_errno=True)


@contextmanager
def uts_namespace(pid: int) -> Iterator[int]:
    """A descriptor of a process's UTS namespace. Raises OSError, also where it is our own."""
    namespace = os.open(f"/proc/{pid}/ns/uts", os.O_RDONLY | os.O_CLOEXEC)
    try:
        if os.path.samestat(os.fstat(namespace), Path("/proc/self/ns/uts").stat()):
            raise OSError(errno.EPERM, "the host's own UTS namespace", str(pid))
        yield namespace
    finally:
        os.close(namespace)


def host_name(namespace: int) -> str:
    """Blocks for as long as a thread takes to start; so does `set_host_name`. Raises OSError."""
    return _in_namespace(namespace, socket.gethostname)


def set_host_name(namespace: int, name: str) -> None:
    _in_namespace(namespace, lambda: socket.sethostname(name))


def renamed_hosts(text: str, address: str, before: str, name: str) -> str:
    """/etc/hosts with the line of a container's own address changed, if it is still as we have written it."""
    lines = [f"{address} {name}" if line == f"{address} {before}" else line for line in text.split("\n")]
    return "\n".join(lines)


def rename_files(folder: Path, address: str, before: str, name: str) -> None:
    """The files that are bound to /etc/hostname and /etc/hosts: in place, since the binds are of the files.

    Root inside writes to them too, so that neither need be what it was. Raises OSError.
    """
    _write_in_place(folder / "hostname", f"{name}\n".encode())
    with (folder / "hosts").open("rb") as file:
        hosts = file.read(MAX_HOSTS_BYTES + 1)
    if len(hosts) <= MAX_HOSTS_BYTES:
        with contextlib.suppress(UnicodeDecodeError):
            _write_in_place(folder / "hosts", renamed_hosts(hosts.decode(), address, before, name).encode())


def _write_in_place(path: Path, data: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        # Over what is there, which needs no room on a disk that is full.
        os.pwrite(descriptor, data, 0)
        os.ftruncate(descriptor, len(data))
    finally:
        os.close(descriptor)


def _in_namespace(namespace: int, action: Callable[[], Result]) -> Result:
    """In a thread that enters the namespace and ends: no other thread is there, and none has to come back."""
    done: Future[Result] = Future()

    def run() -> None:
        try:
            if _libc.setns(namespace, CLONE_NEWUTS) != 0:
                number = ctypes.get_errno()
                raise OSError(number, os.strerror(number))
            done.set_result(action())
        except OSError as error:
            done.set_exception(error)

    thread = threading.Thread(target=run, name="uts")
    thread.start()
    thread.join()
    return done.result()
