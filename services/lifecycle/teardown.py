"""Stops every container of the node while the service is down: `python -m services.lifecycle.teardown [--purge]`.

Those that shall always run are started again when it comes up.

containerd must be up. `--purge` also deletes the containers with their disks, the network and the control
groups; the folders are the caller's to remove.
"""

import argparse
import asyncio
from contextlib import AsyncExitStack
from pathlib import Path

from services.common import logging
from services.common.containerd.connection import Connection
from services.common.database import Database
from services.common.errors import HzelError
from services.common.outbox import Outbox
from services.common.settings import Settings
from services.lifecycle import reasons
from services.lifecycle.node import build_node, choose_numbering
from services.lifecycle.runner import Runner
from services.lifecycle.store import Store
from services.lifecycle.tables import outbox as outbox_table
from services.lifecycle.transitions import STOP_TIMEOUT_S, Transitions
from services.lifecycle.waits import Waits
from services.lifecycle.watch import Watches

MIGRATIONS = Path(__file__).parent / "migrations"
READY_WITHIN_S = 30.0
AT_A_TIME = 8


async def main(settings: Settings, purge: bool) -> int:
    """Returns how many containers could not be stopped or deleted."""
    async with AsyncExitStack() as stack:
        database = Database(settings.database("lifecycle"), "lifecycle")
        stack.push_async_callback(database.close)
        await database.open(MIGRATIONS)
        store = Store(database, Outbox(database, outbox_table, settings.nats_url), settings.node_name)
        numbering = await choose_numbering(store, settings)
        connection = Connection(settings.containerd_socket, settings.instance)
        stack.push_async_callback(connection.close)
        async with asyncio.timeout(READY_WITHIN_S):
            await connection.wait_until_ready()
        await connection.ensure_namespace()
        node = build_node(settings, connection, numbering.subnet)
        await stack.enter_async_context(node.logs.running())
        runner = Runner(node)
        watches = Watches(node.tasks)
        waits = Waits()
        # Nobody is started any more: what waits for it does so in its row.
        waits.close()
        transitions = Transitions(store, runner, node.tasks, node.cgroups, watches, waits, settings.start_timeout_s)
        free = asyncio.Semaphore(AT_A_TIME)

        async def end(container_id: str) -> bool:
            async with free:
                container = await store.get(container_id)
                try:
                    if purge:
                        await transitions.delete(container)
                        return True
                    stopped = await transitions.stop_with_node(container, STOP_TIMEOUT_S)
                except HzelError:
                    return False
                return stopped.state_reason != reasons.STOP_UNCONFIRMED

        results = await asyncio.gather(*(end(row.id) for row in await store.all()))
        if purge:
            await node.network.destroy()
            node.cgroups.remove_parent()
        return results.count(False)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--purge", action="store_true", help="delete the containers too, and the network")
    configuration = Settings()
    logging.configure("teardown", "console", "warning")
    failures = asyncio.run(main(configuration, parser.parse_args().purge))
    raise SystemExit(1 if failures else 0)
