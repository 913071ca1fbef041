"""The lifecycle service: `python -m services.lifecycle`."""

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path

import grpc
from hzel.lifecycle.v1.lifecycle_pb2_grpc import add_LifecycleServiceServicer_to_server

from services.common import logging
from services.common.containerd.connection import Connection
from services.common.database import Database
from services.common.loops import run_until
from services.common.outbox import Outbox
from services.common.rpc.server import serving, stop_on_signals
from services.common.settings import Settings
from services.lifecycle.node import build_node, choose_numbering
from services.lifecycle.operations import Operations
from services.lifecycle.reconciler import Reconciler
from services.lifecycle.runner import Runner
from services.lifecycle.servicer import SERVICE_NAME, LifecycleServicer
from services.lifecycle.store import Store
from services.lifecycle.tables import outbox as outbox_table
from services.lifecycle.transitions import Transitions
from services.lifecycle.watch import Watches

MIGRATIONS = Path(__file__).parent / "migrations"


async def main(settings: Settings) -> None:
    stop = stop_on_signals()
    async with AsyncExitStack() as stack:
        database = Database(settings.database("lifecycle"), "lifecycle")
        stack.push_async_callback(database.close)
        await database.open(MIGRATIONS)
        outbox = Outbox(database, outbox_table, settings.nats_url)
        store = Store(database, outbox, settings.node_name)
        numbering = await choose_numbering(store, settings)
        connection = Connection(settings.containerd_socket, settings.instance)
        stack.push_async_callback(connection.close)
        node = build_node(settings, connection, numbering.subnet)
        runner = Runner(node)
        watches = Watches(node.tasks)
        stack.push_async_callback(watches.close)
        transitions = Transitions(store, runner, node.tasks, node.cgroups, watches, settings.start_timeout_s)
        operations = Operations(store, transitions, numbering, settings.create_concurrency)
        stack.push_async_callback(operations.close)
        watches.on_end(operations.run_ended)
        servicer = LifecycleServicer(operations, connection, settings)
        reconciler = Reconciler(connection, store, node, runner, operations, watches)

        def register(server: grpc.aio.Server) -> None:
            add_LifecycleServiceServicer_to_server(servicer, server)

        await stack.enter_async_context(
            serving(settings.lifecycle_socket, register, [SERVICE_NAME], figures=[outbox.figures])
        )
        await run_until(stop, outbox.run(), reconciler.run())


if __name__ == "__main__":
    configuration = Settings()
    logging.configure("lifecycle", configuration.log_format, configuration.log_level)
    asyncio.run(main(configuration))
