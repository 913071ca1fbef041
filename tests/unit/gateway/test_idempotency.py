"""Requests that come more than once. On SQLite and PostgreSQL."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import func, select, update

from services.common.database import Database
from services.common.errors import Conflict, IdempotencyMismatch, RateLimited, TimedOut, Unavailable, ValidationFailed
from services.gateway.accounts import User
from services.gateway.idempotency import Answer, Idempotency, KeyedRequest
from services.gateway.strict_json import Json
from services.gateway.tables import idempotency_keys

Act = Callable[[str], Awaitable[Answer]]


async def nothing() -> None:
    """A check that finds nothing."""


def request(user: User, body: Json = None, key: str = "k") -> KeyedRequest:
    return KeyedRequest.of(user.id, key, "POST", "/api/v1/containers", body or {"hostname": "a"})


def recording(seen: list[str], answer: str = "made") -> Act:
    async def act(resource_id: str) -> Answer:
        seen.append(resource_id)
        return Answer(201, json.dumps({"data": answer}))

    return act


async def test_a_repetition_gets_the_first_answer_and_does_nothing(database: Database, user: User) -> None:
    idempotency, seen = Idempotency(database), list[str]()
    first = await idempotency.once(request(user), nothing, recording(seen, "first"))
    again = await idempotency.once(request(user), nothing, recording(seen, "second"))
    assert first == (Answer(201, '{"data": "first"}'), False)
    assert again == (first[0], True)
    assert len(seen) == 1


async def test_the_same_body_written_otherwise_is_the_same_request(user: User) -> None:
    one = KeyedRequest.of(user.id, "k", "POST", "/p", {"a": 1, "b": [2]})
    assert KeyedRequest.of(user.id, "k", "POST", "/p", {"b": [2], "a": 1}) == one
    assert KeyedRequest.of(user.id, "k", "POST", "/q", {"a": 1, "b": [2]}).sha256 != one.sha256
    assert KeyedRequest.of(user.id, "k", "PUT", "/p", {"a": 1, "b": [2]}).sha256 != one.sha256


async def test_another_body_under_the_same_key_is_refused(database: Database, user: User) -> None:
    idempotency, seen = Idempotency(database), list[str]()
    await idempotency.once(request(user), nothing, recording(seen))
    with pytest.raises(IdempotencyMismatch):
        await idempotency.once(request(user, {"hostname": "b"}), nothing, recording(seen))
    assert len(seen) == 1


async def test_keys_belong_to_their_user(database: Database, user: User, admin: User) -> None:
    idempotency, seen = Idempotency(database), list[str]()
    await idempotency.once(request(user), nothing, recording(seen))
    await idempotency.once(request(admin, {"hostname": "b"}), nothing, recording(seen))
    assert len(set(seen)) == 2


async def test_what_the_check_refuses_leaves_the_key_free(database: Database, user: User) -> None:
    async def refuse() -> None:
        raise ValidationFailed("no")

    idempotency, seen = Idempotency(database), list[str]()
    with pytest.raises(ValidationFailed):
        await idempotency.once(request(user), refuse, recording(seen))
    await idempotency.once(request(user, {"hostname": "b"}), nothing, recording(seen))
    assert len(seen) == 1


async def test_a_final_refusal_is_kept(database: Database, user: User) -> None:
    async def conflict(_resource_id: str) -> Answer:
        raise Conflict("the name is taken")

    idempotency, seen = Idempotency(database), list[str]()
    first, is_replayed = await idempotency.once(request(user), nothing, conflict)
    assert (first.status, is_replayed) == (409, False)
    assert json.loads(first.body) == {"error": {"code": "CONFLICT", "message": "the name is taken"}}
    assert await idempotency.once(request(user), nothing, recording(seen)) == (first, True)
    assert seen == []


@pytest.mark.parametrize("error", [Unavailable("gone"), TimedOut("slow"), RateLimited("busy")])
async def test_a_passing_failure_is_not_kept_and_a_repetition_acts_on_the_same_resource(
    database: Database, user: User, error: Unavailable
) -> None:
    seen = list[str]()

    async def fail(resource_id: str) -> Answer:
        seen.append(resource_id)
        raise error

    idempotency = Idempotency(database)
    with pytest.raises(type(error)):
        await idempotency.once(request(user), nothing, fail)
    answer, is_replayed = await idempotency.once(request(user), nothing, recording(seen))
    assert (answer.status, is_replayed) == (201, False)
    assert len(seen) == 2
    assert len(set(seen)) == 1


async def test_a_gateway_that_died_half_way_left_the_id_behind(database: Database, user: User) -> None:
    seen, started = list[str](), asyncio.Event()

    async def never(resource_id: str) -> Answer:
        seen.append(resource_id)
        started.set()
        await asyncio.Event().wait()
        raise AssertionError

    dying = asyncio.create_task(Idempotency(database).once(request(user), nothing, never))
    await started.wait()
    dying.cancel()
    await asyncio.wait([dying])
    await Idempotency(database).once(request(user), nothing, recording(seen))
    assert len(seen) == 2
    assert len(set(seen)) == 1


async def test_many_repetitions_at_once_act_on_one_resource_and_answer_alike(database: Database, user: User) -> None:
    seen = list[str]()

    async def slow(resource_id: str) -> Answer:
        seen.append(resource_id)
        await asyncio.sleep(0.01 * len(seen))
        return Answer(201, f"answer {len(seen)}")

    idempotency = Idempotency(database)
    outcomes = await asyncio.gather(*(idempotency.once(request(user), nothing, slow) for _ in range(12)))
    assert len(set(seen)) == 1
    assert len({answer for answer, _ in outcomes}) == 1
    assert sum(not is_replayed for _, is_replayed in outcomes) == 1


async def test_a_key_may_be_used_anew_after_a_day(database: Database, user: User) -> None:
    idempotency, seen = Idempotency(database), list[str]()
    await idempotency.once(request(user), nothing, recording(seen))
    await _age(database, timedelta(hours=23, minutes=59))
    assert (await idempotency.once(request(user), nothing, recording(seen)))[1]
    await _age(database, timedelta(hours=24, minutes=1))
    await idempotency.once(request(user, {"hostname": "b"}), nothing, recording(seen))
    assert len(set(seen)) == 2


async def test_old_keys_are_swept_and_new_ones_stay(database: Database, user: User) -> None:
    idempotency = Idempotency(database)
    await idempotency.once(request(user, key="old"), nothing, recording([]))
    await _age(database, timedelta(hours=25))
    await idempotency.once(request(user, key="new"), nothing, recording([]))
    sweeping = asyncio.create_task(idempotency.sweep())
    async with asyncio.timeout(10):
        while await _count(database) != 1:
            await asyncio.sleep(0.01)
    sweeping.cancel()
    assert (await idempotency.once(request(user, key="new"), nothing, recording([])))[1]


async def _age(database: Database, age: timedelta) -> None:
    async with database.transaction() as connection:
        await connection.execute(update(idempotency_keys).values(created_at=datetime.now(UTC) - age))


async def _count(database: Database) -> int:
    async with database.transaction() as connection:
        return (await connection.execute(select(func.count()).select_from(idempotency_keys))).scalar_one()
