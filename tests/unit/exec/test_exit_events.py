"""How processes ended, as the kernel tells it: with real processes."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from services.exec.exit_events import KEPT_OF_ONE, Ending, ExitEvents, ending

WITHIN_S = 5


@pytest.fixture
def events() -> Iterator[ExitEvents]:
    try:
        listening = ExitEvents()
    except OSError as error:
        pytest.skip(f"the kernel does not tell us: {error}")
    yield listening
    listening.close()


def run(shell: str) -> int:
    """A child of ours, to its end; returns its pid."""
    process = subprocess.Popen(["/bin/sh", "-c", shell])
    process.wait()
    return process.pid


def heard(events: ExitEvents, child: int, parent: int | None = None) -> Ending | None:
    """What is known of a child, after a moment if need be: the kernel tells the parent first."""
    deadline = time.monotonic() + WITHIN_S
    while time.monotonic() < deadline:
        events.receive()
        if (found := events.of_child(parent or os.getpid(), 0, child)) is not None:
            return found
        time.sleep(0.01)
    return None


@pytest.mark.parametrize("status", [1, 3, 128, 137, 143, 255])
def test_an_exit_code_is_an_exit_code(events: ExitEvents, status: int) -> None:
    child = run(f"exit {status}")
    found = heard(events, child)
    assert found == Ending(child, status, "")
    assert found.exit_code == status


@pytest.mark.parametrize("name", ["KILL", "TERM", "USR1", "SEGV"])
def test_a_signal_is_a_signal(events: ExitEvents, name: str) -> None:
    child = run(f"ulimit -c 0; kill -{name} $$")
    found = heard(events, child)
    assert found == Ending(child, 128 + signal.Signals[f"SIG{name}"], name)
    assert found.exit_code is None


def test_two_with_the_same_status_are_told_apart_by_their_pids(events: ExitEvents) -> None:
    killed, exited = run("kill -KILL $$"), run("exit 137")
    assert heard(events, exited) == Ending(exited, 137, "")
    assert heard(events, killed) == Ending(killed, 137, "KILL")
    last = events.of_child(os.getpid(), 137, 0)
    assert last is not None
    assert last.pid == exited


def test_success_is_nothing_to_tell(events: ExitEvents) -> None:
    fine, failed = run("exit 0"), run("exit 1")
    assert heard(events, failed) is not None
    assert events.of_child(os.getpid(), 0, fine) is None


def test_threads_that_end_are_no_processes(events: ExitEvents) -> None:
    code = """
import os, threading
threads = [threading.Thread(target=lambda: None) for _ in range(20)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
os._exit(9)
"""
    process = subprocess.Popen([sys.executable, "-c", code])
    process.wait()
    assert heard(events, process.pid) == Ending(process.pid, 9, "")
    assert len(events._by_parent[os.getpid()]) == 1


def test_a_grandchild_belongs_to_its_own_parent(events: ExitEvents) -> None:
    process = subprocess.Popen(["/bin/sh", "-c", "sh -c 'exit 5'; exit 6"])
    process.wait()
    assert heard(events, process.pid) == Ending(process.pid, 6, "")
    (grandchild,) = events._by_parent[process.pid]
    assert (grandchild.status, grandchild.signal) == (5, "")


def test_what_was_heard_before_it_was_watched_is_known(events: ExitEvents) -> None:
    child = run("exit 7")
    assert heard(events, child) is not None
    events.watch(os.getpid())
    assert heard(events, child) is not None
    later = run("exit 8")
    assert heard(events, later) is not None
    events.forget(os.getpid())
    assert events.of_child(os.getpid(), 7, child) is None


def test_a_parent_is_remembered_with_a_bounded_number_of_children(events: ExitEvents) -> None:
    script = f"i=0; while [ $i -lt {KEPT_OF_ONE + 20} ]; do (exit 1); i=$((i+1)); done; (exit 2); exit 3"
    process = subprocess.Popen(["/bin/sh", "-c", script])
    events.watch(process.pid)
    while process.poll() is None:
        events.receive()
        time.sleep(0.001)
    assert heard(events, process.pid) is not None
    assert len(events._watched[process.pid]) == KEPT_OF_ONE
    last = events.of_child(process.pid, 2, 0)
    assert last is not None
    assert last.status == 2


def test_nobody_known_is_no_answer(events: ExitEvents) -> None:
    assert events.of_child(1 << 22, 137, 0) is None
    events.watch(1 << 22)
    assert events.of_child(1 << 22, 137, 5) is None


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (0, Ending(1, 0, "")),
        (0x0100, Ending(1, 1, "")),
        (0xFF00, Ending(1, 255, "")),
        (9, Ending(1, 137, "KILL")),
        (11 | 0x80, Ending(1, 139, "SEGV")),  # with a core
        (signal.SIGRTMIN, Ending(1, 128 + signal.SIGRTMIN, "RTMIN")),
        (signal.SIGRTMIN + 3, Ending(1, 128 + signal.SIGRTMIN + 3, "RTMIN+3")),
        (signal.SIGRTMAX, Ending(1, 128 + signal.SIGRTMAX, "RTMAX")),
    ],
)
def test_a_wait_status_is_an_exit_code_or_a_signal(code: int, expected: Ending) -> None:
    assert ending(1, code) == expected
