"""What is written down of a run that is over, and of a start that failed."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from services.common.containerd.tasks import TaskExit
from services.lifecycle import ends, reasons
from services.lifecycle.container import Change, Container, Wanted
from services.lifecycle.restart_policy import RestartPolicy, Restarts
from services.lifecycle.state import Desired, State

NOW = datetime(2026, 1, 1, tzinfo=UTC)
ENDED = NOW - timedelta(seconds=1)


def container(policy: str, ran_s: float = 1, **changes: Any) -> Container:
    wanted = Wanted("box", "a:1", (), {}, {}, 1, 64, 1, "crun", RestartPolicy.parse(policy))
    given: dict[str, Any] = {
        "id": "c", "node_name": "n", "user_id": "u", "ctid": 100, "wanted": wanted, "image": None, "id_base": 0,
        "ip_address": "", "state": State.RUNNING, "desired": Desired.RUNNING, "state_reason": "", "exit_code": None,
        "created_at": NOW, "started_at": ENDED - timedelta(seconds=ran_s), "finished_at": None, "restarts": Restarts(),
    }  # fmt: skip
    return Container(**given | changes)


def test_what_is_stopped_has_the_exit_that_was_seen_or_none() -> None:
    seen = ends.stopped(TaskExit(3, ENDED), "so", NOW)
    assert seen == Change(State.STOPPED, "so", finished_at=ENDED, exit_code=3)
    assert ends.stopped(None, "so", NOW) == Change(State.STOPPED, "so", finished_at=NOW, forget_last_run=True)


@pytest.mark.parametrize(
    ("policy", "status", "again"),
    [("no", 1, False), ("on-failure", 0, False), ("on-failure", 1, True), ("on-failure", None, True),
     ("always", 0, True), ("always", None, True)],
)  # fmt: skip
def test_what_ends_by_itself_is_started_again_or_wants_to_be_stopped(
    policy: str, status: int | None, again: bool
) -> None:
    exit_seen = TaskExit(status, ENDED) if status is not None else None
    change = ends.ended(container(policy), exit_seen, "exited: so", NOW)
    assert (change.state, change.reason, change.exit_code) == (State.STOPPED, "exited: so", status)
    if again:
        assert (change.desired, change.restarts) == (None, Restarts(0, 100, NOW + timedelta(milliseconds=100)))
    else:
        assert (change.desired, change.restarts) == (Desired.STOPPED, None)


@pytest.mark.parametrize(("policy", "again"), [("no", False), ("on-failure", False), ("always", True)])
def test_a_reboot_is_no_failure(policy: str, again: bool) -> None:
    change = ends.ended(container(policy), None, reasons.NODE_RESTARTED, NOW)
    assert (change.restarts is not None) is again


def test_waits_grow_until_a_run_was_good() -> None:
    exit_seen, after = TaskExit(1, ENDED), Restarts(4, 800)
    short = ends.ended(container("always", ran_s=2, restarts=after), exit_seen, "exited: so", NOW)
    good = ends.ended(container("always", ran_s=20, restarts=after), exit_seen, "exited: so", NOW)
    assert [change.restarts.delay_ms for change in (short, good) if change.restarts] == [1600, 100]


def test_what_somebody_is_stopping_is_not_started_again() -> None:
    change = ends.ended(container("always", desired=Desired.STOPPED), TaskExit(1, ENDED), "exited: so", NOW)
    assert (change.desired, change.restarts) == (Desired.STOPPED, None)


@pytest.mark.parametrize(
    ("policy", "count", "status", "again"),
    [("always", 0, None, False), ("always", 1, None, True), ("on-failure", 1, None, True), ("on-failure", 1, 0, False),
     ("on-failure:2", 1, 127, True), ("on-failure:2", 2, 127, False)],
)  # fmt: skip
def test_only_a_restart_is_tried_again(policy: str, count: int, status: int | None, again: bool) -> None:
    change = ends.failed(container(policy, restarts=Restarts(count, 100)), "disk_full: so", status, NOW)
    assert (change.state, change.exit_code) == (State.FAILED, status)
    assert (change.restarts is not None) is again
