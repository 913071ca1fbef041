"""What every request passes on its way to the routes, so that none that changes anything goes unrecorded.

When the entry is written, and what it means if it can't be: the request is answered 503 UNAVAILABLE, always.

- token.create, token.revoke, user.create: in the transaction of the change itself. Either both are, or neither.
- container.*, command.cancel: once the outcome is known, before the answer. They are rare and take long, and an entry
  that says "asked for" would leave open what became of it. If the entry can't be written the thing is done
  nevertheless; the entry is kept and written later, and until then nothing new is begun.
- command.enqueue: while the command runs, so that nobody waits for a disk twice. A node refuses within milliseconds;
  what it has not refused by then is recorded as success.
- terminal.open: when the session is there, before the upgrade: without an entry it is not handed out, and ends.
  terminal.upload: before the client hears that the file is there. terminal.close: at the end; nobody is left to tell.
- command.input, command.signal (over /ws/jobs): before they are passed on. Without an entry they are not.
- auth.refused, access.refused: before the refusal is answered; equal ones are counted.

A request that isn't understood (400, 413) asks for nothing and is in the service's log only. A gateway that is killed
while it waits for a node leaves no entry of that request; what the node did of it stands in the node's own records.
"""

import asyncio
import contextlib
import time
from dataclasses import dataclass
from http import HTTPStatus

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocketDisconnect

from services.common.errors import Internal, Unavailable
from services.gateway import audit_draft
from services.gateway.audit import Audit
from services.gateway.audit_actions import READING, SOCKETS, route_of
from services.gateway.audit_draft import Draft
from services.gateway.audit_entry import Action, Outcome
from services.gateway.errors import error_response

STARTS = ("http.response.start", "websocket.http.response.start")
NOT_UNDERSTOOD = frozenset({HTTPStatus.BAD_REQUEST, HTTPStatus.REQUEST_ENTITY_TOO_LARGE})
ABNORMAL_CLOSURE = 1006


class AuditTrail:
    """Inside of `Boundary`, which has named the request; outside of everything else."""

    def __init__(self, app: ASGIApp, audit: Audit) -> None:
        self._app = app
        self._audit = audit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        if self._audit.is_failing and scope.get("method", "GET") not in READING:
            await error_response(Unavailable("nothing can be recorded now, try again"))(scope, receive, send)
            return
        draft = Draft(self._audit, scope)
        passage = _Passage(draft, receive, send)
        token = audit_draft.enter(draft)
        try:
            await self._app(scope, passage.receive, passage.send)
        except ClientDisconnect:
            raise  # before its body was there
        except WebSocketDisconnect:
            await passage.broken("CLIENT_GONE")
            raise
        except asyncio.CancelledError:
            await passage.broken(Unavailable.code)
            raise
        except Exception:
            await passage.broken(Internal.code)
            raise
        finally:
            await passage.over()
            audit_draft.leave(token)


@dataclass
class _Open:
    """A WebSocket whose opening is recorded; sizes in bytes."""

    closing: Action
    since: float
    received: int = 0
    sent: int = 0
    code: int | None = None


class _Passage:
    """One request's messages. What the application sends is held back until the entry is durable."""

    def __init__(self, draft: Draft, receive: Receive, send: Send) -> None:
        self._draft = draft
        self._receive = receive
        self._send = send
        self._open: _Open | None = None
        self._is_answered = False
        # 503 went out instead; whatever else the application sends goes nowhere.
        self._is_replaced = False

    async def send(self, message: Message) -> None:
        kind = message["type"]
        try:
            if kind in STARTS:
                self._is_answered = True
                await _conclude(self._draft, message["status"])
            elif kind == "websocket.accept":
                self._is_answered = True
                await self._opened()
        except Unavailable as error:
            self._is_replaced = True
            await error_response(error)(self._draft.scope, self._receive, self._send)
        if self._open is not None:
            self._open.sent += _size(message)
            if kind == "websocket.close" and self._open.code is None:
                self._open.code = message["code"]
        if not self._is_replaced:
            await self._send(message)

    async def receive(self) -> Message:
        if self._is_replaced:
            return {"type": "websocket.disconnect", "code": ABNORMAL_CLOSURE}
        message = await self._receive()
        if self._open is not None:
            self._open.received += _size(message)
            if message["type"] == "websocket.disconnect" and self._open.code is None:
                self._open.code = message["code"]
        return message

    async def broken(self, code: str) -> None:
        """The application has raised; somebody outside will answer."""
        if not self._is_answered:
            self._is_answered = True
            self._draft.code = code
            with contextlib.suppress(Unavailable):
                await _conclude(self._draft, HTTPStatus.INTERNAL_SERVER_ERROR)

    async def over(self) -> None:
        if self._open is not None:
            figures = {
                "duration_s": round(time.monotonic() - self._open.since, 3),
                "received_bytes": self._open.received,
                "sent_bytes": self._open.sent,
                "close_code": self._open.code,
            }
            with contextlib.suppress(Unavailable):
                await self._draft.audit.append(self._draft.entry(self._open.closing, Outcome.SUCCESS, **figures))

    async def _opened(self) -> None:
        actions = SOCKETS.get(route_of(self._draft.scope))
        if actions is not None:
            await self._draft.audit.append(self._draft.entry(actions[0], Outcome.SUCCESS))
            self._open = _Open(actions[1], time.monotonic())


async def _conclude(draft: Draft, status: int) -> None:
    """Writes what there is to write of a request that is about to be answered. Raises Unavailable."""
    audit, action, address = draft.audit, draft.action, draft.address
    begun = await draft.settle_begun()
    if begun is not None:
        if status >= HTTPStatus.BAD_REQUEST:
            failure = draft.entry(Action(begun.action), Outcome.FAILURE, code=draft.code, follows=begun.id)
            await audit.append(failure)
    elif status == HTTPStatus.UNAUTHORIZED:
        entry = draft.entry(Action.AUTH_REFUSED, Outcome.FAILURE, route=route_of(draft.scope), offered=_offered(draft))
        await audit.refuse((entry.action, address, _offered(draft)), entry)
    elif status == HTTPStatus.FORBIDDEN:
        wanted = action or f"{draft.scope.get('method', 'WebSocket')} {route_of(draft.scope)}"
        entry = draft.entry(Action.ACCESS_REFUSED, Outcome.FAILURE, wanted=wanted, code=draft.code)
        await audit.refuse((entry.action, address, entry.user_id, entry.container_id, wanted), entry)
    elif action is None or status in NOT_UNDERSTOOD:
        return
    elif status == HTTPStatus.TOO_MANY_REQUESTS:
        entry = draft.entry(action, Outcome.FAILURE, code=draft.code)
        await audit.refuse((entry.action, address, entry.user_id, entry.container_id), entry)
    elif status >= HTTPStatus.BAD_REQUEST or draft.code is not None:
        await audit.append(draft.entry(action, Outcome.FAILURE, code=draft.code))
    elif not draft.is_recorded:
        await audit.append(draft.entry(action, Outcome.SUCCESS))


def _offered(draft: Draft) -> str:
    """What was refused: nothing, or something, which is not told."""
    has_token = any(name == b"authorization" for name, _ in draft.scope["headers"])
    return "token" if has_token or b"token=" in draft.scope.get("query_string", b"") else "nothing"


def _size(message: Message) -> int:
    data = message.get("bytes")
    if data is not None:
        return len(data)
    text = message.get("text")
    if text is None:
        return 0
    return len(text) if text.isascii() else len(text.encode())
