"""The bodies and frames of the commands API. Input is as strict as elsewhere."""

from datetime import datetime
from typing import Annotated, Literal, Self

from pydantic import BaseModel, Field, StringConstraints, TypeAdapter, model_validator
from pydantic_core import PydanticCustomError

from services.gateway.exec_client import Command, CommandOrder, CommandStatus
from services.gateway.schemas import EnvName, Input

MAX_TEXT_BYTES = 128 * 1024
MAX_STDIN_CHARACTERS = 256 * 1024
DEFAULT_OUTPUT_BYTES = 16 * 1024 * 1024
MAX_OUTPUT_BYTES = 1 << 30
MAX_TIMEOUT_S = 7 * 24 * 3600
NO_NUL_PATTERN = r"^[^\x00]*$"

Text = Annotated[str, StringConstraints(pattern=NO_NUL_PATTERN)]


class SubmitCommand(Input):
    """`program` with `args`, executed as it is, or `command`, shell text for `/bin/sh -c`."""

    program: Annotated[str, StringConstraints(pattern=NO_NUL_PATTERN, min_length=1)] | None = Field(
        None, examples=["ls"]
    )
    args: list[Text] = Field(default_factory=list, max_length=4096, description="128 KiB with all other texts")
    command: Annotated[str, StringConstraints(pattern=NO_NUL_PATTERN, min_length=1)] | None = Field(
        None, description="shell text instead of program and args"
    )
    env: dict[EnvName, Text] = Field(default_factory=dict, max_length=128, description="over the container's own")
    cwd: Annotated[str, StringConstraints(pattern=r"^/[^\x00]*$")] | None = Field(
        None, description="absolute; the container's if absent"
    )
    user: Annotated[str, StringConstraints(pattern=r"^[^\x00:]+(:[^\x00:]+)?$", max_length=255)] | None = Field(
        None, description="user[:group], names or numbers; root if absent"
    )
    stdin: Annotated[str, StringConstraints(max_length=MAX_STDIN_CHARACTERS)] | None = Field(
        None, description="what the command reads, and then its end; /dev/null if absent"
    )
    stdin_open: bool = Field(False, description="its stdin stays open for input over the WebSocket, until `eof`")
    timeout_s: int | None = Field(None, ge=1, le=MAX_TIMEOUT_S)
    max_output_bytes: int = Field(
        DEFAULT_OUTPUT_BYTES, ge=1, le=MAX_OUTPUT_BYTES, description="kept over both streams; the rest is only counted"
    )

    @model_validator(mode="after")
    def _is_one_command(self) -> Self:
        if (self.program is None) == (self.command is None):
            raise PydanticCustomError("one_of", "either program or command is needed", {"field": "program"})
        if self.command is not None and self.args:
            raise PydanticCustomError("one_of", "args go with program, not with command", {"field": "args"})
        texts = (self.program or "", *self.args, self.command or "", *self.env, *self.env.values())
        if sum(len(text.encode()) + 1 for text in texts) > MAX_TEXT_BYTES:
            raise PydanticCustomError("too_long", "must not exceed 128 KiB in total", {"field": "args"})
        return self

    def order(self) -> CommandOrder:
        return CommandOrder(
            program=self.program or "",
            args=self.args,
            command=self.command or "",
            env=self.env,
            cwd=self.cwd or "",
            user=self.user or "",
            stdin=self.stdin.encode() if self.stdin is not None else None,
            stdin_open=self.stdin_open,
            timeout_s=self.timeout_s,
            max_output_bytes=self.max_output_bytes,
        )


class CommandRecord(BaseModel):
    id: str
    container_id: str
    requested_by: str = Field(description="user id")
    program: str
    args: list[str]
    command: str | None
    env: dict[str, str]
    cwd: str | None
    user: str | None
    timeout_s: int | None
    max_output_bytes: int
    status: CommandStatus
    exit_code: int | None = Field(description="null while it runs, where a signal ended it, or nobody knows")
    signal: str | None = Field(description="which ended it, such as KILL")
    timed_out: bool
    error: str | None = Field(description="why it could not run, or what is not known of its end")
    stdout: str = Field(description="once it has ended, and not in lists; bytes that are no UTF-8 are replaced")
    stderr: str
    output_omitted: bool = Field(description="more was kept than stands in stdout and stderr: GET …/output has it")
    stdout_bytes: int = Field(description="written by it, kept or not")
    stderr_bytes: int
    truncated: bool = Field(description="not all that it wrote was kept")
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None

    @classmethod
    def of(cls, command: Command) -> Self:
        order = command.order
        # Shell text is shown as what it is run as, so that clients which know only `program` see the truth.
        program, args = ("/bin/sh", ["-c", order.command]) if order.command else (order.program, list(order.args))
        return cls(
            id=command.id,
            container_id=command.container_id,
            requested_by=command.requested_by,
            program=program,
            args=args,
            command=order.command or None,
            env=dict(order.env),
            cwd=order.cwd or None,
            user=order.user or None,
            timeout_s=order.timeout_s,
            max_output_bytes=order.max_output_bytes,
            status=command.status,
            exit_code=command.exit_code,
            signal=command.signal,
            timed_out=command.timed_out,
            error=command.error,
            stdout=command.stdout.decode("utf-8", "replace"),
            stderr=command.stderr.decode("utf-8", "replace"),
            output_omitted=command.output_omitted,
            stdout_bytes=command.stdout_bytes,
            stderr_bytes=command.stderr_bytes,
            truncated=command.truncated,
            created_at=command.created_at,
            started_at=command.started_at,
            finished_at=command.finished_at,
        )


class InputFrame(Input):
    type: Literal["input"]
    data: Annotated[str, StringConstraints(max_length=MAX_STDIN_CHARACTERS)]


class EofFrame(Input):
    type: Literal["eof"]


class SignalFrame(Input):
    type: Literal["signal"]
    signal: Annotated[str, StringConstraints(pattern=r"^[A-Z0-9+-]{1,16}$")]


ClientFrame = TypeAdapter[InputFrame | EofFrame | SignalFrame](
    Annotated[InputFrame | EofFrame | SignalFrame, Field(discriminator="type")]
)
