"""A service's own database: SQLite in a file of its own, or its schema in a shared PostgreSQL."""

import asyncio
import fcntl
import hashlib
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import alembic.command
import alembic.config
import sqlalchemy.exc
from sqlalchemy import URL, Connection, Engine, Row, Select, create_engine, event, make_url, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.pool import StaticPool

from services.common.errors import Unavailable

LOCK_WAIT_S = 30
UNAVAILABLE = "the database is not available, try again"

AnyRow = tuple[Any, ...]


class Database:
    """Transactions on one service's tables.

    `transaction()` commits when its block ends and rolls back when it raises; on SQLite writers take the
    lock at BEGIN, one after the other, so that a transaction never fails half-way for want of it.
    """

    def __init__(self, url: str, service: str) -> None:
        self.url = make_url(url)
        self.service = service
        self.is_sqlite = self.url.get_backend_name() == "sqlite"
        self._synchronous = "FULL"
        self._engine = self._sqlite_engine(url) if self.is_sqlite else _postgresql_engine(url, service)
        self._reader = _sqlite_reader(self.url) if self.is_sqlite else None
        self._one_writer = asyncio.Lock()

    async def open(self, migrations: Path) -> None:
        """Brings the schema up to date: one process at a time, whoever starts first."""
        if self.is_sqlite:
            await self._migrate_sqlite(migrations)
        else:
            await self._migrate_postgresql(migrations)

    async def close(self) -> None:
        if self._reader is not None:
            self._reader.dispose()
        await self._engine.dispose()

    @asynccontextmanager
    async def transaction(self, durable: bool = True) -> AsyncIterator[AsyncConnection]:
        """`durable` off: a power cut may undo it, the death of a process may not; faster by a disk's flush.

        Raises Unavailable when the database does not answer or its disk is full.
        """
        async with AsyncExitStack() as stack:
            stack.enter_context(_database_errors())
            if self.is_sqlite:
                # The one connection is shared: transactions follow one another.
                await stack.enter_async_context(self._one_writer)
                self._synchronous = "FULL" if durable else "NORMAL"
            with _connection_errors():
                connection = await stack.enter_async_context(self._engine.begin())
            if not durable and not self.is_sqlite:
                await connection.execute(text("SET LOCAL synchronous_commit = off"))
            yield connection

    async def read_one(self, query: Select[*AnyRow], parameters: Mapping[str, Any]) -> Row[*AnyRow] | None:
        """The one row of a query, or None, outside of any transaction: what is committed now.

        For hot paths. On SQLite it switches to no other thread: a reader waits for nobody there, and what an
        index finds takes microseconds.
        """
        with _database_errors(), _connection_errors():
            if self._reader is not None:
                with self._reader.connect() as reader:
                    return reader.execute(query, parameters).one_or_none()
            async with self._engine.connect() as shared:
                connection = await shared.execution_options(isolation_level="AUTOCOMMIT")
                return (await connection.execute(query, parameters)).one_or_none()

    def _sqlite_engine(self, url: str) -> AsyncEngine:
        engine = create_async_engine(url, poolclass=StaticPool, hide_parameters=True)

        @event.listens_for(engine.sync_engine, "connect")
        def prepare(connection: Any, _record: object) -> None:
            # SQLAlchemy, not the driver, begins transactions.
            connection.isolation_level = None
            cursor = connection.cursor()
            for pragma in ("journal_mode = WAL", "foreign_keys = ON", "busy_timeout = 10000"):
                cursor.execute(f"PRAGMA {pragma}")
            cursor.close()

        @event.listens_for(engine.sync_engine, "begin")
        def begin(connection: Connection) -> None:
            connection.exec_driver_sql(f"PRAGMA synchronous = {self._synchronous}")
            connection.exec_driver_sql("BEGIN IMMEDIATE")

        return engine

    async def check(self) -> None:
        """Raises Unavailable when the database does not answer."""
        async with self.transaction() as connection:
            await connection.execute(text("SELECT 1"))

    async def _migrate_sqlite(self, migrations: Path) -> None:
        path = Path(self.url.database or "")
        path.parent.mkdir(parents=True, exist_ok=True)
        # Command lines, environments and what is typed are in there.
        path.parent.chmod(0o700)
        with path.with_suffix(".lock").open("w") as lock:
            await asyncio.wait_for(asyncio.to_thread(fcntl.flock, lock, fcntl.LOCK_EX), LOCK_WAIT_S)
            async with self._engine.begin() as connection:
                await connection.run_sync(_upgrade, migrations)

    async def _migrate_postgresql(self, migrations: Path) -> None:
        key = int.from_bytes(hashlib.sha256(f"hzel:{self.service}".encode()).digest()[:7], "big")
        async with self._engine.begin() as connection:
            await connection.execute(text(f"SET LOCAL lock_timeout = '{LOCK_WAIT_S}s'"))
            await connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": key})
            await connection.execute(text(f'CREATE SCHEMA IF NOT EXISTS "{self.service}"'))
            await connection.run_sync(_upgrade, migrations)


@contextmanager
def _database_errors() -> Iterator[None]:
    try:
        yield
    except (
        sqlalchemy.exc.OperationalError,
        sqlalchemy.exc.InterfaceError,
        sqlalchemy.exc.TimeoutError,
    ) as error:
        raise Unavailable(UNAVAILABLE) from error


@contextmanager
def _connection_errors() -> Iterator[None]:
    """What drivers raise that SQLAlchemy doesn't wrap, where a connection is made."""
    try:
        yield
    except (OSError, TimeoutError) as error:
        raise Unavailable(UNAVAILABLE) from error


def _upgrade(connection: Connection, migrations: Path) -> None:
    config = alembic.config.Config()
    config.set_main_option("script_location", str(migrations).replace("%", "%%"))
    config.attributes["connection"] = connection
    alembic.command.upgrade(config, "head")


def _sqlite_reader(url: URL) -> Engine:
    return create_engine(
        url.set(drivername="sqlite"), poolclass=StaticPool, isolation_level="AUTOCOMMIT", hide_parameters=True
    )


def _postgresql_engine(url: str, service: str) -> AsyncEngine:
    return create_async_engine(
        url,
        pool_size=8,
        max_overflow=8,
        pool_timeout=10,
        pool_pre_ping=True,
        hide_parameters=True,
        connect_args={"server_settings": {"search_path": service}, "timeout": 10, "command_timeout": 30},
    )
