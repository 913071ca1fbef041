"""What becomes of a container whose run is over, or has not come about: the change to write down (pure)."""

from dataclasses import replace
from datetime import datetime

from services.common.containerd.tasks import TaskExit
from services.lifecycle import reasons
from services.lifecycle.container import Change, Container
from services.lifecycle.state import Desired, State


def stopped(exit_seen: TaskExit | None, reason: str, now: datetime) -> Change:
    """By somebody's wish, which the row says already; no exit: nobody knows how it ended."""
    if exit_seen is None:
        return Change(State.STOPPED, reason, finished_at=now, forget_last_run=True)
    return Change(State.STOPPED, reason, finished_at=exit_seen.at, exit_code=exit_seen.status)


def ended(container: Container, exit_seen: TaskExit | None, reason: str, now: datetime) -> Change:
    """By itself: it wants to be stopped now, unless its policy says otherwise."""
    policy, restarts = container.wanted.restart_policy, container.restarts
    change = stopped(exit_seen, reason, now)
    if reason == reasons.NODE_RESTARTED:
        again = policy.outlives_node
    else:
        again = policy.applies(change.exit_code, restarts.count)
    if not again or container.desired is not Desired.RUNNING:
        return replace(change, desired=Desired.STOPPED)
    return replace(change, restarts=restarts.planned(_ran_s(container, change), now))


def failed(container: Container, reason: str, exit_status: int | None, now: datetime) -> Change:
    """A start. Whoever has asked for it is told; one that nobody has asked for, a restart, is tried again."""
    policy, restarts = container.wanted.restart_policy, container.restarts
    change = Change(State.FAILED, reason, exit_code=exit_status)
    if restarts.count and policy.applies(exit_status, restarts.count):
        change = replace(change, restarts=restarts.planned(0, now))
    return change


def _ran_s(container: Container, change: Change) -> float:
    if container.started_at is None or change.finished_at is None:
        return 0.0
    return (change.finished_at - container.started_at).total_seconds()
