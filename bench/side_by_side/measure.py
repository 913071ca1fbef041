"""Taking turns, and the clock."""

import asyncio
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping

# What an operation leaves to be done behind its answer is not to weigh on the next one's.
SETTLE_S = 0.05
# One step of a contender: what it has measured, by the row it belongs to.
Step = Callable[[], Awaitable[Mapping[str, float]]]


class Samples:
    """Measurements by row and contender, in the order they were made."""

    def __init__(self) -> None:
        self.by_row: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))

    async def alternate(self, rounds: int, warm_up: int, steps: Mapping[str, Step]) -> None:
        """Every contender once a round, each round begun by another, so that noise meets all of them alike."""
        names = list(steps)
        for number in range(warm_up + rounds):
            first = number % len(names)
            for name in names[first:] + names[:first]:
                measured = await steps[name]()
                await asyncio.sleep(SETTLE_S)
                if number >= warm_up:
                    for row, value in measured.items():
                        self.by_row[row][name].append(value)


async def milliseconds(operation: Awaitable[object]) -> float:
    begun = time.perf_counter()
    await operation
    return (time.perf_counter() - begun) * 1000


async def per_second(count: int, at_a_time: int, work: Callable[[], Awaitable[object]]) -> float:
    """How many of `count` calls were done a second, `at_a_time` under way."""
    left = iter(range(count))

    async def worker() -> None:
        for _ in left:
            await work()

    begun = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for _ in range(at_a_time):
            group.create_task(worker())
    return count / (time.perf_counter() - begun)
