"""The lifecycle service: `python -m services.lifecycle`."""

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path

import grpc
from hzel.lifecycle.v1.lifecycle_pb2_grpc import add_LifecycleServiceServicer_to_server
from hzel.lifecycle.v1.logs_pb2_grpc import add_LogsServiceServicer_to_server

from services.common import logging
from services.common.containerd.connection import Connection
from services.common.database import Database
from services.common.loops import run_until
from services.common.outbox import Outbox
from services.common.rpc.activity import ActivityClient
from services.common.rpc.channel import open_channel
from services.common.rpc.server import serving, stop_on_signals
from services.common.settings import Settings
from services.lifecycle.lifespans import Lifespans
from services.lifecycle.logs.servicer import SERVICE_NAME as LOGS_NAME
from services.lifecycle.logs.servicer import LogsServicer
from services.lifecycle.node import build_node, choose_numbering
from services.lifecycle.operations import Operations
from services.lifecycle.reconciler import Reconciler
from services.lifecycle.runner import Runner
from services.lifecycle.servicer import SERVICE_NAME, LifecycleServicer
from services.lifecycle.store import Store
from services.lifecycle.tables import outbox as outbox_table
from services.lifecycle.transitions import Transitions
from services.lifecycle.waits import Waits
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
        await stack.enter_async_context(node.logs.running())
        runner = Runner(node)
        watches = Watches(node.tasks)
        stack.push_async_callback(watches.close)
        waits = Waits()
        transitions = Transitions(store, runner, node.tasks, node.cgroups, watches, waits, settings.start_timeout_s)
        operations = Operations(store, transitions, numbering, settings.create_concurrency)
        stack.push_async_callback(operations.close)
        watches.on_end(operations.run_ended)
        waits.on_due(operations.restart_due)
        stack.callback(waits.close)
        servicer = LifecycleServicer(operations, connection, settings)
        reconciler = Reconciler(connection, store, node, runner, operations, watches, waits)

        def register(server: grpc.aio.Server) -> None:
            add_LifecycleServiceServicer_to_server(servicer, server)
            add_LogsServiceServicer_to_server(LogsServicer(node.logs, store), server)

        channels = [
            await stack.enter_async_context(open_channel(socket))
            for socket in (settings.exec_socket, settings.terminal_socket)
        ]
        in_use = [ActivityClient(channel).get for channel in channels]
        lifespans = Lifespans(store, operations, node.cgroups, in_use)

        await stack.enter_async_context(
            serving(settings.lifecycle_socket, register, [SERVICE_NAME, LOGS_NAME], figures=[outbox.figures])
        )
        # Before the server waits for them.
        stack.callback(node.logs.end_reading)
        await run_until(stop, outbox.run(), reconciler.run(), lifespans.run())


if __name__ == "__main__":
    configuration = Settings()
    logging.configure("lifecycle", configuration.log_format, configuration.log_level)
    asyncio.run(main(configuration))
