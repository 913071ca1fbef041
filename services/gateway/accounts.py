"""Users and their personal access tokens, as the database holds them."""

import hashlib
import re
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum

from sqlalchemy import Row, exists, insert, select, update
from sqlalchemy.exc import IntegrityError

from services.common.database import Connection, Database
from services.common.errors import Conflict, NotFound
from services.common.ids import new_id
from services.gateway import audit_draft
from services.gateway.tables import tokens, users

TOKEN_FORMAT = re.compile(r"hzel_[A-Za-z0-9_-]{43}")
PREFIX_LENGTH = 12


class Role(StrEnum):
    ADMIN = "admin"
    USER = "user"


@dataclass(frozen=True)
class User:
    id: str
    email: str
    role: Role


@dataclass(frozen=True)
class Token:
    """What may be shown of a token; the token itself is known only to its holder."""

    id: str
    name: str
    prefix: str
    created_at: datetime
    expires_at: datetime | None
    last_used_at: datetime | None
    revoked_at: datetime | None


def digest(token: str) -> str:
    """The only form in which a token is stored: SHA-256, hexadecimal. Its 256 random bits need no salt."""
    return hashlib.sha256(token.encode()).hexdigest()


class Accounts:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def create_token(self, user_id: str, name: str, expires_at: datetime | None) -> tuple[str, Token]:
        """Returns the token, for the only time, and what is kept of it."""
        async with self._database.transaction() as connection:
            token, kept = await add_token(connection, user_id, name, expires_at)
            expiry = expires_at.isoformat() if expires_at is not None else None
            await audit_draft.record_in(connection, token_id=kept.id, name=name, expires_at=expiry)
        return token, kept

    async def list_tokens(self, user_id: str) -> list[Token]:
        """Newest first, revoked ones too."""
        query = select(tokens).where(tokens.c.user_id == user_id).order_by(tokens.c.id.desc())
        async with self._database.transaction() as connection:
            return [_token(row) for row in await connection.execute(query)]

    async def revoke_token(self, user_id: str, token_id: str) -> None:
        """Effective with the next request; repeating it changes nothing. Raises NotFound."""
        mine = (tokens.c.id == token_id) & (tokens.c.user_id == user_id)
        async with self._database.transaction() as connection:
            if not await connection.scalar(select(exists().where(mine))):
                raise NotFound("there is no such token")
            await connection.execute(
                update(tokens).where(mine, tokens.c.revoked_at.is_(None)).values(revoked_at=datetime.now(UTC))
            )
            await audit_draft.record_in(connection)


async def no_user_yet(connection: Connection) -> bool:
    return not await connection.scalar(select(exists().select_from(users)))


async def add_user(connection: Connection, email: str, role: Role) -> User:
    """Part of the caller's transaction. Raises Conflict when the address is taken."""
    user = User(new_id(), email.lower(), role)
    try:
        await connection.execute(
            insert(users).values(id=user.id, email=user.email, role=user.role, created_at=datetime.now(UTC))
        )
    except IntegrityError as error:
        raise Conflict(f"there is a user {user.email} already") from error
    return user


async def add_token(connection: Connection, user_id: str, name: str, expires_at: datetime | None) -> tuple[str, Token]:
    """Part of the caller's transaction; see `Accounts.create_token`."""
    token = "hzel_" + secrets.token_urlsafe(32)
    kept = Token(new_id(), name, token[:PREFIX_LENGTH], datetime.now(UTC), expires_at, None, None)
    await connection.execute(
        insert(tokens).values(
            id=kept.id,
            user_id=user_id,
            name=kept.name,
            prefix=kept.prefix,
            sha256=digest(token),
            created_at=kept.created_at,
            expires_at=kept.expires_at,
        )
    )
    return token, kept


def _token(row: Row[tuple[object, ...]]) -> Token:
    return Token(row.id, row.name, row.prefix, row.created_at, row.expires_at, row.last_used_at, row.revoked_at)
