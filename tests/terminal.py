"""A terminal's client for tests: a real WebSocket, and a screen that shows what comes over it."""

import asyncio
import base64
import json
import re
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlencode

import pyte
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from tests.stack import Client, Stack

WITHIN_S = 15.0


class Screen(pyte.Screen):
    def select_graphic_rendition(self, *attributes: int, private: bool = False) -> None:
        """Colours and the like; what xterm calls the same and is about keys (vim asks for it) is nothing to be seen."""
        if not private:
            super().select_graphic_rendition(*attributes)


class Terminal:
    """`frames` are the JSON frames but for output, `output` is the text or the bytes that came."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket
        self.frames: list[dict[str, Any]] = []
        self.output = ""
        self.raw = bytearray()
        self.screen = Screen(80, 24)
        self._stream = pyte.Stream(self.screen)

    async def send(self, **frame: Any) -> None:
        await self.socket.send(json.dumps(frame))

    async def type(self, text: str) -> None:
        await self.send(type="input", data=text)

    async def resize(self, cols: int, rows: int) -> None:
        self.screen.resize(rows, cols)
        await self.send(type="resize", cols=cols, rows=rows)

    async def upload(self, path: str, data: bytes) -> dict[str, Any]:
        """Returns the answer."""
        await self.send(type="file_upload", path=path, data=base64.b64encode(data).decode())
        return await self.frame("file_uploaded", "file_upload_error")

    async def hear(self, within_s: float = WITHIN_S) -> None:
        """Takes one frame in."""
        async with asyncio.timeout(within_s):
            message = await self.socket.recv()
        if isinstance(message, bytes):
            self.raw += message
            return
        frame = json.loads(message)
        if frame["type"] == "output":
            self.output += frame["data"]
            self._stream.feed(frame["data"])
        else:
            self.frames.append(frame)

    async def frame(self, *kinds: str, within_s: float = WITHIN_S) -> dict[str, Any]:
        """The next frame of one of these types that was not asked for yet."""
        deadline = time.monotonic() + within_s
        while True:
            for index, frame in enumerate(self.frames):
                if frame["type"] in kinds:
                    return self.frames.pop(index)
            await self.hear(deadline - time.monotonic())

    async def shows(self, text: str, within_s: float = WITHIN_S) -> None:
        """Returns once the text has come, and forgets the output up to its end."""
        deadline = time.monotonic() + within_s
        while (at := self.output.find(text)) < 0:
            try:
                await self.hear(deadline - time.monotonic())
            except TimeoutError:
                raise AssertionError(f"no {text!r} in {self.output[-2000:]!r}") from None
        self.output = self.output[at + len(text) :]

    def is_on_screen(self, text: str) -> bool:
        """In a line of its own, or with other text around it that is no digit."""
        return any(re.search(rf"(?<!\d){re.escape(text)}(?!\d)", line) for line in self.screen.display)

    async def sees(self, *texts: str, within_s: float = WITHIN_S) -> None:
        """Returns once all of them are on the screen at the same time."""
        deadline = time.monotonic() + within_s
        while not all(self.is_on_screen(text) for text in texts):
            try:
                await self.hear(deadline - time.monotonic())
            except TimeoutError:
                shown = "\n".join(line.rstrip() for line in self.screen.display)
                raise AssertionError(f"no {texts!r} on the screen:\n{shown}") from None

    async def runs(self, command: str, within_s: float = WITHIN_S) -> str:
        """What a command prints; the shell must be at its prompt."""
        await self.type(f"echo be''gin; {command}; echo e''nd\n")
        await self.shows("begin\r\n", within_s)
        deadline = time.monotonic() + within_s
        while "end\r\n" not in self.output:
            await self.hear(deadline - time.monotonic())
        printed, _, self.output = self.output.partition("end\r\n")
        return printed.replace("\r\n", "\n").strip()

    async def rest(self, within_s: float = WITHIN_S) -> int:
        """Hears until the server closes; returns the code."""
        try:
            while True:
                await self.hear(within_s)
        except ConnectionClosed as closed:
            return closed.rcvd.code if closed.rcvd is not None else 1006


def url(stack: Stack, container_id: str, **query: Any) -> str:
    parameters = f"?{urlencode(query)}" if query else ""
    return f"{stack.url.replace('http', 'ws', 1)}/ws/terminal/{container_id}{parameters}"


@asynccontextmanager
async def terminal(stack: Stack, client: Client, container_id: str, **query: Any) -> AsyncIterator[Terminal]:
    """A connection that has been accepted; its size is 80 by 24 unless the query says otherwise."""
    size = {} if "session" in query or "watch" in query else {"cols": 80, "rows": 24}
    options = {key: query.pop(key) for key in ("max_queue", "ping_interval", "close_timeout", "sock") if key in query}
    async with connect(
        url(stack, container_id, **{**size, **query}),
        additional_headers={"Authorization": client.http.headers["Authorization"]},
        compression=None,
        max_size=None,
        **options,
    ) as socket:
        yield Terminal(socket)
