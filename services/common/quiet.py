"""Waiting for an end that may never come, as long as something still comes."""

import asyncio
from collections.abc import Callable


async def ended_or_quiet(ended: asyncio.Event, come: Callable[[], int], quiet_s: float, at_most_s: float) -> None:
    """Returns when `ended` is set, when `come` has stayed the same for `quiet_s`, or after about `at_most_s`."""
    loop = asyncio.get_running_loop()
    give_up_at = loop.time() + at_most_s
    while not ended.is_set():
        before = come()
        try:
            async with asyncio.timeout(quiet_s):
                await ended.wait()
        except TimeoutError:
            if come() == before or loop.time() >= give_up_at:
                return
