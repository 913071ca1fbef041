"""A command as exec knows it: one row, frozen."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import Enum


class Status(Enum):
    """
    QUEUED ──► RUNNING ──► SUCCEEDED (exit code 0)
      │  │        ├──────► FAILED (any other end)
      │  │        └──────► CANCELLED
      │  └───────────────► FAILED (it could not be started)
      └──────────────────► CANCELLED
    """

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def is_final(self) -> bool:
        return self not in (Status.QUEUED, Status.RUNNING)


@dataclass(frozen=True)
class CommandSpec:
    """What was asked for. `command` is shell text; without it `program` is executed as it is.

    `stdin` None is /dev/null; `stdin_open` lets input follow later. Limits: seconds, bytes over both streams.
    """

    program: str
    args: tuple[str, ...]
    command: str
    env: Mapping[str, str]
    cwd: str
    user: str
    stdin: bytes | None
    stdin_open: bool
    timeout_s: int | None
    max_output_bytes: int

    @property
    def arguments(self) -> tuple[str, ...]:
        return ("/bin/sh", "-c", self.command) if self.command else (self.program, *self.args)


@dataclass(frozen=True)
class Command:
    """Bytes count what the command wrote, kept or not; `error` is empty or a sentence for its owner."""

    id: str
    seq: int
    container_id: str
    requested_by: str
    spec: CommandSpec
    status: Status
    exit_code: int | None
    signal: str
    timed_out: bool
    error: str
    stdout_bytes: int
    stderr_bytes: int
    truncated: bool
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None


@dataclass(frozen=True)
class Outcome:
    """How a command ended. A signal's death has no exit code; where neither is known `error` says so."""

    status: Status
    exit_code: int | None = None
    signal: str = ""
    timed_out: bool = False
    error: str = ""
    stdout_bytes: int = 0
    stderr_bytes: int = 0
    truncated: bool = False
