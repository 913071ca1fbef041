"""Since when nobody uses a container (pure). Times are seconds since the machine's boot, which no one can set."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from services.common.activity import Activity

# Of the container's own cores.
BUSY_SHARE = 0.01
NS_PER_S = 1_000_000_000


@dataclass(frozen=True)
class Reading:
    """Of the CPU time a container's control group has counted; `started_at` tells the run it is of from later ones."""

    started_at: datetime | None
    cpu_ns: int
    at_s: float


def is_busy(before: Reading, now: Reading, cores: int) -> bool:
    """Whether it used one per cent of its CPUs or more between two readings of one run."""
    elapsed_ns = (now.at_s - before.at_s) * NS_PER_S
    return now.cpu_ns - before.cpu_ns >= BUSY_SHARE * cores * elapsed_ns


def idle_since(
    known: float | None, before: Reading, now: Reading, cores: int, activities: Iterable[Activity]
) -> float | None:
    """None while it is used; `known` is what this said the last time.

    What was not seen, since it began and ended between two looks, is in the activities.
    """
    if is_busy(before, now, cores) or any(one.is_active for one in activities):
        return None
    return latest(before.at_s if known is None else known, activities)


def latest(since: float, activities: Iterable[Activity]) -> float:
    """When something last went on, if it was after `since`."""
    return max(since, *(one.last_active_s or 0.0 for one in activities), 0.0)
