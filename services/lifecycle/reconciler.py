"""Makes the node hold exactly what the database says: at start, whenever containerd comes back, and now and then."""

import asyncio
from collections.abc import Mapping

import grpc
import structlog

from services.common.containerd.connection import Connection
from services.common.containerd.errors import ContainerdError
from services.common.containerd.tasks import Task
from services.lifecycle.container import Container
from services.lifecycle.freezer import is_paused_otherwise
from services.lifecycle.network import NetworkError
from services.lifecycle.operations import Operations
from services.lifecycle.runner import Node, Runner
from services.lifecycle.state import LIVE, Desired, State
from services.lifecycle.store import Store
from services.lifecycle.waits import Waits
from services.lifecycle.watch import Watches

log = structlog.get_logger(__name__)

EVERY_S = 60.0
RETRY_S = 1.0
ACTIVE = (State.PROVISIONING, *LIVE)


class Reconciler:
    def __init__(
        self,
        connection: Connection,
        store: Store,
        node: Node,
        runner: Runner,
        operations: Operations,
        watches: Watches,
        waits: Waits,
    ) -> None:
        self._connection = connection
        self._store = store
        self._node = node
        self._runner = runner
        self._operations = operations
        self._watches = watches
        self._waits = waits

    async def run(self) -> None:
        """Reconciles until cancelled; nothing is changed on the node by anybody else before the first time."""
        while True:
            await self._connection.wait_until_ready()
            try:
                await self._connection.ensure_namespace()
                await self.reconcile()
            except (ContainerdError, NetworkError, OSError) as error:
                log.warning("reconcile_failed", error=repr(error))
                await asyncio.sleep(RETRY_S)
                continue
            self._operations.node_ready.set()
            await self._until_connection_lost()

    async def reconcile(self) -> None:
        """One pass. The node is looked at before the database: what is on it then and has no row is nobody's."""
        first = not self._operations.node_ready.is_set()
        tasks = await self._node.tasks.list()
        active, leftovers = await self._observe(tasks)
        rows = {row.id: row for row in await self._store.all()}
        links = [self._runner.link(row) for row in rows.values() if row.state in ACTIVE]
        # Each time: whoever flushes the host's rules flushes ours.
        await self._node.network.ensure(links)
        for row in rows.values():
            if self._needs_settling(row, row.id in active, tasks.get(row.id)):
                await self._settle(row.id)
        for container_id in (active | leftovers) - rows.keys():
            log.info("swept", container_id=container_id)
            await self._runner.sweep(container_id)
        if first:
            await self._node.network.sweep(links)

    def _needs_settling(self, row: Container, something_there: bool, task: Task | None) -> bool:
        if row.desired is Desired.DELETED or row.state is State.PROVISIONING:
            return True
        if row.restarts.due_at is not None:
            return something_there or not self._waits.knows(row.id)
        if row.desired is Desired.RUNNING and row.state is not State.FAILED:
            return not self._watches.knows(row.id) or (task is not None and is_paused_otherwise(row, task))
        return something_there

    async def _settle(self, container_id: str) -> None:
        try:
            await self._operations.settle(container_id)
        except Exception:
            # Whatever it is: tried again with the next pass, and the others must not suffer from this one.
            log.exception("settle_failed", container_id=container_id)

    async def _observe(self, tasks: Mapping[str, Task]) -> tuple[set[str], set[str]]:
        """Ids with something running or mounted, and ids with something kept (disks, records)."""
        node = self._node
        folders = await asyncio.to_thread(node.filesystems.container_ids)
        groups = await asyncio.to_thread(node.cgroups.container_ids)
        disks = await asyncio.to_thread(node.disks.container_ids)
        logs = await asyncio.to_thread(node.logs.container_ids)
        return tasks.keys() | folders | groups, disks | logs | await node.containers.list_ids()

    async def _until_connection_lost(self) -> None:
        """Returns when containerd's connection breaks, or after a while."""
        channel = self._connection.channel
        state = channel.get_state(try_to_connect=True)
        try:
            async with asyncio.timeout(EVERY_S):
                while state is not grpc.ChannelConnectivity.TRANSIENT_FAILURE:
                    await channel.wait_for_state_change(state)
                    state = channel.get_state(try_to_connect=True)
        except TimeoutError:
            return
