"""Writing input: at once while there is room, in order when there is not."""

import asyncio
import os
from collections.abc import Iterator

import pytest

from services.terminal.input_writer import InputWriter


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    reading, writing = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    yield reading, writing
    os.close(reading)
    os.close(writing)


async def test_what_there_is_room_for_is_written_at_once(pipe: tuple[int, int]) -> None:
    taken: list[int] = []
    writer = InputWriter(pipe[1], taken.append)
    writer.write(b"ls\n")
    assert os.read(pipe[0], 100) == b"ls\n"
    assert taken == [3]
    assert writer.waiting_bytes == 0


async def test_what_there_is_no_room_for_waits_and_stays_in_order(pipe: tuple[int, int]) -> None:
    taken: list[int] = []
    writer = InputWriter(pipe[1], taken.append)
    data = bytes(range(256)) * 2000
    for start in range(0, len(data), 70_000):
        writer.write(data[start : start + 70_000])
    assert writer.waiting_bytes == len(data) - sum(taken) > 0
    found = b""
    while len(found) < len(data):
        await asyncio.sleep(0.001)
        try:
            found += os.read(pipe[0], 50_000)
        except BlockingIOError:
            continue
    assert found == data
    assert sum(taken) == len(data)
    assert writer.waiting_bytes == 0


async def test_closing_drops_what_waits(pipe: tuple[int, int]) -> None:
    writer = InputWriter(pipe[1], lambda _: None)
    writer.write(b"x" * 1_000_000)
    writer.close()
    assert writer.waiting_bytes == 0


async def test_nothing_is_written_once_it_is_closed(pipe: tuple[int, int]) -> None:
    writer = InputWriter(pipe[1], lambda _: None)
    writer.close()
    writer.write(b"for whoever has the descriptor now")
    with pytest.raises(BlockingIOError):
        os.read(pipe[0], 100)
    assert writer.waiting_bytes == 0
