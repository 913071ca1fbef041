"""Which state may follow which."""

import itertools

import pytest

from services.lifecycle import state as states
from services.lifecycle.state import ALLOWED, State, TransitionRefused, check

REFUSED = [
    (before, after)
    for before, after in itertools.product((None, *State), State)
    if (before, after)
    not in {
        (None, State.PROVISIONING),
        (State.PROVISIONING, State.RUNNING),
        (State.PROVISIONING, State.STOPPED),
        (State.PROVISIONING, State.FAILED),
        (State.RUNNING, State.PROVISIONING),
        (State.RUNNING, State.PAUSED),
        (State.RUNNING, State.STOPPED),
        (State.RUNNING, State.FAILED),
        (State.PAUSED, State.RUNNING),
        (State.PAUSED, State.STOPPED),
        (State.PAUSED, State.FAILED),
        (State.STOPPED, State.PROVISIONING),
        (State.STOPPED, State.FAILED),
        (State.FAILED, State.PROVISIONING),
        (State.FAILED, State.STOPPED),
    }
]


def test_the_table_has_every_state() -> None:
    assert set(ALLOWED) == {None, *State}


@pytest.mark.parametrize(("before", "after"), REFUSED)
def test_what_is_not_drawn_is_refused(before: State | None, after: State) -> None:
    with pytest.raises(TransitionRefused, match=after.name):
        check(before, after)


def test_what_is_in_the_table_is_not_refused() -> None:
    for before, after in ((before, after) for before, followers in ALLOWED.items() for after in followers):
        check(before, after)


def test_no_state_is_a_dead_end_and_none_is_out_of_reach() -> None:
    reached, waiting = set[State](), [None]
    while waiting:
        new = ALLOWED[waiting.pop()] - reached
        reached |= new
        waiting += new  # type: ignore[arg-type]
    assert reached == set(State)
    assert all(ALLOWED[state] for state in State)


def test_the_drawing_names_every_state() -> None:
    assert all(state.name in (states.__doc__ or "") for state in State)
