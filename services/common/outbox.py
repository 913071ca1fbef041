"""Facts leave a service through a table written in the same transaction as the change.

A row is published in the order of its id, acknowledged by JetStream, and kept for a while: the server's
last writes can be lost in a power cut, so after every (re)connection the latest rows are sent again.
Their message id makes JetStream drop those it still has.
"""

import asyncio
import time
import uuid
from datetime import UTC, datetime, timedelta

import nats
import nats.errors
import nats.js.api
import nats.js.errors
import structlog
from nats.aio.client import Client
from nats.js import JetStreamContext
from sqlalchemy import Column, Index, MetaData, Table, Text, delete, func, insert, select, update

from services.common.columns import UtcDateTime
from services.common.database import Connection, Database
from services.common.errors import Unavailable
from services.common.events import STREAM, STREAM_SUBJECTS, OutgoingEvent
from services.common.rpc.figures import Figure

log = structlog.get_logger(__name__)

EVENT_RETENTION = timedelta(hours=24)
# JetStream forgets message ids after its window, so what is sent again must be younger than that.
DEDUPLICATION_WINDOW = timedelta(minutes=15)
SENT_AGAIN = timedelta(minutes=5)
KEPT_AFTER_PUBLISHING = timedelta(hours=1)
PUBLISH_TIMEOUT_S = 5.0
BATCH = 256
# What one change writes, and the next one, goes out together.
COLLECTED_FOR_S = 0.05
OLD_ROWS_DELETED_EVERY_S = 60.0
MAX_BACKOFF_S = 2.0


def outbox_table(metadata: MetaData) -> Table:
    """The outbox of one service, for its own metadata."""
    return Table(
        "outbox",
        metadata,
        Column("id", Text, primary_key=True),
        Column("subject", Text, nullable=False),
        Column("body", Text, nullable=False),
        Column("published_at", UtcDateTime),
        Index("outbox_published_at", "published_at"),
    )


class Outbox:
    """Writes events beside a change and publishes them; `run` is the owner of all publishing."""

    def __init__(self, database: Database, table: Table, nats_url: str) -> None:
        self._database = database
        self._table = table
        self._insert = insert(table)
        self._nats_url = nats_url
        self._written = asyncio.Event()
        self._delete_at = 0.0
        self.connected = False

    async def add(self, connection: Connection, event: OutgoingEvent) -> None:
        """Part of the caller's transaction; call `wake` once that is committed."""
        row = {"id": event.id, "subject": event.subject, "body": event.body, "published_at": None}
        await connection.execute(self._insert, row)

    def wake(self) -> None:
        self._written.set()

    async def figures(self) -> list[Figure]:
        """How far publishing is behind. An event's id has the time of its writing in its first 48 bits."""
        unpublished = self._table.c.published_at.is_(None)
        ((count, oldest),) = await self._database.read(
            select(func.count(), func.min(self._table.c.id)).where(unpublished)
        )
        age_s = max(0.0, time.time() - (uuid.UUID(oldest).int >> 80) / 1000) if oldest else 0.0
        return [
            Figure("events_unpublished", "Events that wait to be published.", count),
            Figure("events_oldest_unpublished_age_seconds", "How long the oldest of them has waited.", age_s),
        ]

    async def run(self) -> None:
        """Publishes until cancelled; NATS may come and go meanwhile."""
        backoff = 0.05
        while True:
            client = Client()
            try:
                await client.connect(
                    self._nats_url,
                    allow_reconnect=False,
                    max_reconnect_attempts=1,
                    reconnect_time_wait=0,
                    connect_timeout=5,
                    ping_interval=10,
                    error_cb=_quiet,
                    closed_cb=self._on_closed,
                )
                stream = client.jetstream(timeout=PUBLISH_TIMEOUT_S)
                await ensure_stream(stream)
                await self._mark_latest_unpublished()
                self.connected = True
                backoff = 0.05
                await self._publish_forever(client, stream)
            except (nats.errors.Error, nats.js.errors.Error, OSError, TimeoutError) as error:
                log.warning("nats_unavailable", error=type(error).__name__)
            except Unavailable:
                log.warning("outbox_unavailable")
            finally:
                self.connected = False
                await _close(client)
            await asyncio.sleep(backoff)
            backoff = min(backoff * 2, MAX_BACKOFF_S)

    async def _on_closed(self) -> None:
        self._written.set()

    async def _publish_forever(self, client: Client, stream: JetStreamContext) -> None:
        self._written.set()
        while client.is_connected:
            await self._written.wait()
            await asyncio.sleep(COLLECTED_FOR_S)
            self._written.clear()
            while batch := await self._next_batch():
                for identifier, subject, body in batch:
                    await stream.publish(
                        subject,
                        body.encode(),
                        headers={nats.js.api.Header.MSG_ID: identifier, "Content-Type": "application/json"},
                    )
                await self._mark_published([identifier for identifier, _, _ in batch])
                if len(batch) < BATCH:
                    break

    async def _next_batch(self) -> list[tuple[str, str, str]]:
        table = self._table
        query = (
            select(table.c.id, table.c.subject, table.c.body)
            .where(table.c.published_at.is_(None))
            .order_by(table.c.id)
            .limit(BATCH)
        )
        return [(row.id, row.subject, row.body) for row in await self._database.read(query)]

    async def _mark_published(self, identifiers: list[str]) -> None:
        """What a power cut makes of it: they are published again, with the ids they had."""
        now = datetime.now(UTC)
        table = self._table
        async with self._database.transaction(durable=False) as connection:
            await connection.execute(update(table).where(table.c.id.in_(identifiers)).values(published_at=now))
            if time.monotonic() > self._delete_at:
                await connection.execute(delete(table).where(table.c.published_at < now - KEPT_AFTER_PUBLISHING))
                self._delete_at = time.monotonic() + OLD_ROWS_DELETED_EVERY_S

    async def _mark_latest_unpublished(self) -> None:
        table = self._table
        since = datetime.now(UTC) - SENT_AGAIN
        async with self._database.transaction() as connection:
            await connection.execute(update(table).where(table.c.published_at > since).values(published_at=None))


async def ensure_stream(stream: JetStreamContext) -> None:
    """The stream that keeps every event for a day."""
    await stream.add_stream(
        nats.js.api.StreamConfig(
            name=STREAM,
            subjects=list(STREAM_SUBJECTS),
            max_age=EVENT_RETENTION.total_seconds(),
            duplicate_window=DEDUPLICATION_WINDOW.total_seconds(),
            storage=nats.js.api.StorageType.FILE,
        )
    )


async def _quiet(_error: Exception) -> None:
    """The client logs every failed attempt; `run` says it once."""


async def _close(client: Client) -> None:
    try:
        await client.close()
    except (nats.errors.Error, OSError):
        log.debug("nats_close_failed")
