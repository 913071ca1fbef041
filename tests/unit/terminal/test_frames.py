"""The frames of a terminal's WebSocket."""

import itertools
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.gateway.terminal_client import Closed, Opened, Output, Size
from services.gateway.terminal_frames import BadFrame, Input, TerminalFrames, Upload, json_string, parse


@given(data=st.binary(max_size=200), cuts=st.lists(st.integers(0, 200), max_size=8))
def test_text_is_the_same_however_the_bytes_are_cut(data: bytes, cuts: list[int]) -> None:
    frames = TerminalFrames("c", is_binary=False)
    bounds = [0, *sorted(cuts), len(data)]
    pieces = [data[a:b] for a, b in itertools.pairwise(bounds)]
    made = [*(frames.of(Output(piece)) for piece in pieces), frames.rest()]
    text = "".join(json.loads(frame)["data"] for frame in made if frame)
    whole = b"".join(pieces)
    assert text == whole.decode("utf-8", "replace")


@given(text=st.text(max_size=100))
def test_any_text_survives_its_frame(text: str) -> None:
    frame = TerminalFrames("c", is_binary=False).of(Output(text.encode()))
    assert (json.loads(frame)["data"] if frame else "") == text


@given(text=st.one_of(st.text(max_size=50), st.text('\\"\n\r\t\b\x1b\x00\x7fa\u20ac', max_size=50)))
def test_strings_are_written_as_the_standard_library_does(text: str) -> None:
    assert json_string(text) == json.dumps(text, ensure_ascii=False)


def test_bytes_stay_bytes_where_they_are_asked_for() -> None:
    frames = TerminalFrames("c", is_binary=True)
    assert frames.of(Output(b"\xff\x00")) == b"\xff\x00"
    assert frames.rest() is None


def test_the_other_frames_are_json() -> None:
    frames = TerminalFrames("c", is_binary=True)
    made = [
        frames.of(Opened("s")),
        frames.of(Size(80, 24)),
        frames.of(Closed("exited", 3)),
        frames.of(Closed("idle", None)),
    ]
    assert [json.loads(frame or "") for frame in made] == [
        {"type": "opened", "container_id": "c", "session_id": "s"},
        {"type": "resized", "cols": 80, "rows": 24},
        {"type": "closed", "reason": "exited", "exit_code": 3},
        {"type": "closed", "reason": "idle", "exit_code": None},
    ]


def test_what_clients_say_is_understood() -> None:
    assert parse(b"\x00raw\xff") == Input(b"\x00raw\xff")
    assert parse('{"type":"input","data":"\\u0000é"}') == Input("\0é".encode())
    assert parse('{"type":"resize","cols":1,"rows":1000,"more":1}') == Size(1, 1000)
    assert parse('{"type":"file_upload","path":"/x","data":"YQ=="}') == Upload("/x", b"a")
    assert parse('{"type":"file_upload","path":"/x","data":"!"}') == Upload("/x", None)


@pytest.mark.parametrize(
    "message",
    [
        "", "x", "1", "null", "[]", "{}", "[" * 100_000, '{"type":1}', '{"type":"input"}',
        '{"type":"input","data":null}',
        '{"type":"input","data":"\\ud83d"}', '{"type":"resize","cols":80}', '{"type":"resize","cols":0,"rows":1}',
        '{"type":"resize","cols":1001,"rows":1}', '{"type":"resize","cols":true,"rows":1}',
        '{"type":"resize","cols":80.0,"rows":1}', '{"type":"resize","cols":"80","rows":1}',
        '{"type":"file_upload","path":"/x"}', '{"type":"file_upload","path":"\\udc00","data":""}',
        '{"type":"output","data":"x"}',
    ],
)  # fmt: skip
def test_nonsense_is_refused_with_a_word(message: str) -> None:
    with pytest.raises(BadFrame) as refused:
        parse(message)
    assert str(refused.value)
