"""Clients that are gone without a word, do not answer or do not read: how long their sessions are kept."""

import asyncio
import contextlib
import socket
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed

from tests.e2e.test_terminal import leftovers, starts
from tests.integration.network_namespaces import Namespace, namespace, run
from tests.stack import Client, Stack
from tests.terminal import Terminal, terminal

# What is promised, and some time for a busy machine.
SILENT_S = 30 + 6
STALLED_S = 90 + 15
A_MINUTE_S = 60


@pytest.fixture
def container(stack: Stack) -> Iterator[dict[str, Any]]:
    with stack.client().container(memory_mb=64) as record:
        yield record


async def ended(stack: Stack, container_id: str, within_s: float) -> None:
    """Returns once nothing is left of the container's sessions. Looks now and then, since it may take long."""
    async with asyncio.timeout(within_s):
        while await asyncio.to_thread(leftovers, stack, container_id):
            await asyncio.sleep(0.5)


@dataclass
class FarHost:
    """Another host, `near` is this one's address as it sees it."""

    namespace: Namespace
    near: str

    def connected(self, port: int) -> socket.socket:
        return self.namespace.run(lambda: socket.create_connection((self.near, port), timeout=10))

    def vanish(self) -> None:
        """Nothing goes to it or comes from it any more, and nobody is told."""
        self.namespace.ip("link", "set", "eth0", "down")


@contextlib.contextmanager
def far_host() -> Iterator[FarHost]:
    # A network for benchmarks (RFC 2544), so nobody's.
    number = uuid.uuid4()
    net, link = f"198.18.{number.bytes[0]}", f"tp{number.hex[:8]}"
    with namespace("--net") as far:
        run(f"ip link add {link} type veth peer eth0 netns {far.process.pid}")
        try:
            run(f"ip address add {net}.1/24 dev {link}")
            run(f"ip link set {link} up")
            far.ip("address", "add", f"{net}.2/24", "dev", "eth0")
            far.ip("link", "set", "eth0", "up")
            yield FarHost(far, f"{net}.1")
        finally:
            run(f"ip link delete {link}")


@asynccontextmanager
async def reading(opened: Terminal) -> AsyncIterator[None]:
    """Takes whatever comes, as long as the block runs."""

    async def read() -> None:
        with contextlib.suppress(ConnectionClosed):
            while True:
                await opened.socket.recv()

    task = asyncio.create_task(read())
    yield
    task.cancel()


async def test_a_host_that_vanishes_loses_its_sessions_within_half_a_minute(own_stack: Stack) -> None:
    own_stack.down()
    port = int(own_stack.environment["HZEL_LISTEN"].rpartition(":")[2])
    own_stack.environment["HZEL_LISTEN"] = f"0.0.0.0:{port}"
    own_stack.up()
    admin = own_stack.client()
    idle, busy, stalled, near = (admin.create(memory_mb=64)["id"] for _ in range(4))
    mute = {"ping_interval": None, "max_queue": 1, "close_timeout": 0.1}
    with far_host() as far:
        async with (
            terminal(own_stack, admin, idle, sock=far.connected(port), **mute) as at_idle,
            terminal(own_stack, admin, busy, sock=far.connected(port), **mute) as at_busy,
            terminal(own_stack, admin, stalled, sock=far.connected(port), **mute) as at_stalled,
            terminal(own_stack, admin, near) as opened,
        ):
            await at_idle.runs("sleep 4001 & true")
            await at_stalled.type("yes\n")
            await at_busy.type("yes\n")
            async with reading(at_busy):
                await asyncio.sleep(5)
                await asyncio.to_thread(far.vanish)
                async with asyncio.TaskGroup() as group:
                    for container_id in (idle, busy, stalled):
                        group.create_task(ended(own_stack, container_id, SILENT_S))
            assert await opened.runs("echo still here") == "still here"


async def test_a_client_that_answers_no_ping_loses_its_session(
    stack: Stack, admin: Client, container: dict[str, Any]
) -> None:
    """Its kernel acknowledges everything."""
    key = "dGhlIHNhbXBsZSBub25jZQ=="
    host, port = stack.environment["HZEL_LISTEN"].split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(
        f"GET /ws/terminal/{container['id']}?cols=80&rows=24 HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\n"
        f"Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n"
        f"Authorization: {admin.http.headers['Authorization']}\r\n\r\n".encode()
    )
    begun = time.monotonic()
    assert b"101" in await reader.readline()
    async with asyncio.timeout(10):
        while not await asyncio.to_thread(leftovers, stack, container["id"]):
            await asyncio.sleep(0.1)
    await ended(stack, container["id"], SILENT_S)
    assert time.monotonic() - begun > 25
    writer.close()


async def test_a_client_that_never_reads_again_is_given_up_after_more_than_a_minute(
    stack: Stack, admin: Client, container: dict[str, Any]
) -> None:
    async with terminal(stack, admin, container["id"], max_queue=1, ping_interval=None, close_timeout=0.1) as opened:
        await opened.type("yes\n")
        await asyncio.sleep(A_MINUTE_S)
        assert await asyncio.to_thread(leftovers, stack, container["id"])
        await ended(stack, container["id"], STALLED_S - A_MINUTE_S)


async def test_a_client_that_leaves_while_its_input_waits_loses_its_session(
    stack: Stack, admin: Client, container: dict[str, Any]
) -> None:
    async with terminal(stack, admin, container["id"]) as opened:
        await starts(opened, "sleep 4002")
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(3):
                while True:
                    await opened.socket.send(b"pasted line\n" * 5000)
        opened.socket.transport.abort()
        await ended(stack, container["id"], SILENT_S)
