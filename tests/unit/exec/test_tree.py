"""Ending a command with everything it started: real trees under a real init."""

import asyncio
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from services.exec.tree import ProcessTree

TINI = shutil.which("tini")
WITHIN_S = 10

pytestmark = pytest.mark.skipif(TINI is None, reason="tini is not installed")
Start = Callable[[str], tuple[ProcessTree, subprocess.Popen[bytes]]]


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts shell text under an init that takes in orphans, as commands in containers are."""
    started: list[tuple[ProcessTree, subprocess.Popen[bytes]]] = []

    def begin(shell: str) -> tuple[ProcessTree, subprocess.Popen[bytes]]:
        root = subprocess.Popen([str(TINI), "-s", "--", "/bin/sh", "-c", shell], start_new_session=True)
        started.append((ProcessTree(root.pid), root))
        return started[-1]

    yield begin
    for tree, root in started:
        for pid in tree.living_descendants():
            subprocess.run(["kill", "-KILL", str(pid)], check=False)
        root.kill()
        root.wait()
        tree.close()


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def wait_for(look: Callable[[], object]) -> None:
    deadline = time.monotonic() + WITHIN_S
    while not look():
        assert time.monotonic() < deadline
        time.sleep(0.01)


async def test_everything_goes_children_and_those_that_hide(start: Start) -> None:
    tree, root = start(
        "sleep 100 & setsid sh -c 'sleep 100 & sleep 100' & (setsid sh -c 'sleep 100 & exit' &) ; sleep 100"
    )
    wait_for(lambda: len(tree.living_descendants()) >= 6)
    family = tree.living_descendants()
    await tree.end(1)
    assert root.wait(WITHIN_S) == -signal.SIGKILL
    assert not [pid for pid in family if is_alive(pid)]


async def test_an_orphan_whose_parent_has_ended_goes_too(start: Start) -> None:
    tree, root = start("(sh -c 'sleep 100 & echo $! > /dev/null' ) ; exec sleep 100")
    wait_for(lambda: len(tree.living_descendants()) == 2)
    family = tree.living_descendants()
    await tree.end(1)
    root.wait(WITHIN_S)
    assert not [pid for pid in family if is_alive(pid)]


async def test_who_listens_to_term_has_time_to_finish(start: Start, tmp_path: Path) -> None:
    tree, root = start(
        f"trap 'sleep 0.3; echo done > {tmp_path}/file; exit 3' TERM; : > {tmp_path}/ready; sleep 100 &"
        " while :; do wait; done"
    )
    wait_for((tmp_path / "ready").exists)
    await tree.end(WITHIN_S)
    root.wait(WITHIN_S)
    assert (tmp_path / "file").read_text() == "done\n"


async def test_who_does_not_is_killed_after_the_grace(start: Start, tmp_path: Path) -> None:
    tree, root = start(f"trap '' TERM; : > {tmp_path}/ready; while :; do sleep 0.05; done")
    wait_for((tmp_path / "ready").exists)
    family = tree.living_descendants()
    before = time.monotonic()
    await tree.end(0.5)
    assert 0.5 <= time.monotonic() - before < 5
    root.wait(WITHIN_S)
    assert not [pid for pid in family if is_alive(pid)]


async def test_one_that_is_halted_hears_term_all_the_same(start: Start, tmp_path: Path) -> None:
    tree, root = start(
        f"trap 'echo heard > {tmp_path}/file; exit' TERM; : > {tmp_path}/ready; while :; do sleep 0.05; done"
    )
    wait_for((tmp_path / "ready").exists)
    tree.signal_command(signal.SIGSTOP)
    await tree.end(5)
    root.wait(WITHIN_S)
    assert (tmp_path / "file").read_text() == "heard\n"


async def test_one_that_makes_ever_more_children_loses(start: Start, tmp_path: Path) -> None:
    tree, root = start(
        f"trap '' TERM; : > {tmp_path}/ready; i=0;"
        " while [ $i -lt 300 ]; do (trap '' TERM; setsid sleep 100) & sleep 0.01; i=$((i+1)); done; sleep 100"
    )
    wait_for(lambda: (tmp_path / "ready").exists() and len(tree.living_descendants()) > 10)
    family = tree.living_descendants()
    await tree.end(0.2)
    root.wait(WITHIN_S)
    assert not [pid for pid in family if is_alive(pid)]
    assert tree.living_descendants() == set()


async def test_nobody_else_is_hurt(start: Start) -> None:
    tree, _ = start("exec sleep 100")
    other, bystander = start("exec sleep 100")
    wait_for(lambda: tree.living_descendants() and other.living_descendants())
    await tree.end(1)
    assert bystander.poll() is None
    assert len(other.living_descendants()) == 1


async def test_a_tree_that_is_gone_is_no_error(start: Start) -> None:
    tree, root = start("exit 0")
    root.wait(WITHIN_S)
    async with asyncio.timeout(1):
        await tree.end(5)
    assert tree.first_child() == 0
    tree.signal_command(signal.SIGTERM)


def test_a_process_that_is_not_there_has_no_tree() -> None:
    with pytest.raises(ProcessLookupError):
        ProcessTree(2**22 - 1)


def test_a_signal_goes_to_the_command_and_not_to_its_children(start: Start, tmp_path: Path) -> None:
    tree, root = start(
        f"trap 'echo parent >> {tmp_path}/heard' USR1; (trap 'echo child >> {tmp_path}/heard' USR1;"
        f" : > {tmp_path}/ready; while :; do sleep 0.05; done) & wait; wait"
    )
    wait_for((tmp_path / "ready").exists)
    assert Path(f"/proc/{tree.first_child()}/cmdline").read_bytes().startswith(b"/bin/sh\0-c")
    tree.signal_command(signal.SIGUSR1)
    wait_for((tmp_path / "heard").exists)
    time.sleep(0.2)
    assert (tmp_path / "heard").read_text() == "parent\n"
    assert root.poll() is None


def test_one_that_waits_to_be_reaped_does_not_live(start: Start) -> None:
    # Its parent halts before it could reap.
    tree, _ = start("(exit 0) & kill -STOP $$")
    wait_for(lambda: any(not is_alive(pid) for pid in tree._descendants()))
    assert len(tree._descendants()) == 2
    assert len(tree.living_descendants()) == 1
