"""From what was read to what is told (pure): two readings of the same run of a container make a sample."""

from dataclasses import dataclass

from services.common.counters import Counters

NS_PER_S = 1_000_000_000


@dataclass(frozen=True, slots=True)
class DiskUse:
    """Bytes of a container's own file system."""

    used: int
    limit: int


@dataclass(frozen=True, slots=True)
class DiskIo:
    """Bytes read from and written to the container's own disk since the container started."""

    read: int
    written: int


@dataclass(frozen=True, slots=True)
class Reading:
    """Everything about one container at one moment, as seen from the container.

    `monotonic_ns` says how long after another reading it was; the disk's are None where it can't be looked at.
    """

    unix_s: float
    monotonic_ns: int
    counters: Counters
    network_received: int
    network_sent: int
    disk: DiskUse | None
    disk_io: DiskIo | None


@dataclass(frozen=True, slots=True)
class Sample:
    """`since` is the reading before: what lies between the two is what `cpu_percent` and a point of history tell."""

    container_id: str
    started_unix_s: float
    cpu_cores: float
    cpu_percent: float
    reading: Reading
    since: Reading


def derive(container_id: str, started_unix_s: float, since: Reading, now: Reading, cores_of_node: int) -> Sample:
    """A container without a limit has all cores of the node."""
    cores = now.counters.cpu_limit_cores or float(cores_of_node)
    return Sample(
        container_id=container_id,
        started_unix_s=started_unix_s,
        cpu_cores=cores,
        cpu_percent=cpu_percent(since, now, cores),
        reading=now,
        since=since,
    )


def cpu_percent(since: Reading, now: Reading, cores: float) -> float:
    """Of the given cores, 0 to 100: the kernel lets a group use a little more than its share now and then."""
    passed_ns = now.monotonic_ns - since.monotonic_ns
    if passed_ns <= 0:
        return 0.0
    used_ns = now.counters.cpu_usage_ns - since.counters.cpu_usage_ns
    return min(100.0, max(0.0, 100.0 * used_ns / (passed_ns * cores)))
