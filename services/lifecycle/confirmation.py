"""Whether a container that was started runs what it should: the init has executed it."""

import asyncio
import os
from pathlib import Path

POLL_S = 0.001
WITHIN_S = 5.0


class StartedNothing(Exception):
    """The init ended before it had executed anything; its exit status says why."""


async def wait_until_executed(pid: int) -> None:
    """Returns once PID 1's child is another program than PID 1. Raises StartedNothing when PID 1 is gone.

    The runtime answers when PID 1 runs; what it was asked to run is executed by a child of PID 1 a moment
    later, and there is nothing to wait on for that but the child's /proc entry.
    """
    async with asyncio.timeout(WITHIN_S):
        while not _has_executed(pid):
            await asyncio.sleep(POLL_S)


def _has_executed(pid: int) -> bool:
    try:
        init = Path(f"/proc/{pid}/exe").stat()
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError as error:
        raise StartedNothing from error
    return any(_runs_another_program(child, init) for child in children)


def _runs_another_program(pid: str, init: os.stat_result) -> bool:
    try:
        own = Path(f"/proc/{pid}/exe").stat()
    except OSError:
        return False
    return (own.st_dev, own.st_ino) != (init.st_dev, init.st_ino)
