"""Events: what is written to an outbox with a change, and published on NATS after it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from google.protobuf.json_format import MessageToJson
from google.protobuf.timestamp_pb2 import Timestamp
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
    event = Event(
        id=new_id(),
        type="container.deleted" if what == "deleted" else "container.state_changed",
        container_id=container_id,
        node_name=node_name,
        request_id=context.request_id(),
    )
    stamp = Timestamp()
    stamp.FromDatetime(datetime.now(UTC))
    event.time.CopyFrom(stamp)
    event.data.update(dict(data))
    body = MessageToJson(event, preserving_proto_field_name=True, indent=None)
    return OutgoingEvent(event.id, f"hzel.container.{container_id}.{what}", body)
