"""The keeper as a process of its own: what it holds and what it has heard outlives those who told it."""

import asyncio
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from services.exec.exit_events import Ending
from services.exec.keeper_client import KeeperClient

ROOT = Path(__file__).parents[3]
WITHIN_S = 15
ID, OTHER = "0190a6b0-0000-7000-8000-00000000000a", "0190a6b0-0000-7000-8000-00000000000b"


class Keeper:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.socket = folder / "exec-keeper.sock"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self.socket.unlink(missing_ok=True)
        environment = os.environ | {"HZEL_RUN_DIR": str(self.folder), "PYTHONPATH": f"{ROOT}:{ROOT / 'gen'}"}
        command = [sys.executable, "-m", "services.exec.keeper"]
        self.process = subprocess.Popen(command, env=environment, cwd=ROOT, stderr=subprocess.DEVNULL)
        eventually(self.socket.exists)

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def descriptors(self) -> int:
        assert self.process is not None
        return len(list(Path(f"/proc/{self.process.pid}/fd").iterdir()))


def eventually(look: Callable[[], object]) -> None:
    deadline = time.monotonic() + WITHIN_S
    while not look():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.fixture
def keeper() -> Iterator[Keeper]:
    # Not below pytest's own folder: the path of a socket has to be short.
    folder = Path(tempfile.mkdtemp(prefix="hzel-keeper-"))
    made = Keeper(folder)
    made.start()
    yield made
    made.kill()
    shutil.rmtree(folder)


@pytest.fixture
def client(keeper: Keeper) -> Iterator[KeeperClient]:
    connected = KeeperClient(keeper.socket)
    yield connected
    connected.close()


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    reading, writing = os.pipe2(os.O_CLOEXEC)
    yield reading, writing
    os.close(writing)


def has_reader(writing: int) -> bool:
    try:
        os.write(writing, b"x")
    except BrokenPipeError:
        return False
    return True


def test_what_it_holds_has_a_reader_when_its_owner_is_gone(
    client: KeeperClient, keeper: Keeper, pipe: tuple[int, int]
) -> None:
    before = keeper.descriptors()
    client.hold(ID, [pipe[0]])
    eventually(lambda: keeper.descriptors() == before + 2)  # the pipe and our connection
    os.close(pipe[0])
    client.close()
    assert has_reader(pipe[1])


def test_what_is_released_has_none(client: KeeperClient, keeper: Keeper, pipe: tuple[int, int]) -> None:
    before = keeper.descriptors()
    client.hold(ID, [pipe[0]])
    eventually(lambda: keeper.descriptors() == before + 2)
    os.close(pipe[0])
    client.release(ID)
    eventually(lambda: not has_reader(pipe[1]))
    client.release(ID)
    assert keeper.descriptors() == before + 1


def test_holding_again_takes_the_place_of_what_was_held(
    client: KeeperClient, keeper: Keeper, pipe: tuple[int, int]
) -> None:
    before = keeper.descriptors()
    for _ in range(5):
        client.hold(ID, [pipe[0]])
    client.hold(OTHER, [pipe[0]])
    eventually(lambda: keeper.descriptors() == before + 3)
    client.release(ID)
    client.forget(OTHER)
    eventually(lambda: keeper.descriptors() == before + 1)
    os.close(pipe[0])


def test_a_keeper_that_was_killed_is_told_everything_again(
    client: KeeperClient, keeper: Keeper, pipe: tuple[int, int]
) -> None:
    client.hold(ID, [pipe[0]])
    keeper.kill()
    keeper.start()
    before = keeper.descriptors()
    client.hold(OTHER, [])
    eventually(lambda: keeper.descriptors() == before + 2)
    os.close(pipe[0])
    client.close()
    assert has_reader(pipe[1])


async def test_it_tells_how_a_child_ended_to_whoever_asks_later(client: KeeperClient, keeper: Keeper) -> None:
    client.hold(ID, [])
    client.watch(ID, os.getpid())
    killed = await asyncio.to_thread(subprocess.Popen, ["/bin/sh", "-c", "kill -KILL $$"])
    await asyncio.to_thread(killed.wait)
    client.close()
    # The next process of the service knows the command, but not the pid.
    later = KeeperClient(keeper.socket)
    found = await later.ending(ID, 0, 137, killed.pid)
    later.close()
    if found is None:
        pytest.skip("the kernel does not tell the keeper")
    assert found == Ending(killed.pid, 137, "KILL")


async def test_it_knows_nothing_of_others(client: KeeperClient) -> None:
    assert await client.ending(OTHER, 0, 137) is None


async def test_without_a_keeper_everything_goes_on(tmp_path: Path, pipe: tuple[int, int]) -> None:
    lonely = KeeperClient(tmp_path / "nobody.sock")
    lonely.hold(ID, [pipe[0]])
    lonely.watch(ID, os.getpid())
    assert await lonely.ending(ID, os.getpid(), 137) is None
    lonely.release(ID)
    lonely.close()
    os.close(pipe[0])
