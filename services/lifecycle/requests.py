"""Requests as they must be before anything is done with them. Raises ValidationFailed.

The gateway says the same to clients with more words; here it is checked again because the node is not to
depend on that.
"""

import re
from collections.abc import Sequence

from hzel.lifecycle.v1 import lifecycle_pb2 as pb

from services.common.errors import ContainerNotFound, FieldError, ValidationFailed
from services.common.ids import is_id
from services.common.settings import Settings
from services.lifecycle.container import Update, Wanted
from services.lifecycle.restart_policy import RestartPolicy
from services.lifecycle.runtimes import installed_runtimes
from services.lifecycle.state import State
from services.lifecycle.transitions import STOP_TIMEOUT_S

MAX_STOP_TIMEOUT_S = 300
MAX_PAGE = 500
MAX_TEXT_BYTES = 128 * 1024
MIN_MEMORY_MB = 32
INT32_MAX = 2**31 - 1
_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_IMAGE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/:@-]{0,254}")

STATES = {
    State.PROVISIONING: pb.CONTAINER_STATE_PROVISIONING,
    State.RUNNING: pb.CONTAINER_STATE_RUNNING,
    State.STOPPED: pb.CONTAINER_STATE_STOPPED,
    State.FAILED: pb.CONTAINER_STATE_FAILED,
    State.PAUSED: pb.CONTAINER_STATE_PAUSED,
}
_BY_NUMBER = {number: state for state, number in STATES.items()}


def container_id(text: str) -> str:
    """An id that could be one. Raises ContainerNotFound: nothing else can be behind it."""
    if not is_id(text):
        raise ContainerNotFound()
    return text


def new_container_id(text: str) -> str:
    if not is_id(text):
        raise _invalid("id", "must be a UUID")
    return text


def wanted(spec: pb.ContainerSpec, settings: Settings) -> Wanted:
    """A specification with this node's defaults filled in, inside this node's limits."""
    _name(spec.name)
    _between("cpu_cores", spec.cpu_cores, 1, settings.max_cpu_cores)
    _between("memory_mb", spec.memory_mb, MIN_MEMORY_MB, settings.max_memory_mb)
    _between("disk_gb", spec.disk_gb, 1, settings.max_disk_gb)
    image = spec.image or settings.default_image
    if not _IMAGE.fullmatch(image):
        raise _invalid("image", "is no image reference")
    runtime = spec.runtime or settings.runtime
    if runtime not in installed_runtimes():
        raise _invalid("runtime", "is not installed on the node")
    texts = (*spec.command, *spec.env.keys(), *spec.env.values(), *spec.labels.keys(), *spec.labels.values())
    _texts("command", texts)
    try:
        restart_policy = RestartPolicy.parse(spec.restart_policy or "no")
    except ValueError as error:
        raise _invalid("restart_policy", str(error)) from error
    if not all(_VARIABLE.fullmatch(name) for name in spec.env):
        raise _invalid("env", "has a name that is no variable's")
    return Wanted(
        name=spec.name,
        image=image,
        command=tuple(spec.command),
        env=dict(spec.env),
        labels=dict(spec.labels),
        cpu_cores=spec.cpu_cores,
        memory_mb=spec.memory_mb,
        disk_gb=spec.disk_gb,
        runtime=runtime,
        restart_policy=restart_policy,
        auto_stop_s=_seconds("auto_stop_s", spec.auto_stop_s) or None,
    )


def ttl(request: pb.CreateContainerRequest) -> int | None:
    """Seconds; None: for ever."""
    return _seconds("ttl_s", request.ttl_s) or None


def update(request: pb.UpdateContainerRequest) -> Update:
    labels = dict(request.labels.labels) if request.HasField("labels") else None
    if labels is not None:
        _texts("labels", (*labels.keys(), *labels.values()))
    return Update(
        name=_name(request.name) if request.HasField("name") else None,
        labels=labels,
        auto_stop_s=_seconds("auto_stop_s", request.auto_stop_s) if request.HasField("auto_stop_s") else None,
        ttl_s=_seconds("ttl_s", request.ttl_s) if request.HasField("ttl_s") else None,
    )


def stop_timeout(request: pb.StopContainerRequest | pb.RestartContainerRequest) -> int:
    """Seconds between TERM and KILL."""
    if not request.HasField("timeout_s"):
        return STOP_TIMEOUT_S
    return _between("timeout_s", request.timeout_s, 0, MAX_STOP_TIMEOUT_S)


def page_limit(request: pb.ListContainersRequest) -> int:
    return _between("limit", request.limit, 1, MAX_PAGE)


def states(request: pb.ListContainersRequest) -> list[State]:
    unknown = [number for number in request.states if number not in _BY_NUMBER]
    if unknown:
        raise _invalid("states", "has an unknown state")
    return [_BY_NUMBER[number] for number in request.states]


def _name(text: str) -> str:
    if not _LABEL.fullmatch(text):
        raise _invalid("name", "must be a host name label of RFC 1123")
    return text


def _seconds(field: str, value: int) -> int:
    """0: not at all."""
    return _between(field, value, 0, INT32_MAX)


def _texts(field: str, texts: Sequence[str]) -> None:
    if any("\0" in text for text in texts) or sum(len(text.encode()) for text in texts) > MAX_TEXT_BYTES:
        raise _invalid(field, "command, env and labels hold no NUL and 128 KiB at most")


def _between(field: str, value: int, least: int, most: int) -> int:
    if not least <= value <= most:
        raise _invalid(field, f"must be from {least} to {most}")
    return value


def _invalid(field: str, message: str) -> ValidationFailed:
    return ValidationFailed(f"{field} {message}", (FieldError(field, message),))
