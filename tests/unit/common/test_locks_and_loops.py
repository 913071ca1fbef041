"""Locks by key, and loops that run until they are stopped."""

import asyncio

import pytest

from services.common.locks import KeyedLocks
from services.common.loops import run_until


async def test_one_at_a_time_for_a_key_and_others_meanwhile() -> None:
    locks, order = KeyedLocks(), list[str]()

    async def work(key: str, name: str) -> None:
        async with locks.holding(key):
            order.append(f"{name} in")
            await asyncio.sleep(0.01)
            order.append(f"{name} out")

    await asyncio.gather(work("a", "first"), work("a", "second"), work("b", "other"))
    assert order.index("first out") < order.index("second in")
    assert order.index("other in") < order.index("first out")


async def test_a_lock_is_gone_when_nobody_wants_it() -> None:
    locks = KeyedLocks()

    async def work() -> None:
        async with locks.holding("a"):
            await asyncio.sleep(0.001)

    async def cancelled() -> None:
        waiting = asyncio.create_task(work())
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)

    await asyncio.gather(*(work() for _ in range(20)), cancelled())
    assert not locks._locks


async def test_what_raises_inside_lets_go() -> None:
    locks = KeyedLocks()
    with pytest.raises(ValueError, match="no"):
        async with locks.holding("a"):
            raise ValueError("no")
    async with asyncio.timeout(1), locks.holding("a"):
        pass


async def test_loops_run_until_stopped() -> None:
    stop, turns = asyncio.Event(), list[int]()

    async def loop() -> None:
        while True:
            turns.append(1)
            if len(turns) == 3:
                stop.set()
            await asyncio.sleep(0)

    async with asyncio.timeout(1):
        await run_until(stop, loop())
    assert len(turns) >= 3


async def test_a_loop_that_fails_ends_all_and_raises() -> None:
    ended = asyncio.Event()

    async def fails() -> None:
        raise RuntimeError("broken")

    async def goes_on() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    with pytest.raises(RuntimeError, match="broken"):
        await run_until(asyncio.Event(), goes_on(), fails())
    assert ended.is_set()
