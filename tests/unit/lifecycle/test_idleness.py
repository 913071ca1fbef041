"""Since when nobody uses a container, by a clock that the tests set."""

import pytest

from services.common.activity import Activity
from services.lifecycle.idleness import Reading, idle_since, is_busy, latest

MS = 1_000_000


def reading(at_s: float, cpu_ms: float = 0) -> Reading:
    return Reading(None, int(cpu_ms * MS), at_s)


def activity(active: bool = False, last: float | None = None) -> Activity:
    return Activity("c", active, last)


@pytest.mark.parametrize(
    ("cpu_ms", "cores", "busy"),
    [(0, 1, False), (9.9, 1, False), (10, 1, True), (1000, 1, True), (39, 4, False), (40, 4, True)],
)
def test_one_per_cent_of_its_own_cores_is_busy(cpu_ms: float, cores: int, busy: bool) -> None:
    assert is_busy(reading(100), reading(101, cpu_ms), cores) is busy
    assert is_busy(reading(100, 500), reading(110, 500 + 10 * cpu_ms), cores) is busy


def test_who_was_busy_is_idle_from_the_look_before_the_first_quiet_one() -> None:
    assert idle_since(None, reading(100), reading(101), 1, []) == 100
    assert idle_since(40, reading(100), reading(101), 1, []) == 40


def test_what_goes_on_ends_idleness() -> None:
    for activities in ([activity(True)], [activity(), activity(True, 3)]):
        assert idle_since(40, reading(100), reading(101), 1, activities) is None
    assert idle_since(40, reading(100), reading(101, 500), 1, []) is None


def test_what_came_and_went_between_two_looks_is_not_missed() -> None:
    assert idle_since(40, reading(100), reading(101), 1, [activity(last=100.4)]) == 100.4
    assert idle_since(40, reading(100), reading(101), 1, [activity(last=12), activity(last=50)]) == 50
    assert idle_since(40, reading(100), reading(101), 1, [activity(last=12)]) == 40
    assert latest(40, [activity(last=None)]) == 40
