"""Pausing against a runtime that hangs: it stands still as long as the control group is frozen, as a real one can."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from services.common.containerd.errors import ContainerdUnavailable
from services.common.containerd.tasks import Task, Tasks, TaskStatus
from services.common.errors import Conflict, Unavailable
from services.lifecycle import freezer as freezing
from services.lifecycle.cgroups import Cgroups
from services.lifecycle.freezer import Freezer
from services.lifecycle.state import State


class HangingTasks(Tasks):
    """`hangs` says of each pause, in order, whether a process is just being added; `status` None: it has ended."""

    def __init__(self, state: Path, *hangs: bool) -> None:
        self._state = state
        self._hangs = list(hangs)
        self.status: TaskStatus | None = TaskStatus.RUNNING

    async def get(self, container_id: str) -> Task | None:
        return Task(container_id, 1, self.status) if self.status is not None else None

    async def pause(self, container_id: str) -> None:
        self._state.write_text("FROZEN")
        if self._hangs and self._hangs.pop(0):
            await until(lambda: self._state.read_text() == "THAWED")
        self.status = TaskStatus.PAUSED

    async def resume(self, container_id: str) -> None:
        if self.status is not TaskStatus.PAUSED:
            raise ContainerdUnavailable("it is not paused")
        self._state.write_text("THAWED")
        self.status = TaskStatus.RUNNING


async def until(look: Callable[[], bool]) -> None:
    while not look():
        await asyncio.sleep(0.001)


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file that says whether the container `c` is frozen."""
    monkeypatch.setattr(freezing, "FROZEN_WITHIN_S", 0.1)
    monkeypatch.setattr(freezing, "BETWEEN_LOOKS_S", 0)
    for tree in ("freezer", "memory", "cpuacct"):
        (tmp_path / tree / "hzel/c").mkdir(parents=True)
    file = tmp_path / "freezer/hzel/c/freezer.state"
    file.write_text("THAWED")
    return file


def freezer(tasks: Tasks, state: Path) -> Freezer:
    return Freezer(tasks, Cgroups("hzel", state.parents[3]))


async def test_a_pause_that_hangs_is_undone_and_tried_again(state: Path) -> None:
    tasks = HangingTasks(state, True, True)
    await freezer(tasks, state).pause("c")
    assert (tasks.status, state.read_text()) == (TaskStatus.PAUSED, "FROZEN")
    await freezer(tasks, state).pause("c")
    await freezer(tasks, state).resume("c")
    await freezer(tasks, state).resume("c")
    assert (tasks.status, state.read_text()) == (TaskStatus.RUNNING, "THAWED")


async def test_a_pause_that_always_hangs_leaves_it_running(state: Path) -> None:
    tasks = HangingTasks(state, *[True] * freezing.ATTEMPTS)
    with pytest.raises(Unavailable):
        await freezer(tasks, state).pause("c")
    assert (tasks.status, state.read_text()) == (TaskStatus.RUNNING, "THAWED")


@pytest.mark.parametrize("status", [None, TaskStatus.STOPPED])
async def test_what_has_ended_is_neither_paused_nor_resumed(state: Path, status: TaskStatus | None) -> None:
    tasks = HangingTasks(state)
    tasks.status = status
    for act in (freezer(tasks, state).pause, freezer(tasks, state).resume):
        with pytest.raises(Conflict):
            await act("c")


@pytest.mark.parametrize(
    ("status", "frozen", "expected"),
    [
        (TaskStatus.PAUSED, "FROZEN", State.PAUSED),
        (TaskStatus.PAUSED, "THAWED", State.RUNNING),
        (TaskStatus.RUNNING, "FROZEN", State.RUNNING),
        (TaskStatus.RUNNING, "THAWED", State.RUNNING),
    ],
)
async def test_what_was_left_half_way_is_brought_to_one_of_the_two(
    state: Path, status: TaskStatus, frozen: str, expected: State
) -> None:
    tasks = HangingTasks(state)
    tasks.status = status
    state.write_text(frozen)
    assert await freezer(tasks, state).align(Task("c", 1, status)) is expected
    assert (tasks.status is TaskStatus.PAUSED) is (state.read_text() == "FROZEN") is (expected is State.PAUSED)
