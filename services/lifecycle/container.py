"""A container as lifecycle knows it: one row, frozen."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from services.common.containerd.images import Image
from services.lifecycle.restart_policy import RestartPolicy, Restarts
from services.lifecycle.state import Desired, State


@dataclass(frozen=True)
class Wanted:
    """What the owner asked for, defaults filled in."""

    name: str
    image: str
    command: tuple[str, ...]
    env: Mapping[str, str]
    labels: Mapping[str, str]
    cpu_cores: int
    memory_mb: int
    disk_gb: int
    runtime: str
    restart_policy: RestartPolicy = RestartPolicy()  # noqa: RUF009
    auto_stop_s: int | None = None


@dataclass(frozen=True)
class Container:
    """`state_reason` is empty, or a machine word, a colon and a sentence; `id_base` the first host uid.

    `image` is what the reference meant when the container was made, and means for it ever after: its disk
    lies upon those layers. None as long as the node has not had such an image.
    """

    id: str
    node_name: str
    user_id: str
    ctid: int
    wanted: Wanted
    image: Image | None
    id_base: int
    ip_address: str
    state: State
    desired: Desired
    state_reason: str
    exit_code: int | None
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    restarts: Restarts
    idle_since: float | None = None  # seconds since the machine's boot; of the run that goes on
    expires_at: datetime | None = None
    is_expiry_told: bool = False


@dataclass(frozen=True)
class Update:
    """What its owner changes while it is there; None leaves a field as it is."""

    name: str | None = None
    labels: Mapping[str, str] | None = None
    auto_stop_s: int | None = None  # 0: never
    ttl_s: int | None = None  # from now on; 0: for ever


@dataclass(frozen=True)
class Change:
    """A new state and what goes with it; None leaves a field as it is."""

    state: State
    reason: str = ""
    desired: Desired | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None
    exit_code: int | None = None
    forget_last_run: bool = False
    restarts: Restarts | None = None
