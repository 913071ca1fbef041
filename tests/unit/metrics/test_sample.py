"""Two readings make a sample."""

import dataclasses

import pytest

from services.common.counters import Counters
from services.metrics.sample import Reading, cpu_percent, derive
from services.metrics.sampler import until_next_round

IDLE = Counters(0, 0, 2.0, 0, None, 1, None, 0)
START = Reading(1000.0, 10**9, IDLE, 0, 0, None, None)


def later(seconds: float, cpu_s: float, cores: float | None = 2.0) -> Reading:
    """A reading some time after START, when so much CPU time had been used."""
    counters = dataclasses.replace(IDLE, cpu_usage_ns=round(cpu_s * 1e9), cpu_limit_cores=cores)
    monotonic_ns = START.monotonic_ns + round(seconds * 1e9)
    return dataclasses.replace(START, unix_s=1000.0 + seconds, monotonic_ns=monotonic_ns, counters=counters)


@pytest.mark.parametrize(
    ("seconds", "cpu_s", "percent"),
    [(1.0, 0.0, 0.0), (1.0, 1.0, 50.0), (1.0, 2.0, 100.0), (0.2, 0.1, 25.0), (7.0, 7.0, 50.0)],
)
def test_percent_is_of_the_containers_own_cores(seconds: float, cpu_s: float, percent: float) -> None:
    assert cpu_percent(START, later(seconds, cpu_s), 2.0) == pytest.approx(percent)


def test_percent_is_never_above_100_nor_below_0() -> None:
    assert cpu_percent(START, later(1.0, 2.3), 2.0) == 100.0
    assert cpu_percent(later(0.0, 5.0), later(1.0, 0.0), 2.0) == 0.0, "a counter that went back"
    assert cpu_percent(START, later(0.0, 1.0), 2.0) == 0.0, "no time between"
    assert cpu_percent(later(1.0, 0.0), START, 2.0) == 0.0


def test_a_live_resize_counts_from_the_next_reading_on() -> None:
    halved = derive("c", 900.0, START, later(1.0, 1.5, cores=1.0), 4)
    assert (halved.cpu_percent, halved.cpu_cores) == (100.0, 1.0)
    doubled = derive("c", 900.0, START, later(1.0, 1.5, cores=4.0), 4)
    assert doubled.cpu_percent == pytest.approx(37.5)


def test_a_container_without_a_limit_has_the_cores_of_the_node() -> None:
    sample = derive("c", 900.0, START, later(1.0, 1.0, cores=None), 4)
    assert (sample.cpu_cores, sample.cpu_percent) == (4.0, pytest.approx(25.0))


@pytest.mark.parametrize(
    ("now", "wait"), [(100.0, 0.5), (100.2, 0.3), (100.3, 1.2), (100.5, 1.0), (100.51, 0.99), (100.99, 0.51)]
)
def test_rounds_are_in_the_middle_of_seconds_and_never_close_together(now: float, wait: float) -> None:
    assert until_next_round(now) == pytest.approx(wait)
