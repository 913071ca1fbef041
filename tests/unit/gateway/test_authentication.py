"""Tokens: made, shown once, used, expired, revoked. On SQLite and PostgreSQL."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import select, update

from services.common.database import Database
from services.common.errors import Conflict, NotFound, Unauthenticated
from services.common.ids import new_id
from services.gateway.accounts import TOKEN_FORMAT, Accounts, Role, User, add_user, digest
from services.gateway.authentication import Authentication
from services.gateway.tables import tokens


async def test_a_token_tells_who_is_calling(database: Database, user: User, token: str) -> None:
    caller = await Authentication(database).caller(f"Bearer {token}")
    assert (caller.user_id, caller.email, caller.role, caller.auth_method) == (user.id, user.email, Role.USER, "pat")
    assert (await Authentication(database).caller(f"bEARER  {token} ")).user_id == user.id


@pytest.mark.parametrize(
    "authorization",
    [None, "", "Bearer", "Bearer ", "Basic YTpi", "Bearer hzel_short", "Bearer eyJh.e30.", "hzel_" + "a" * 43,
     "Bearer hzel_" + "a" * 43, "Bearer hzel_" + "a" * 44, "Bearer hzel_" + "ä" * 43, "Bearer hzel_" + "'" * 43],
)  # fmt: skip
async def test_anything_else_is_refused(database: Database, token: str, authorization: str | None) -> None:
    with pytest.raises(Unauthenticated):
        await Authentication(database).caller(authorization)


async def test_only_the_digest_of_a_token_is_stored(database: Database, user: User) -> None:
    token, kept = await Accounts(database).create_token(user.id, "ci", None)
    assert TOKEN_FORMAT.fullmatch(token)
    assert kept.prefix == token[:12]
    async with database.transaction() as connection:
        row = (await connection.execute(select(tokens).where(tokens.c.id == kept.id))).one()
    assert row.sha256 == digest(token)
    assert not any(token in str(value) for value in row)


async def test_a_revoked_token_is_refused_at_once(database: Database, user: User) -> None:
    accounts, authentication = Accounts(database), Authentication(database)
    token, kept = await accounts.create_token(user.id, "ci", None)
    await authentication.caller(f"Bearer {token}")
    await accounts.revoke_token(user.id, kept.id)
    with pytest.raises(Unauthenticated):
        await authentication.caller(f"Bearer {token}")


async def test_revoking_twice_keeps_the_first_time(database: Database, user: User) -> None:
    accounts = Accounts(database)
    _, kept = await accounts.create_token(user.id, "ci", None)
    await accounts.revoke_token(user.id, kept.id)
    before = await accounts.list_tokens(user.id)
    await accounts.revoke_token(user.id, kept.id)
    assert await accounts.list_tokens(user.id) == before
    assert before[0].revoked_at is not None


async def test_another_users_token_cannot_be_revoked_nor_seen(database: Database, user: User, admin: User) -> None:
    accounts = Accounts(database)
    token, kept = await accounts.create_token(user.id, "ci", None)
    with pytest.raises(NotFound):
        await accounts.revoke_token(admin.id, kept.id)
    with pytest.raises(NotFound):
        await accounts.revoke_token(user.id, new_id())
    assert await accounts.list_tokens(admin.id) == []
    await Authentication(database).caller(f"Bearer {token}")


async def test_an_expired_token_is_refused(database: Database, user: User) -> None:
    authentication = Authentication(database)
    token, kept = await Accounts(database).create_token(user.id, "ci", datetime.now(UTC) + timedelta(minutes=1))
    await authentication.caller(f"Bearer {token}")
    async with database.transaction() as connection:
        past = datetime.now(UTC) - timedelta(seconds=1)
        await connection.execute(update(tokens).where(tokens.c.id == kept.id).values(expires_at=past))
    with pytest.raises(Unauthenticated):
        await authentication.caller(f"Bearer {token}")


async def test_tokens_are_listed_newest_first(database: Database, user: User) -> None:
    accounts = Accounts(database)
    made = [(await accounts.create_token(user.id, name, None))[1] for name in ("first", "second", "third")]
    assert await accounts.list_tokens(user.id) == made[::-1]


async def test_an_address_belongs_to_one_user(database: Database, user: User) -> None:
    with pytest.raises(Conflict):
        async with database.transaction() as connection:
            await add_user(connection, user.email.upper(), Role.USER)


async def test_the_last_use_of_a_token_is_written_once_a_minute(database: Database, user: User, token: str) -> None:
    authentication, accounts = Authentication(database), Accounts(database)
    async with asyncio.TaskGroup() as group:
        recording = group.create_task(authentication.record_last_use())
        first = await _last_use(authentication, accounts, user, token)
        assert await _last_use(authentication, accounts, user, token) == first
        async with database.transaction() as connection:
            earlier = first - timedelta(minutes=2)
            await connection.execute(update(tokens).values(last_used_at=earlier))
        assert await _last_use(authentication, accounts, user, token, earlier) > first - timedelta(minutes=1)
        recording.cancel()


async def _last_use(
    authentication: Authentication, accounts: Accounts, user: User, token: str, before: datetime | None = None
) -> datetime:
    """Uses the token and waits until the time of its last use is another than before."""
    await authentication.caller(f"Bearer {token}")
    async with asyncio.timeout(10):
        while True:
            (kept,) = await accounts.list_tokens(user.id)
            if kept.last_used_at is not None and kept.last_used_at != before:
                return kept.last_used_at
            await asyncio.sleep(0.05)
