"""The audit entry of the request that is being served, from whatever code serves it.

`AuditTrail` makes it, writes it and knows the outcome; what a route does only adds to it. Outside of a request, and in
one that is not recorded, all of these do nothing.
"""

import asyncio
from contextvars import ContextVar, Token

from starlette.types import Scope

from services.common import context
from services.common.database import Connection
from services.common.ids import is_id
from services.gateway.audit import Audit, settled
from services.gateway.audit_actions import action_of
from services.gateway.audit_chain import extend
from services.gateway.audit_entry import Action, Entry, Outcome, Value, new_entry

# What is refused at all is refused within this time; what takes longer is being done.
REFUSED_WITHIN_S = 0.005


class Draft:
    """What is known of a request so far. `code` is that of the error it is answered with."""

    def __init__(self, audit: Audit, scope: Scope) -> None:
        self.audit = audit
        self.scope = scope
        self.container_id: str | None = None
        self.notes: dict[str, Value] = {}
        self.code: str | None = None
        self.is_recorded = False
        self._due: asyncio.TimerHandle | None = None
        self._begun: tuple[Entry, asyncio.Future[bool]] | None = None

    def entry(self, action: Action, outcome: Outcome, **more: Value) -> Entry:
        metadata: dict[str, Value] = {"request_id": context.request_id(), "address": self.address}
        for name in ("command_id", "token_id"):
            metadata[name] = self._path_id(name)
        container_id = self.container_id or self._path_id("container_id")
        return new_entry(action, outcome, metadata | self.notes | more, self.user_id, container_id)

    @property
    def action(self) -> Action | None:
        """Known once the route is."""
        return action_of(self.scope)

    @property
    def address(self) -> str | None:
        client = self.scope.get("client")
        return client[0] if client else None

    @property
    def user_id(self) -> str | None:
        caller = self.scope.get("state", {}).get("caller")
        return None if caller is None else caller.user_id

    def expect_success(self, action: Action) -> None:
        """The entry is written before the outcome is known: see `handed_on`."""

        def begin() -> None:
            entry = self.entry(action, Outcome.SUCCESS)
            self._begun = entry, self.audit.submit(entry)

        self._due = asyncio.get_running_loop().call_later(REFUSED_WITHIN_S, begin)

    async def settle_begun(self) -> Entry | None:
        """The entry that was begun already, durable now. Raises Unavailable."""
        if self._due is not None:
            self._due.cancel()
        if self._begun is None:
            return None
        entry, is_written = self._begun
        await settled(is_written)
        return entry

    def _path_id(self, name: str) -> str | None:
        value = str(self.scope.get("path_params", {}).get(name, "")).lower()
        return value if is_id(value) else None


_draft: ContextVar[Draft | None] = ContextVar("hzel_audit_draft", default=None)


def enter(draft: Draft) -> Token[Draft | None]:
    """The draft of this task and the tasks it starts, until `leave`."""
    return _draft.set(draft)


def leave(token: Token[Draft | None]) -> None:
    _draft.reset(token)


def note(*, container_id: str | None = None, **metadata: Value) -> None:
    """Adds to the entry. Never what is secret, typed or printed."""
    if (draft := _draft.get()) is not None:
        draft.container_id = container_id or draft.container_id
        draft.notes |= metadata


def failed(code: str) -> None:
    """The request will be answered with this error, or with the record of a failure."""
    if (draft := _draft.get()) is not None:
        draft.code = code


def handed_on(**metadata: Value) -> None:
    """A node is asked now, and the answer may take its time: unless it comes at once, the entry says success.

    The write then goes on beside the work instead of after it. Should the work fail in the end, a second entry says
    so, and which one it follows.
    """
    if (draft := _draft.get()) is not None and draft.action is not None:
        draft.notes |= metadata
        draft.expect_success(draft.action)


async def record(action: Action, outcome: Outcome = Outcome.SUCCESS, **metadata: Value) -> None:
    """An entry of its own, durable when this returns. Raises Unavailable."""
    if (draft := _draft.get()) is not None:
        await draft.audit.append(draft.entry(action, outcome, **metadata))


async def record_in(connection: Connection, **metadata: Value) -> None:
    """Writes the entry in the transaction of the change itself, as its last statement: neither is without the other."""
    draft = _draft.get()
    if draft is not None and draft.action is not None:
        draft.notes |= metadata
        await extend(connection, [draft.entry(draft.action, Outcome.SUCCESS)])
        draft.is_recorded = True
