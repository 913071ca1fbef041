"""Runs the REST gateway: `python -m services.gateway`."""

import asyncio
import socket
from contextlib import AsyncExitStack

import structlog
import uvicorn
import uvloop
from fastapi import FastAPI

from services.common import logging
from services.common.database import Database
from services.common.rpc.channel import open_channel
from services.common.rpc.figures import FiguresClient
from services.common.rpc.probe import Probe
from services.common.rpc.server import stop_on_signals
from services.common.settings import Settings
from services.gateway.accounts import Accounts
from services.gateway.app import create_app
from services.gateway.audit import Audit
from services.gateway.authentication import Authentication
from services.gateway.clients import LifecycleClient
from services.gateway.commands import Commands
from services.gateway.containers import Containers
from services.gateway.events import Events
from services.gateway.exec_client import ExecClient
from services.gateway.first_admin import ensure_first_admin
from services.gateway.health import Readiness
from services.gateway.http_protocol import HttpProtocol
from services.gateway.idempotency import Idempotency
from services.gateway.log_client import LogClient
from services.gateway.logs import Logs
from services.gateway.metrics import Metrics
from services.gateway.metrics_client import MetricsClient
from services.gateway.parts import Parts
from services.gateway.scrape import Scrape
from services.gateway.tables import MIGRATIONS
from services.gateway.terminal_client import TerminalClient
from services.gateway.terminals import Terminals
from services.gateway.traffic import CallCounter, StreamCounter, Traffic
from services.gateway.websocket_protocol import PING_EVERY_S, PONG_WITHIN_S, WebSocketProtocol

log = structlog.get_logger(__name__)

# Together under the ten seconds that a supervisor waits before it kills.
DRAIN_S = 7
CANCELLED_REQUESTS_S = 1.0
KEEP_ALIVE_S = 60
BACKLOG = 2048


async def serve(settings: Settings) -> None:
    """Until SIGTERM or SIGINT. Neither lifecycle nor NATS needs to be there, now or later."""
    stop = stop_on_signals()
    async with AsyncExitStack() as stack:
        listener = stack.enter_context(listening_socket(settings.listen))
        database = Database(settings.database("gateway"), "gateway")
        stack.push_async_callback(database.close)
        await database.open(MIGRATIONS)
        await ensure_first_admin(database, settings.admin_token_file)
        audit = Audit(database)
        await stack.enter_async_context(audit.running())
        traffic = Traffic()
        counters = CallCounter(traffic), StreamCounter(traffic)
        channel = await stack.enter_async_context(open_channel(settings.lifecycle_socket, *counters))
        lifecycle = LifecycleClient(channel)
        authentication = Authentication(database)
        idempotency = Idempotency(database)
        containers = Containers(lifecycle, idempotency)
        logs = Logs(LogClient(channel), containers, authentication, settings.log_readers, settings.log_readers_per_user)
        exec_channel = await stack.enter_async_context(open_channel(settings.exec_socket, *counters))
        terminal_channel = await stack.enter_async_context(open_channel(settings.terminal_socket, *counters))
        terminals = Terminals(TerminalClient(terminal_channel), containers, settings.upload_max_mb * 1024**2)
        metrics_channel = await stack.enter_async_context(open_channel(settings.metrics_socket, *counters))
        metrics = MetricsClient(metrics_channel)
        events = Events(
            settings.nats_url, lifecycle, authentication, settings.event_streams, settings.event_streams_per_user
        )
        channels = {
            "lifecycle": channel,
            "exec": exec_channel,
            "terminal": terminal_channel,
            "metrics": metrics_channel,
        }
        figures = {name: FiguresClient(one) for name, one in channels.items()}
        app = create_app(
            Parts(
                accounts=Accounts(database),
                audit=audit,
                authentication=authentication,
                containers=containers,
                commands=Commands(ExecClient(exec_channel), containers, idempotency),
                terminals=terminals,
                logs=logs,
                metrics=Metrics(metrics, containers),
                events=events,
                scrape=Scrape(authentication, settings.scrape_token, lifecycle, metrics, figures, traffic),
                readiness=Readiness(
                    database,
                    lifecycle,
                    settings.nats_url,
                    {
                        "exec": Probe(exec_channel).check,
                        "terminal": terminals.check,
                        "metrics": Probe(metrics_channel).check,
                    },
                ),
                traffic=traffic,
            )
        )
        async with asyncio.TaskGroup() as group:
            background = [
                group.create_task(authentication.record_last_use()),
                group.create_task(idempotency.sweep()),
                group.create_task(events.run()),
            ]
            await _serve_http(app, listener, stop, events, logs)
            for task in background:
                task.cancel()


async def _serve_http(app: FastAPI, listener: socket.socket, stop: asyncio.Event, events: Events, logs: Logs) -> None:
    server = uvicorn.Server(http_server(app))

    async def stop_server() -> None:
        await stop.wait()
        server.should_exit = True
        # Nothing else would end these.
        events.stop()
        logs.stop()

    stopping = asyncio.create_task(stop_server())
    log.info("serving", address="{}:{}".format(*listener.getsockname()[:2]))
    await server.serve([listener])
    stopping.cancel()
    # Those that had no time to finish say so to their clients.
    if unfinished := set(server.server_state.tasks):
        await asyncio.wait(unfinished, timeout=CANCELLED_REQUESTS_S)
    log.info("stopped")


def http_server(app: FastAPI) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        http=HttpProtocol,
        ws=WebSocketProtocol,
        ws_per_message_deflate=False,
        ws_ping_interval=PING_EVERY_S,
        ws_ping_timeout=PONG_WITHIN_S,
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        reset_contextvars=True,
        backlog=BACKLOG,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=DRAIN_S,
    )


def listening_socket(listen: str) -> socket.socket:
    """`host:port`, IPv6 in brackets; port 0 takes any that is free."""
    host, _, port = listen.rpartition(":")
    family = socket.AF_INET6 if host.startswith("[") else socket.AF_INET
    return socket.create_server((host.strip("[]"), int(port)), family=family, backlog=BACKLOG)


def main() -> None:
    settings = Settings()
    logging.configure("gateway", settings.log_format, settings.log_level)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(settings))


if __name__ == "__main__":
    main()
