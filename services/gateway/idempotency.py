"""`Idempotency-Key`: a request that is repeated is carried out once and answered the same.

        no row ──claim──► row without answer ──settle──► row with answer ──24 h──► no row
                             │        ▲
                             └─ act ──┘   each repetition acts again, with the same resource id

The row is committed before the first attempt and holds the id of what that attempt makes. Acting again with
that id joins the first attempt, or finds what became of it, so it makes no difference whether the first
gateway still waits, has died, or is another one. An answer that is final (2xx, 4xx) is kept, the first one
wins; after any other the next repetition acts again.
"""

import asyncio
import hashlib
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import structlog
from sqlalchemy import ColumnElement, delete, insert, select, update
from sqlalchemy.exc import IntegrityError

from services.common.database import Connection, Database
from services.common.errors import HzelError, IdempotencyMismatch, RateLimited, Unavailable
from services.common.ids import new_id
from services.gateway.errors import error_body
from services.gateway.strict_json import Json, canonical
from services.gateway.tables import idempotency_keys as keys

log = structlog.get_logger(__name__)

KEPT = timedelta(hours=24)
SWEPT_EVERY_S = 600.0


@dataclass(frozen=True)
class KeyedRequest:
    """A request whose sender may repeat it. `sha256` tells whether it is the same one."""

    user_id: str
    key: str
    sha256: str

    @classmethod
    def of(cls, user_id: str, key: str, method: str, path: str, body: Json) -> "KeyedRequest":
        text = b"\n".join((method.encode(), path.encode(), canonical(body)))
        return cls(user_id, key, hashlib.sha256(text).hexdigest())


@dataclass(frozen=True)
class Answer:
    """`body` is JSON: `{"data": …}`, or `{"error": …}` without a request id."""

    status: int
    body: str


@dataclass(frozen=True)
class _Claim:
    sha256: str
    resource_id: str
    answer: Answer | None


class Idempotency:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def once(
        self,
        request: KeyedRequest,
        check: Callable[[], Awaitable[None]],
        act: Callable[[str], Awaitable[Answer]],
    ) -> tuple[Answer, bool]:
        """The answer, and whether it is the one kept from an earlier request.

        `check` runs before a new key is taken: what it raises leaves the key free. `act` gets the resource
        id, may run several times for one key, and its HzelErrors are answers too.
        """
        claim = await self._find(request)
        if claim is None:
            await check()
            claim = await self._claim(request)
        if claim.sha256 != request.sha256:
            raise IdempotencyMismatch("this Idempotency-Key was used for another request")
        if claim.answer is not None:
            return claim.answer, True
        try:
            answer = await act(claim.resource_id)
        except HzelError as error:
            if error.http_status >= 500 or isinstance(error, RateLimited):
                raise
            answer = Answer(error.http_status, json.dumps(error_body(error)))
        return await self._settle(request, claim, answer)

    async def sweep(self) -> None:
        """Deletes expired rows, until cancelled."""
        while True:
            try:
                async with self._database.transaction() as connection:
                    await connection.execute(delete(keys).where(_expired()))
            except Unavailable:
                log.warning("idempotency_keys_not_swept")
            await asyncio.sleep(SWEPT_EVERY_S)

    async def _find(self, request: KeyedRequest) -> _Claim | None:
        async with self._database.transaction() as connection:
            return await _read(connection, request)

    async def _claim(self, request: KeyedRequest) -> _Claim:
        """Takes the key, or returns the claim of whoever took it first."""
        claim = _Claim(request.sha256, new_id(), None)
        try:
            async with self._database.transaction() as connection:
                await connection.execute(delete(keys).where(_row(request), _expired()))
                await connection.execute(
                    insert(keys).values(
                        user_id=request.user_id,
                        key=request.key,
                        request_sha256=claim.sha256,
                        resource_id=claim.resource_id,
                        created_at=datetime.now(UTC),
                    )
                )
        except IntegrityError as error:
            found = await self._find(request)
            if found is None:
                raise Unavailable("the Idempotency-Key is just expiring, try again") from error
            return found
        return claim

    async def _settle(self, request: KeyedRequest, claim: _Claim, answer: Answer) -> tuple[Answer, bool]:
        """Keeps the answer, unless another repetition was faster: then its answer is everyone's."""
        mine = _row(request) & (keys.c.resource_id == claim.resource_id)
        unsettled = update(keys).where(mine, keys.c.status.is_(None))
        async with self._database.transaction() as connection:
            result = await connection.execute(unsettled.values(status=answer.status, body=answer.body))
            if result.rowcount:
                return answer, False
            row = (await connection.execute(select(keys.c.status, keys.c.body).where(mine))).one_or_none()
        return (Answer(row.status, row.body), True) if row else (answer, False)


async def _read(connection: Connection, request: KeyedRequest) -> _Claim | None:
    row = (await connection.execute(select(keys).where(_row(request), ~_expired()))).one_or_none()
    if row is None:
        return None
    answer = Answer(row.status, row.body) if row.status is not None else None
    return _Claim(row.request_sha256, row.resource_id, answer)


def _row(request: KeyedRequest) -> ColumnElement[bool]:
    return (keys.c.user_id == request.user_id) & (keys.c.key == request.key)


def _expired() -> ColumnElement[bool]:
    return keys.c.created_at < datetime.now(UTC) - KEPT
