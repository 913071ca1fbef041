"""What a container uses, as its control group counts it (pure): the same from the kernel and from containerd."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Counters:
    """Times since the group was made; `memory_used_bytes` is without page cache that can be dropped.

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
