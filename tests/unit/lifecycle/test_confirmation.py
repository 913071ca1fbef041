"""Whether an init has executed what it should: with real processes."""

import asyncio
import shutil
import subprocess
from collections.abc import Iterator

import pytest

from services.lifecycle.confirmation import StartedNothing, wait_until_executed

TINI = shutil.which("tini")

pytestmark = pytest.mark.skipif(TINI is None, reason="tini is not installed")


@pytest.fixture
def inits() -> Iterator[list[subprocess.Popen[bytes]]]:
    started: list[subprocess.Popen[bytes]] = []
    yield started
    for process in started:
        process.terminate()
        process.wait()


def start(inits: list[subprocess.Popen[bytes]], *command: str) -> int:
    inits.append(subprocess.Popen([str(TINI), "-s", "--", *command], stderr=subprocess.DEVNULL))
    return inits[-1].pid


async def test_it_returns_when_the_program_runs(inits: list[subprocess.Popen[bytes]]) -> None:
    async with asyncio.timeout(3):
        await wait_until_executed(start(inits, "sleep", "60"))


async def test_a_program_that_is_not_there_started_nothing(inits: list[subprocess.Popen[bytes]]) -> None:
    pid = start(inits, "no-such-program")
    inits[0].wait()
    with pytest.raises(StartedNothing):
        await wait_until_executed(pid)


async def test_an_init_that_is_gone_started_nothing() -> None:
    with pytest.raises(StartedNothing):
        await wait_until_executed(2**22 - 1)
