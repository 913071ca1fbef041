"""The gateway's way to its database."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

import sqlalchemy.exc
from sqlalchemy.ext.asyncio import AsyncConnection

from services.common.database import Database
from services.common.errors import Unavailable


@asynccontextmanager
async def transaction(database: Database) -> AsyncIterator[AsyncConnection]:
    """`database.transaction()`, in which a database that does not answer is Unavailable.

    Nothing but statements belongs in the block: any OSError in it is taken for the connection's.
    """
    with database_errors():
        async with database.transaction() as connection:
            yield connection


@contextmanager
def database_errors() -> Iterator[None]:
    """Raises Unavailable where the database does not answer."""
    try:
        yield
    except (
        sqlalchemy.exc.OperationalError,
        sqlalchemy.exc.InterfaceError,
        sqlalchemy.exc.TimeoutError,
        OSError,
        TimeoutError,
    ) as error:
        raise Unavailable("the database is not available, try again") from error
