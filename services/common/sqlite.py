"""One SQLite file with one service's tables: a connection that writes and one that reads.

Statements run on the thread of the event loop: what an index finds takes microseconds, going to another thread and
back takes longer than that. Only what waits for the disk, a durable commit, goes to one.
"""

import asyncio
import fcntl
import sqlite3
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

from sqlalchemy import (
    Connection,
    CursorResult,
    Dialect,
    Engine,
    Executable,
    Row,
    ScalarResult,
    Select,
    create_engine,
    event,
    make_url,
)
from sqlalchemy.exc import OperationalError
from sqlalchemy.pool import StaticPool

from services.common.migrating import LOCK_WAIT_S, upgrade

BUSY_WAIT_S = 10.0
BUSY_ASKED_EVERY_S = 0.005
# A checkpoint waits for the disk, so only commits that wait for it anyway make one.
DURABLE = ("synchronous = FULL", "wal_autocheckpoint = 1000")
NOT_DURABLE = ("synchronous = NORMAL", "wal_autocheckpoint = 0")

Parameters = Mapping[str, Any] | Sequence[Mapping[str, Any]] | None


class SqliteFile:
    def __init__(self, url: str) -> None:
        self._path = Path(make_url(url).database or "")
        self._reader = _engine(self._path, isolation_level="AUTOCOMMIT")
        self._writer = _engine(self._path)
        self._committing = ThreadPoolExecutor(1, "sqlite-commit")
        self._one_at_a_time = asyncio.Lock()
        self._durable = True
        # What the writing connection was last told; None: it is a new one.
        self._told: bool | None = None
        event.listen(self._writer, "connect", self._on_connect)
        event.listen(self._writer, "begin", self._on_begin)

    async def close(self) -> None:
        self._committing.shutdown()
        self._reader.dispose()
        self._writer.dispose()

    @asynccontextmanager
    async def transaction(self, durable: bool) -> AsyncIterator["SqliteConnection"]:
        """Waits for the transactions of this and of other processes; raises OperationalError after BUSY_WAIT_S."""
        async with self._one_at_a_time:
            self._durable = durable
            with closing(await self._begun()) as connection:
                # Closing it undoes what was not committed.
                yield SqliteConnection(connection)
                if durable:
                    await self._to_its_end(connection.commit)
                else:
                    connection.commit()
        if not durable:
            # One after the other, they would let nothing else run.
            await asyncio.sleep(0)

    async def read(self, query: Select[Any], parameters: Mapping[str, Any]) -> list[Row[Any]]:
        with self._reader.connect() as connection:
            return list(connection.execute(query, parameters))

    async def migrate(self, migrations: Path) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        # Command lines, environments and what is typed are in there.
        self._path.parent.chmod(0o700)
        with self._path.with_suffix(".lock").open("w") as lock:
            await asyncio.wait_for(asyncio.to_thread(fcntl.flock, lock, fcntl.LOCK_EX), LOCK_WAIT_S)
            # A service that runs may be writing at this moment.
            with closing(await self._begun()) as connection:
                upgrade(connection, migrations)
                connection.commit()

    async def _begun(self) -> Connection:
        give_up = time.monotonic() + BUSY_WAIT_S
        while True:
            connection = self._writer.connect()
            try:
                connection.begin()
                return connection
            except OperationalError as error:
                connection.close()
                if not _is_locked(error) or time.monotonic() > give_up:
                    raise
            except BaseException:
                connection.close()
                raise
            await asyncio.sleep(BUSY_ASKED_EVERY_S)

    async def _to_its_end(self, commit: Callable[[], None]) -> None:
        """In a thread. A cancellation waits: nobody else may use the connection meanwhile."""
        running = asyncio.get_running_loop().run_in_executor(self._committing, commit)
        cancelled: asyncio.CancelledError | None = None
        while not running.done():
            try:
                await asyncio.wait([running])
            except asyncio.CancelledError as error:
                cancelled = error
        running.result()
        if cancelled is not None:
            raise cancelled

    def _on_connect(self, connection: sqlite3.Connection, _record: object) -> None:
        # SQLAlchemy, not the driver, begins transactions; and this thread does not wait for a lock.
        connection.isolation_level = None
        for pragma in ("journal_mode = WAL", "foreign_keys = ON", "busy_timeout = 0"):
            connection.execute(f"PRAGMA {pragma}")
        self._told = None

    def _on_begin(self, connection: Connection) -> None:
        if self._told is not self._durable:
            for pragma in DURABLE if self._durable else NOT_DURABLE:
                connection.exec_driver_sql(f"PRAGMA {pragma}")
            self._told = self._durable
        connection.exec_driver_sql("BEGIN IMMEDIATE")


class SqliteConnection:
    """What a transaction may do: the methods of SQLAlchemy's AsyncConnection that stores use."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    @property
    def dialect(self) -> Dialect:
        return self._connection.dialect

    async def execute(self, statement: Executable, parameters: Parameters = None) -> CursorResult[Any]:
        return self._connection.execute(statement, parameters)

    async def scalar(self, statement: Executable, parameters: Mapping[str, Any] | None = None) -> Any:
        return self._connection.scalar(statement, parameters)

    async def scalars(self, statement: Executable, parameters: Mapping[str, Any] | None = None) -> ScalarResult[Any]:
        return self._connection.scalars(statement, parameters)


def _is_locked(error: OperationalError) -> bool:
    code = getattr(error.orig, "sqlite_errorcode", 0)
    # The low byte is the kind, the rest tells it more closely.
    return code & 0xFF == sqlite3.SQLITE_BUSY


def _engine(path: Path, **options: Any) -> Engine:
    # A commit runs in another thread, while this one waits for it.
    return create_engine(
        f"sqlite:///{path}",
        poolclass=StaticPool,
        hide_parameters=True,
        connect_args={"check_same_thread": False},
        **options,
    )
