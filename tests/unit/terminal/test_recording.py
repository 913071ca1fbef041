"""Recordings as files: what is in them, when they are full, and when the disk fails."""

import asyncio
import json
import os
from pathlib import Path

import pytest

from services.common.errors import NotFound
from services.common.ids import new_id
from services.terminal.recording import Origin, Recordings
from services.terminal.shell import Size

ORIGIN = Origin("01a20c5f-9a0c-71f8-a2b3-4f31ea3d8b9c", "somebody")
ENV = {"SHELL": "/bin/sh", "TERM": "xterm", "SECRET": "x"}


async def read(recordings: Recordings, session_id: str) -> tuple[Origin, bytes]:
    first, *rest = [part async for part in recordings.read(session_id)]
    assert isinstance(first, Origin)
    return first, b"".join(part for part in rest if isinstance(part, bytes))


async def test_a_recording_has_a_header_and_a_line_per_piece(tmp_path: Path) -> None:
    recordings, session_id = Recordings(tmp_path, 10_000), new_id()
    written: list[None] = []
    recorder = recordings.new(session_id, ORIGIN, Size(80, 24), ENV, lambda: written.append(None))
    running = asyncio.create_task(recorder.run())
    recorder.on_output("€".encode()[:2])
    recorder.on_output("€".encode()[2:] + b"\xff")
    recorder.on_resize(Size(100, 30))
    recorder.close()
    await running
    origin, content = await read(recordings, session_id)
    assert origin == ORIGIN
    header, *lines = map(json.loads, content.decode().splitlines())
    assert (header["version"], header["width"], header["height"]) == (2, 80, 24)
    assert header["env"] == {"SHELL": "/bin/sh", "TERM": "xterm"}
    assert [line[1:] for line in lines] == [["o", "€\ufffd"], ["r", "100x30"]]
    assert written
    assert recorder.waiting_bytes == 0


async def test_a_full_recording_says_so_and_ends(tmp_path: Path) -> None:
    recordings, session_id = Recordings(tmp_path, 1000), new_id()
    recorder = recordings.new(session_id, ORIGIN, Size(80, 24), ENV, lambda: None)
    running = asyncio.create_task(recorder.run())
    for _ in range(100):
        recorder.on_output(b"x" * 100)
    recorder.close()
    await running
    _, content = await read(recordings, session_id)
    assert len(content) < 1600
    assert "full" in json.loads(content.splitlines()[-1])[2]


async def test_a_disk_that_fails_ends_the_recording_only(tmp_path: Path) -> None:
    recordings, session_id = Recordings(tmp_path, 1000), new_id()
    recorder = recordings.new(session_id, ORIGIN, Size(80, 24), ENV, lambda: None)
    full = os.open("/dev/full", os.O_WRONLY)
    os.dup2(full, recorder._file)
    os.close(full)
    recorder.on_output(b"x")
    await asyncio.wait_for(recorder.run(), 5)
    recorder.on_output(b"y")
    assert recorder.waiting_bytes == 0


@pytest.mark.parametrize("name", ["x", "../../etc/passwd", "01a20c5f-9a0c-71f8-a2b3-4f31ea3d8b9c"])
async def test_there_is_no_other_recording(tmp_path: Path, name: str) -> None:
    with pytest.raises(NotFound):
        await read(Recordings(tmp_path, 1000), name)
