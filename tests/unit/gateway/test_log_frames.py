"""Logs as lines of JSON: times that are places, and what is said of what is missing."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.gateway.log_client import LogInterruption, LogPiece, LogStreamName
from services.gateway.log_frames import LogFrames, stamp_of, time_of

NOTHING: dict[LogStreamName, int] = {"stdout": 0, "stderr": 0}
NO_BYTES: dict[LogStreamName, bytes] = {"stdout": b"", "stderr": b""}
BEGINNING = LogInterruption(0, False, None, NOTHING, NO_BYTES)


def parsed(data: Iterator[bytes]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in b"".join(data).split(b"\n")[:-1]]


@given(st.integers(0, 253_402_300_799_999_999_999))
def test_a_time_is_a_stamp_and_back(stamp: int) -> None:
    assert stamp_of(time_of(stamp)) == stamp


def test_times_as_people_write_them() -> None:
    assert stamp_of("1970-01-01T00:00:01Z") == 1_000_000_000
    assert stamp_of("1970-01-01T01:00:00.5+01:00") == 500_000_000


@pytest.mark.parametrize(
    "text",
    "|yesterday|2026-01-01|2026-01-01T00:00:00|2026-13-01T00:00:00Z|1969-12-31T23:59:59Z|2026-01-01T00:00:00.1234567890Z"
    "|1700000000|2026-01-01T00:00:00.Z".split("|"),
)
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  # Python's own, of several kinds
        stamp_of(text)


def test_each_line_has_the_time_of_its_end() -> None:
    frames = LogFrames(None)
    assert parsed(frames.of(BEGINNING)) == []
    found = parsed(frames.of([LogPiece("stdout", 100, b"a\nb"), LogPiece("stderr", 200, "\u2028\n".encode())]))
    found += parsed(frames.of([LogPiece("stdout", 300, b"c\n")]))
    assert found == [
        {"time": time_of(101), "stream": "stdout", "line": "a"},
        {"time": time_of(203), "stream": "stderr", "line": "\u2028"},
        {"time": time_of(301), "stream": "stdout", "line": "bc"},
    ]
    assert frames.last == 301


def test_what_is_lost_is_said_and_lines_begin_anew() -> None:
    frames = LogFrames(None)
    assert parsed(frames.of(BEGINNING)) == []
    assert parsed(frames.of([LogPiece("stdout", 100, b"half")])) == []
    gap = LogInterruption(500, True, 400, {"stdout": 3, "stderr": 0}, NO_BYTES)
    assert parsed(frames.of(gap)) == [{"time": time_of(500), "lost_bytes": 400}]
    assert parsed(frames.of([LogPiece("stdout", 501, b"rest\n")])) == [
        {"time": time_of(505), "stream": "stdout", "line": "rest"}
    ]


def test_lines_up_to_the_time_that_was_asked_for_are_not_told() -> None:
    frames = LogFrames(1000)
    assert parsed(frames.of(BEGINNING)) == []
    found = parsed(frames.of([LogPiece("stdout", 998, b"a\nb\nc\n")]))
    assert [entry["line"] for entry in found] == ["b", "c"]


def test_a_piece_of_nothing_but_newlines_is_told_in_parts() -> None:
    frames = LogFrames(None)
    assert parsed(frames.of(BEGINNING)) == []
    parts = list(frames.of([LogPiece("stdout", 1, b"\n" * 2000)]))
    assert len(parts) > 1
    assert len(parsed(iter(parts))) == 2000
