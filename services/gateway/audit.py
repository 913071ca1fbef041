"""The audit log of a gateway: who did what, and who was refused what, durable before the answer goes out.

Entries that wait together are written in one transaction, so a burst pays for few flushes. An entry that can't be
written is kept and tried again until it can, and meanwhile nothing new is begun: see `is_failing`. Those whose
requests wait are told at once.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime

import structlog
from sqlalchemy import select
from sqlalchemy.exc import SQLAlchemyError

from services.common.database import Database
from services.common.errors import FieldError, RateLimited, Unavailable, ValidationFailed
from services.gateway.audit_chain import Verification, extend, link_of, missing, verify
from services.gateway.audit_entry import Entry, Link, Outcome
from services.gateway.audit_refusals import Kind, Refusals
from services.gateway.tables import audit_log

log = structlog.get_logger(__name__)

WRITTEN_AT_ONCE = 200
MAX_WAITING = 10_000
WRITTEN_WITHIN_S = 10.0
RETRIED_AFTER_S = 1.0
COUNTED_EVERY_S = 5.0


@dataclass(frozen=True)
class AuditFilter:
    """What is None does not matter; `since` is in, `until` is not."""

    user_id: str | None = None
    container_id: str | None = None
    action: str | None = None
    outcome: Outcome | None = None
    since: datetime | None = None
    until: datetime | None = None


@dataclass(frozen=True)
class AuditPage:
    """`next_before_id` is None on the last page."""

    links: list[Link]
    next_before_id: str | None


@dataclass(frozen=True)
class _Waiting:
    entry: Entry
    is_written: asyncio.Future[bool]

    def tell(self, is_written: bool) -> None:
        if not self.is_written.done():
            self.is_written.set_result(is_written)


class Audit:
    """Nothing is written but while `running()`."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._waiting: list[_Waiting] = []
        self._wanted = asyncio.Event()
        self._refusals = Refusals()
        self._verifying = asyncio.Lock()
        # A write was begun whose end is not known.
        self._in_doubt = False
        self.is_failing = False

    def submit(self, entry: Entry) -> asyncio.Future[bool]:
        """Whether it is written, and durable: `settled` waits for that."""
        is_written: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        if len(self._waiting) >= MAX_WAITING:
            log.error("audit_entry_lost", action=entry.action, user_id=entry.user_id, container_id=entry.container_id)
            is_written.set_result(False)
            return is_written
        waiting = _Waiting(entry, is_written)
        self._waiting.append(waiting)
        if self.is_failing:
            waiting.tell(False)
        self._wanted.set()
        return is_written

    async def append(self, entry: Entry) -> None:
        """Returns when it is durable. Raises Unavailable; then it is written as soon as it can be."""
        await settled(self.submit(entry))

    async def refuse(self, kind: Kind, entry: Entry) -> None:
        """As `append`, but equal ones of a minute are counted: see audit_refusals."""
        if self._refusals.is_first(kind, entry, time.monotonic()):
            await self.append(entry)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """At its end all that waits is written, with the numbers of what was counted, if the database answers."""
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self._write_forever()), group.create_task(self._count_forever())]
            yield
            for task in tasks:
                task.cancel()
        for entry in self._refusals.over(time.monotonic(), within_s=0):
            self.submit(entry)
        while self._waiting and await self._write():
            pass

    async def page(self, wanted: AuditFilter, before_id: str | None, limit: int) -> AuditPage:
        """The newest first. Raises ValidationFailed where there is no entry `before_id`."""
        table = audit_log.c
        query = select(audit_log).order_by(table.seq.desc()).limit(limit + 1)
        for column in (table.user_id, table.container_id, table.action, table.outcome):
            if (value := getattr(wanted, column.name)) is not None:
                query = query.where(column == value)
        if wanted.since is not None:
            query = query.where(table.created_at >= wanted.since)
        if wanted.until is not None:
            query = query.where(table.created_at < wanted.until)
        async with self._database.transaction(durable=False) as connection:
            if before_id is not None:
                before = await connection.scalar(select(table.seq).where(table.id == before_id))
                if before is None:
                    raise ValidationFailed("the cursor is not valid", (FieldError("cursor", "names no entry"),))
                query = query.where(table.seq < before)
            links = [link_of(row) for row in await connection.execute(query)]
        return AuditPage(links[:limit], links[limit - 1].entry.id if len(links) > limit else None)

    async def verify(self) -> Verification:
        """Raises RateLimited while another verification runs: each reads the whole log."""
        if self._verifying.locked():
            raise RateLimited("the audit log is being verified already, try again")
        async with self._verifying:
            return await verify(self._database)

    async def _write_forever(self) -> None:
        while True:
            await self._wanted.wait()
            self._wanted.clear()
            while self._waiting:
                if not await self._write():
                    await asyncio.sleep(RETRIED_AFTER_S)

    async def _count_forever(self) -> None:
        while True:
            await asyncio.sleep(COUNTED_EVERY_S)
            for entry in self._refusals.over(time.monotonic()):
                self.submit(entry)

    async def _write(self) -> bool:
        """All that waits, up to a bound, in one transaction."""
        batch = self._waiting[:WRITTEN_AT_ONCE]
        entries = [waiting.entry for waiting in batch]
        try:
            async with self._database.transaction() as connection:
                if self._in_doubt:
                    entries = await missing(connection, entries)
                self._in_doubt = True
                if entries:
                    await extend(connection, entries)
        except (Unavailable, SQLAlchemyError) as error:
            if not self.is_failing:
                log.error("audit_log_not_written", entries=len(self._waiting), error=type(error.__cause__ or error))
            self.is_failing = True
            for waiting in self._waiting:
                waiting.tell(False)
            return False
        self._in_doubt = self.is_failing = False
        del self._waiting[: len(batch)]
        for waiting in batch:
            waiting.tell(True)
        return True


async def settled(is_written: asyncio.Future[bool]) -> None:
    """Raises Unavailable if it is not written in time."""
    try:
        async with asyncio.timeout(WRITTEN_WITHIN_S):
            if await is_written:
                return
    except TimeoutError as error:
        raise _unavailable() from error
    raise _unavailable()


def _unavailable() -> Unavailable:
    return Unavailable("what was asked can't be recorded now, try again")
