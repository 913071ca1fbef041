"""Clients of the event stream, as anybody would write them; and events of containers that are there in name only."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import nats
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from services.common.events import STREAM, OutgoingEvent, container_event
from services.common.ids import new_id
from tests.stack import Client, Stack

WITHIN_S = 30
Told = dict[str, Any]


class Follower:
    """Frames as they come; `closed` is why there are no more."""

    def __init__(self, frames: AsyncIterator[Told]) -> None:
        self._frames = frames
        self.closed: tuple[int | None, str] | None = None

    async def next(self) -> Told | None:
        """None at the end."""
        async with asyncio.timeout(WITHIN_S):
            return await anext(self._frames, None)

    async def until(self, wanted: int) -> list[Told]:
        """So many events; what the stream says of itself is not counted and not returned."""
        found: list[Told] = []
        while len(found) < wanted:
            frame = await self.next()
            assert frame is not None, (len(found), self.closed)
            if not frame["type"].startswith("stream."):
                found.append(frame)
        return found

    async def end(self) -> list[Told]:
        """What still comes, when nothing more will."""
        found = []
        while (frame := await self.next()) is not None:
            found.append(frame)
        return found


@asynccontextmanager
async def websocket(stack: Stack, client: Client, after: str | None = None, **options: Any) -> AsyncIterator[Follower]:
    query = f"?last_event_id={after}" if after is not None else ""
    headers = {"Authorization": client.http.headers["Authorization"]}
    url = f"{stack.url.replace('http', 'ws')}/ws/events{query}"
    async with connect(url, additional_headers=headers, proxy=None, **options) as connection:

        async def frames() -> AsyncIterator[Told]:
            try:
                while True:
                    yield json.loads(await connection.recv())
            except ConnectionClosed:
                follower.closed = connection.close_code, connection.close_reason or ""

        follower = Follower(frames())
        yield follower


@asynccontextmanager
async def server_sent(
    stack: Stack, client: Client, after: str | None = None, **options: Any
) -> AsyncIterator[Follower]:
    headers = {"Authorization": client.http.headers["Authorization"]}
    if after is not None:
        headers["Last-Event-ID"] = after
    async with (
        httpx.AsyncClient(base_url=stack.url, headers=headers, timeout=WITHIN_S) as http,
        http.stream("GET", "/api/v1/events") as answer,
    ):
        assert answer.status_code == 200, await answer.aread()
        assert answer.headers["content-type"].startswith("text/event-stream")

        async def frames() -> AsyncIterator[Told]:
            identifier = ""
            try:
                async for line in answer.aiter_lines():
                    if line.startswith("id: "):
                        identifier = line.removeprefix("id: ")
                    elif line.startswith("data: "):
                        frame = json.loads(line.removeprefix("data: "))
                        assert frame["id"] == identifier
                        if frame["type"] == "stream.closed":
                            follower.closed = None, frame["data"]["code"]
                        yield frame
                    else:
                        assert line == "" or line == ":" or line.startswith("retry: ")
            except httpx.HTTPError:
                follower.closed = None, "broken"

        follower = Follower(frames())
        yield follower


TRANSPORTS = {"websocket": websocket, "server_sent": server_sent}


def user_id_of(client: Client) -> str:
    found: str = client.http.get("/api/v1/auth/me").json()["data"]["user_id"]
    return found


def event_for(user_id: str, **data: Any) -> OutgoingEvent:
    """Of a container that nobody has."""
    return container_event(new_id(), "running", "node", {"state": "running", "user_id": user_id, **data})


async def publish(stack: Stack, events: list[OutgoingEvent]) -> list[str]:
    """As a service would; returns their ids."""
    client = await nats.connect(stack.nats_url)
    try:
        jetstream = client.jetstream()
        for first in range(0, len(events), 256):
            await asyncio.gather(
                *(jetstream.publish(event.subject, event.body.encode()) for event in events[first : first + 256])
            )
    finally:
        await client.close()
    return [event.id for event in events]


async def stored(stack: Stack, container_ids: set[str]) -> list[str]:
    """The ids of all events of the containers that NATS has, in its order."""
    client = await nats.connect(stack.nats_url)
    try:
        jetstream = client.jetstream()
        subscription = await jetstream.subscribe("hzel.>", ordered_consumer=True)
        found = []
        for _ in range((await jetstream.stream_info(STREAM)).state.messages):
            body = json.loads((await subscription.next_msg(WITHIN_S)).data)
            if body["container_id"] in container_ids:
                found.append(body["id"])
        return found
    finally:
        await client.close()
