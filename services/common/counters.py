"""What a container uses, as its control group counts it (pure): the same from the kernel's files and from containerd."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class DeviceBytes:
    """Bytes read from and written to one block device."""

    major: int
    minor: int
    read: int
    written: int


@dataclass(frozen=True, slots=True)
class Counters:
    """Times and bytes since the group was made; `memory_used_bytes` is without page cache that can be dropped.

    A limit is None where there is none.
    """

    cpu_usage_ns: int
    cpu_throttled_ns: int
    cpu_limit_cores: float | None
    memory_used_bytes: int
    memory_limit_bytes: int | None
    pids: int
    pids_limit: int | None
    oom_kills: int
    devices: tuple[DeviceBytes, ...]
