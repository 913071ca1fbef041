"""Events: what is written to an outbox with a change, and published on NATS after it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from google.protobuf.json_format import MessageToJson
from hzel.events.v1.events_pb2 import Event

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
    """`what` is the new state, or `deleted`; `data` holds plain JSON values."""
    kind = "container.deleted" if what == "deleted" else "container.state_changed"
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
    event = Event(
        id=new_id(),
        type=kind,
        container_id=container_id,
        node_name=node_name,
        request_id=context.request_id(),
    )
    event.time.FromDatetime(datetime.now(UTC))
    event.data.update(dict(data))
    body = MessageToJson(event, preserving_proto_field_name=True, indent=None)
    return OutgoingEvent(event.id, subject, body)
