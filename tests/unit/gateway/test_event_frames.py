"""Frames as clients get them."""

import json
from datetime import UTC, datetime

import pytest
from websockets.client import ClientProtocol
from websockets.frames import Opcode
from websockets.protocol import State
from websockets.uri import parse_uri

from services.common.events import command_event, container_event
from services.gateway.event_frames import (
    closed_frame,
    encoded_text_frame,
    event_frame,
    gap_frame,
    opened_frame,
    parse_event,
)
from services.gateway.event_positions import Gap, Position

HERE = Position(7, 1_795_520_058_766_678)
NOW = datetime(2026, 11, 24, 8, 14, 18, 766678, UTC)


def test_an_event_has_the_fields_of_the_api_and_no_internal_ones() -> None:
    sent = container_event("c-1", "running", "node-a", {"state": "running", "user_id": "u-1", "exit_code": None})
    event = parse_event(sent.subject, sent.body.encode())
    assert event is not None
    told = json.loads(event_frame(HERE, event, "u-1").text)
    body = json.loads(sent.body)
    assert told == {
        "id": "7-1795520058766678",
        "event_id": sent.id,
        "type": "container.state_changed",
        "container_id": "c-1",
        "time": body["time"],
        "data": {"state": "running", "user_id": "u-1", "exit_code": None},
    }


def test_only_a_container_s_own_event_tells_its_owner() -> None:
    container = container_event("c", "running", "n", {"user_id": "u"})
    command = command_event("m", "c", "running", "n", {"user_id": "u"})
    events = [parse_event(sent.subject, sent.body.encode()) for sent in (container, command)]
    assert [event.is_of_container for event in events if event is not None] == [True, False]


@pytest.mark.parametrize(
    "body",
    [
        *(b"", b"\xff", b"[]", b"null", b"{}", b"[" * 100_000),
        *(b'{"id": 1, "type": "a", "time": "b"}', b'{"id": "x", "type": "y"}'),
    ],
)
def test_what_is_no_event_is_none(body: bytes) -> None:
    assert parse_event("hzel.x", body) is None


def test_a_server_sent_event_is_one_line_of_data_whatever_is_in_it() -> None:
    sent = container_event("c-1", "failed", "n", {"state_reason": "a\nb\r\n\r\nid: 9\u2028ü\ud800"})
    event = parse_event(sent.subject, sent.body.encode())
    assert event is not None
    frame = event_frame(HERE, event, None)
    identifier, data, *rest = frame.as_sse.split(b"\n")
    assert identifier == b"id: 7-1795520058766678"
    assert json.loads(data.removeprefix(b"data: "))["data"]["state_reason"] == "a\nb\r\n\r\nid: 9\u2028ü?"
    assert rest == [b"", b""]
    assert b"\r" not in frame.as_sse


@pytest.mark.parametrize("size", [0, 1, 125, 126, 127, 65535, 65536, 200_000])
def test_an_encoded_message_is_what_a_client_reads(size: int) -> None:
    client = ClientProtocol(parse_uri("ws://gateway/"), state=State.OPEN)
    text = b"x" * size
    client.receive_data(encoded_text_frame(text) + encoded_text_frame(b"next"))
    first, second = client.events_received()
    assert [first.opcode, first.fin, first.data] == [Opcode.TEXT, True, text]  # type: ignore[union-attr]
    assert second.data == b"next"  # type: ignore[union-attr]


def test_what_the_stream_says_of_itself_is_for_everyone() -> None:
    frames = [
        opened_frame(HERE, True, NOW),
        gap_frame(HERE, Gap.EXPIRED, NOW),
        closed_frame(HERE, "SLOW_READER", "too slow", NOW),
    ]
    assert all(frame.is_for_all for frame in frames)
    told = [json.loads(frame.text) for frame in frames]
    assert [one["type"] for one in told] == ["stream.opened", "stream.gap", "stream.closed"]
    assert told[1] == {
        "id": "7-1795520058766678",
        "type": "stream.gap",
        "container_id": None,
        "time": "2026-11-24T08:14:18.766678Z",
        "data": {"reason": "expired"},
    }
