"""Events: what is written to an outbox with a change, and published on NATS after it."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from services.common import context
from services.common.ids import new_id

STREAM = "HZEL_EVENTS"
STREAM_SUBJECTS = ("hzel.>",)

Json = str | int | float | bool | None | Sequence["Json"] | Mapping[str, "Json"]


@dataclass(frozen=True)
class OutgoingEvent:
    """`subject` and `body` as they go over the wire; `id` is the message id that drops repeats."""

    id: str
    subject: str
    body: str


def container_event(container_id: str, what: str, node_name: str, data: Mapping[str, Json]) -> OutgoingEvent:
    """`what` is the new state, or `updated`, `expiring` or `deleted`; `data` holds plain JSON values."""
    kind = f"container.{what if what in ('updated', 'expiring', 'deleted') else 'state_changed'}"
    return _event(f"hzel.container.{container_id}.{what}", kind, container_id, node_name, data)


def command_event(
    command_id: str, container_id: str, what: str, node_name: str, data: Mapping[str, Json]
) -> OutgoingEvent:
    """`what` is the new status."""
    data = {"command_id": command_id, **data}
    return _event(f"hzel.command.{command_id}.{what}", "command.status_changed", container_id, node_name, data)


def terminal_event(
    session_id: str, container_id: str, what: str, node_name: str, data: Mapping[str, Json]
) -> OutgoingEvent:
    """`what` is opened, closed or uploaded."""
    data = {"session_id": session_id, **data}
    return _event(f"hzel.terminal.{session_id}.{what}", f"terminal.{what}", container_id, node_name, data)


def _event(subject: str, kind: str, container_id: str, node_name: str, data: Mapping[str, Json]) -> OutgoingEvent:
    # The JSON form of an Event, but for whole numbers in `data`: protobuf writes 3 there as 3.0.
    event = {
        "id": new_id(),
        "type": kind,
        "container_id": container_id,
        "time": datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z"),
        "node_name": node_name,
        "request_id": context.request_id(),
        "data": dict(data),
    }
    return OutgoingEvent(str(event["id"]), subject, json.dumps({key: value for key, value in event.items() if value}))
