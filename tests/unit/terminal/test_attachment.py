"""What a client of a session is told, and how far ahead of it the output may be."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from services.common.errors import Unavailable
from services.terminal import attachment
from services.terminal.attachment import (
    CLEARED,
    WINDOW,
    Attachment,
    Closed,
    CloseReason,
    InputTaken,
    Opened,
    Output,
    Told,
)
from services.terminal.scrollback import Scrollback


async def output(told: AsyncIterator[Told], count: int) -> bytes:
    """The next bytes of output."""
    found = b""
    while len(found) < count:
        what = await asyncio.wait_for(anext(told), 5)
        assert isinstance(what, Output)
        found += what.data
    return found


async def nothing_more(told: AsyncIterator[Told]) -> bool:
    asking = asyncio.ensure_future(anext(told))
    done, _ = await asyncio.wait([asking], timeout=0.05)
    asking.cancel()
    return not done


async def test_no_more_than_a_window_is_sent_ahead() -> None:
    scrollback = Scrollback(0)
    client = Attachment(scrollback)
    scrollback.append(b"x" * (2 * WINDOW))
    told = client.told()
    assert len(await output(told, WINDOW)) == WINDOW
    assert client.taken == 0
    client.acknowledge(100)
    assert client.taken == 100
    assert len(await output(told, 100)) == 100
    assert await nothing_more(told)


async def test_an_acknowledgement_of_what_was_never_sent_counts_for_nothing() -> None:
    scrollback = Scrollback(0)
    client = Attachment(scrollback)
    scrollback.append(b"x" * 10)
    await output(client.told(), 10)
    client.acknowledge(1 << 60)
    assert client.taken == 10


async def test_the_end_comes_after_all_output_and_only_the_first_counts() -> None:
    scrollback = Scrollback(0)
    client = Attachment(scrollback)
    scrollback.append(b"last words")
    client.close(CloseReason.EXITED, 7)
    client.close(CloseReason.IDLE)
    told = client.told()
    assert await output(told, 10) == b"last words"
    assert await anext(told) == Closed(CloseReason.EXITED, 7)
    assert [what async for what in told] == []


async def test_an_error_is_raised_after_all_output() -> None:
    scrollback = Scrollback(0)
    client = Attachment(scrollback)
    scrollback.append(b"last words")
    client.fail(Unavailable("it is away"))
    told = client.told()
    assert await output(told, 10) == b"last words"
    with pytest.raises(Unavailable):
        await anext(told)


async def test_a_client_that_leaves_hears_no_more() -> None:
    scrollback = Scrollback(0)
    client = Attachment(scrollback)
    scrollback.append(b"x" * (2 * WINDOW))
    told = client.told()
    await output(told, WINDOW)
    client.leave()
    assert [what async for what in told] == []


async def test_a_client_that_takes_nothing_of_the_last_output_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attachment, "LAST_OUTPUT_S", 0.05)
    scrollback = Scrollback(0)
    client = Attachment(scrollback)
    scrollback.append(b"x" * (2 * WINDOW))
    client.close(CloseReason.EXITED, 0)
    told = client.told()
    await output(told, WINDOW)
    assert [what async for what in told] == []


async def test_one_that_was_left_behind_goes_on_with_a_cleared_screen() -> None:
    scrollback = Scrollback(1000)
    watcher = Attachment(scrollback)
    scrollback.append(b"a" * 5000)
    told = watcher.told()
    await output(told, 5000)
    scrollback.append(b"b" * 5000)
    scrollback.append(b"c" * 5000)
    scrollback.trim(scrollback.end)
    assert await output(told, len(CLEARED) + 5000) == CLEARED + b"c" * 5000


async def test_input_is_acknowledged_in_large_portions() -> None:
    client = Attachment(Scrollback(0))
    client.tell(Opened())
    for _ in range(3):
        client.on_input_taken(30 * 1024)
    told = client.told()
    assert [await anext(told), await anext(told)] == [Opened(), InputTaken(90 * 1024)]
    assert await nothing_more(told)
