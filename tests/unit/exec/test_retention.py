"""Ended commands go by age, and by the room their output takes."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import update

from services.common.database import Database
from services.common.ids import new_id
from services.common.outbox import Outbox
from services.exec.__main__ import MIGRATIONS
from services.exec.command import CommandSpec, Outcome, Status
from services.exec.output import OutputFiles
from services.exec.retention import Retention
from services.exec.store import Store
from services.exec.tables import commands, outbox

CONTAINER = new_id()
SPEC = CommandSpec(
    program="true",
    args=(),
    command="",
    env={},
    cwd="",
    user="",
    stdin=None,
    stdin_open=False,
    timeout_s=None,
    max_output_bytes=1000,
)


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    opened = Database(database_url, "exec")
    await opened.open(MIGRATIONS)
    yield opened
    await opened.close()


@pytest.fixture
def store(database: Database) -> Store:
    return Store(database, Outbox(database, outbox, "nats://127.0.0.1:1"), "node")


async def ended(store: Store, files: OutputFiles, seq: int, size: int) -> str:
    command = await store.add(new_id(), seq, CONTAINER, "somebody", SPEC)
    log = files.log(command.id, 1000)
    with log.in_use():
        log._file("stdout")
    path = next(files._folder.rglob(f"{command.id}.stdout"))
    path.write_bytes(b"x" * size)
    await store.finish(command, Outcome(Status.SUCCEEDED, 0, stdout_bytes=size))
    return command.id


async def test_what_is_too_old_goes_with_its_output(database: Database, store: Store, tmp_path: Path) -> None:
    files = OutputFiles(tmp_path / "output")
    old, young = await ended(store, files, 1, 10), await ended(store, files, 2, 10)
    queued = (await store.add(new_id(), 3, CONTAINER, "somebody", SPEC)).id
    async with database.transaction() as connection:
        long_ago = datetime.now(UTC) - timedelta(hours=2)
        await connection.execute(update(commands).where(commands.c.id == old).values(finished_at=long_ago))
    await Retention(store, files, kept_s=3600, most_bytes=10**6).sweep()
    assert await store.find(old) is None
    assert files.size(old) == 0
    assert await store.find(young) is not None
    assert files.size(young) == 10
    assert await store.find(queued) is not None


async def test_the_longest_ended_go_first_when_output_takes_too_much_room(store: Store, tmp_path: Path) -> None:
    files = OutputFiles(tmp_path / "output")
    ids = [await ended(store, files, seq, 400) for seq in range(4)]
    await Retention(store, files, kept_s=3600, most_bytes=900).sweep()
    assert [await store.find(one) is not None for one in ids] == [False, False, True, True]
    assert [files.size(one) for one in ids] == [0, 0, 400, 400]
