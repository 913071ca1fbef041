"""Commands in the database and how they are forgotten, on SQLite and PostgreSQL."""

import asyncio
import dataclasses
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select, update

from services.common.database import Database
from services.common.errors import CommandNotFound
from services.common.ids import new_id
from services.common.outbox import Outbox
from services.exec.command import Command, CommandSpec, Outcome, Status
from services.exec.output import OutputFiles
from services.exec.retention import Retention
from services.exec.store import Store
from services.exec.tables import commands, outbox

MIGRATIONS = Path(__file__).parents[3] / "services/exec/migrations"
BOX = new_id()


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    opened = Database(database_url, "exec")
    await opened.open(MIGRATIONS)
    yield opened
    await opened.close()


def store_of(database: Database, node: str = "node-a") -> Store:
    return Store(database, Outbox(database, outbox, "nats://127.0.0.1:1"), node)


@pytest.fixture
def store(database: Database) -> Store:
    return store_of(database)


def spec(**changes: Any) -> CommandSpec:
    given: dict[str, Any] = {
        "program": "ls",
        "args": ("-l", "é\n"),
        "command": "",
        "env": {"A": ""},
        "cwd": "/tmp",
        "user": "ada:staff",
        "stdin": b"\x00\xff",
        "stdin_open": True,
        "timeout_s": 7,
        "max_output_bytes": 1000,
    }
    return CommandSpec(**given | changes)


async def added(store: Store, seq: int = 1, box: str = BOX, **changes: Any) -> Command:
    return await store.add(new_id(), seq, box, "ada", spec(**changes))


async def finished(store: Store, stdout_bytes: int = 0, **changes: Any) -> Command:
    command = await store.mark_running(await added(store, **changes))
    return await store.finish(command, Outcome(Status.SUCCEEDED, 0, stdout_bytes=stdout_bytes))


async def events(database: Database) -> list[dict[str, Any]]:
    async with database.transaction() as connection:
        rows = await connection.execute(select(outbox.c.subject, outbox.c.body).order_by(outbox.c.id))
        return [{"subject": row.subject, **json.loads(row.body)} for row in rows]


async def aged(database: Database, command: Command, by: timedelta) -> None:
    async with database.transaction() as connection:
        moment = datetime.now(UTC) - by
        await connection.execute(update(commands).where(commands.c.id == command.id).values(finished_at=moment))


async def test_a_row_comes_back_as_it_was_written(store: Store) -> None:
    made = await added(store)
    assert made.status is Status.QUEUED
    assert await store.get(made.id) == made


async def test_a_command_without_stdin_is_told_from_one_with_an_empty_one(store: Store) -> None:
    assert (await store.get((await added(store, stdin=None)).id)).spec.stdin is None
    assert (await store.get((await added(store, stdin=b"")).id)).spec.stdin == b""


async def test_its_life_is_written_with_an_event_for_each_status(store: Store, database: Database) -> None:
    made = await added(store)
    running = await store.mark_running(made)
    assert running.status is Status.RUNNING
    assert running.started_at is not None
    outcome = Outcome(Status.FAILED, None, "KILL", True, "because so", 5_000_000_000, 6, True)
    ended = await store.finish(running, outcome)
    for name in ("status", "exit_code", "signal", "timed_out", "error", "stdout_bytes", "stderr_bytes", "truncated"):
        assert getattr(ended, name) == getattr(outcome, name)
    assert ended.finished_at is not None
    assert await store.get(made.id) == ended
    found = await events(database)
    assert [event["subject"] for event in found] == [
        f"hzel.command.{made.id}.{status}" for status in ("queued", "running", "failed")
    ]
    assert found[-1]["container_id"] == BOX
    assert found[-1]["data"] == {
        "command_id": made.id,
        "container_id": BOX,
        "requested_by": "ada",
        "status": "failed",
        "exit_code": None,
        "signal": "KILL",
    }


async def test_what_it_was_fed_is_forgotten_when_it_has_ended(store: Store) -> None:
    ended = await finished(store, stdin=b"secret")
    assert ended.spec == spec(stdin=None)
    assert (await store.get(ended.id)).spec.stdin is None


async def test_one_that_is_not_there_is_told_so(store: Store) -> None:
    made = await added(store)
    await store.remove([made.id])
    assert await store.find(made.id) is None
    for change in (store.get(made.id), store.mark_running(made), store.finish(made, Outcome(Status.FAILED))):
        with pytest.raises(CommandNotFound):
            await change


async def test_a_node_sees_only_its_own_rows(store: Store, database: Database) -> None:
    made = await added(store)
    other = store_of(database, "node-b")
    assert await other.find(made.id) is None
    assert await other.page(BOX, "", 10) == []
    assert await other.unfinished() == []
    assert await other.last_seq() == 0


async def test_what_has_not_ended_comes_in_the_order_of_submission(store: Store) -> None:
    order = [await added(store, seq) for seq in (5, 3, 9)]
    await finished(store, seq=1)
    await store.mark_running(order[2])
    assert [command.seq for command in await store.unfinished()] == [3, 5, 9]
    assert await store.last_seq() == 9


async def test_pages_are_newest_first(store: Store) -> None:
    made = [await added(store, seq) for seq in range(5)]
    await added(store, 9, box=new_id())
    first = await store.page(BOX, "", 2)
    rest = await store.page(BOX, first[-1].id, 10)
    assert [*first, *rest] == made[::-1]


async def test_many_at_the_same_time(store: Store) -> None:
    made = await asyncio.gather(*(added(store, seq) for seq in range(30)))
    running = await asyncio.gather(*(store.mark_running(command) for command in made))
    await asyncio.gather(*(store.finish(command, Outcome(Status.SUCCEEDED, 0)) for command in running))
    assert await store.unfinished() == []


async def test_finished_ones_with_output_the_oldest_first_and_what_is_kept_of_them(
    store: Store, database: Database
) -> None:
    old, new = await finished(store, 10), await finished(store, 5000)
    await finished(store, 0)
    await added(store)
    await aged(database, old, timedelta(hours=1))
    assert await store.finished_with_output() == [(old.id, 10), (new.id, 1000)]


@pytest.fixture
def files(tmp_path: Path) -> OutputFiles:
    return OutputFiles(tmp_path / "output")


def write(tmp_path: Path, command: Command, size: int) -> None:
    folder = tmp_path / "output" / command.id[-2:]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{command.id}.stdout").write_bytes(bytes(size))


async def test_old_ones_are_forgotten_with_their_files(
    store: Store, database: Database, files: OutputFiles, tmp_path: Path
) -> None:
    old, new, waiting = await finished(store, 10), await finished(store, 10), await added(store)
    for command in (old, new):
        write(tmp_path, command, 10)
    await aged(database, old, timedelta(seconds=61))
    await Retention(store, files, 60, 1 << 30).sweep()
    assert await store.find(old.id) is None
    assert files.size(old.id) == 0
    assert [command.id for command in await store.page(BOX, "", 10)] == [waiting.id, new.id]
    assert files.size(new.id) == 10


async def test_of_too_much_output_the_oldest_goes(
    store: Store, database: Database, files: OutputFiles, tmp_path: Path
) -> None:
    made = [await finished(store, 100) for _ in range(4)]
    for number, command in enumerate(made):
        write(tmp_path, command, 100)
        await aged(database, command, timedelta(minutes=4 - number))
    silent = await finished(store, 0)
    await aged(database, silent, timedelta(hours=1))
    await Retention(store, files, 86400, 250).sweep()
    assert [await store.find(command.id) is None for command in made] == [True, True, False, False]
    assert [files.size(command.id) for command in made] == [0, 0, 100, 100]
    assert await store.find(silent.id) is not None


async def test_there_may_be_more_than_go_at_once(store: Store, database: Database, files: OutputFiles) -> None:
    made = await added(store)
    async with database.transaction() as connection:
        row = dict((await connection.execute(select(commands))).one()._mapping)
        row |= {"status": "succeeded", "finished_at": datetime.now(UTC) - timedelta(days=1)}
        await connection.execute(commands.insert(), [row | {"id": new_id()} for _ in range(1203)])
    await Retention(store, files, 60, 0).sweep()
    assert await store.page(BOX, "", 10) == [made]


def test_arguments_are_a_shells_where_shell_text_was_given() -> None:
    assert spec().arguments == ("ls", "-l", "é\n")
    assert dataclasses.replace(spec(), command="a; b").arguments == ("/bin/sh", "-c", "a; b")
