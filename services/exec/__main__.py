"""The exec service: `python -m services.exec`."""

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path

import grpc
import uvloop
from hzel.exec.v1.exec_pb2_grpc import add_ExecServiceServicer_to_server

from services.common import logging
from services.common.containerd.connection import Connection
from services.common.containerd.containers import Containers
from services.common.containerd.processes import Processes
from services.common.containerd.running import RunningContainers
from services.common.containerd.tasks import Tasks
from services.common.database import Database
from services.common.loops import run_until
from services.common.outbox import Outbox
from services.common.rpc.activity import serve_activity
from services.common.rpc.server import serving, stop_on_signals
from services.common.settings import Settings
from services.exec.keeper_client import KeeperClient
from services.exec.operations import Operations
from services.exec.output import OutputFiles
from services.exec.queue import FairQueue
from services.exec.retention import Retention
from services.exec.run import Node
from services.exec.scheduler import Scheduler
from services.exec.servicer import SERVICE_NAME, ExecServicer
from services.exec.store import Store
from services.exec.tables import outbox as outbox_table

MIGRATIONS = Path(__file__).parent / "migrations"
MIB = 1024**2


async def main(settings: Settings) -> None:
    stop = stop_on_signals()
    async with AsyncExitStack() as stack:
        database = Database(settings.database("exec"), "exec")
        stack.push_async_callback(database.close)
        await database.open(MIGRATIONS)
        outbox = Outbox(database, outbox_table, settings.nats_url)
        store = Store(database, outbox, settings.node_name)
        connection = Connection(settings.containerd_socket, settings.instance)
        stack.push_async_callback(connection.close)
        keeper = KeeperClient(settings.keeper_socket)
        stack.callback(keeper.close)
        files = OutputFiles(settings.state_dir / "exec" / "output")
        containers = RunningContainers(Tasks(connection, settings.run_dir / "runtime"), Containers(connection))
        node = Node(Processes(connection), containers, keeper, files, settings.run_dir / "exec")
        queue = FairQueue(
            settings.commands_per_container, settings.commands_per_node, settings.commands_waiting_per_container
        )
        scheduler = Scheduler(store, node, queue)
        stack.push_async_callback(scheduler.close)
        operations = Operations(store, scheduler, containers, files)
        retention = Retention(store, files, settings.command_retention_s, settings.command_output_mb * MIB)

        async def recover() -> None:
            await connection.wait_until_ready()
            await operations.recover()
            await retention.run()

        def register(server: grpc.aio.Server) -> None:
            add_ExecServiceServicer_to_server(ExecServicer(operations), server)
            serve_activity(server, operations.activities)

        figures = [outbox.figures, scheduler.figures]
        await stack.enter_async_context(serving(settings.exec_socket, register, [SERVICE_NAME], figures=figures))
        await run_until(stop, outbox.run(), recover())


if __name__ == "__main__":
    configuration = Settings()
    logging.configure("exec", configuration.log_format, configuration.log_level)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main(configuration))
