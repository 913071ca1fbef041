"""Events on their way from a table to a real NATS server that comes and goes."""

import asyncio
import contextlib
import json
import shutil
import socket
import sysconfig
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import nats
import pytest
from nats.aio.client import Client
from nats.js import JetStreamContext
from sqlalchemy import MetaData, func, select, update

from services.common.database import Database
from services.common.events import STREAM, OutgoingEvent, container_event
from services.common.outbox import DEDUPLICATION_WINDOW, EVENT_RETENTION, SENT_AGAIN, Outbox, outbox_table

metadata = MetaData()
table = outbox_table(metadata)
MIGRATION = """
import sqlalchemy as sa
from alembic import op
revision, down_revision = "0001", None
def upgrade():
    op.create_table(
        "outbox",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("subject", sa.Text, nullable=False),
        sa.Column("body", sa.Text, nullable=False),
        sa.Column("published_at", sa.DateTime(timezone=True)),
    )
"""
ENVIRONMENT = """
from sqlalchemy import MetaData
from services.common.migrations_env import run
run(MetaData())
"""
WITHIN_S = 15
Running = Callable[[Outbox], Awaitable[None]]


class Broker:
    """A nats-server of our own, with JetStream."""

    def __init__(self, folder: Path) -> None:
        self._program = str(Path(sysconfig.get_path("scripts")) / "nats-server")
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self._port = probe.getsockname()[1]
        self._store = folder
        self._process: asyncio.subprocess.Process | None = None

    @property
    def url(self) -> str:
        return f"nats://127.0.0.1:{self._port}"

    async def start(self) -> None:
        arguments = ["-a", "127.0.0.1", "-p", str(self._port), "-js", "-sd", str(self._store)]
        self._process = await asyncio.create_subprocess_exec(
            self._program, *arguments, stderr=asyncio.subprocess.DEVNULL
        )
        async with asyncio.timeout(WITHIN_S):
            while not self._answers():
                await asyncio.sleep(0.01)

    async def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            await self._process.wait()
            self._process = None

    def forget_everything(self) -> None:
        shutil.rmtree(self._store)

    def _answers(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self._port)) == 0


@pytest.fixture
async def stopped_broker(tmp_path: Path) -> AsyncIterator[Broker]:
    broker = Broker(tmp_path / "nats")
    yield broker
    await broker.kill()


@pytest.fixture
async def broker(stopped_broker: Broker) -> Broker:
    await stopped_broker.start()
    return stopped_broker


@pytest.fixture
async def database(database_url: str, tmp_path: Path) -> AsyncIterator[Database]:
    folder = tmp_path / "migrations"
    (folder / "versions").mkdir(parents=True)
    (folder / "env.py").write_text(ENVIRONMENT)
    (folder / "versions/0001.py").write_text(MIGRATION)
    opened = Database(database_url, "lifecycle")
    await opened.open(folder)
    yield opened
    await opened.close()


@pytest.fixture
async def running() -> AsyncIterator[Running]:
    """Runs outboxes until the test is over."""
    tasks = []

    async def start(outbox: Outbox) -> None:
        tasks.append(asyncio.create_task(outbox.run()))

    yield start
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


@contextlib.asynccontextmanager
async def jetstream(broker: Broker) -> AsyncIterator[tuple[Client, JetStreamContext]]:
    client = await nats.connect(broker.url)
    try:
        yield client, client.jetstream()
    finally:
        await client.close()


async def stored(broker: Broker) -> list[str]:
    """The ids of the events that the stream holds, in its order."""
    async with jetstream(broker) as (_, stream):
        state = (await stream.stream_info(STREAM)).state
        messages = [await stream.get_msg(STREAM, seq) for seq in range(state.first_seq, state.last_seq + 1)]
        return [json.loads(message.data or b"")["id"] for message in messages]


async def holds(broker: Broker, count: int) -> list[str]:
    """The same, once there are so many."""
    async with asyncio.timeout(WITHIN_S):
        while True:
            with contextlib.suppress(nats.js.errors.Error):
                if len(found := await stored(broker)) >= count:
                    return found
            await asyncio.sleep(0.02)


async def write(outbox: Outbox, database: Database, count: int) -> list[str]:
    """Adds events, each in a transaction of its own; returns their ids."""
    written = []
    for number in range(count):
        event = container_event(f"c-{number}", "running", "node", {"number": number})
        async with database.transaction() as connection:
            await outbox.add(connection, event)
        outbox.wake()
        written.append(event.id)
    return written


async def unpublished(database: Database) -> int:
    async with database.transaction() as connection:
        query = select(func.count()).select_from(table).where(table.c.published_at.is_(None))
        return int(await connection.scalar(query) or 0)


async def all_published(database: Database) -> None:
    async with asyncio.timeout(WITHIN_S):
        while await unpublished(database):
            await asyncio.sleep(0.02)


async def test_the_stream_is_made_and_keeps_events_for_a_day(
    broker: Broker, database: Database, running: Running
) -> None:
    outbox = Outbox(database, table, broker.url)
    await running(outbox)
    await write(outbox, database, 1)
    await holds(broker, 1)
    async with jetstream(broker) as (_, stream):
        config = (await stream.stream_info(STREAM)).config
    assert config.subjects == ["hzel.>"]
    assert config.max_age == EVENT_RETENTION.total_seconds()
    assert config.duplicate_window == DEDUPLICATION_WINDOW.total_seconds()
    assert SENT_AGAIN < DEDUPLICATION_WINDOW


async def test_events_come_in_the_order_they_were_written(broker: Broker, database: Database, running: Running) -> None:
    outbox = Outbox(database, table, broker.url)
    before = await write(outbox, database, 30)
    await running(outbox)
    after = await write(outbox, database, 300)
    assert await holds(broker, 330) == before + after


async def test_a_subscriber_gets_subject_and_body(broker: Broker, database: Database, running: Running) -> None:
    outbox = Outbox(database, table, broker.url)
    event = container_event("c-7", "stopped", "node", {"exit_code": 3})
    async with jetstream(broker) as (client, _):
        heard: asyncio.Queue[tuple[str, bytes]] = asyncio.Queue()

        async def hear(message: nats.aio.msg.Msg) -> None:
            await heard.put((message.subject, message.data))

        await client.subscribe("hzel.container.*.stopped", cb=hear)
        await client.flush()
        await running(outbox)
        async with database.transaction() as connection:
            await outbox.add(connection, event)
        outbox.wake()
        async with asyncio.timeout(WITHIN_S):
            assert await heard.get() == ("hzel.container.c-7.stopped", event.body.encode())


async def test_what_was_undone_is_told_to_nobody(broker: Broker, database: Database, running: Running) -> None:
    outbox = Outbox(database, table, broker.url)
    await running(outbox)

    async def fails() -> None:
        async with database.transaction() as connection:
            await outbox.add(connection, OutgoingEvent("undone", "hzel.container.x.running", '{"id": "undone"}'))
            raise RuntimeError("undo")

    with pytest.raises(RuntimeError, match="undo"):
        await fails()
    outbox.wake()
    written = await write(outbox, database, 1)
    await all_published(database)
    assert await stored(broker) == written


async def test_nothing_is_lost_while_there_is_no_broker(
    stopped_broker: Broker, database: Database, running: Running
) -> None:
    outbox = Outbox(database, table, stopped_broker.url)
    await running(outbox)
    written = await write(outbox, database, 5)
    await asyncio.sleep(0.2)
    assert not outbox.connected
    await stopped_broker.start()
    assert await holds(stopped_broker, 5) == written


async def test_a_broker_that_is_killed_again_and_again_has_each_event_once(
    broker: Broker, database: Database, running: Running
) -> None:
    outbox = Outbox(database, table, broker.url)
    await running(outbox)
    written = []
    for _ in range(3):
        writing = asyncio.create_task(write(outbox, database, 20))
        await asyncio.sleep(0.05)
        await broker.kill()
        written += await writing
        await broker.start()
    await all_published(database)
    found = await holds(broker, len(written))
    assert sorted(found) == sorted(written)


async def test_publishing_again_makes_no_second_one(broker: Broker, database: Database, running: Running) -> None:
    first = Outbox(database, table, broker.url)
    await running(first)
    written = await write(first, database, 10)
    await all_published(database)
    # Another process of the service, which sends the latest again.
    second = Outbox(database, table, broker.url)
    await running(second)
    more = await write(second, database, 1)
    await all_published(database)
    assert await holds(broker, 11) == written + more


async def test_a_broker_that_lost_its_last_writes_gets_them_again(
    broker: Broker, database: Database, running: Running
) -> None:
    outbox = Outbox(database, table, broker.url)
    await running(outbox)
    written = await write(outbox, database, 10)
    await all_published(database)
    await broker.kill()
    broker.forget_everything()
    await broker.start()
    assert await holds(broker, 10) == written


async def test_rows_are_kept_for_a_while_and_then_go(
    broker: Broker, database: Database, running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.common.outbox.OLD_ROWS_DELETED_EVERY_S", 0.0)
    outbox = Outbox(database, table, broker.url)
    await running(outbox)
    await write(outbox, database, 3)
    await all_published(database)
    async with database.transaction() as connection:
        await connection.execute(update(table).values(published_at=datetime.now(UTC) - timedelta(hours=2)))
    await write(outbox, database, 1)
    await all_published(database)
    async with database.transaction() as connection:
        assert await connection.scalar(select(func.count()).select_from(table)) == 1


async def test_it_tells_how_far_it_is_behind(stopped_broker: Broker, database: Database) -> None:
    outbox = Outbox(database, table, stopped_broker.url)
    assert {figure.name: figure.value for figure in await outbox.figures()} == {
        "events_unpublished": 0,
        "events_oldest_unpublished_age_seconds": 0,
    }
    await write(outbox, database, 2)
    await asyncio.sleep(0.2)
    figures = {figure.name: figure.value for figure in await outbox.figures()}
    assert figures["events_unpublished"] == 2
    assert 0.15 < figures["events_oldest_unpublished_age_seconds"] < 60
