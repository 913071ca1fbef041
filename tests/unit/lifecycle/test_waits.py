"""Timers of containers that wait to be started again."""

import asyncio

from services.lifecycle.waits import Waits


async def test_who_has_waited_is_told_of_once_and_who_is_forgotten_never() -> None:
    waits, due = Waits(), asyncio.Queue[str]()
    waits.on_due(due.put_nowait)
    waits.wait("forgotten", 0)
    waits.wait("late", 3600)
    waits.wait("late", 0.02)
    waits.wait("early", 0)
    waits.forget("forgotten")
    assert (waits.knows("late"), waits.knows("forgotten")) == (True, False)
    async with asyncio.timeout(5):
        assert [await due.get(), await due.get()] == ["early", "late"]
    assert not waits.knows("late")
    assert due.empty()


async def test_when_it_is_closed_nobody_waits_any_more() -> None:
    waits, due = Waits(), asyncio.Queue[str]()
    waits.on_due(due.put_nowait)
    waits.wait("a", 0)
    waits.close()
    waits.wait("b", 0)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert due.empty()
    assert not waits.knows("a")
    assert not waits.knows("b")
