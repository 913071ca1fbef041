"""Whose container an event is of. An owner never changes, so each is asked for once."""

import asyncio

import structlog

from services.common.errors import ContainerNotFound, HzelError, TimedOut, Unavailable
from services.common.ids import is_id
from services.gateway.clients import LifecycleClient
from services.gateway.event_frames import NatsEvent, parse_event
from services.gateway.event_source import EventSource

log = structlog.get_logger(__name__)

MOST_REMEMBERED = 20_000
RETRY_S = 0.5


class Owners:
    def __init__(self, lifecycle: LifecycleClient) -> None:
        self._lifecycle = lifecycle
        # None: a container that was deleted before anybody can remember.
        self._known: dict[str, str | None] = {}

    async def of(self, event: NatsEvent, source: EventSource) -> str | None:
        """The user who may see it; None where only admins may.

        Waits for lifecycle where nobody else knows: an event must not be withheld because of that.
        Raises Unavailable when NATS is lost.
        """
        container_id = event.container_id
        if container_id is None:
            return event.user_id
        if event.is_of_container and event.user_id is not None:
            self._remember(container_id, event.user_id)
        elif container_id not in self._known:
            self._remember(container_id, await self._found(container_id, source) if is_id(container_id) else None)
        return self._known[container_id]

    def _remember(self, container_id: str, owner: str | None) -> None:
        if len(self._known) >= MOST_REMEMBERED:
            del self._known[next(iter(self._known))]
        self._known[container_id] = owner

    async def _found(self, container_id: str, source: EventSource) -> str | None:
        """The container's own events tell, also when it is gone; otherwise nothing has happened to it for a day."""
        body = await source.latest_of(f"hzel.container.{container_id}.*")
        told = parse_event("", body) if body is not None else None
        if told is not None and told.user_id is not None:
            return told.user_id
        while True:
            try:
                return (await self._lifecycle.get(container_id)).user_id
            except ContainerNotFound:
                return None
            except (Unavailable, TimedOut) as error:
                log.warning("owner_awaited", container_id=container_id, code=error.code)
            except HzelError as error:
                # It would say the same again, and nobody else's events wait for that.
                log.error("owner_unknown", container_id=container_id, code=error.code)
                return None
            await asyncio.sleep(RETRY_S)
