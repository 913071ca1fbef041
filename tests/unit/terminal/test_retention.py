"""Recordings go by age, and by the room they take; never while they are made."""

import asyncio
import os
import time
from pathlib import Path

from services.common.ids import new_id
from services.terminal.recording import Origin, Recorder, Recordings
from services.terminal.retention import Retention
from services.terminal.shell import Size

ORIGIN = Origin(new_id(), "somebody")
HOUR = 3600.0


def begun(recordings: Recordings, session_id: str) -> Recorder:
    return recordings.new(session_id, ORIGIN, Size(80, 24), {}, lambda: None)


async def ended(recordings: Recordings, folder: Path, age_s: float, size: int) -> Path:
    session_id = new_id()
    recorder = begun(recordings, session_id)
    recorder.close()
    await recorder.run()
    path = folder / f"{session_id}.cast"
    os.truncate(path, size)
    os.utime(path, (time.time() - age_s,) * 2)
    return path


async def test_what_is_too_old_goes(tmp_path: Path) -> None:
    recordings = Recordings(tmp_path, 10_000)
    old = await ended(recordings, tmp_path, 2 * HOUR, 1000)
    new = await ended(recordings, tmp_path, HOUR / 2, 1000)
    await Retention(recordings, int(HOUR), 1_000_000).sweep()
    assert not old.exists()
    assert new.exists()


async def test_the_oldest_go_when_all_together_take_too_much_room(tmp_path: Path) -> None:
    recordings = Recordings(tmp_path, 10_000)
    paths = [await ended(recordings, tmp_path, age * 60, 1000) for age in (3, 1, 4, 2)]
    await Retention(recordings, int(HOUR), 2500).sweep()
    assert [path.exists() for path in paths] == [False, True, False, True]


async def test_one_that_is_being_made_stays_however_long_nothing_is_printed(tmp_path: Path) -> None:
    recordings, session_id = Recordings(tmp_path, 10_000), new_id()
    retention = Retention(recordings, int(HOUR), 0)
    recorder = begun(recordings, session_id)
    running = asyncio.create_task(recorder.run())
    path = tmp_path / f"{session_id}.cast"
    os.utime(path, (time.time() - 2 * HOUR,) * 2)
    await retention.sweep()
    assert path.exists()
    recorder.close()
    await running
    await retention.sweep()
    assert not path.exists()


async def test_one_that_a_killed_service_has_left_goes_like_any_other(tmp_path: Path) -> None:
    session_id = new_id()
    recorder = begun(Recordings(tmp_path, 10_000), session_id)
    path = tmp_path / f"{session_id}.cast"
    os.utime(path, (time.time() - 2 * HOUR,) * 2)
    await Retention(Recordings(tmp_path, 10_000), int(HOUR), 1_000_000).sweep()
    assert not path.exists()
    recorder.close()
    await recorder.run()
