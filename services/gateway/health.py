"""Whether what the gateway depends on answers."""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Mapping
from enum import StrEnum

import nats.errors
import nats.js.errors
from nats.aio.client import Client
from sqlalchemy import text

from services.common.database import Database
from services.common.errors import HzelError
from services.gateway.clients import LifecycleClient

PROBE_TIMEOUT_S = 3.0
KEPT_S = 1.0
Check = Callable[[], Awaitable[None]]


class Health(StrEnum):
    OK = "ok"
    UNAVAILABLE = "unavailable"
    UNKNOWN = "unknown"


class Readiness:
    """Probes every dependency, once a second at most however many ask."""

    def __init__(
        self, database: Database, lifecycle: LifecycleClient, nats_url: str, services: Mapping[str, Check] | None = None
    ) -> None:
        """`services` are the others by their names; a check raises HzelError where its service does not serve."""
        self._services = services or {}
        self._database = database
        self._lifecycle = lifecycle
        self._nats_url = nats_url
        self._one_prober = asyncio.Lock()
        self._states: Mapping[str, Health] = {}
        self._probed_at = float("-inf")

    async def states(self) -> Mapping[str, Health]:
        """Each dependency by its name; ready means that all are OK."""
        async with self._one_prober:
            if time.monotonic() - self._probed_at > KEPT_S:
                self._states = await self._probe()
                self._probed_at = time.monotonic()
            return self._states

    async def _probe(self) -> Mapping[str, Health]:
        async with asyncio.TaskGroup() as group:
            database = group.create_task(self._probe_database())
            node = group.create_task(self._probe_node())
            broker = group.create_task(_probe_nats(self._nats_url))
            services = {name: group.create_task(_probe(check)) for name, check in self._services.items()}
        lifecycle, containerd = node.result()
        return {
            "database": database.result(),
            "lifecycle": lifecycle,
            "containerd": containerd,
            "nats": broker.result(),
            **{name: probe.result() for name, probe in services.items()},
        }

    async def _probe_database(self) -> Health:
        try:
            async with asyncio.timeout(PROBE_TIMEOUT_S), self._database.transaction() as connection:
                await connection.execute(text("SELECT 1"))
        except (HzelError, TimeoutError):
            return Health.UNAVAILABLE
        return Health.OK

    async def _probe_node(self) -> tuple[Health, Health]:
        """Of lifecycle, and of containerd as lifecycle sees it."""
        try:
            await self._lifecycle.check()
            node = await self._lifecycle.node_now()
        except HzelError:
            return Health.UNAVAILABLE, Health.UNKNOWN
        return Health.OK, Health.OK if node.containerd_ready else Health.UNAVAILABLE


async def _probe(check: Check) -> Health:
    try:
        await check()
    except HzelError:
        return Health.UNAVAILABLE
    return Health.OK


async def _probe_nats(url: str) -> Health:
    client = Client()
    try:
        async with asyncio.timeout(PROBE_TIMEOUT_S):
            # Without the last two the client tries sixty times, whatever else it is told.
            await client.connect(
                url,
                allow_reconnect=False,
                connect_timeout=2,
                error_cb=_unlogged,
                max_reconnect_attempts=1,
                reconnect_time_wait=0,
            )
            await client.jetstream().account_info()
    except (nats.errors.Error, nats.js.errors.Error, OSError, TimeoutError):
        return Health.UNAVAILABLE
    finally:
        with contextlib.suppress(nats.errors.Error, OSError):
            await client.close()
    return Health.OK


async def _unlogged(_error: Exception) -> None:
    """The state says it."""
