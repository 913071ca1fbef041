"""What the files of a container's control group say (pure): Linux' documentation of cgroup v1 and v2.

A file that a kernel does not have is empty here, and its figures are 0, or None for a limit.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from services.common.counters import Counters

# "No limit" on version 1: the largest multiple of a page in 63 bits.
UNLIMITED_V1 = (1 << 63) - (1 << 16)


@dataclass(frozen=True)
class Version:
    """`files` are (tree, name), in the order in which `parse` takes their contents; `pids` is the index of one.

    `tree` is the controller, empty for the one tree of version 2.
    """

    files: tuple[tuple[str, str], ...]
    pids: int
    parse: Callable[[Sequence[bytes]], Counters]


def parse_v1(texts: Sequence[bytes]) -> Counters:
    """The contents of `V1.files`."""
    usage, stat, quota, period, memory, memory_stat, memory_limit, oom, pids, pids_max = texts
    limit = _limit(memory_limit)
    return Counters(
        cpu_usage_ns=_number(usage),
        cpu_throttled_ns=_field(stat, b"throttled_time"),
        cpu_limit_cores=_cores(quota, period),
        memory_used_bytes=max(0, _number(memory) - _field(memory_stat, b"total_inactive_file")),
        memory_limit_bytes=limit if limit is not None and limit < UNLIMITED_V1 else None,
        pids=_number(pids),
        pids_limit=_limit(pids_max),
        oom_kills=_field(oom, b"oom_kill"),
    )


def parse_v2(texts: Sequence[bytes]) -> Counters:
    """The contents of `V2.files`."""
    stat, cpu_max, memory, memory_stat, memory_max, events, pids, pids_max = texts
    quota, _, period = cpu_max.strip().partition(b" ")
    return Counters(
        cpu_usage_ns=_field(stat, b"usage_usec") * 1000,
        cpu_throttled_ns=_field(stat, b"throttled_usec") * 1000,
        cpu_limit_cores=_cores(quota, period),
        memory_used_bytes=max(0, _number(memory) - _field(memory_stat, b"inactive_file")),
        memory_limit_bytes=_limit(memory_max),
        pids=_number(pids),
        pids_limit=_limit(pids_max),
        oom_kills=_field(events, b"oom_kill"),
    )


V1 = Version(
    files=(
        ("cpuacct", "cpuacct.usage"),
        ("cpu", "cpu.stat"),
        ("cpu", "cpu.cfs_quota_us"),
        ("cpu", "cpu.cfs_period_us"),
        ("memory", "memory.usage_in_bytes"),
        ("memory", "memory.stat"),
        ("memory", "memory.limit_in_bytes"),
        ("memory", "memory.oom_control"),
        ("pids", "pids.current"),
        ("pids", "pids.max"),
    ),
    pids=8,
    parse=parse_v1,
)
V2 = Version(
    files=(
        ("", "cpu.stat"),
        ("", "cpu.max"),
        ("", "memory.current"),
        ("", "memory.stat"),
        ("", "memory.max"),
        ("", "memory.events"),
        ("", "pids.current"),
        ("", "pids.max"),
    ),
    pids=6,
    parse=parse_v2,
)


def _number(text: bytes) -> int:
    return int(text) if text else 0


def _limit(text: bytes) -> int | None:
    text = text.strip()
    return None if text in (b"", b"max") else int(text)


def _cores(quota: bytes, period: bytes) -> float | None:
    """From microseconds of CPU time in each period; `max` or -1: as many as there are."""
    quota = quota.strip()
    return None if quota in (b"", b"max", b"-1") else int(quota) / int(period)


def _field(text: bytes, name: bytes) -> int:
    """The value of `name` in a file of `name value` lines; 0 where there is none."""
    start = 0 if text.startswith(name + b" ") else text.find(b"\n" + name + b" ") + 1
    if start == 0 and not text.startswith(name + b" "):
        return 0
    start += len(name) + 1
    end = text.find(b"\n", start)
    return int(text[start:] if end < 0 else text[start:end])
