"""Who is asking: the bearer token of a request, looked up in the database each time.

One query by a unique index is fast enough, and a revoked token is refused at once, by every gateway.
"""

import asyncio
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import structlog
from sqlalchemy import bindparam, or_, select, update

from services.common.database import Database
from services.common.errors import Unauthenticated, Unavailable
from services.gateway.accounts import TOKEN_FORMAT, Role, digest
from services.gateway.tables import tokens, users

log = structlog.get_logger(__name__)

LAST_USE_PRECISION = timedelta(minutes=1)
LAST_USE_WRITTEN_AFTER_S = 1.0

_BY_DIGEST = (
    select(
        tokens.c.id.label("token_id"),
        tokens.c.expires_at,
        tokens.c.last_used_at,
        tokens.c.revoked_at,
        users.c.id.label("user_id"),
        users.c.email,
        users.c.role,
    )
    .join_from(tokens, users)
    .where(tokens.c.sha256 == bindparam("digest"))
)


@dataclass(frozen=True)
class Caller:
    user_id: str
    email: str
    role: Role
    auth_method: str

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
        if row is None or row.revoked_at is not None or (row.expires_at is not None and row.expires_at <= now):
            raise Unauthenticated("the token is unknown, expired or revoked")
        if row.last_used_at is None or row.last_used_at < now - LAST_USE_PRECISION:
            self._used[row.token_id] = now
            self._noted.set()
        return Caller(row.user_id, row.email, Role(row.role), "pat")

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
