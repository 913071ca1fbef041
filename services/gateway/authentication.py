"""Who is asking: the bearer token of a request, looked up in the database each time.

One query by a unique index is fast enough, and a revoked token is refused at once, by every gateway.
"""

import asyncio
from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import structlog
from sqlalchemy import Row, bindparam, or_, select, update

from services.common.database import Database
from services.common.errors import Unauthenticated, Unavailable
from services.gateway.accounts import TOKEN_FORMAT, Role, digest
from services.gateway.tables import tokens, users

log = structlog.get_logger(__name__)

LAST_USE_PRECISION = timedelta(minutes=1)
LAST_USE_WRITTEN_AFTER_S = 1.0

_TOKENS = select(
    tokens.c.id.label("token_id"),
    tokens.c.expires_at,
    tokens.c.last_used_at,
    tokens.c.revoked_at,
    users.c.id.label("user_id"),
    users.c.email,
    users.c.role,
).join_from(tokens, users)
_BY_DIGEST = _TOKENS.where(tokens.c.sha256 == bindparam("digest"))
_BY_IDS = _TOKENS.where(tokens.c.id.in_(bindparam("ids", expanding=True)))
ASKED_AT_ONCE = 100


@dataclass(frozen=True)
class Caller:
    user_id: str
    email: str
    role: Role
    auth_method: str
    token_id: str

    @property
    def is_admin(self) -> bool:
        return self.role is Role.ADMIN


class Authentication:
    def __init__(self, database: Database) -> None:
        self._database = database
        self._used: dict[str, datetime] = {}
        self._noted = asyncio.Event()

    async def caller(self, authorization: str | None) -> Caller:
        """From the value of the Authorization header. Raises Unauthenticated."""
        if authorization is None:
            raise Unauthenticated("a bearer token is needed")
        scheme, _, token = authorization.partition(" ")
        if scheme.lower() != "bearer" or not TOKEN_FORMAT.fullmatch(token.strip()):
            raise Unauthenticated("this is no bearer token of ours")
        row = await self._database.read_one(_BY_DIGEST, {"digest": digest(token.strip())})
        now = datetime.now(UTC)
        if row is None or not _is_good(row, now):
            raise Unauthenticated("the token is unknown, expired or revoked")
        if row.last_used_at is None or row.last_used_at < now - LAST_USE_PRECISION:
            self._used[row.token_id] = now
            self._noted.set()
        return _caller(row)

    async def still_known(self, callers: Collection[Caller]) -> set[Caller]:
        """Those who would be the same if they asked now, with the token they had."""
        token_ids = sorted({caller.token_id for caller in callers})
        found = set()
        for first in range(0, len(token_ids), ASKED_AT_ONCE):
            rows = await self._database.read(_BY_IDS, {"ids": token_ids[first : first + ASKED_AT_ONCE]})
            now = datetime.now(UTC)
            found |= {_caller(row) for row in rows if _is_good(row, now)}
            # On SQLite nothing else runs during a query.
            await asyncio.sleep(0)
        return found & set(callers)

    async def record_last_use(self) -> None:
        """Writes, until cancelled, when tokens were last used: beside the requests, not in them."""
        while True:
            await self._noted.wait()
            await asyncio.sleep(LAST_USE_WRITTEN_AFTER_S)
            self._noted.clear()
            used, self._used = self._used, {}
            try:
                await self._write(used)
            except Unavailable:
                # The next use of the token is noted again.
                log.warning("last_use_not_written", tokens=len(used))

    async def _write(self, used: dict[str, datetime]) -> None:
        async with self._database.transaction() as connection:
            for token_id, moment in used.items():
                later = or_(tokens.c.last_used_at.is_(None), tokens.c.last_used_at < moment)
                await connection.execute(
                    update(tokens).where(tokens.c.id == token_id, later).values(last_used_at=moment)
                )


def _is_good(row: Row[Any], now: datetime) -> bool:
    return row.revoked_at is None and (row.expires_at is None or row.expires_at > now)


def _caller(row: Row[Any]) -> Caller:
    return Caller(row.user_id, row.email, Role(row.role), "pat", row.token_id)
