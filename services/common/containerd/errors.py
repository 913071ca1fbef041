"""What containerd answers, as exceptions of our own.

ContainerdError
├── ContainerdNotFound
├── ContainerdAlreadyExists
├── ContainerdFailedPrecondition
└── ContainerdUnavailable      it is down, restarting, or did not answer in time
"""

from collections.abc import Iterator
from contextlib import contextmanager

import grpc


class ContainerdError(Exception):
    """The message is containerd's and may name host paths: for logs, not for clients."""


class ContainerdNotFound(ContainerdError):
    pass


class ContainerdAlreadyExists(ContainerdError):
    pass


class ContainerdFailedPrecondition(ContainerdError):
    pass


class ContainerdUnavailable(ContainerdError):
    pass


_BY_STATUS = {
    grpc.StatusCode.NOT_FOUND: ContainerdNotFound,
    grpc.StatusCode.ALREADY_EXISTS: ContainerdAlreadyExists,
    grpc.StatusCode.FAILED_PRECONDITION: ContainerdFailedPrecondition,
    grpc.StatusCode.UNAVAILABLE: ContainerdUnavailable,
    grpc.StatusCode.DEADLINE_EXCEEDED: ContainerdUnavailable,
    grpc.StatusCode.CANCELLED: ContainerdUnavailable,
}
# A shim whose connection broke is reported as an unknown error with one of these words in it.
_CONNECTION_LOST = ("ttrpc: closed", "connection reset", "connection refused", "transport is closing")


@contextmanager
def containerd_errors(what: str, identifier: str) -> Iterator[None]:
    """Raises a ContainerdError that says what was done to which object; a cancelled caller stays cancelled."""
    try:
        yield
    except grpc.aio.AioRpcError as error:
        details = error.details() or ""
        kind = _BY_STATUS.get(error.code(), ContainerdError)
        if kind is ContainerdError and any(words in details for words in _CONNECTION_LOST):
            kind = ContainerdUnavailable
        raise kind(f"{what} {identifier}: {error.code().name}: {details}") from error
