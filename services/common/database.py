"""A service's own database: SQLite in a file of its own, or its schema in a shared PostgreSQL."""

from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, Protocol

import sqlalchemy.exc
from sqlalchemy import CursorResult, Dialect, Executable, Row, ScalarResult, Select, make_url, select

from services.common.errors import Unavailable
from services.common.postgresql import PostgresqlSchema
from services.common.sqlite import SqliteFile

UNAVAILABLE = "the database is not available, try again"

AnyRow = tuple[Any, ...]
OneRow = Mapping[str, Any] | None
Rows = Mapping[str, Any] | Sequence[Mapping[str, Any]] | None


class Connection(Protocol):
    """What can be done in a transaction: the part of SQLAlchemy's AsyncConnection that either kind has.

    A result is read before the transaction ends.
    """

    @property
    def dialect(self) -> Dialect: ...

    async def execute(self, statement: Executable, parameters: Rows = None, /) -> CursorResult[Any]: ...

    async def scalar(self, statement: Executable, parameters: OneRow = None, /) -> Any: ...

    async def scalars(self, statement: Executable, parameters: OneRow = None, /) -> ScalarResult[Any]: ...


class _Backend(Protocol):
    def transaction(self, durable: bool) -> AbstractAsyncContextManager[Connection]: ...

    async def read(self, query: Select[*AnyRow], parameters: Mapping[str, Any]) -> list[Row[*AnyRow]]: ...

    async def migrate(self, migrations: Path) -> None: ...

    async def close(self) -> None: ...


class Database:
    """Transactions on one service's tables.

    `transaction()` commits when its block ends and rolls back when it raises; on SQLite writers take the
    lock at BEGIN, one after the other, so that a transaction never fails half-way for want of it.
    """

    def __init__(self, url: str, service: str) -> None:
        self.service = service
        self.is_sqlite = make_url(url).get_backend_name() == "sqlite"
        self._backend: _Backend = SqliteFile(url) if self.is_sqlite else PostgresqlSchema(url, service)

    async def open(self, migrations: Path) -> None:
        """Brings the schema up to date: one process at a time, whoever starts first."""
        await self._backend.migrate(migrations)

    async def close(self) -> None:
        await self._backend.close()

    @asynccontextmanager
    async def transaction(self, durable: bool = True) -> AsyncIterator[Connection]:
        """`durable` off: a power cut may undo it, the death of a process may not; faster by a disk's flush.

        Raises Unavailable when the database does not answer or its disk is full.
        """
        with _database_errors():
            async with self._backend.transaction(durable) as connection:
                yield connection

    async def read(self, query: Select[*AnyRow], parameters: Mapping[str, Any] | None = None) -> list[Row[*AnyRow]]:
        """The rows of one query outside of any transaction: what is committed now. Waits for no writer.

        For at most some hundred rows that an index finds: on SQLite nothing else runs meanwhile.
        """
        with _database_errors():
            return await self._backend.read(query, parameters or {})

    async def read_one(self, query: Select[*AnyRow], parameters: Mapping[str, Any]) -> Row[*AnyRow] | None:
        """As `read`, for a query that finds one row at most."""
        rows = await self.read(query, parameters)
        return rows[0] if rows else None

    async def check(self) -> None:
        """Raises Unavailable when the database does not answer."""
        async with self.transaction() as connection:
            await connection.execute(select(1))


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
