"""The states of a container and what may follow what (pure).

    create                      confirmed
  ─────────► PROVISIONING ────────────────► RUNNING ──┐
              ▲   ▲   │                      │   │    │ restart, or start after a crash
        start │   │   │ not confirmed        │   └────┼──► PROVISIONING
              │   │   ▼                      │        │
              │   └─ FAILED ◄────────────────┤ a stop that could not be confirmed
              │        │ stop                │
              │        ▼                     │
              └──── STOPPED ◄────────────────┘ ended, or stopped

`desired` is what the last acknowledged request wants; the reconciler drives a row whose
state does not agree with it, and a container that ended by itself wants to be stopped.
"""

from enum import Enum


class State(Enum):
    PROVISIONING = "provisioning"
    RUNNING = "running"
    STOPPED = "stopped"
    FAILED = "failed"


class Desired(Enum):
    RUNNING = "running"
    STOPPED = "stopped"
    DELETED = "deleted"


ALLOWED: dict[State | None, frozenset[State]] = {
    None: frozenset({State.PROVISIONING}),
    State.PROVISIONING: frozenset({State.RUNNING, State.STOPPED, State.FAILED}),
    State.RUNNING: frozenset({State.PROVISIONING, State.STOPPED, State.FAILED}),
    State.STOPPED: frozenset({State.PROVISIONING, State.FAILED}),
    State.FAILED: frozenset({State.PROVISIONING, State.STOPPED}),
}


class TransitionRefused(Exception):
    """A change of state that the table does not have: a defect of ours, never a client's mistake."""


def check(before: State | None, after: State) -> None:
    if after not in ALLOWED[before]:
        raise TransitionRefused(f"{before} → {after}")
