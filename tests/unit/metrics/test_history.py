"""The past of a container: three levels, merged, bounded, and honest about where it begins."""

import math
import random

import pytest

from services.metrics.history import COLUMNS, LEVELS, MEANS, History, Point, Series, Values, merged

MIDNIGHT = 1_700_006_400  # a multiple of a minute
DAY = 86400


def point(cpu: float = 0.0, received: float = 0.0) -> Values:
    return (cpu, 1e6, 2e6, 3.0, received, 0.0, 0.0, 0.0)


def filled(seconds: int, begin: float = MIDNIGHT) -> History:
    """A sample in the middle of each second: the CPU's figure counts up to 59, and 10 bytes are received."""
    history = History(begin)
    for second in range(seconds):
        history.add(begin + second + 0.5, point(cpu=second % 60, received=10.0))
    return history


def column(series: Series, name: str) -> list[float]:
    return [found.values[COLUMNS.index(name)] for found in series.points]


def test_every_second_of_the_last_minutes() -> None:
    series = filled(100).series(MIDNIGHT, None, MIDNIGHT + 100)
    assert series.step_s == 1
    assert [found.time for found in series.points] == [MIDNIGHT + second for second in range(99)], "the last is open"
    assert column(series, "cpu_percent") == [second % 60 for second in range(99)]
    assert set(column(series, "network_rx_bytes")) == {10.0}


def test_since_cuts_and_reaches_no_further_than_the_level() -> None:
    history, now = filled(2000), MIDNIGHT + 2000
    recent = history.series(now - 100, None, now)
    assert (recent.step_s, len(recent.points)) == (1, 99)
    whole = history.series(now - 900, None, now)
    assert (whole.step_s, len(whole.points), whole.holds_since) == (1, 899, now - 900)


@pytest.mark.parametrize(
    ("age_s", "asked", "step_s"),
    [(60, None, 1), (900, None, 1), (901, None, 10), (6 * 3600, None, 10), (6 * 3600 + 1, None, 60),
     (30 * DAY, None, 60), (60, 5, 5), (60, 10, 10), (60, 15, 20), (60, 60, 60), (60, 90, 120), (7000, 1, 10),
     (7000, 25, 30), (DAY, 1, 60), (DAY, 3600, 3600)],
)  # fmt: skip
def test_the_step_is_the_finest_that_reaches_back_or_the_one_asked_for(age_s: int, asked: int, step_s: int) -> None:
    assert History(MIDNIGHT - 60 * DAY).series(MIDNIGHT - age_s, asked, MIDNIGHT).step_s == step_s


def test_a_young_history_is_told_as_fine_as_it_is() -> None:
    series = filled(600).series(0.0, None, MIDNIGHT + 600)
    assert (series.step_s, len(series.points)) == (1, 599)


def test_a_coarser_step_has_means_and_sums() -> None:
    history, now = filled(3600), MIDNIGHT + 3600
    series = history.series(MIDNIGHT, None, now)
    assert series.step_s == 10
    assert column(series, "cpu_percent")[:6] == [4.5, 14.5, 24.5, 34.5, 44.5, 54.5]
    assert set(column(series, "network_rx_bytes")) == {100.0}
    minutes = history.series(MIDNIGHT, 60, now)
    assert set(column(minutes, "cpu_percent")) == {29.5}
    assert set(column(minutes, "network_rx_bytes")) == {600.0}
    thirds = history.series(MIDNIGHT, 30, now)
    assert [found.time for found in thirds.points][:3] == [MIDNIGHT, MIDNIGHT + 30, MIDNIGHT + 60]
    assert column(thirds, "cpu_percent")[:2] == [14.5, 44.5]


def test_what_was_not_sampled_has_no_point() -> None:
    history = filled(30)
    for second in range(100, 130):
        history.add(MIDNIGHT + second + 0.5, point())
    times = [found.time - MIDNIGHT for found in history.series(MIDNIGHT, None, MIDNIGHT + 130).points]
    assert times == [*range(30), *range(100, 129)]
    tens = [found.time - MIDNIGHT for found in history.series(MIDNIGHT, 10, MIDNIGHT + 130).points]
    assert tens == [0, 10, 20, 100, 110]


def test_it_says_from_when_it_holds() -> None:
    history = filled(30)
    assert history.series(0.0, None, MIDNIGHT + 30).holds_since == MIDNIGHT
    week_later = MIDNIGHT + 8 * DAY
    assert history.series(0.0, None, week_later).holds_since == week_later - 7 * DAY


def test_two_samples_in_one_second_are_one_point() -> None:
    history = History(MIDNIGHT)
    for moment, cpu in ((0.1, 10.0), (0.9, 30.0), (1.5, 0.0), (2.5, 0.0)):
        history.add(MIDNIGHT + moment, point(cpu=cpu, received=5.0))
    series = history.series(MIDNIGHT, None, MIDNIGHT + 3)
    assert column(series, "cpu_percent") == [20.0, 0.0]
    assert column(series, "network_rx_bytes") == [10.0, 5.0], "no byte is lost"


def test_a_clock_set_back_a_little_loses_nothing() -> None:
    history = filled(100)
    for second in range(90, 120):
        history.add(MIDNIGHT + second + 0.5, point(received=10.0))
    series = history.series(MIDNIGHT, None, MIDNIGHT + 120)
    assert sum(column(series, "network_rx_bytes")) == 10.0 * 129
    times = [found.time for found in series.points]
    assert times == sorted(set(times))


def test_a_clock_set_back_far_begins_anew() -> None:
    history = filled(4000)
    for second in range(200):
        history.add(MIDNIGHT - DAY + second + 0.5, point(cpu=7.0))
    series = history.series(MIDNIGHT - DAY, None, MIDNIGHT - DAY + 200)
    assert set(column(series, "cpu_percent")) == {7.0}
    assert series.holds_since < MIDNIGHT - DAY + 1


def test_what_is_not_known_stays_unknown() -> None:
    history = History(MIDNIGHT)
    unknown = (1.0, 1e6, math.nan, 3.0, 0.0, 0.0, math.nan, math.nan)
    for second in range(200):
        history.add(MIDNIGHT + second + 0.5, unknown)
    series = history.series(MIDNIGHT, 10, MIDNIGHT + 200)
    assert all(math.isnan(value) for value in column(series, "disk_used_bytes") + column(series, "io_read_bytes"))
    assert set(column(series, "cpu_percent")) == {1.0}


def test_values_keep_their_precision_in_blocks() -> None:
    history = History(MIDNIGHT)
    values = (12.34, 123_456_789_012.0, 5e11, 4095.0, 1_234_567.0, 9e9, 1.0, 2**24 - 1.0)
    for second in range(200):
        history.add(MIDNIGHT + second + 0.5, values)
    for found in history.series(MIDNIGHT, None, MIDNIGHT + 200).points:
        assert found.values == pytest.approx(values, rel=1e-7)


def test_a_week_of_noise_fits() -> None:
    random.seed(1)
    history = History(MIDNIGHT)
    # A point a minute is enough to fill every level.
    for minute in range(8 * DAY // 60):
        history.add(MIDNIGHT + 60 * minute + 0.5, tuple(random.random() * 1e9 for _ in COLUMNS))
    now = MIDNIGHT + 8 * DAY
    assert len(history.series(0.0, None, now).points) >= LEVELS[-1].points - 2, "the last minute is under way"
    assert history.size_bytes() < 1024**2 / 2


def test_merging_nothing_is_nothing() -> None:
    assert list(merged([], 10)) == []
    one = Point(MIDNIGHT + 7, point(cpu=1.0))
    assert [found.time for found in merged([one], 10)] == [MIDNIGHT]
    assert len(MEANS) == 4
