"""Frames of a followed command: no character broken, no byte lost or doubled, however the output was cut."""

import base64
import itertools
import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.gateway.exec_client import Command, CommandOrder, CommandStatus, Output, StreamName
from services.gateway.job_frames import JobFrames, error_frame, whole_characters

STREAMS: tuple[StreamName, ...] = ("stdout", "stderr")
LONGEST_TAIL = 3  # what exec sends of each stream from before the offset
Run = tuple[StreamName, bytes]

# Text with characters of one to four bytes, and bytes that are none.
BYTES = st.one_of(
    st.text(alphabet="aé€😀\n", max_size=8).map(str.encode),
    st.binary(max_size=6),
    st.lists(st.sampled_from([0x61, 0xC3, 0xA9, 0xE2, 0x82, 0xAC, 0xF0, 0x9F, 0x98, 0x80, 0xFF]), max_size=8).map(
        bytes
    ),
)
RUNS = st.lists(st.tuples(st.sampled_from(STREAMS), BYTES), max_size=12)


def command(stdout: int, stderr: int) -> Command:
    moment = datetime.now(UTC)
    order = CommandOrder("x", (), "", {}, "", "", None, False, None, 1 << 30)
    numbers = {"stdout_bytes": stdout, "stderr_bytes": stderr, "truncated": False}
    times = {"created_at": moment, "started_at": moment, "finished_at": moment}
    rest = {"exit_code": 0, "signal": None, "timed_out": False, "error": None}
    outputs = {"stdout": b"", "stderr": b"", "output_omitted": False}
    return Command("m", "c", "u", order, CommandStatus.SUCCEEDED, **rest, **numbers, **times, **outputs)  # type: ignore[arg-type]


class Log:
    """What exec has of a command, and what it tells one who watches from an offset."""

    def __init__(self, runs: Sequence[Run]) -> None:
        self.sequence = [(stream, byte) for stream, data in runs for byte in data]

    def stream(self, name: StreamName, end: int | None = None) -> bytes:
        return bytes(byte for stream, byte in self.sequence[:end] if stream == name)

    def events(self, offset: int, cuts: Sequence[int]) -> list[CommandStatus | Output | Command]:
        found: list[CommandStatus | Output | Command] = [CommandStatus.RUNNING]
        tails = {name: self.stream(name, offset)[-LONGEST_TAIL:] for name in STREAMS}
        found += [Output(name, offset, tail, True) for name, tail in tails.items() if tail]
        edges = sorted({cut for cut in cuts if offset < cut < len(self.sequence)} | {offset, len(self.sequence)})
        for start, end in itertools.pairwise(edges):
            found += self._pieces(start, end)
        return [*found, command(len(self.stream("stdout")), len(self.stream("stderr")))]

    def _pieces(self, start: int, end: int) -> list[Output]:
        """A piece is of one stream."""
        found: list[Output] = []
        for place in range(start, end):
            name, byte = self.sequence[place]
            if found and found[-1].stream == name:
                found[-1] = Output(name, found[-1].offset, found[-1].data + bytes([byte]), False)
            else:
                found.append(Output(name, place, bytes([byte]), False))
        return found


def frames(events: Sequence[CommandStatus | Output | Command], as_base64: bool = False) -> list[dict[str, Any]]:
    made = JobFrames(as_base64)
    return [json.loads(text) for event in events for text in made.of(event)]


def outputs(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [frame for frame in found if frame["type"] == "output"]


def text_of(found: list[dict[str, Any]], name: StreamName) -> str:
    return "".join(frame["data"] for frame in outputs(found) if frame["stream"] == name)


@given(RUNS, st.lists(st.integers(0, 60)))
def test_a_text_is_the_same_however_it_was_cut(runs: list[Run], cuts: list[int]) -> None:
    log = Log(runs)
    found = frames(log.events(0, cuts))
    for name in STREAMS:
        assert text_of(found, name) == log.stream(name).decode("utf-8", "replace")


@given(RUNS, st.lists(st.integers(0, 60)))
def test_lengths_count_every_byte_of_a_stream_once(runs: list[Run], cuts: list[int]) -> None:
    log = Log(runs)
    found = outputs(frames(log.events(0, cuts)))
    for name in STREAMS:
        lengths = [frame["length"] for frame in found if frame["stream"] == name]
        assert sum(lengths) == len(log.stream(name))
        assert all(length > 0 for length in lengths)


@given(RUNS, st.lists(st.integers(0, 60)), st.lists(st.integers(0, 12), max_size=5))
@settings(max_examples=400)
def test_who_comes_back_where_he_left_has_every_character_once(
    runs: list[Run], cuts: list[int], stops: list[int]
) -> None:
    """Each connection gives up after some output frames; the next begins behind the last of them."""
    log = Log([(stream, data.decode("utf-8", "ignore").encode()) for stream, data in runs])
    offset, text = 0, dict.fromkeys(STREAMS, "")
    for stop in [*stops, 1 << 30]:
        for frame in outputs(frames(log.events(offset, cuts)))[:stop]:
            text[frame["stream"]] += frame["data"]
            offset = frame["offset"] + frame["length"]
    for name in STREAMS:
        assert text[name] == log.stream(name).decode()


@given(RUNS, st.lists(st.integers(0, 60)), st.lists(st.integers(0, 12), max_size=5))
def test_base64_gives_every_byte_once_and_offsets_have_no_gap(
    runs: list[Run], cuts: list[int], stops: list[int]
) -> None:
    log = Log(runs)
    offset, data = 0, dict.fromkeys(STREAMS, b"")
    for stop in [*stops, 1 << 30]:
        for frame in outputs(frames(log.events(offset, cuts), as_base64=True))[:stop]:
            assert frame["offset"] == offset
            piece = base64.b64decode(frame["data"])
            assert frame["length"] == len(piece)
            data[frame["stream"]] += piece
            offset += len(piece)
    assert {name: data[name] for name in STREAMS} == {name: log.stream(name) for name in STREAMS}


@given(st.lists(st.integers(0, 60)))
def test_one_stream_alone_has_offsets_without_gaps(cuts: list[int]) -> None:
    log = Log([("stdout", "aé€😀".encode() * 5)])
    offset = 0
    for frame in outputs(frames(log.events(0, cuts))):
        assert frame["offset"] == offset
        assert frame["length"] == len(frame["data"].encode())
        offset += frame["length"]
    assert offset == len(log.sequence)


def test_half_a_character_waits_for_its_other_half_past_the_other_stream() -> None:
    log = Log([("stdout", b"a\xf0\x9f"), ("stderr", b"E"), ("stdout", b"\x98\x80!")])
    found = [(frame["stream"], frame["offset"], frame["data"]) for frame in outputs(frames(log.events(0, [])))]
    assert found == [("stdout", 0, "a"), ("stderr", 3, "E"), ("stdout", 2, "😀!")]


def test_half_a_character_at_the_end_is_replaced() -> None:
    found = frames(Log([("stdout", b"a\xe2\x82")]).events(0, []))
    assert text_of(found, "stdout") == "a\ufffd"
    assert found[-1]["type"] == "exit"


def test_a_watcher_gets_status_and_exit() -> None:
    first, *_, last = frames(Log([]).events(0, []))
    assert first == {"type": "status", "status": "running"}
    assert (last["type"], last["status"], last["exit_code"]) == ("exit", "succeeded", 0)


def test_an_error_is_a_frame_of_its_own() -> None:
    assert json.loads(error_frame("no é")) == {"type": "error", "message": "no é"}


@pytest.mark.parametrize(
    ("data", "whole"),
    [
        (b"", 0),
        (b"a", 1),
        ("é".encode(), 2),
        (b"\xc3", 0),
        (b"a\xc3", 1),
        (b"a\xe2\x82", 1),
        ("€".encode(), 3),
        (b"\xf0\x9f\x98", 0),
        ("😀".encode(), 4),
        (b"\xff", 1),
        (b"\x80\x80\x80\x80", 4),
        (b"a\x80", 2),
    ],
)
def test_whole_characters(data: bytes, whole: int) -> None:
    assert whole_characters(data) == whole


@given(st.binary(max_size=20))
def test_what_is_whole_stays_the_same_whatever_follows(data: bytes) -> None:
    whole = whole_characters(data)
    assert len(data) - whole <= LONGEST_TAIL
    for more in (b"a", b"\x80", b"\xac\x82", b"\xff"):
        front, back = data[:whole], data[whole:] + more
        assert (front + back).decode("utf-8", "replace") == front.decode("utf-8", "replace") + back.decode(
            "utf-8", "replace"
        )
