"""What a service does all the time, beside answering."""

import asyncio
import contextlib
from collections.abc import Coroutine
from typing import Any


async def run_until(stop: asyncio.Event, *loops: Coroutine[Any, Any, None]) -> None:
    """Runs endless loops until `stop` is set. One that fails ends them all and raises: a fresh process is started."""
    tasks = [asyncio.create_task(loop) for loop in loops]
    stopped = asyncio.create_task(stop.wait())
    done, _ = await asyncio.wait([*tasks, stopped], return_when=asyncio.FIRST_COMPLETED)
    for task in (*tasks, stopped):
        task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await asyncio.gather(*tasks)
    for task in done:
        task.result()
