"""Logs of containers: what is written, over rotation and crashes, is what is read, from anywhere."""

import itertools
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from services.common import log_lines
from services.common.log_lines import LineCutter
from services.lifecycle.logs import segment
from services.lifecycle.logs.pace import LOG_BYTES_PER_S, NODE_BYTES_PER_S, Pace
from services.lifecycle.logs.reader import Break, LogReader, Piece
from services.lifecycle.logs.segment import RECORD, Stream, numbers
from services.lifecycle.logs.writer import MERGED_WITHIN_NS, Limits, LogWriter

MANY = Limits(segment_bytes=160, segments=10_000)
BOTH = frozenset(Stream)
START_NS = 1_790_000_000_000_000_000


@pytest.fixture(autouse=True, scope="module")
def _short_lines() -> Iterator[None]:
    """So that the few bytes of an example make long lines."""
    patch = pytest.MonkeyPatch()
    for module in (log_lines, segment):
        patch.setattr(module, "LINE_BYTES", 16)
    yield
    patch.undo()


@dataclass(frozen=True)
class Read:
    stamp: int
    stream: Stream
    text: str
    is_partial: bool


class Log:
    """A log that is written through pipes, at times of our choice."""

    def __init__(self, folder: Path, limits: Limits = MANY) -> None:
        self.folder = folder
        self._limits = limits
        self.now_ns = START_NS
        self.writer = self._new_writer()

    def write(self, stream: Stream, data: bytes) -> None:
        reading, writing = os.pipe()
        os.write(writing, data)
        os.close(writing)
        while self.writer.absorb(stream, reading):
            pass
        os.close(reading)

    def kill(self) -> None:
        """The next process goes on with what is in the files."""
        self.writer.close()
        self.writer = self._new_writer()

    def kill_before_the_index_is_written(self, stream: Stream, data: bytes) -> None:
        """Bytes are in the stream's file, and nothing says so."""
        self.write(stream, b"")
        self.writer.close()
        newest = numbers(self.folder)[-1:]
        if newest:
            with segment.stream_path(self.folder, newest[0], stream).open("ab") as file:
                file.write(data)
        else:
            self.write(stream, data)
        self.writer = self._new_writer()

    def _new_writer(self) -> LogWriter:
        return LogWriter(self.folder, self._limits, lambda: self.now_ns)


def read(
    folder: Path, after: int | None = None, tail: int | None = None, streams: frozenset[Stream] = BOTH
) -> tuple[list[Read], list[Break]]:
    """The lines there are, and where something is missing."""
    reader = LogReader(folder, streams)
    found: list[Read] = []
    breaks: list[Break] = []
    cutters: dict[Stream, LineCutter] = {}
    pieces = reader.seek(after, tail)
    until = reader.end()
    while pieces:
        for piece in pieces:
            if isinstance(piece, Break):
                breaks.append(piece)
                cutters = {stream: LineCutter(piece.missing[stream], piece.before[stream]) for stream in Stream}
            else:
                lines = cutters[piece.stream].feed(piece.stamp, piece.data)
                found += (Read(line.stamp, piece.stream, line.text, line.is_partial) for line in lines)
        pieces = reader.read(until)
    reader.close()
    return found, breaks


def lines_of(data: bytes) -> list[str]:
    """A stream's bytes as lines, long ones cut."""
    return [line.text for line in LineCutter().feed(1, data)]


writes = st.tuples(
    st.sampled_from(Stream),
    st.one_of(st.binary(max_size=40), st.sampled_from([b"\n", b"line\n", b"a\nb\n", b"x" * 15, b"x" * 16, b"y" * 50])),
    st.sampled_from([0, 1, MERGED_WITHIN_NS, 10**9, -(10**6)]),
    st.sampled_from(["lives", "lives", "killed", "killed in between", "ended"]),
)


def written(log: Log, steps: list[tuple[Stream, bytes, int, str]]) -> dict[Stream, bytes]:
    """Does it; returns all bytes of each stream."""
    whole = dict.fromkeys(Stream, b"")
    for stream, data, later_ns, then in steps:
        log.now_ns += later_ns
        if then == "killed in between":
            log.kill_before_the_index_is_written(stream, data)
        else:
            log.write(stream, data)
        whole[stream] += data
        if then == "killed":
            log.kill()
        if then == "ended":
            log.writer.end_run()
            whole = {name: one + b"\n" if one and one[-1:] != b"\n" else one for name, one in whole.items()}
    return whole


@settings(max_examples=60, deadline=None, phases=[Phase.generate], suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(writes, max_size=25))
def test_every_line_is_read_once_and_in_order_from_wherever_one_goes_on(
    steps: list[tuple[Stream, bytes, int, str]],
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        log = Log(Path(folder))
        whole = written(log, steps)
        found, breaks = read(log.folder)
        assert [one.lost_bytes for one in breaks] == [0]
        stamps = [line.stamp for line in found]
        assert all(one < other for one, other in itertools.pairwise(stamps))
        for stream in Stream:
            own = [line for line in found if line.stream is stream]
            assert [line.text for line in own] == lines_of(whole[stream])
            assert read(log.folder, streams=frozenset({stream}))[0] == own
            assert read(log.folder, tail=2, streams=frozenset({stream}))[0] == own[-2:]
        for number, line in enumerate(found):
            assert read(log.folder, after=line.stamp)[0] == found[number + 1 :]
        for tail in (0, 1, 3, 10_000):
            assert read(log.folder, tail=tail)[0] == (found[-tail:] if tail else [])
        log.writer.close()


@settings(max_examples=100, deadline=None)
@given(st.lists(writes, min_size=10, max_size=40))
def test_what_is_left_after_rotation_is_the_end_of_it(steps: list[tuple[Stream, bytes, int, str]]) -> None:
    with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as other:
        all_of_it, rotated = Log(Path(one)), Log(Path(other), Limits(MANY.segment_bytes, 3))
        for log in (all_of_it, rotated):
            written(log, [(stream, data, abs(later), "lives") for stream, data, later, _ in steps])
        assert len(numbers(rotated.folder)) <= 3
        whole, kept = read(all_of_it.folder)[0], read(rotated.folder)[0]
        assert [line.stamp for line in kept] == [line.stamp for line in whole[len(whole) - len(kept) :]]
        if kept:
            assert read(rotated.folder, after=kept[0].stamp)[0] == kept[1:]
        _, (first, *_) = read(rotated.folder, after=START_NS - 10)
        assert first.lost_bytes == (None if numbers(rotated.folder)[:1] > [1] else 0)
        for log in (all_of_it, rotated):
            log.writer.close()


def test_who_reads_more_slowly_than_is_written_is_told_what_is_missing(tmp_path: Path) -> None:
    log = Log(tmp_path, Limits(160, 2))
    log.write(Stream.STDOUT, b"first\n")
    reader = LogReader(tmp_path, BOTH)
    reader.seek(None, None)
    assert [piece.data for piece in reader.read(None) if isinstance(piece, Piece)] == [b"first\n"]
    assert reader.read(None) == []
    for number in range(100):
        log.now_ns += 10**9
        log.write(Stream.STDOUT, b"%09d\n" % number)
    found = reader.read(None)
    (lost,) = [one for one in found if isinstance(one, Break)]
    rest = b"".join(one.data for one in found if isinstance(one, Piece))
    assert lost.lost_bytes is not None
    assert lost.lost_bytes + len(rest) == 1000
    assert rest.endswith(b"000000099\n")
    reader.close()


def test_a_reader_at_the_end_goes_on_with_what_comes(tmp_path: Path) -> None:
    log = Log(tmp_path)
    reader = LogReader(tmp_path, BOTH)
    reader.seek(None, None)
    assert reader.read(None) == []
    expected = b""
    found = b""
    for number in range(60):
        log.now_ns += 1_000_000
        log.write(Stream.STDERR, b"%d," % number)
        expected += b"%d," % number
        found += b"".join(piece.data for piece in reader.read(None) if isinstance(piece, Piece))
        assert found == expected
    reader.close()


def test_a_byte_at_a_time_does_not_make_the_index_grow_beyond_its_share(tmp_path: Path) -> None:
    limits = Limits(8 * 1024, 2)
    log = Log(tmp_path, limits)
    for number in range(4000):
        log.now_ns += 10**9
        log.write(Stream(1 + number % 2), b"\n")
    size = sum(file.stat().st_size for file in tmp_path.iterdir())
    assert size <= limits.segments * (limits.segment_bytes * (1 + 1 / 8) + 2 * RECORD.size + 64)


def test_an_index_that_was_torn_by_a_power_cut_is_made_good(tmp_path: Path) -> None:
    log = Log(tmp_path)
    log.write(Stream.STDOUT, b"one\ntwo\n")
    log.writer.close()
    with segment.index_path(tmp_path, 1).open("ab") as file:
        file.write(b"\0" * 40)
    log.kill()
    log.write(Stream.STDOUT, b"three\n")
    assert [line.text for line in read(tmp_path)[0]] == ["one", "two", "three"]


def test_a_full_disk_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = Log(tmp_path)
    log.write(Stream.STDOUT, b"one\n")
    log.now_ns += 10**9
    written_to = os.pwrite

    def full(*_: object) -> int:
        raise OSError(28, "no space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(OSError, match="no space"):
        log.write(Stream.STDOUT, b"two\n")
    monkeypatch.setattr(os, "pwrite", written_to)
    log.write(Stream.STDOUT, b"three\n")
    assert [line.text for line in read(tmp_path)[0]] == ["one", "two", "three"]


def test_a_character_that_is_cut_in_two_is_in_the_second_part() -> None:
    (first, second) = LineCutter().feed(100, b"x" * 15 + "ä\n".encode())
    assert (first.text, first.is_partial) == ("x" * 15, True)
    assert (second.text, second.is_partial) == ("ä", False)
    assert (first.stamp, second.stamp) == (115, 117)


def test_a_log_grows_at_its_pace_and_all_of_them_at_the_nodes() -> None:
    for logs in (1, 100):
        pace, now, moved = Pace(), 1000.0, 0
        while now < 1010.0:
            moved += 64 * 1024
            now += pace.spend(64 * 1024, now, logs) or 0.0001
        assert moved / 10 <= min(LOG_BYTES_PER_S, NODE_BYTES_PER_S / logs) * 1.1
