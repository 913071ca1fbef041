"""An entry of the audit log, and the chain that the entries form. Pure.

The hash of an entry is SHA-256, hexadecimal, of its canonical form: the JSON object of all its fields and of the hash
of the entry before it, names sorted, no space, ASCII only. Entries are numbered from 1 without a gap; before the
first stands `GENESIS`. So no entry can be changed, left out or put in between without all later hashes changing;
that the last ones are missing shows only to someone who has kept a later hash.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum

from services.common.ids import new_id

GENESIS = "0" * 64
# A name that a client chose can have 128 KiB.
MAX_TEXT = 200

Value = str | int | float | bool | None


class Action(StrEnum):
    CONTAINER_CREATE = "container.create"
    CONTAINER_START = "container.start"
    CONTAINER_STOP = "container.stop"
    CONTAINER_RESTART = "container.restart"
    CONTAINER_PAUSE = "container.pause"
    CONTAINER_RESUME = "container.resume"
    CONTAINER_UPDATE = "container.update"
    CONTAINER_DELETE = "container.delete"
    COMMAND_ENQUEUE = "command.enqueue"
    COMMAND_CANCEL = "command.cancel"
    COMMAND_INPUT = "command.input"
    COMMAND_SIGNAL = "command.signal"
    TERMINAL_OPEN = "terminal.open"
    TERMINAL_CLOSE = "terminal.close"
    TERMINAL_UPLOAD = "terminal.upload"
    TOKEN_CREATE = "token.create"  # noqa: S105
    TOKEN_REVOKE = "token.revoke"  # noqa: S105
    USER_CREATE = "user.create"
    AUTH_REFUSED = "auth.refused"
    ACCESS_REFUSED = "access.refused"


class Outcome(StrEnum):
    SUCCESS = "success"
    FAILURE = "failure"


@dataclass(frozen=True)
class Entry:
    """`metadata` is a JSON object as it is stored: names, ids, sizes; nothing that was secret, typed or printed."""

    id: str
    user_id: str | None
    container_id: str | None
    action: str
    outcome: str
    metadata: str
    created_at: datetime


@dataclass(frozen=True)
class Link:
    """An entry in its place; `seq` and `hash` of the last one are the head of the chain."""

    seq: int
    entry: Entry
    previous_hash: str
    hash: str


def new_entry(
    action: Action,
    outcome: Outcome,
    metadata: Mapping[str, Value],
    user_id: str | None = None,
    container_id: str | None = None,
) -> Entry:
    """Of now; what has no value is left out of the metadata, and long texts are cut."""
    kept = {name: _cut(value) for name, value in metadata.items() if value is not None}
    return Entry(new_id(), user_id, container_id, action, outcome, _json(kept), datetime.now(UTC))


def user_created(user_id: str, email: str, role: str, by: str) -> Entry:
    """Where no user has done it; `by` says in a word or two what has."""
    metadata = {"created_user_id": user_id, "email": email, "role": role, "by": by}
    return new_entry(Action.USER_CREATE, Outcome.SUCCESS, metadata)


def linked(entry: Entry, seq: int, previous_hash: str) -> Link:
    return Link(seq, entry, previous_hash, entry_hash(entry, seq, previous_hash))


def entry_hash(entry: Entry, seq: int, previous_hash: str) -> str:
    fields: dict[str, Value] = {
        "seq": seq,
        "id": entry.id,
        "user_id": entry.user_id,
        "container_id": entry.container_id,
        "action": entry.action,
        "outcome": entry.outcome,
        "metadata": entry.metadata,
        "created_at": entry.created_at.astimezone(UTC).isoformat(timespec="microseconds"),
        "previous_hash": previous_hash,
    }
    return hashlib.sha256(_json(fields).encode()).hexdigest()


def follows(link: Link, seq: int, previous_hash: str) -> bool:
    """Whether it is sound, and the one after the entry with this number and hash."""
    return (
        link.seq == seq + 1
        and link.previous_hash == previous_hash
        and link.hash == entry_hash(link.entry, link.seq, previous_hash)
    )


def _cut(value: Value) -> Value:
    return f"{value[:MAX_TEXT]}…" if isinstance(value, str) and len(value) > MAX_TEXT else value


def _json(fields: Mapping[str, Value]) -> str:
    return json.dumps(fields, sort_keys=True, separators=(",", ":"))
