"""One service's schema in a PostgreSQL that others share."""

import hashlib
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Row, Select, text
from sqlalchemy.exc import InterfaceError
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine

from services.common.migrating import LOCK_WAIT_S, upgrade


class PostgresqlSchema:
    def __init__(self, url: str, schema: str) -> None:
        self._schema = schema
        self._engine = create_async_engine(
            url,
            pool_size=8,
            max_overflow=8,
            pool_timeout=10,
            pool_pre_ping=True,
            hide_parameters=True,
            connect_args={"server_settings": {"search_path": schema}, "timeout": 10, "command_timeout": 30},
        )

    async def close(self) -> None:
        await self._engine.dispose()

    @asynccontextmanager
    async def transaction(self, durable: bool) -> AsyncIterator[AsyncConnection]:
        async with AsyncExitStack() as stack:
            with _connecting():
                connection = await stack.enter_async_context(self._engine.begin())
            if not durable:
                await connection.execute(text("SET LOCAL synchronous_commit = off"))
            yield connection

    async def read(self, query: Select[Any], parameters: Mapping[str, Any]) -> list[Row[Any]]:
        async with AsyncExitStack() as stack:
            with _connecting():
                connection = await stack.enter_async_context(self._engine.connect())
            await connection.execution_options(isolation_level="AUTOCOMMIT")
            return list(await connection.execute(query, parameters))

    async def migrate(self, migrations: Path) -> None:
        key = int.from_bytes(hashlib.sha256(f"hzel:{self._schema}".encode()).digest()[:7], "big")
        async with self._engine.begin() as connection:
            await connection.execute(text(f"SET LOCAL lock_timeout = '{LOCK_WAIT_S}s'"))
            await connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": key})
            await connection.execute(text(f'CREATE SCHEMA IF NOT EXISTS "{self._schema}"'))
            await connection.run_sync(upgrade, migrations)


@contextmanager
def _connecting() -> Iterator[None]:
    """What the driver raises that SQLAlchemy doesn't wrap, where a connection is made."""
    try:
        yield
    except (OSError, TimeoutError) as error:
        raise InterfaceError("connect", None, error) from error
