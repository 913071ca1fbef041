"""When something last went on in a container, by a clock that no one sets and every service of the node shares."""

import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

MAX_REMEMBERED = 8192


@dataclass(frozen=True)
class Activity:
    """`last_active_s` is of `boot_time_s`; None where nothing is known of."""

    container_id: str
    is_active: bool
    last_active_s: float | None


ActivitySource = Callable[[Sequence[str]], Awaitable[Sequence[Activity]]]


def boot_time_s() -> float:
    """Seconds since the machine was booted, those in which it was suspended as well."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class LastActive:
    """When something last began or ended in each container, as far as this process knows."""

    def __init__(self) -> None:
        self._times: dict[str, float] = {}

    def touch(self, container_id: str) -> None:
        self._times.pop(container_id, None)
        if len(self._times) >= MAX_REMEMBERED:
            del self._times[next(iter(self._times))]  # the one that was longest ago
        self._times[container_id] = boot_time_s()

    def activities(self, container_ids: Sequence[str], active: set[str]) -> list[Activity]:
        """`active` are those in which something goes on now."""
        return [Activity(one, one in active, self._times.get(one)) for one in container_ids]
