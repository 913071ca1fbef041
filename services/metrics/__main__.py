"""The metrics service: `python -m services.metrics`."""

import asyncio
import resource
from contextlib import AsyncExitStack

import grpc
from hzel.metrics.v1.metrics_pb2_grpc import add_MetricsServiceServicer_to_server

from services.common import logging
from services.common.containerd.connection import Connection
from services.common.containerd.containers import Containers
from services.common.containerd.metrics import Metrics
from services.common.containerd.tasks import Tasks
from services.common.hardware import cpu_count
from services.common.loops import run_until
from services.common.rpc.server import serving, stop_on_signals
from services.common.settings import Settings
from services.metrics.fallback import Fallback
from services.metrics.groups import Groups
from services.metrics.node import Node
from services.metrics.sampler import Sampler
from services.metrics.servicer import SERVICE_NAME, MetricsServicer
from services.metrics.surroundings import Surroundings


async def main(settings: Settings) -> None:
    stop = stop_on_signals()
    _open_files_without_stint()
    async with AsyncExitStack() as stack:
        connection = Connection(settings.containerd_socket, settings.instance)
        stack.push_async_callback(connection.close)
        surroundings = Surroundings(settings.instance, settings.run_dir)
        stack.callback(surroundings.close)
        tasks = Tasks(connection, settings.run_dir / "runtime")
        fallback = Fallback(tasks, Containers(connection), Metrics(connection), surroundings)
        sampler = Sampler(Groups(settings.instance), surroundings, fallback, cpu_count())
        node = Node(settings)
        servicer = MetricsServicer(sampler, node, settings.node_name)

        def register(server: grpc.aio.Server) -> None:
            add_MetricsServiceServicer_to_server(servicer, server)

        await stack.enter_async_context(serving(settings.metrics_socket, register, [SERVICE_NAME]))
        stack.callback(sampler.close)
        await run_until(stop, sampler.run(), node.run())


def _open_files_without_stint() -> None:
    """A dozen files of each container are held open."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


if __name__ == "__main__":
    configuration = Settings()
    logging.configure("metrics", configuration.log_format, configuration.log_level)
    asyncio.run(main(configuration))
