"""The states of a container and what may follow what (pure).

    create                      confirmed
  ─────────► PROVISIONING ────────────────► RUNNING ──┐    pause
              ▲   ▲   │                      │   │ ◄──┼──────────► PAUSED ──┐
        start │   │   │ not confirmed        │   │    │ resume              │
              │   │   │                      │   └────┼──► PROVISIONING      │
              │   │   │                      │        │    (after a crash)   │
              │   │   ▼                      │        │                      │
              │   └─ FAILED ◄────────────────┤ a stop that could not be      │
              │        │ stop                │ confirmed ◄───────────────────┤
              │        ▼                     │                               │
              └──── STOPPED ◄────────────────┴───────────────────────────────┘ ended, or stopped

PAUSED is RUNNING with every process halted: `desired` is the same, and which of the two it is, is
what the task's status says. `desired` is what the last acknowledged request wants; the reconciler drives a row whose
state does not agree with it, and a container that ended by itself wants to be stopped.
"""

from enum import Enum


class State(Enum):
    PROVISIONING = "provisioning"
    RUNNING = "running"
    PAUSED = "paused"
    STOPPED = "stopped"
    FAILED = "failed"


class Desired(Enum):
    RUNNING = "running"
    STOPPED = "stopped"
    DELETED = "deleted"


ALLOWED: dict[State | None, frozenset[State]] = {
    None: frozenset({State.PROVISIONING}),
    State.PROVISIONING: frozenset({State.RUNNING, State.STOPPED, State.FAILED}),
    State.RUNNING: frozenset({State.PROVISIONING, State.PAUSED, State.STOPPED, State.FAILED}),
    State.PAUSED: frozenset({State.RUNNING, State.STOPPED, State.FAILED}),
    State.STOPPED: frozenset({State.PROVISIONING, State.FAILED}),
    State.FAILED: frozenset({State.PROVISIONING, State.STOPPED}),
}


# With a task on the node; a container that has not is as good as stopped.
LIVE = (State.RUNNING, State.PAUSED)


class TransitionRefused(Exception):
    """A change of state that the table does not have: a defect of ours, never a client's mistake."""


def check(before: State | None, after: State) -> None:
    if after not in ALLOWED[before]:
        raise TransitionRefused(f"{before} → {after}")
