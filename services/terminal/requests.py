"""Requests as they must be before anything is done with them. Raises ValidationFailed.

The gateway says the same to clients with more words; here it is checked again because the node is not to
depend on that.
"""

import signal

from hzel.terminal.v1 import terminal_pb2 as pb

from services.common.errors import ContainerNotFound, FieldError, NotFound, ValidationFailed
from services.common.ids import is_id
from services.terminal.session import Order
from services.terminal.sessions import Wanted
from services.terminal.shell import Size

MAX_SIDE = 1000
MAX_TEXT = 4096
MAX_RESUME_S = 86400
SIGNALS = frozenset(
    {
        signal.SIGHUP,
        signal.SIGINT,
        signal.SIGQUIT,
        signal.SIGKILL,
        signal.SIGUSR1,
        signal.SIGUSR2,
        signal.SIGTERM,
        signal.SIGCONT,
        signal.SIGSTOP,
        signal.SIGTSTP,
        signal.SIGWINCH,
    }
)


def wanted(request: pb.Open) -> Wanted:
    if not is_id(request.container_id):
        raise ContainerNotFound
    order = Order(
        container_id=request.container_id,
        requested_by=request.requested_by,
        user=_text("user", request.user),
        resume_s=_between("resume", request.resume_s, 0, MAX_RESUME_S),
    )
    return Wanted(order, _text("shell", request.shell), _text("cwd", request.working_dir), request.record)


def size(request: pb.Size) -> Size:
    return Size(_between("cols", request.columns, 1, MAX_SIDE), _between("rows", request.rows, 1, MAX_SIDE))


def signal_number(number: int) -> signal.Signals:
    try:
        asked = signal.Signals(number)
    except ValueError as error:
        raise _invalid("signal", "is none") from error
    if asked not in SIGNALS:
        raise _invalid("signal", "is none that may be sent")
    return asked


def session_id(text: str) -> str:
    if not is_id(text):
        raise NotFound("there is no such session, or it has ended")
    return text


def _text(field: str, value: str) -> str:
    if "\0" in value or len(value.encode()) > MAX_TEXT:
        raise _invalid(field, f"holds no NUL and {MAX_TEXT} bytes at most")
    return value


def _between(field: str, value: int, least: int, most: int) -> int:
    if not least <= value <= most:
        raise _invalid(field, f"must be from {least} to {most}")
    return value


def _invalid(field: str, message: str) -> ValidationFailed:
    return ValidationFailed(f"{field} {message}", (FieldError(field, message),))
