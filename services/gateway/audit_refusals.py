"""Equal refusals of a minute are one entry at once, and one more with their number when it is over. Pure.

Whoever is refused must not be able to fill the disk: not by repeating himself, and not by coming from ever new
addresses. The numbers are in memory: a gateway that is killed loses those of its last minute.
"""

import json
from dataclasses import dataclass

from services.gateway.audit_entry import Action, Entry, Outcome, Value, new_entry

WINDOW_S = 60.0
MAX_KINDS = 1000

Kind = tuple[str | None, ...]
# What stands for all kinds beyond MAX_KINDS.
OTHERS: Kind = ("others",)


@dataclass
class _Counted:
    first: Entry
    since: float
    repeated: int = 0


class Refusals:
    def __init__(self) -> None:
        self._counted: dict[Kind, _Counted] = {}

    def is_first(self, kind: Kind, entry: Entry, now: float) -> bool:
        """Whether the entry is to be written; otherwise it is counted. `now` is in seconds of any clock."""
        if kind not in self._counted and len(self._counted) >= MAX_KINDS:
            kind = OTHERS
        counted = self._counted.get(kind)
        if counted is None:
            self._counted[kind] = _Counted(entry, now)
            return True
        counted.repeated += 1
        return False

    def over(self, now: float, within_s: float = WINDOW_S) -> list[Entry]:
        """How often those were repeated whose minute is over."""
        done = {kind: counted for kind, counted in self._counted.items() if now - counted.since >= within_s}
        for kind in done:
            del self._counted[kind]
        return [_count(kind, counted) for kind, counted in done.items() if counted.repeated]


def _count(kind: Kind, counted: _Counted) -> Entry:
    first = counted.first
    metadata: dict[str, Value] = {} if kind == OTHERS else json.loads(first.metadata) | {"request_id": None}
    metadata |= {"count": counted.repeated, "since": first.created_at.isoformat()}
    if kind == OTHERS:
        return new_entry(Action(first.action), Outcome.FAILURE, metadata | {"address": "many"})
    return new_entry(Action(first.action), Outcome.FAILURE, metadata, first.user_id, first.container_id)
