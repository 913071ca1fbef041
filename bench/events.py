"""How fast changes reach many readers of the event stream at once.

    bench/events.py [--readers 1000] [--events 100]

Starts a stack of its own and opens the streams, over WebSocket and as server-sent events in turn. Then events are
published on NATS, as the services publish theirs: all at once, and one every 50 ms. Measured is from the first
publication until every reader has every event, and for each single one until the last reader has it. The readers are
one process on the same machine, which takes its share of the CPU.
Run it with the project's interpreter and path: PYTHONPATH=.:gen .venv/bin/python bench/events.py
"""

import argparse
import asyncio
import json
import statistics
import tempfile
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import nats
import psutil

from services.common.events import OutgoingEvent, container_event
from services.common.ids import new_id
from tests.stack import Client, Stack, remove_folder

MARK = b'"event_id"'
EVERY_S = 0.05
WITHIN_S = 120
HANDSHAKE = (
    "Connection: Upgrade\r\nUpgrade: websocket\r\n"
    "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
)


class Reader(asyncio.Protocol):
    """Counts the events that have come, and looks at nothing else: what is measured is the server."""

    def __init__(self, request: bytes, progress: "Progress") -> None:
        self._request = request
        self._progress = progress
        self._rest = b""
        self.count = 0
        self.opened = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        data = self._rest + data
        if not self.opened.done() and b"stream.opened" in data:
            self.opened.set_result(None)
        found = data.count(MARK)
        self._rest = data[-(len(MARK) - 1) :]
        if found:
            self._progress.saw(self.count, found)
            self.count += found

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.opened.done():
            self.opened.set_exception(ConnectionError("refused"))


class Progress:
    """When the last reader had the n-th event."""

    def __init__(self, readers: int) -> None:
        self._readers = readers
        self._seen: list[int] = []
        self.complete_at: list[float] = []
        self.news = asyncio.Event()

    def saw(self, before: int, count: int) -> None:
        for number in range(before, before + count):
            if number == len(self._seen):
                self._seen.append(0)
            self._seen[number] += 1
            if self._seen[number] == self._readers:
                self.complete_at.append(time.perf_counter())
                self.news.set()

    async def reaches(self, count: int) -> None:
        async with asyncio.timeout(WITHIN_S):
            while len(self.complete_at) < count:
                self.news.clear()
                await self.news.wait()


@asynccontextmanager
async def reading(stack: Stack, token: str, kind: str, count: int) -> AsyncIterator[Progress]:
    host, port = stack.environment["HZEL_LISTEN"].split(":")
    path = "/ws/events" if kind == "websocket" else "/api/v1/events"
    more = HANDSHAKE if kind == "websocket" else ""
    request = f"GET {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n{more}\r\n".encode()
    progress, loop, readers = Progress(count), asyncio.get_running_loop(), []
    try:
        for _ in range(count):
            _, reader = await loop.create_connection(lambda: Reader(request, progress), host, int(port))
            readers.append(reader)
        async with asyncio.timeout(WITHIN_S):
            await asyncio.gather(*(reader.opened for reader in readers))
        yield progress
        assert {reader.count for reader in readers} == {len(progress.complete_at)}
    finally:
        for reader in readers:
            reader.transport.abort()


def event_for(user_id: str) -> OutgoingEvent:
    return container_event(
        new_id(), "running", "bench", {"state": "running", "exit_code": None, "user_id": user_id, "name": "bench"}
    )


async def measure(stack: Stack, user: Client, kind: str, readers: int, events: int) -> dict[str, float]:
    token = user.http.headers["Authorization"].removeprefix("Bearer ")
    user_id = user.http.get("/api/v1/auth/me").json()["data"]["user_id"]
    gateway = psutil.Process(stack.pid_of("gateway"))
    client = await nats.connect(stack.nats_url)
    jetstream = client.jetstream()
    try:
        opening = time.perf_counter()
        async with reading(stack, token, kind, readers) as progress:
            opened_s = time.perf_counter() - opening
            before = gateway.cpu_times()
            begun = time.perf_counter()
            sent = [event_for(user_id) for _ in range(events)]
            await asyncio.gather(*(jetstream.publish(event.subject, event.body.encode()) for event in sent))
            await progress.reaches(events)
            all_at_once_s = time.perf_counter() - begun
            after = gateway.cpu_times()
            published = []
            for event in (event_for(user_id) for _ in range(events)):
                published.append(time.perf_counter())
                await jetstream.publish(event.subject, event.body.encode())
                await asyncio.sleep(EVERY_S)
            await progress.reaches(2 * events)
            delays = [1000 * (end - start) for start, end in zip(published, progress.complete_at[events:], strict=True)]
            memory = gateway.memory_info().rss
    finally:
        await client.close()
    return {
        f"{kind}_opened_s": opened_s,
        f"{kind}_all_at_once_s": all_at_once_s,
        f"{kind}_all_at_once_gateway_cpu_s": sum(after[:2]) - sum(before[:2]),
        f"{kind}_one_by_one_median_ms": statistics.median(delays),
        f"{kind}_one_by_one_worst_ms": max(delays),
        f"{kind}_gateway_memory_mib": memory / 1024**2,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--readers", type=int, default=1000)
    parser.add_argument("--events", type=int, default=100)
    wanted = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="hzel-bench-", dir="/var/tmp"))
    folder.chmod(0o711)
    stack = Stack.settings(folder, f"b{uuid.uuid4().hex[:5]}")
    try:
        stack.up()
        user = stack.new_user()
        found: dict[str, float] = {"readers": wanted.readers, "events": wanted.events}
        for kind in ("websocket", "sse"):
            found |= asyncio.run(measure(stack, user, kind, wanted.readers, wanted.events))
    finally:
        stack.down("--purge")
        remove_folder(folder)
    print(json.dumps({name: round(value, 2) for name, value in found.items()}, indent=2))


if __name__ == "__main__":
    main()
