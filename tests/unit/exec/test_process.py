"""A command's FIFOs and their reader, with real writers."""

import asyncio
import os
import select
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from services.common.containerd.connection import Connection
from services.common.containerd.processes import Processes
from services.exec.output import OutputFiles, OutputLog, Stream
from services.exec.process import Fifos, InputWriter, OutputReader

COMMAND = "0190a6b0-0000-7000-8000-00000000000a"
LONG_S = 10


@pytest.fixture
def fifos(tmp_path: Path) -> Iterator[Fifos]:
    made = Fifos(tmp_path / "fifos")
    yield made
    made.remove()


@pytest.fixture
def log(tmp_path: Path) -> Iterator[OutputLog]:
    opened = OutputFiles(tmp_path / "output").log(COMMAND, 1 << 40)
    with opened.in_use():
        yield opened


def unexpected(error: OSError) -> None:
    raise error


def started(fifos: Fifos, log: OutputLog, on_failure: Callable[[OSError], None] = unexpected) -> OutputReader:
    fifos.make(with_stdin=False)
    reader = OutputReader(fifos.open_readers(), log, on_failure)
    reader.start()
    return reader


def run(fifos: Fifos, shell: str) -> subprocess.Popen[bytes]:
    with (fifos.folder / "stdout").open("wb") as stdout, (fifos.folder / "stderr").open("wb") as stderr:
        return subprocess.Popen(["/bin/sh", "-c", shell], stdout=stdout, stderr=stderr)


async def ended(process: subprocess.Popen[bytes]) -> None:
    await asyncio.to_thread(process.wait)


def test_its_fifos_are_for_nobody_else(fifos: Fifos) -> None:
    streams = fifos.make(with_stdin=True)
    assert fifos.folder.stat().st_mode & 0o777 == 0o700
    for fifo in (streams.stdin, streams.stdout, streams.stderr):
        assert fifo is not None
        assert fifo.is_fifo()
        assert fifo.stat().st_mode & 0o777 == 0o600


def test_without_stdin_there_is_no_fifo_for_it(fifos: Fifos) -> None:
    assert fifos.make(with_stdin=False).stdin is None
    assert {fifo.name for fifo in fifos.folder.iterdir()} == {"stdout", "stderr"}


def test_a_second_command_of_the_same_id_is_an_error(fifos: Fifos) -> None:
    fifos.make(with_stdin=False)
    with pytest.raises(FileExistsError):
        fifos.make(with_stdin=False)


async def test_both_streams_are_read_to_their_ends(fifos: Fifos, log: OutputLog) -> None:
    reader = started(fifos, log)
    process = run(fifos, "echo out; echo err >&2; head -c 5000000 /dev/zero")
    await ended(process)
    await reader.finish(LONG_S)
    assert log.read_stream(Stream.STDOUT, 0, 4) == b"out\n"
    assert (log.written(Stream.STDOUT), log.written(Stream.STDERR)) == (5_000_004, 4)
    assert reader.descriptors == []


async def test_bytes_written_just_before_the_end_are_there(fifos: Fifos, log: OutputLog) -> None:
    fifos.make(with_stdin=False)
    reader = OutputReader(fifos.open_readers(), log, unexpected)
    process = run(fifos, "head -c 60000 /dev/zero; echo x >&2")
    await ended(process)
    # Nobody has read until now.
    reader.start()
    await reader.finish(LONG_S)
    assert (log.written(Stream.STDOUT), log.written(Stream.STDERR)) == (60_000, 2)


async def test_a_child_that_holds_the_output_open_is_not_waited_for(fifos: Fifos, log: OutputLog) -> None:
    reader = started(fifos, log)
    process = run(fifos, "echo early; (sleep 5; echo late) &")
    await ended(process)
    async with asyncio.timeout(2):
        await reader.finish(quiet_s=0.2)
    assert log.read_stream(Stream.STDOUT, 0, 100) == b"early\n"


async def test_a_child_that_goes_on_talking_is_listened_to_for_a_moment(
    fifos: Fifos, log: OutputLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.exec.process.DRAINED_WITHIN_S", 0.5)
    reader = started(fifos, log)
    process = run(fifos, "(while echo x; do sleep 0.05; done) &")
    await ended(process)
    async with asyncio.timeout(3):
        await reader.finish(quiet_s=0.3)
    assert log.total > 4


async def test_one_that_floods_keeps_nothing_else_waiting(fifos: Fifos, log: OutputLog) -> None:
    reader = started(fifos, log)
    process = run(fifos, "exec head -c 300000000 /dev/zero")
    longest, loop = 0.0, asyncio.get_running_loop()
    while process.poll() is None:
        before = loop.time()
        await asyncio.sleep(0)
        longest = max(longest, loop.time() - before)
    await reader.finish(LONG_S)
    assert log.total == 300_000_000
    assert longest < 1


async def test_a_reader_that_can_keep_nothing_says_so_and_stops(fifos: Fifos, tmp_path: Path) -> None:
    failures: list[OSError] = []
    log = OutputFiles(tmp_path / "output").log(COMMAND, 1 << 40)
    (tmp_path / "output").write_text("in the way")
    reader = started(fifos, log, failures.append)
    process = run(fifos, "trap '' PIPE; echo x; sleep 0.2; echo y 2>/dev/null; exit 0")
    await ended(process)
    await reader.finish(LONG_S)
    assert failures
    assert reader.descriptors == []


async def test_readers_can_be_handed_over(fifos: Fifos, log: OutputLog) -> None:
    """As to the keeper: what nobody read is there for the next who opens the FIFO."""
    fifos.make(with_stdin=False)
    held = fifos.open_readers()
    process = run(fifos, "echo kept; exit 3")
    await ended(process)
    reader = OutputReader(fifos.open_readers(), log, unexpected)
    for descriptor in held.values():
        os.close(descriptor)
    reader.start()
    await reader.finish(quiet_s=0.5)
    assert log.read_stream(Stream.STDOUT, 0, 100) == b"kept\n"


async def test_input_that_nobody_takes_is_let_go_when_the_process_has_ended(fifos: Fifos, tmp_path: Path) -> None:
    fifos.make(with_stdin=True)
    reader = os.open(fifos.folder / "stdin", os.O_RDONLY | os.O_NONBLOCK)
    connection = Connection(tmp_path / "nobody.sock", "tests")
    stdin = InputWriter(fifos.folder / "stdin", Processes(connection), "container", "exec")
    writing = asyncio.create_task(stdin.write(b"x" * 4_000_000))
    while not select.select([reader], [], [], 0)[0]:
        await asyncio.sleep(0)
    stdin.close()
    # The number of the closed descriptor is another file's now, which waits for room as well.
    receiver, sender = os.pipe()
    woken = asyncio.Event()
    asyncio.get_running_loop().add_writer(sender, woken.set)
    async with asyncio.timeout(10):
        await writing
        await woken.wait()
    asyncio.get_running_loop().remove_writer(sender)
    for descriptor in (reader, receiver, sender):
        os.close(descriptor)
    await connection.close()
