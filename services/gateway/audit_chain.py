"""The audit log in the database: one chain, whichever gateway writes."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

from sqlalchemy import Row, insert, select, text

from services.common.database import Connection, Database
from services.gateway.audit_entry import GENESIS, Entry, Link, follows, linked
from services.gateway.tables import audit_log

# Any number that nothing else in the database locks: "hzelaud" in ASCII.
LOCK_KEY = int.from_bytes(b"hzelaud", "big")
READ_AT_ONCE = 500
LOWEST = -(2**63)


@dataclass(frozen=True)
class Verification:
    """`entries` are those found sound, up to the first bad one; `head` is the hash of the last of them."""

    valid: bool
    entries: int
    first_bad_id: str | None
    head: str


async def extend(connection: Connection, entries: Sequence[Entry]) -> None:
    """The last statement of the caller's transaction: until that ends no other one extends the chain.

    SQLite has one writer; on PostgreSQL a lock of the transaction makes one.
    """
    if connection.dialect.name == "postgresql":
        await connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": LOCK_KEY})
    head = select(audit_log.c.seq, audit_log.c.hash).order_by(audit_log.c.seq.desc()).limit(1)
    last = (await connection.execute(head)).one_or_none()
    seq, previous = (last.seq, last.hash) if last is not None else (0, GENESIS)
    rows = []
    for entry in entries:
        link = linked(entry, seq + 1, previous)
        rows.append({"seq": link.seq, "previous_hash": previous, "hash": link.hash, **vars(entry)})
        seq, previous = link.seq, link.hash
    await connection.execute(insert(audit_log), rows)


async def missing(connection: Connection, entries: Sequence[Entry]) -> list[Entry]:
    """Those that are not in the log."""
    query = select(audit_log.c.id).where(audit_log.c.id.in_([entry.id for entry in entries]))
    there = set(await connection.scalars(query))
    return [entry for entry in entries if entry.id not in there]


async def verify(database: Database) -> Verification:
    """Walks the chain from its beginning, a few hundred entries in memory at a time; ends at the first bad one.

    What is written meanwhile may or may not be looked at.
    """
    seq, previous = 0, GENESIS
    try:
        async for link in _links(database):
            if not follows(link, seq, previous):
                return Verification(False, seq, link.entry.id, previous)
            seq, previous = link.seq, link.hash
    except _Unreadable as error:
        return Verification(False, seq, error.id, previous)
    return Verification(True, seq, None, previous)


class _Unreadable(Exception):
    def __init__(self, entry_id: str) -> None:
        super().__init__(entry_id)
        self.id = entry_id


async def _links(database: Database) -> AsyncIterator[Link]:
    """Raises _Unreadable for an entry that holds what can't have been written."""
    # From below everything: a number that is none of ours must not go unseen.
    after, at_once = LOWEST, READ_AT_ONCE
    while True:
        query = select(audit_log).where(audit_log.c.seq > after).order_by(audit_log.c.seq).limit(at_once)
        async with database.transaction(durable=False) as connection:
            try:
                rows = (await connection.execute(query)).all()
            except ValueError as error:
                if at_once == 1:
                    ids = query.with_only_columns(audit_log.c.id)
                    raise _Unreadable(str(await connection.scalar(ids))) from error
                at_once = 1
                continue
        for row in rows:
            yield link_of(row)
        if len(rows) < at_once:
            return
        after = rows[-1].seq


def link_of(row: Row[tuple[object, ...]]) -> Link:
    entry = Entry(row.id, row.user_id, row.container_id, row.action, row.outcome, row.metadata, row.created_at)
    return Link(row.seq, entry, row.previous_hash, row.hash)
