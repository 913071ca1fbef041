"""The terminal service: `python -m services.terminal`."""

import asyncio
from contextlib import AsyncExitStack

import grpc
import uvloop
from hzel.terminal.v1.terminal_pb2_grpc import add_TerminalServiceServicer_to_server

from services.common import logging
from services.common.containerd.connection import Connection
from services.common.containerd.containers import Containers
from services.common.containerd.processes import Processes
from services.common.containerd.running import RunningContainers
from services.common.containerd.tasks import Tasks
from services.common.loops import run_until
from services.common.rpc.activity import serve_activity
from services.common.rpc.server import serving, stop_on_signals
from services.common.settings import Settings
from services.terminal.facts import Facts
from services.terminal.recording import Recordings
from services.terminal.retention import Retention
from services.terminal.servicer import SERVICE_NAME, TerminalServicer
from services.terminal.sessions import Limits, Sessions
from services.terminal.uploads import Uploads

MIB = 1024**2


async def main(settings: Settings) -> None:
    stop = stop_on_signals()
    async with AsyncExitStack() as stack:
        connection = Connection(settings.containerd_socket, settings.instance)
        stack.push_async_callback(connection.close)
        containers = RunningContainers(Tasks(connection, settings.run_dir / "runtime"), Containers(connection))
        recordings = Recordings(settings.state_dir / "terminal" / "recordings", settings.terminal_recording_mb * MIB)
        retention = Retention(
            recordings, settings.terminal_recording_retention_s, settings.terminal_recordings_mb * MIB
        )
        facts = Facts(settings.nats_url, settings.node_name)
        folder = settings.run_dir / "terminal"
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        limits = Limits(
            per_container=settings.terminals_per_container,
            per_node=settings.terminals_per_node,
            idle_s=settings.terminal_idle_s,
            scrollback_bytes=settings.terminal_scrollback_kb * 1024,
        )
        sessions = Sessions(Processes(connection), containers, recordings, folder, limits, facts.opened, facts.closed)
        uploads = Uploads(sessions, settings.upload_max_mb * MIB, facts.uploaded)
        servicer = TerminalServicer(sessions, uploads, recordings)

        def register(server: grpc.aio.Server) -> None:
            add_TerminalServiceServicer_to_server(servicer, server)
            serve_activity(server, sessions.activities)

        await stack.enter_async_context(facts.telling())
        await stack.enter_async_context(serving(settings.terminal_socket, register, [SERVICE_NAME]))
        # Before the server: calls in flight are conversations, and end with their sessions.
        stack.push_async_callback(sessions.close)
        await run_until(stop, sessions.upkeep(), retention.run())


if __name__ == "__main__":
    configuration = Settings()
    logging.configure("terminal", configuration.log_format, configuration.log_level)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main(configuration))
