"""Reading a FIFO: soon when it trickles, much at once when it floods, nothing while paused."""

import asyncio
import os
import threading
import time
from collections.abc import Iterator

import pytest

from services.terminal.output_reader import OutputReader


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    reading, writing = os.pipe2(os.O_CLOEXEC)
    os.set_blocking(reading, False)
    yield reading, writing
    os.close(reading)


class Heard:
    def __init__(self, descriptor: int) -> None:
        self.pieces: list[bytes] = []
        self.ended = asyncio.Event()
        self.reader = OutputReader(descriptor, self.pieces.append, self.ended.set)

    @property
    def size(self) -> int:
        return sum(map(len, self.pieces))


async def test_a_keystroke_is_heard_at_once(pipe: tuple[int, int]) -> None:
    heard = Heard(pipe[0])
    heard.reader.resume()
    for _ in range(5):
        os.write(pipe[1], b"x")
        before = heard.size
        while heard.size == before:
            await asyncio.sleep(0)
    assert heard.pieces == [b"x"] * 5
    os.close(pipe[1])
    await heard.ended.wait()


async def test_a_flood_comes_whole_and_in_large_pieces(pipe: tuple[int, int]) -> None:
    heard = Heard(pipe[0])
    heard.reader.resume()
    total = 64 * 1024 * 1024

    def flood() -> None:
        for _ in range(total // 4096):
            os.write(pipe[1], b"y" * 4096)
        os.close(pipe[1])

    writer = threading.Thread(target=flood)
    writer.start()
    await asyncio.wait_for(heard.ended.wait(), 60)
    writer.join()
    assert heard.size == total
    assert len(heard.pieces) < total / 8192


async def test_nothing_is_read_while_paused(pipe: tuple[int, int]) -> None:
    heard = Heard(pipe[0])
    heard.reader.resume()
    os.write(pipe[1], b"before")
    await asyncio.sleep(0.05)
    heard.reader.pause()
    os.write(pipe[1], b"after")
    await asyncio.sleep(0.05)
    assert heard.pieces == [b"before"]
    heard.reader.resume()
    await asyncio.sleep(0.05)
    assert heard.pieces == [b"before", b"after"]
    heard.reader.close()
    heard.reader.resume()
    os.close(pipe[1])
    await asyncio.sleep(0.02)
    assert not heard.ended.is_set()


async def test_pausing_in_the_middle_of_a_flood_loses_nothing(pipe: tuple[int, int]) -> None:
    heard = Heard(pipe[0])
    heard.reader.resume()
    sent = 0
    os.set_blocking(pipe[1], False)
    begun = time.monotonic()
    while time.monotonic() - begun < 0.5:
        try:
            sent += os.write(pipe[1], b"z" * 4096)
        except BlockingIOError:
            (heard.reader.pause if sent % 3 else heard.reader.resume)()
            await asyncio.sleep(0.001)
            heard.reader.resume()
            await asyncio.sleep(0.001)
    os.close(pipe[1])
    await asyncio.wait_for(heard.ended.wait(), 5)
    assert heard.size == sent
