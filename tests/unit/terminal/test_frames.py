"""The frames of a terminal's WebSocket."""

import base64
import itertools
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.gateway.terminal_client import Closed, Opened, Output, Size
from services.gateway.terminal_frames import (
    BASE64_PIECE,
    STAND_IN,
    BadFrame,
    Input,
    TerminalFrames,
    Upload,
    json_string,
    parse,
)


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
    assert uploaded('{"type":"file_upload","path":"/x","data":"YQ=="}') == ("/x", b"a")


def uploaded(message: str) -> tuple[str, bytes]:
    upload = parse(message)
    assert isinstance(upload, Upload)
    return upload.path, b"".join(upload.content())


LONG = bytes(range(256)) * 4000
LONG_BASE64 = base64.b64encode(LONG).decode()


@pytest.mark.parametrize("size", [0, 1, 50_000, BASE64_PIECE // 4 * 3, BASE64_PIECE // 4 * 3 + 1, len(LONG)])
def test_an_upload_of_any_size_is_understood(size: int) -> None:
    frame = {"type": "file_upload", "path": "/x", "data": base64.b64encode(LONG[:size]).decode()}
    assert uploaded(json.dumps(frame)) == ("/x", LONG[:size])


@pytest.mark.parametrize(
    "message",
    [
        '{"data":"%s","path":"/x","type":"file_upload"}',
        '{"type":"file_upload","path":"/x","data":"","data":"%s"}',
        ' { "more" : {"data":"y"}, "data" : "%s" , "path" : "\\u002fx", "type":"file_upload" } ',
        '{"type":"file_upload","path":"/x","data":"\\u0041%s"}',
    ],
)
def test_a_large_upload_may_be_written_in_any_way(message: str) -> None:
    data = LONG_BASE64.removeprefix("A") if "u0041" in message else LONG_BASE64
    assert uploaded(message % data) == ("/x", LONG)


@pytest.mark.parametrize(
    "message",
    [
        '{"type":"file_upload","data":"%s","path":"/x"', '{"type":"input","path":"/x","data":"%s"}}',
        '{"type":"file_upload","path":"/x","not":"%s"}', '{"type":"file_upload","path":"/x","data":{"data":"%s"}}',
        '{"type":"file_upload","path":"/x","data":"%s', '{"type":"file_upload","path":"\\udc00","data":"%s"}',
        '{"type":"file_upload","path":"/x","data":"%s"}x', "%s",
    ],
)  # fmt: skip
def test_large_nonsense_is_refused_like_any_other(message: str) -> None:
    with pytest.raises(BadFrame):
        parse(message % LONG_BASE64)


def test_large_input_is_no_upload() -> None:
    assert parse(json.dumps({"type": "input", "data": LONG_BASE64})) == Input(LONG_BASE64.encode())
    assert parse(json.dumps({"type": "input", "more": [1] * 100_000, "data": "x"})) == Input(b"x")
    upload = uploaded(json.dumps({"type": "file_upload", "path": "/x", "more": LONG_BASE64, "data": STAND_IN[:4]}))
    assert upload == ("/x", base64.b64decode(STAND_IN[:4]))
    with pytest.raises(ValueError, match=r".+"):
        uploaded(json.dumps({"type": "file_upload", "path": "/x", "more": LONG_BASE64, "data": STAND_IN}))
    upload = uploaded(json.dumps({"type": "file_upload", "path": LONG_BASE64, "data": "YQ=="}))
    assert upload == (LONG_BASE64, b"a")


@pytest.mark.parametrize(
    "data",
    ["!", "YQ=", "YQ", "é", f"{LONG_BASE64[:-4]}\n", f"{LONG_BASE64}!", f"YQ=={LONG_BASE64}", f"é{LONG_BASE64}",
     f"{LONG_BASE64[: BASE64_PIECE - 4]}YQ=={LONG_BASE64[:BASE64_PIECE]}"],
)  # fmt: skip
def test_what_is_no_base64_is_none_wherever_it_is_broken(data: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        uploaded(json.dumps({"type": "file_upload", "path": "/x", "data": data}, ensure_ascii=False))


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
