"""What happened to sessions, told on NATS after it did.

There is no database here, so there is no outbox: facts wait in memory while NATS is away, and go with the process.
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import nats.errors
import nats.js.api
import nats.js.errors
import structlog
from nats.aio.client import Client

from services.common.events import Json, OutgoingEvent, terminal_event
from services.common.outbox import ensure_stream
from services.terminal.attachment import CloseReason
from services.terminal.session import Session

log = structlog.get_logger(__name__)

MAX_WAITING = 10_000
PUBLISH_TIMEOUT_S = 5.0
RETRY_S = 1.0
LAST_FACTS_WITHIN_S = 2.0


class Facts:
    def __init__(self, nats_url: str, node_name: str) -> None:
        self._nats_url = nats_url
        self._node_name = node_name
        self._waiting: deque[OutgoingEvent] = deque()
        self._news = asyncio.Event()
        self._all_told = asyncio.Event()
        self._all_told.set()

    def opened(self, session: Session) -> None:
        self._add(session, "opened", {})

    def closed(self, session: Session, reason: CloseReason) -> None:
        figures: dict[str, Json] = {
            "reason": reason.value,
            "duration_s": round(session.age_s, 3),
            "bytes_in": session.bytes_in,
            "bytes_out": session.bytes_out,
        }
        self._add(session, "closed", figures)

    def uploaded(self, session: Session, path: str, size: int) -> None:
        self._add(session, "uploaded", {"path": path, "size": size})

    @asynccontextmanager
    async def telling(self) -> AsyncIterator[None]:
        """Publishes while the block runs, and for a moment longer what is still to be told."""
        async with asyncio.TaskGroup() as group:
            publishing = group.create_task(self._publish_forever())
            yield
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LAST_FACTS_WITHIN_S):
                    await self._all_told.wait()
            publishing.cancel()

    async def _publish_forever(self) -> None:
        """NATS may come and go meanwhile."""
        while True:
            client = Client()
            try:
                await client.connect(
                    self._nats_url,
                    allow_reconnect=False,
                    max_reconnect_attempts=1,
                    reconnect_time_wait=0,
                    connect_timeout=5,
                    error_cb=_quiet,
                )
                await self._publish(client)
            except (nats.errors.Error, nats.js.errors.Error, OSError, TimeoutError) as error:
                log.warning("nats_unavailable", error=type(error).__name__)
            finally:
                with contextlib.suppress(nats.errors.Error, OSError):
                    await client.close()
            await asyncio.sleep(RETRY_S)

    async def _publish(self, client: Client) -> None:
        stream = client.jetstream(timeout=PUBLISH_TIMEOUT_S)
        await ensure_stream(stream)
        while True:
            while self._waiting:
                event = self._waiting[0]
                headers = {nats.js.api.Header.MSG_ID: event.id, "Content-Type": "application/json"}
                await stream.publish(event.subject, event.body.encode(), headers=headers)
                # Unless it was dropped meanwhile.
                if self._waiting and self._waiting[0] is event:
                    self._waiting.popleft()
            self._all_told.set()
            self._news.clear()
            await self._news.wait()

    def _add(self, session: Session, what: str, data: dict[str, Json]) -> None:
        if len(self._waiting) >= MAX_WAITING:
            log.error("fact_dropped", subject=self._waiting.popleft().subject)
        common: dict[str, Json] = {"user_id": session.order.requested_by, "user": session.order.user}
        self._waiting.append(
            terminal_event(session.id, session.order.container_id, what, self._node_name, common | data)
        )
        self._all_told.clear()
        self._news.set()


async def _quiet(_error: Exception) -> None:
    """The client logs every failed attempt; `run` says it once."""
