"""Transactions and migrations, on SQLite and PostgreSQL."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
from sqlalchemy import Column, ForeignKey, Integer, MetaData, Table, Text, bindparam, insert, select, text, update
from sqlalchemy.exc import IntegrityError, StatementError

from services.common.columns import UtcDateTime
from services.common.database import Database
from services.common.errors import Unavailable

metadata = MetaData()
notes = Table(
    "notes",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("text", Text, nullable=False, unique=True),
    Column("count", Integer, nullable=False),
    Column("at", UtcDateTime),
    Column("about", Integer, ForeignKey("notes.id")),
)

ENVIRONMENT = """
from sqlalchemy import MetaData
from services.common.migrations_env import run
run(MetaData())
"""
FIRST = """
import sqlalchemy as sa
from alembic import op
revision, down_revision = "0001", None
def upgrade():
    op.create_table(
        "notes",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("text", sa.Text, nullable=False, unique=True),
        sa.Column("count", sa.Integer, nullable=False),
        sa.Column("at", sa.DateTime(timezone=True)),
        sa.Column("about", sa.Integer, sa.ForeignKey("notes.id")),
    )
"""
SECOND = """
from alembic import op
revision, down_revision = "0002", "0001"
def upgrade():
    op.execute("INSERT INTO notes (id, text, count) VALUES (100, 'migrated', 0)")
"""
BROKEN = """
from alembic import op
revision, down_revision = "0003", "0002"
def upgrade():
    op.execute("INSERT INTO notes (id, text, count) VALUES (101, 'half', 0)")
    op.execute("NONSENSE")
"""


@pytest.fixture
def migrations(tmp_path: Path) -> Path:
    folder = tmp_path / "100% migrations"
    (folder / "versions").mkdir(parents=True)
    (folder / "env.py").write_text(ENVIRONMENT)
    (folder / "versions/0001.py").write_text(FIRST)
    return folder


@pytest.fixture
async def database(database_url: str, migrations: Path) -> AsyncIterator[Database]:
    opened = Database(database_url, "notes")
    await opened.open(migrations)
    yield opened
    await opened.close()


async def add(database: Database, identifier: int, **values: object) -> None:
    async with database.transaction() as connection:
        row = {"id": identifier, "text": f"note {identifier}", "count": 0, **values}
        await connection.execute(insert(notes).values(row))


async def texts(database: Database) -> list[str]:
    async with database.transaction() as connection:
        return list(await connection.scalars(select(notes.c.text).order_by(notes.c.id)))


async def test_a_transaction_is_there_for_who_opens_the_database_next(database: Database, database_url: str) -> None:
    await add(database, 1)
    other = Database(database_url, "notes")
    assert await texts(other) == ["note 1"]
    await other.close()


async def test_what_raises_in_a_transaction_undoes_all_of_it(database: Database) -> None:
    with pytest.raises(RuntimeError, match="stop"):  # noqa: PT012
        async with database.transaction() as connection:
            await connection.execute(insert(notes).values(id=1, text="a", count=0))
            raise RuntimeError("stop")
    assert await texts(database) == []


async def test_a_cancelled_transaction_is_undone_and_holds_up_nobody(database: Database) -> None:
    begun = asyncio.Event()

    async def work() -> None:
        async with database.transaction() as connection:
            await connection.execute(insert(notes).values(id=1, text="a", count=0))
            begun.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(work())
    await begun.wait()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    async with asyncio.timeout(5):
        await add(database, 2)
    assert await texts(database) == ["note 2"]


async def test_many_at_a_time_lose_nothing(database: Database) -> None:
    await add(database, 1)

    async def count() -> None:
        async with database.transaction() as connection:
            await connection.execute(update(notes).values(count=notes.c.count + 1))

    await asyncio.gather(*(count() for _ in range(50)))
    async with database.transaction() as connection:
        assert await connection.scalar(select(notes.c.count)) == 50


async def test_several_processes_wait_for_one_another(database: Database, database_url: str) -> None:
    others = [Database(database_url, "notes") for _ in range(3)]
    await asyncio.gather(*(add(others[number % 3], number) for number in range(30)))
    assert len(await texts(database)) == 30
    for other in others:
        await other.close()


async def test_a_database_that_is_written_to_can_be_opened(
    database: Database, database_url: str, migrations: Path
) -> None:
    other = Database(database_url, "notes")
    async with database.transaction() as connection:
        await connection.execute(insert(notes).values(id=1, text="a", count=0))
        opening = asyncio.create_task(other.open(migrations))
        # Time enough to fail, if it doesn't wait.
        await asyncio.wait([opening], timeout=0.1)
        assert not opening.done() or opening.exception() is None
    await opening
    assert await texts(other) == ["a"]
    await other.close()


async def test_read_one_sees_what_is_committed_and_nothing_else(database: Database) -> None:
    query = select(notes.c.text).where(notes.c.id == bindparam("id"))
    assert await database.read_one(query, {"id": 1}) is None
    async with database.transaction() as connection:
        await connection.execute(insert(notes).values(id=1, text="a", count=0))
        assert await database.read_one(query, {"id": 1}) is None
    row = await database.read_one(query, {"id": 1})
    assert row is not None
    assert row.text == "a"
    async with database.transaction() as connection:
        await connection.execute(update(notes).values(text="b"))
    row = await database.read_one(query, {"id": 1})
    assert row is not None
    assert row.text == "b"


async def test_a_broken_rule_of_the_schema_is_told_as_it_is(database: Database) -> None:
    await add(database, 1, text="same")
    with pytest.raises(IntegrityError):
        await add(database, 2, text="same")
    with pytest.raises(IntegrityError):
        await add(database, 3, about=77)


@pytest.mark.parametrize(("durable", "synchronous", "synchronous_commit"), [(True, 2, "on"), (False, 1, "off")])
async def test_only_a_durable_transaction_waits_for_the_disk(
    database: Database, durable: bool, synchronous: int, synchronous_commit: str
) -> None:
    async with database.transaction(durable) as connection:
        if database.is_sqlite:
            assert await connection.scalar(text("PRAGMA synchronous")) == synchronous
        else:
            assert await connection.scalar(text("SHOW synchronous_commit")) == synchronous_commit


async def test_times_come_back_in_utc_whatever_their_zone(database: Database) -> None:
    moment = datetime(2026, 7, 1, 12, 30, 15, 123456, timezone(timedelta(hours=5, minutes=45)))
    await add(database, 1, at=moment)
    async with database.transaction() as connection:
        kept = await connection.scalar(select(notes.c.at))
        earlier = await connection.scalar(select(notes.c.id).where(notes.c.at < moment + timedelta(seconds=1)))
    assert kept == moment
    assert kept.tzinfo is UTC
    assert earlier == 1


async def test_a_time_without_a_zone_is_refused(database: Database) -> None:
    with pytest.raises(StatementError, match="without a zone"):
        await add(database, 1, at=datetime(2026, 7, 1))  # noqa: DTZ001 - that is the point


async def test_several_openers_migrate_once(database_url: str, migrations: Path) -> None:
    openers = [Database(database_url, "notes") for _ in range(4)]
    await asyncio.gather(*(opener.open(migrations) for opener in openers))
    await asyncio.gather(*(add(opener, number) for number, opener in enumerate(openers)))
    for opener in openers:
        await opener.close()


async def test_a_new_migration_is_applied_over_what_is_there(
    database: Database, database_url: str, migrations: Path
) -> None:
    await add(database, 1)
    (migrations / "versions/0002.py").write_text(SECOND)
    for _ in range(2):
        newer = Database(database_url, "notes")
        await newer.open(migrations)
        assert await texts(newer) == ["note 1", "migrated"]
        await newer.close()


async def test_a_migration_that_fails_changes_nothing(database: Database, database_url: str, migrations: Path) -> None:
    (migrations / "versions/0002.py").write_text(SECOND)
    (migrations / "versions/0003.py").write_text(BROKEN)
    newer = Database(database_url, "notes")
    with pytest.raises(Exception, match="NONSENSE"):
        await newer.open(migrations)
    await newer.close()
    assert await texts(database) == []


async def test_two_services_in_one_postgresql_do_not_meet(postgresql: str, migrations: Path) -> None:
    one, other = Database(postgresql, "notes"), Database(postgresql, "others")
    await one.open(migrations)
    await other.open(migrations)
    await add(one, 1)
    assert await texts(other) == []
    for opened in (one, other):
        async with opened.transaction() as connection:
            await connection.execute(text(f"DROP SCHEMA {opened.service} CASCADE"))
        await opened.close()


@pytest.mark.parametrize("url", ["sqlite:////proc/nowhere/a.db", "postgresql+asyncpg://x@/x?host=/nowhere"])
async def test_a_database_that_is_not_there_is_unavailable(url: str) -> None:
    database = Database(url, "notes")
    with pytest.raises(Unavailable):
        await database.check()
    with pytest.raises(Unavailable):
        await database.read_one(select(notes.c.id), {})
    await database.close()


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_a_full_disk_is_unavailable_and_loses_nothing(database: Database) -> None:
    await add(database, 1)
    async with database.transaction() as connection:
        await connection.execute(text("PRAGMA max_page_count = 1"))  # as many as there are
    with pytest.raises(Unavailable):
        await add(database, 2, text="x" * 1_000_000)
    async with database.transaction() as connection:
        await connection.execute(text("PRAGMA max_page_count = 1000000"))
    await add(database, 3)
    assert await texts(database) == ["note 1", "note 3"]


async def test_an_error_says_nothing_of_the_values(database: Database) -> None:
    await add(database, 1, text="secret")
    with pytest.raises(IntegrityError) as caught:
        await add(database, 1, text="secret")
    if database.is_sqlite:
        assert "secret" not in str(caught.value)
