"""Requests as they must be before anything is done with them. Raises ValidationFailed."""

import re
import signal

from hzel.exec.v1 import exec_pb2 as pb

from services.common.errors import CommandNotFound, FieldError, ValidationFailed
from services.common.ids import is_id
from services.exec.command import CommandSpec
from services.exec.output import Stream

MAX_TEXT_BYTES = 128 * 1024
MAX_STDIN_BYTES = 1024 * 1024
MAX_INPUT_BYTES = 1024 * 1024
MAX_OUTPUT_BYTES = 1 << 30
DEFAULT_OUTPUT_BYTES = 16 * 1024 * 1024
MAX_TIMEOUT_S = 7 * 24 * 3600
MAX_WAIT_S = 60.0
MAX_PAGE = 500
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
STREAMS = {Stream.STDOUT: pb.OUTPUT_STREAM_STDOUT, Stream.STDERR: pb.OUTPUT_STREAM_STDERR}
_BY_NUMBER: dict[int, Stream] = {int(number): stream for stream, number in STREAMS.items()}


def command_id(text: str) -> str:
    """Raises CommandNotFound: nothing else can be behind what is no id."""
    if not is_id(text):
        raise CommandNotFound
    return text


def new_id(field: str, text: str) -> str:
    if not is_id(text):
        raise _invalid(field, "must be a UUID")
    return text


def spec(given: pb.CommandSpec) -> CommandSpec:
    if bool(given.program) == bool(given.command):
        raise _invalid("program", "or command is needed, and only one of them")
    if given.command and given.args:
        raise _invalid("args", "go with program, not with command")
    texts = (given.program, *given.args, given.command, *given.env, *given.env.values(), given.cwd, given.user)
    if any("\0" in text for text in texts):
        raise _invalid("args", "must hold no NUL")
    if sum(len(text.encode()) + 1 for text in texts) > MAX_TEXT_BYTES:
        raise _invalid("args", "are limited to 128 KiB, with the environment")
    if not all(_VARIABLE.fullmatch(name) for name in given.env):
        raise _invalid("env", "has a name that is no variable's")
    if given.cwd and not given.cwd.startswith("/"):
        raise _invalid("cwd", "must be an absolute path")
    if len(given.stdin) > MAX_STDIN_BYTES:
        raise _invalid("stdin", "is limited to 1 MiB")
    if given.HasField("timeout_s"):
        _between("timeout_s", given.timeout_s, 1, MAX_TIMEOUT_S)
    return CommandSpec(
        program=given.program,
        args=tuple(given.args),
        command=given.command,
        env=dict(given.env),
        cwd=given.cwd,
        user=given.user,
        stdin=given.stdin if given.HasField("stdin") else None,
        stdin_open=given.stdin_open,
        timeout_s=given.timeout_s if given.HasField("timeout_s") else None,
        max_output_bytes=_between(
            "max_output_bytes", given.max_output_bytes or DEFAULT_OUTPUT_BYTES, 1, MAX_OUTPUT_BYTES
        ),
    )


def wait(seconds: float) -> float:
    if not 0 <= seconds <= MAX_WAIT_S:
        raise _invalid("wait", f"must be from 0 to {MAX_WAIT_S:.0f}")
    return seconds


def page_limit(limit: int) -> int:
    return _between("limit", limit, 1, MAX_PAGE)


def offset(value: int) -> int:
    if value < 0:
        raise _invalid("offset", "must not be negative")
    return value


def stream(number: int) -> Stream:
    if number not in _BY_NUMBER:
        raise _invalid("stream", "must be stdout or stderr")
    return _BY_NUMBER[number]


def signal_number(name: str) -> signal.Signals:
    try:
        return signal.Signals[f"SIG{name.upper().removeprefix('SIG')}"]
    except KeyError as error:
        raise _invalid("signal", "is no signal's name") from error


def input_data(data: bytes) -> bytes:
    if len(data) > MAX_INPUT_BYTES:
        raise _invalid("data", "is limited to 1 MiB")
    return data


def _between(field: str, value: int, least: int, most: int) -> int:
    if not least <= value <= most:
        raise _invalid(field, f"must be from {least} to {most}")
    return value


def _invalid(field: str, message: str) -> ValidationFailed:
    return ValidationFailed(f"{field} {message}", (FieldError(field, message),))
