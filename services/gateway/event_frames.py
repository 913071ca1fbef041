"""The frames of the event stream (pure): the same JSON over WebSocket and as server-sent events.

    {"id": "1024-1795520058766678", "event_id": "01a2…", "type": "container.state_changed",
     "container_id": "01a2…", "time": "2026-11-24T08:14:18.766678Z", "request_id": "…", "data": {…}}

`id` is the place in the stream to go on from, `event_id` what happened: the same however often it comes, also on NATS.
Frames of the stream itself have a type that begins with `stream.`, and no event_id.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from services.gateway.event_positions import Gap, Position

# Of a NATS event, what clients see.
_SHOWN = ("type", "container_id", "time", "request_id", "data")
_TEXT_FRAME = 0x81  # RFC 6455, section 5.2: the last frame of a message, of text


@dataclass(frozen=True, slots=True)
class StreamFrame:
    """One event, encoded once for all its readers. `owner` may see it, and admins; with `is_for_all`, everyone."""

    position: Position
    owner: str | None
    is_for_all: bool
    text: bytes
    as_sse: bytes
    as_websocket: bytes


@dataclass(frozen=True)
class NatsEvent:
    """A message of the NATS stream, parsed as far as the gateway needs it."""

    subject: str
    fields: Mapping[str, Any]

    @property
    def container_id(self) -> str | None:
        found = self.fields.get("container_id")
        return found if isinstance(found, str) else None

    @property
    def user_id(self) -> str | None:
        """As the event itself tells: the owner only where it is an event of the container."""
        data = self.fields.get("data")
        found = data.get("user_id") if isinstance(data, dict) else None
        return found if isinstance(found, str) else None

    @property
    def is_of_container(self) -> bool:
        return self.subject.startswith("hzel.container.")


def parse_event(subject: str, body: bytes) -> NatsEvent | None:
    """None for what is no event of ours."""
    try:
        fields = json.loads(body)
    except (ValueError, RecursionError):
        return None
    if not isinstance(fields, dict) or not all(isinstance(fields.get(name), str) for name in ("id", "type", "time")):
        return None
    return NatsEvent(subject, fields)


def event_frame(position: Position, event: NatsEvent, owner: str | None) -> StreamFrame:
    shown = {name: event.fields[name] for name in _SHOWN if name in event.fields}
    return _frame(position, {"event_id": event.fields["id"], **shown}, owner, is_for_all=False)


def opened_frame(position: Position, is_resumed: bool, now: datetime) -> StreamFrame:
    """The first one, where nothing is missing: whoever has read nothing else goes on from here."""
    return _notice(position, "stream.opened", {"resumed": is_resumed}, now)


def gap_frame(position: Position, gap: Gap, now: datetime) -> StreamFrame:
    """What happened after `position` and before the next frame may be missing, or may come a second time."""
    return _notice(position, "stream.gap", {"reason": gap.value}, now)


def position_frame(position: Position, now: datetime) -> StreamFrame:
    """Nothing for this reader has happened up to here: a place to go on from that is kept for longer."""
    return _notice(position, "stream.position", {}, now)


def closed_frame(position: Position, code: str, message: str, now: datetime) -> StreamFrame:
    """The last one of a server-sent stream; a WebSocket has its close frame."""
    return _notice(position, "stream.closed", {"code": code, "message": message}, now)


def encoded_text_frame(text: bytes) -> bytes:
    """A whole WebSocket message, as a server sends it: RFC 6455, section 5.2, without a mask."""
    size = len(text)
    if size < 126:
        return bytes((_TEXT_FRAME, size)) + text
    if size < 1 << 16:
        return bytes((_TEXT_FRAME, 126)) + size.to_bytes(2, "big") + text
    return bytes((_TEXT_FRAME, 127)) + size.to_bytes(8, "big") + text


def _notice(position: Position, kind: str, data: Mapping[str, Any], now: datetime) -> StreamFrame:
    moment = now.isoformat(timespec="microseconds").replace("+00:00", "Z")
    fields = {"type": kind, "container_id": None, "time": moment, "data": data}
    return _frame(position, fields, None, is_for_all=True)


def _frame(position: Position, fields: Mapping[str, Any], owner: str | None, is_for_all: bool) -> StreamFrame:
    identifier = str(position)
    # A line break inside of a string is escaped, so the JSON is one line whatever is in it.
    text = json.dumps({"id": identifier, **fields}, ensure_ascii=False, separators=(",", ":")).encode(
        "utf-8", "replace"
    )
    as_sse = b"id: " + identifier.encode() + b"\ndata: " + text + b"\n\n"
    return StreamFrame(position, owner, is_for_all, text, as_sse, encoded_text_frame(text))
