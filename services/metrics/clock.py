"""When processes started."""

from collections.abc import Iterable
from itertools import islice

import psutil

# The first process of a container is among the first of its group, however many there are.
LOOKED_AT = 64


def started_unix_s(pids: Iterable[int]) -> float | None:
    """When the oldest of the first few started, in seconds since 1970; None where they are all gone."""
    found = []
    for pid in islice(pids, LOOKED_AT):
        try:
            found.append(psutil.Process(pid).create_time())
        except psutil.NoSuchProcess:
            continue
    return min(found, default=None)
