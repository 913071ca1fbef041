"""Serving gRPC: health, reflection, signals and a graceful stop."""

import asyncio
import signal
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import structlog
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from hzel.figures.v1 import figures_pb2_grpc

from services.common.rpc.channel import MAX_MESSAGE_BYTES
from services.common.rpc.figures import Figures, FiguresServicer
from services.common.rpc.interceptors import ErrorInterceptor

log = structlog.get_logger(__name__)

DRAIN_S = 10.0


def stop_on_signals() -> asyncio.Event:
    """Set by SIGTERM or SIGINT; installed before anything slow, so that a stop during start is heard."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    return stop


@asynccontextmanager
async def serving(
    socket: Path,
    register: Callable[[grpc.aio.Server], None],
    service_names: Sequence[str],
    group_id: int | None = None,
    figures: Sequence[Figures] = (),
) -> AsyncIterator[None]:
    """Serves on a unix socket that root, and the group if one is given, may use; `figures` tell of its own work.

    When the block ends, calls in flight get `DRAIN_S` to finish and new ones are refused.
    """
    server = grpc.aio.server(
        interceptors=[ErrorInterceptor()],
        options=[
            ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
            ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
            ("grpc.so_reuseport", 0),
        ],
    )
    register(server)
    figures_pb2_grpc.add_FiguresServiceServicer_to_server(FiguresServicer(*figures), server)
    checks = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(checks, server)
    for name in ("", *service_names):
        await checks.set(name, health_pb2.HealthCheckResponse.SERVING)
    reflection.enable_server_reflection(
        [*service_names, health.SERVICE_NAME, reflection.SERVICE_NAME],
        server,
    )
    socket.parent.mkdir(parents=True, exist_ok=True)
    socket.unlink(missing_ok=True)
    server.add_insecure_port(f"unix:{socket}")
    await server.start()
    # The folder's mode keeps others out until the socket's own is set.
    socket.chmod(0o660 if group_id is not None else 0o600)
    log.info("serving", socket=socket.name)
    try:
        yield
    finally:
        await checks.enter_graceful_shutdown()
        await server.stop(DRAIN_S)
        log.info("stopped")
