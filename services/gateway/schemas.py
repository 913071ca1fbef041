"""The bodies of the REST API. Input is strict: no unknown field, no `"1"`, `1.0` or `true` for 1."""

import re
from collections.abc import Iterable
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Annotated, Any, Generic, Literal, Self, TypeVar

from pydantic import (
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from services.gateway.accounts import Role, Token
from services.gateway.clients import DEFAULT_STOP_TIMEOUT_S, Container, ContainerState, Update, Wanted

MAX_ENV_BYTES = 64 * 1024
MAX_COMMAND_BYTES = 128 * 1024
MAX_LABEL_VALUE = 255
INT32_MAX = 2**31 - 1
ALL_PERMISSIONS = 255

# [registry[:port]/]name[:tag][@digest]
_NAME_PART = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
IMAGE_PATTERN = (
    rf"^(?:[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?(?::[0-9]{{1,5}})?/)?{_NAME_PART}(?:/{_NAME_PART})*"
    r"(?::[A-Za-z0-9_][A-Za-z0-9_.-]{0,127})?(?:@sha256:[0-9a-f]{64})?$"
)
LABEL_KEY_PATTERN = r"^[A-Za-z0-9](?:[A-Za-z0-9._/-]{0,61}[A-Za-z0-9])?$"
RESTART_POLICY_PATTERN = r"^(?:no|always|on-failure(?::[1-9][0-9]{0,5})?)$"
NO_CONTROLS_PATTERN = r"^[^\x00-\x1f\x7f]*$"
_RFC_3339 = re.compile(r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(\.\d{1,9})?([Zz]|[+-]\d\d:\d\d)")

Data = TypeVar("Data")


class Envelope(BaseModel, Generic[Data]):
    data: Data


class ErrorDetail(BaseModel):
    field: str
    message: str


class ErrorBody(BaseModel):
    code: str = Field(examples=["VALIDATION_FAILED"])
    message: str = Field(description="for people")
    request_id: str
    details: list[ErrorDetail] | None = Field(None, description="which fields are at fault; absent where none is")


class ErrorEnvelope(BaseModel):
    error: ErrorBody


class Input(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


def _without_default(schema: dict[str, Any]) -> None:
    """ "" stands for absent and is no value that a client can send."""
    del schema["default"]


Hostname = Annotated[str, StringConstraints(pattern=r"^[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?$", max_length=63)]
EnvName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", max_length=255)]
LabelKey = Annotated[str, StringConstraints(pattern=LABEL_KEY_PATTERN, max_length=63)]
Seconds = Annotated[int, Field(ge=1, le=INT32_MAX)] | None
LabelValue = Annotated[str, StringConstraints(pattern=NO_CONTROLS_PATTERN, max_length=MAX_LABEL_VALUE)]


class CreateContainer(Input):
    """`hostname`, or its other name `name`, is required. The node's own limits apply on top of those shown."""

    model_config = ConfigDict(json_schema_extra={"anyOf": [{"required": ["hostname"]}, {"required": ["name"]}]})

    hostname: Hostname = Field(
        "",
        description="RFC 1123 label, unique among the owner's containers",
        examples=["web-1"],
        json_schema_extra=_without_default,
    )
    name: Hostname = Field("", description="another name of hostname", json_schema_extra=_without_default)
    cpu_cores: int = Field(1, ge=1, le=INT32_MAX)
    memory_mb: int = Field(512, ge=32, le=INT32_MAX, description="MiB")
    disk_gb: int = Field(18, ge=1, le=INT32_MAX, description="GiB")
    image: Annotated[str, StringConstraints(pattern=IMAGE_PATTERN, max_length=255)] | None = Field(
        None, description="a reference; the node's default image if absent", examples=["hzel/debian:12"]
    )
    command: Annotated[list[str], Field(min_length=1, max_length=1024)] | None = Field(
        None, description="program and arguments, 128 KiB in total; the image's own if absent"
    )
    env: dict[EnvName, str] = Field(default_factory=dict, max_length=128, description="64 KiB in total")
    labels: dict[LabelKey, LabelValue] = Field(default_factory=dict, max_length=64)
    runtime: Literal["crun", "runc", "runsc"] | None = Field(None, description="the node's default if absent")
    restart_policy: Annotated[str, StringConstraints(pattern=RESTART_POLICY_PATTERN)] = Field(
        "no",
        description="no, on-failure, on-failure:<restarts at most> or always; what you have stopped is never restarted",
    )
    auto_stop_s: Seconds = Field(
        None,
        description="stops after so long without a command, a terminal, or one per cent of its CPUs; never if absent",
    )
    ttl_s: Seconds = Field(None, description="deleted after so long, whatever it does; never if absent")
    networks: list[str] = Field(default_factory=list, max_length=15, description="not implemented yet unless empty")

    @field_validator("env")
    @classmethod
    def _env_is_bounded(cls, value: dict[str, str]) -> dict[str, str]:
        if _bytes(value.keys()) + _bytes(value.values()) > MAX_ENV_BYTES:
            raise ValueError("must not exceed 64 KiB in total")
        return value

    @field_validator("command")
    @classmethod
    def _command_is_bounded(cls, value: list[str] | None) -> list[str] | None:
        if value is not None:
            if not value[0]:
                raise ValueError("must name a program first")
            if _bytes(value) > MAX_COMMAND_BYTES:
                raise ValueError("must not exceed 128 KiB in total")
        return value

    @model_validator(mode="after")
    def _has_one_name(self) -> Self:
        if not self.hostname and not self.name:
            raise PydanticCustomError("missing", "Field required", {"field": "hostname"})
        if self.hostname and self.name and self.hostname != self.name:
            raise PydanticCustomError("names_differ", "is another name of hostname, and differs", {"field": "name"})
        return self

    def unbuilt_fields(self) -> list[str]:
        """The fields given that ask for what this version does not do."""
        asked = {
            "networks": bool(self.networks),
        }
        return [field for field, is_asked in asked.items() if is_asked]

    def wanted(self) -> Wanted:
        return Wanted(
            name=self.hostname or self.name,
            cpu_cores=self.cpu_cores,
            memory_mb=self.memory_mb,
            disk_gb=self.disk_gb,
            image=self.image or "",
            command=self.command or [],
            env=self.env,
            labels=self.labels,
            runtime=self.runtime or "",
            restart_policy=self.restart_policy,
            auto_stop_s=self.auto_stop_s,
        )


class UpdateContainer(Input):
    """What is absent stays as it is."""

    name: Hostname = Field(
        "",
        description="RFC 1123 label, unique among the owner's containers; the host name inside, too",
        json_schema_extra=_without_default,
    )
    labels: dict[LabelKey, LabelValue] = Field(
        default_factory=dict, max_length=64, description="in place of all there are"
    )

    auto_stop_s: Seconds = Field(None, description="counted from now on; null: never")
    ttl_s: Seconds = Field(None, description="counted from now on; null: never")

    def update(self) -> Update:
        given = self.model_fields_set
        return Update(
            name=self.name if "name" in given else None,
            labels=self.labels if "labels" in given else None,
            auto_stop_s=(self.auto_stop_s or 0) if "auto_stop_s" in given else None,
            ttl_s=(self.ttl_s or 0) if "ttl_s" in given else None,
        )


class StartContainer(Input):
    """Nothing can be said about a start; nor about a pause or its end."""


class StopContainer(Input):
    timeout_s: int = Field(DEFAULT_STOP_TIMEOUT_S, ge=0, le=300, description="seconds between TERM and KILL")


class ContainerRecord(BaseModel):
    id: str
    name: str
    node_name: str
    cpu_cores: int
    memory_mb: int = Field(description="MiB")
    disk_gb: int = Field(description="GiB")
    state: ContainerState
    created_at: datetime
    permissions: int = Field(description="bits: 1 view … 128 delete; 255 for the owner and for admins")
    proxmox_ctid: int = Field(description="a number unique on the node")
    ctid: int = Field(description="the same number")
    user_id: str = Field(description="the owner")
    image: str
    runtime: str
    labels: dict[str, str]
    env: dict[str, str]
    ip_address: str | None
    started_at: datetime | None
    finished_at: datetime | None
    exit_code: int | None = Field(description="of the last run that has ended since it was started; null where unknown")
    state_reason: str | None = Field(description="null, or a machine word, a colon and a sentence")
    auto_stop_s: int | None = Field(description="it is stopped when nobody has used it for so long")
    expires_at: datetime | None = Field(description="when it is deleted")
    restart_policy: str

    @classmethod
    def of(cls, container: Container) -> Self:
        """For its owner or an admin, who may do everything with it."""
        spec = container.spec
        return cls(
            id=container.id,
            name=spec.name,
            node_name=container.node_name,
            cpu_cores=spec.cpu_cores,
            memory_mb=spec.memory_mb,
            disk_gb=spec.disk_gb,
            state=container.state,
            created_at=container.created_at,
            permissions=ALL_PERMISSIONS,
            proxmox_ctid=container.ctid,
            ctid=container.ctid,
            user_id=container.user_id,
            image=spec.image,
            runtime=spec.runtime,
            labels=dict(spec.labels),
            env=dict(spec.env),
            ip_address=container.ip_address,
            started_at=container.started_at,
            finished_at=container.finished_at,
            exit_code=container.exit_code,
            state_reason=container.state_reason,
            auto_stop_s=spec.auto_stop_s,
            expires_at=container.expires_at,
            restart_policy=spec.restart_policy,
        )


class Me(BaseModel):
    user_id: str
    email: str
    role: Role
    auth_method: str = Field(examples=["pat"])


def rfc_3339(value: object) -> datetime | None:
    """What stands before the validation of a time that a client sends. Raises ValueError."""
    if value is None:
        return None
    if not isinstance(value, str) or not _RFC_3339.fullmatch(value):
        raise ValueError("must be an RFC 3339 time with its zone")
    try:
        return datetime.fromisoformat(value.upper()).astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise ValueError("is no time that exists") from error


class CreateToken(Input):
    name: Annotated[str, StringConstraints(pattern=NO_CONTROLS_PATTERN, min_length=1, max_length=100)] = Field(
        examples=["laptop"]
    )
    expires_at: Annotated[AwareDatetime | None, BeforeValidator(rfc_3339)] = Field(
        None, description="in the future; never if absent"
    )

    @field_validator("expires_at")
    @classmethod
    def _is_in_the_future(cls, value: datetime | None) -> datetime | None:
        if value is not None and value <= datetime.now(UTC):
            raise ValueError("must be in the future")
        return value


class TokenRecord(BaseModel):
    id: str
    name: str
    prefix: str = Field(description="the token's first characters")
    created_at: datetime
    expires_at: datetime | None
    last_used_at: datetime | None = Field(description="to the minute")
    revoked_at: datetime | None

    @classmethod
    def of(cls, token: Token) -> Self:
        return cls(**asdict(token))


class NewToken(TokenRecord):
    token: str = Field(description="shown this once")

    @classmethod
    def with_secret(cls, token: str, kept: Token) -> Self:
        return cls(token=token, **asdict(kept))


class Ready(BaseModel):
    status: Literal["ready"] = "ready"
    dependencies: dict[str, str] = Field(examples=[{"database": "ok", "lifecycle": "ok"}])


def _bytes(texts: Iterable[str]) -> int:
    return sum(len(text.encode()) for text in texts)
