"""Whether a container is started again, and when."""

from datetime import UTC, datetime, timedelta

import pytest

from services.lifecycle.restart_policy import GOOD_RUN_S, RestartPolicy, Restarts

NOW = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize("text", ["no", "always", "on-failure", "on-failure:1", "on-failure:999999"])
def test_a_policy_is_written_as_it_was_read(text: str) -> None:
    assert str(RestartPolicy.parse(text)) == text


@pytest.mark.parametrize(
    "text",
    ["", "No", "never", "always:1", "no:1", "on-failure:", "on-failure:0", "on-failure:-1", "on-failure:1000000",
     "on-failure: 1", "on-failure:1\n", "on-failure:\u0661", "unless-stopped"],
)  # fmt: skip
def test_anything_else_is_no_policy(text: str) -> None:
    with pytest.raises(ValueError, match="on-failure"):
        RestartPolicy.parse(text)


@pytest.mark.parametrize(
    ("policy", "status", "restarts", "applies"),
    [
        ("no", 1, 0, False), ("no", None, 0, False), ("always", 0, 0, True), ("always", 137, 10**6, True),
        ("always", None, 0, True), ("on-failure", 0, 0, False), ("on-failure", 1, 10**6, True),
        ("on-failure", None, 0, True), ("on-failure:2", 1, 1, True), ("on-failure:2", 1, 2, False),
        ("on-failure:2", 0, 0, False),
    ],
)  # fmt: skip
def test_when_a_policy_applies(policy: str, status: int | None, restarts: int, applies: bool) -> None:
    assert RestartPolicy.parse(policy).applies(status, restarts) is applies


def test_only_what_shall_always_run_outlives_its_node() -> None:
    outliving = [text for text in ("no", "on-failure", "always") if RestartPolicy.parse(text).outlives_node]
    assert outliving == ["always"]


def test_each_wait_is_twice_the_one_before_up_to_a_minute() -> None:
    restarts, waits = Restarts(), []
    for _ in range(12):
        restarts = restarts.planned(ran_s=0.5, now=NOW)
        assert restarts.due_at == NOW + timedelta(milliseconds=restarts.delay_ms)
        waits.append(restarts.delay_ms)
        restarts = restarts.begun()
        assert restarts.due_at is None
    assert waits == [100, 200, 400, 800, 1600, 3200, 6400, 12800, 25600, 51200, 60000, 60000]
    assert restarts.count == 12


def test_a_good_run_begins_the_waits_anew_and_not_the_count() -> None:
    after_many = Restarts(7, 12800)
    assert after_many.planned(GOOD_RUN_S, NOW) == Restarts(7, 100, NOW + timedelta(milliseconds=100))
    assert after_many.planned(GOOD_RUN_S - 0.1, NOW).delay_ms == 25600


def test_what_is_left_of_a_wait_is_never_more_than_was_meant() -> None:
    waiting = Restarts(3, 800, NOW)
    assert waiting.left_s(NOW - timedelta(milliseconds=500)) == 0.5
    assert waiting.left_s(NOW + timedelta(hours=1)) == 0
    assert waiting.left_s(NOW - timedelta(days=1)) == 0.8, "the clock was set back"
    assert Restarts(0, 0).at_once(NOW).left_s(NOW - timedelta(days=1)) == 0
