"""The log of a command's output: moved from real pipes, read by watchers, found again after a crash at any point."""

import asyncio
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services.exec.output import OutputFiles, OutputLog, Piece, Stream

OUT, ERR = Stream.STDOUT, Stream.STDERR
COMMAND = "0190a6b0-0000-7000-8000-00000000000a"
NO_LIMIT = 1 << 40
RECORD_BYTES = 9


@dataclass
class Bench:
    """A log that can be killed and opened again, and the pipes it reads."""

    folder: Path
    limit: int = NO_LIMIT
    ends: dict[Stream, tuple[int, int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for stream in Stream:
            self.ends[stream] = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self.log = self.opened()

    def opened(self) -> OutputLog:
        return OutputFiles(self.folder).log(COMMAND, self.limit)

    def crash(self) -> None:
        """All that this process held is gone; what it had not written down too."""
        with self.log.in_use():
            pass
        self.log = self.opened()

    def write(self, stream: Stream, data: bytes) -> None:
        os.write(self.ends[stream][1], data)

    def absorb(self, stream: Stream, data: bytes) -> None:
        """Writes, and moves all of it into the log."""
        self.write(stream, data)
        moved = 0
        while moved < len(data):
            moved += self.log.absorb(stream, self.ends[stream][0])

    @property
    def index(self) -> Path:
        return next(self.folder.rglob("*.index"))

    def close(self) -> None:
        with self.log.in_use():
            pass
        for pair in self.ends.values():
            for descriptor in pair:
                os.close(descriptor)


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path / "output")
    yield made
    made.close()


def everything(log: OutputLog, offset: int = 0, most: int = 1 << 16) -> list[tuple[Stream, bytes]]:
    """From an offset to the end, by stream; offsets must have no gaps."""
    found: list[tuple[Stream, bytes]] = []
    while (piece := log.read(offset, most)) is not None:
        assert piece.offset == offset
        assert piece.data
        offset += len(piece.data)
        if found and found[-1][0] is piece.stream:
            found[-1] = (piece.stream, found[-1][1] + piece.data)
        else:
            found.append((piece.stream, piece.data))
    assert offset >= log.total
    return found


def test_bytes_are_kept_in_the_order_in_which_they_were_read(bench: Bench) -> None:
    bench.absorb(OUT, b"one")
    bench.absorb(ERR, b"two")
    bench.absorb(OUT, b"three")
    assert everything(bench.log) == [(OUT, b"one"), (ERR, b"two"), (OUT, b"three")]
    assert bench.log.read_stream(OUT, 0, 100) == b"onethree"
    assert bench.log.read_stream(ERR, 1, 1) == b"w"
    assert (bench.log.written(OUT), bench.log.written(ERR), bench.log.truncated) == (8, 3, False)


def test_an_empty_pipe_is_told_from_one_at_its_end(bench: Bench) -> None:
    with pytest.raises(BlockingIOError):
        bench.log.absorb(OUT, bench.ends[OUT][0])
    reading, writing = os.pipe2(os.O_NONBLOCK)
    os.close(writing)
    assert bench.log.absorb(OUT, reading) == 0
    os.close(reading)


def test_a_fifo_is_read_like_a_pipe(bench: Bench, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    reading = os.open(tmp_path / "fifo", os.O_RDONLY | os.O_NONBLOCK)
    writer = subprocess.Popen(["/bin/sh", "-c", f"head -c 3000000 /dev/zero > {tmp_path}/fifo"])
    moved, ended = 0, False
    while not ended:
        try:
            count = bench.log.absorb(OUT, reading)
        except BlockingIOError:
            continue
        # Before its first writer a FIFO looks as if it had ended.
        moved, ended = moved + count, count == 0 and moved > 0
    assert writer.wait() == 0
    os.close(reading)
    assert bench.log.total == 3_000_000


def test_over_the_limit_the_rest_is_counted_and_dropped(tmp_path: Path) -> None:
    bench = Bench(tmp_path, limit=10)
    bench.absorb(OUT, b"12345678")
    bench.absorb(ERR, b"abcdef")
    bench.absorb(OUT, b"9")
    assert everything(bench.log) == [(OUT, b"12345678"), (ERR, b"ab")]
    assert (bench.log.written(OUT), bench.log.written(ERR)) == (9, 6)
    assert (bench.log.kept(OUT), bench.log.kept(ERR)) == (8, 2)
    assert bench.log.truncated
    bench.crash()
    assert everything(bench.log) == [(OUT, b"12345678"), (ERR, b"ab")]
    assert (bench.log.written(OUT), bench.log.written(ERR), bench.log.truncated) == (9, 6, True)
    bench.close()


def test_exactly_the_limit_is_not_truncated(tmp_path: Path) -> None:
    bench = Bench(tmp_path, limit=4)
    bench.absorb(OUT, b"1234")
    assert not bench.log.truncated
    bench.close()


def test_the_last_bytes_of_a_stream_before_an_offset(bench: Bench) -> None:
    bench.absorb(OUT, b"abc")  # 0 to 3
    bench.absorb(ERR, b"XY")  # 3 to 5
    bench.absorb(OUT, b"def")  # 5 to 8
    assert bench.log.before(0, OUT, 3) is None
    assert bench.log.before(2, OUT, 3) == Piece(OUT, 2, b"ab", is_before=True)
    assert bench.log.before(4, OUT, 3) == Piece(OUT, 4, b"abc", is_before=True)
    assert bench.log.before(6, OUT, 3) == Piece(OUT, 6, b"bcd", is_before=True)
    assert bench.log.before(8, OUT, 2) == Piece(OUT, 8, b"ef", is_before=True)
    assert bench.log.before(3, ERR, 3) is None
    assert bench.log.before(4, ERR, 3) == Piece(ERR, 4, b"X", is_before=True)
    assert bench.log.before(99, ERR, 3) == Piece(ERR, 99, b"XY", is_before=True)


def test_reading_where_nothing_is_yet_is_nothing(bench: Bench) -> None:
    assert bench.log.read(0, 10) is None
    bench.absorb(OUT, b"abc")
    assert bench.log.read(3, 10) is None
    assert bench.log.read(1 << 60, 10) is None
    assert bench.log.read_stream(OUT, 3, 10) == b""
    assert bench.log.read_stream(ERR, 0, 10) == b""


async def test_who_waits_is_woken_by_bytes_and_by_the_end(bench: Bench) -> None:
    waiting = [asyncio.create_task(bench.log.wait_beyond(offset)) for offset in (0, 2, 3, 100)]
    await asyncio.sleep(0)
    assert not any(task.done() for task in waiting)
    bench.absorb(OUT, b"abc")
    await asyncio.sleep(0.01)
    assert [task.done() for task in waiting] == [True, True, False, False]
    bench.log.complete()
    async with asyncio.timeout(1):
        await asyncio.gather(*waiting)
    await bench.log.wait_beyond(1000)


def test_what_the_files_hold_beyond_the_index_is_the_run_that_was_read(bench: Bench) -> None:
    bench.absorb(OUT, b"one")
    bench.absorb(ERR, b"two")
    bench.absorb(ERR, b"more")
    bench.crash()
    assert everything(bench.log) == [(OUT, b"one"), (ERR, b"twomore")]


def test_a_log_goes_on_after_each_of_many_crashes(bench: Bench) -> None:
    expected = bytearray()
    for number in range(40):
        bench.crash()
        bench.absorb(OUT if number % 3 else ERR, bytes([number]))
        expected.append(number)
    bench.log.complete()
    bench.crash()
    assert b"".join(data for _, data in everything(bench.log)) == expected


def test_a_completed_log_is_the_same_when_opened_again(bench: Bench) -> None:
    bench.absorb(OUT, b"one")
    bench.absorb(ERR, b"two")
    before = everything(bench.log)
    bench.log.complete()
    bench.log.complete()
    for _ in range(2):
        bench.crash()
        assert everything(bench.log) == before
    assert bench.index.stat().st_size == 2 * RECORD_BYTES


@pytest.mark.parametrize("lost", range(1, RECORD_BYTES))
def test_a_torn_record_of_the_index_loses_nothing(bench: Bench, lost: int) -> None:
    bench.absorb(OUT, b"one")
    bench.absorb(ERR, b"two")
    bench.log.complete()
    os.truncate(bench.index, bench.index.stat().st_size - lost)
    bench.crash()
    assert everything(bench.log) == [(OUT, b"one"), (ERR, b"two")]


def test_a_command_without_output_makes_no_file(bench: Bench) -> None:
    bench.log.complete()
    assert not list(bench.folder.rglob("*"))


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_files_are_closed_when_nobody_uses_them(bench: Bench) -> None:
    before = open_files()
    with bench.log.in_use():
        with bench.log.in_use():
            bench.absorb(OUT, b"abc")
            bench.absorb(ERR, b"abc")
        assert open_files() > before
    assert open_files() == before
    with bench.log.in_use():
        assert bench.log.read_stream(OUT, 0, 10) == b"abc"


def test_outputs_are_counted_and_removed(bench: Bench) -> None:
    files = OutputFiles(bench.folder)
    assert files.size(COMMAND) == 0
    bench.absorb(OUT, b"abc")
    bench.absorb(ERR, b"defg")
    assert files.size(COMMAND) == 7
    assert {path.stat().st_mode & 0o777 for path in bench.folder.rglob("*.*")} == {0o600}
    for _ in range(2):
        files.remove(COMMAND)
        assert not list(bench.folder.rglob("*.*"))


STEPS = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(Stream), st.binary(min_size=1, max_size=40)),
        st.just("crash"),
        st.just("complete"),
    ),
    max_size=40,
)


@given(STEPS, st.sampled_from([1, 17, 100, NO_LIMIT]), st.integers(1, 50))
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_every_byte_is_in_its_place_once_whatever_happens(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[Stream, bytes] | str], limit: int, most: int
) -> None:
    bench = Bench(tmp_path_factory.mktemp("output"), limit)
    expected: list[tuple[Stream, int]] = []
    try:
        for step in steps:
            if isinstance(step, tuple):
                bench.absorb(*step)
                expected += [(step[0], byte) for byte in step[1]]
            elif step == "crash":
                bench.crash()
            else:
                bench.log.complete()
            found = [(stream, byte) for stream, data in everything(bench.log, 0, most) for byte in data]
            assert found == expected[:limit]
            for stream in Stream:
                assert bench.log.written(stream) == sum(one is stream for one, _ in expected)
                kept = bytes(byte for one, byte in expected[:limit] if one is stream)
                assert bench.log.read_stream(stream, 0, NO_LIMIT) == kept
    finally:
        bench.close()
