"""WebSockets as clients meet them, over real connections: refusals, conversations, and how they end."""

import asyncio
import json
import socket
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager

import pytest
import structlog
import uvicorn
from fastapi import APIRouter, WebSocket
from structlog.testing import LogCapture
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import InvalidStatus

from services.common.errors import Conflict, Unavailable
from services.gateway import boundary
from services.gateway.__main__ import http_server, listening_socket
from services.gateway.app import create_app
from services.gateway.parts import Parts
from services.gateway.websockets import Frame, SocketCaller, converse

# The routes don't know which database there is.
pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)

HANDSHAKE = (
    b"Host: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
)


class Talk:
    """A route that says what a test has put in, and remembers what it heard and whether it was closed."""

    def __init__(self) -> None:
        self.lines: list[Frame | Exception] = []
        self.said = 0
        self.ended = asyncio.Event()
        self.hears: asyncio.Event | None = None
        self.heard: list[Frame] = []
        self.left_with: int | None = None
        self.router = APIRouter()
        self.router.add_api_websocket_route("/ws/talk", self.talk)
        self.router.add_api_websocket_route("/ws/echo/{number}", self.echo)

    async def talk(
        self, websocket: WebSocket, caller: SocketCaller, first: bool = False, hears_out: bool = True
    ) -> None:
        options = {"first_decides": first, "hears_out": hears_out}
        await converse(websocket, self._say(), self._hear, **options, on_left=self._left)

    async def echo(self, websocket: WebSocket, caller: SocketCaller, number: int) -> None:
        heard: asyncio.Queue[Frame] = asyncio.Queue(1)

        async def say() -> AsyncGenerator[Frame, None]:
            yield caller.email
            for _ in range(number):
                yield await heard.get()

        await converse(websocket, say(), heard.put)

    async def _say(self) -> AsyncGenerator[Frame, None]:
        try:
            for line in self.lines:
                if isinstance(line, Exception):
                    raise line
                self.said += 1
                yield line
            await asyncio.Event().wait()
        finally:
            self.ended.set()

    async def _hear(self, message: Frame) -> None:
        if self.hears is not None:
            await self.hears.wait()
        self.heard.append(message)

    async def _left(self, code: int) -> None:
        self.left_with = code


@pytest.fixture
def talk() -> Talk:
    return Talk()


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with listening_socket("127.0.0.1:0") as listening:
        yield listening


@pytest.fixture
async def server(parts: Parts, talk: Talk, listener: socket.socket) -> AsyncIterator[uvicorn.Server]:
    app = create_app(parts)
    app.router.routes.extend(talk.router.routes)
    config = http_server(app)
    config.timeout_graceful_shutdown = 1
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve([listener]))
    async with asyncio.timeout(10):
        while not server.started:
            await asyncio.sleep(0.01)
    yield server
    server.should_exit = True
    await serving


@pytest.fixture
def url(server: uvicorn.Server, listener: socket.socket) -> str:
    """Of the running server."""
    return "ws://{}:{}".format(*listener.getsockname())


@pytest.fixture
def opened(url: str, token: str) -> Callable[[str], connect]:
    """Connects as the user of the fixture `user`."""

    def open_path(path: str) -> connect:
        return connect(url + path, additional_headers={"Authorization": f"Bearer {token}"}, proxy=None)

    return open_path


async def refusal(attempt: connect) -> tuple[int, str, str]:
    """Status, code and message of a refusal before the upgrade."""
    with pytest.raises(InvalidStatus) as refused:
        await attempt
    answer = refused.value.response
    error = json.loads(answer.body)["error"]
    assert answer.headers["Content-Type"] == "application/json"
    assert error["request_id"] == answer.headers["X-Request-Id"]
    return answer.status_code, error["code"], error["message"]


async def closed(connection: ClientConnection) -> tuple[int | None, str]:
    """Code and reason of the server's close frame."""
    await asyncio.wait_for(connection.wait_closed(), 10)
    return connection.close_code, connection.close_reason or ""


async def test_strangers_are_refused_before_the_upgrade(url: str) -> None:
    for path in ("/ws/talk", "/ws/talk?token=hzel_" + "x" * 43, "/ws/talk?token="):
        assert (await refusal(connect(url + path, proxy=None)))[:2] == (401, "UNAUTHORIZED")


async def test_the_token_may_be_in_the_header_or_in_the_query(url: str, token: str) -> None:
    async with connect(f"{url}/ws/echo/0?token={token}", proxy=None) as connection:
        assert await connection.recv() == "ada@example.org"
    stale = {"Authorization": "Bearer hzel_" + "x" * 43}
    attempt = connect(f"{url}/ws/echo/0?token={token}", additional_headers=stale, proxy=None)
    assert (await refusal(attempt))[0] == 401, "the header decides"


async def test_unknown_paths_and_bad_parameters_are_refused_like_requests(opened: Callable[[str], connect]) -> None:
    assert (await refusal(opened("/ws/nothing")))[:2] == (404, "NOT_FOUND")
    assert (await refusal(opened("/healthz")))[:2] == (404, "NOT_FOUND")
    assert (await refusal(opened("/ws/echo/x")))[:2] == (400, "VALIDATION_FAILED")


async def test_what_is_raised_instead_of_a_first_frame_refuses(opened: Callable[[str], connect], talk: Talk) -> None:
    talk.lines = [Conflict("not now")]
    assert await refusal(opened("/ws/talk?first=true")) == (409, "CONFLICT", "not now")
    assert talk.ended.is_set()
    talk.lines = ["first", "second"]
    async with opened("/ws/talk?first=true") as connection:
        assert [await connection.recv(), await connection.recv()] == ["first", "second"]


async def test_a_conversation_goes_both_ways_and_ends_normally(opened: Callable[[str], connect]) -> None:
    async with opened("/ws/echo/3") as connection:
        assert connection.response is not None
        assert connection.response.headers["X-Request-Id"]
        await connection.recv()
        for message in ("text ü", b"\x00\xff", "x" * 500_000):
            await connection.send(message)
            assert await connection.recv() == message
        assert await closed(connection) == (1000, "")


@pytest.mark.parametrize(
    ("error", "code", "reason"),
    [(Unavailable("down"), 1013, "UNAVAILABLE"), (Conflict("gone"), 1011, "CONFLICT"),
     (RuntimeError("SELECT secret"), 1011, "INTERNAL_ERROR")],
)  # fmt: skip
async def test_a_failure_after_the_upgrade_closes_with_a_code(
    opened: Callable[[str], connect], talk: Talk, error: Exception, code: int, reason: str
) -> None:
    talk.lines = ["hello", error]
    async with opened("/ws/talk") as connection:
        assert await connection.recv() == "hello"
        assert await closed(connection) == (code, reason)


async def test_a_client_that_leaves_ends_the_generator(opened: Callable[[str], connect], talk: Talk) -> None:
    talk.lines = ["hello"]
    async with opened("/ws/talk") as connection:
        await connection.recv()
        assert not talk.ended.is_set()
    await asyncio.wait_for(talk.ended.wait(), 5)


async def test_a_client_that_does_not_read_holds_the_generator(opened: Callable[[str], connect], talk: Talk) -> None:
    talk.lines = ["x" * 65536] * 2000
    async with opened("/ws/talk") as connection:
        before = -1
        while before != (before := talk.said):
            await asyncio.sleep(0.3)
        assert talk.said < 500
        for _ in range(2000):
            await connection.recv()
        assert talk.said == 2000


async def test_a_message_over_the_limit_ends_the_conversation(opened: Callable[[str], connect], talk: Talk) -> None:
    async with opened("/ws/talk") as connection:
        await connection.send("x" * (1024 * 1024 + 1))
        assert (await closed(connection))[0] == 1009
    await asyncio.wait_for(talk.ended.wait(), 5)


async def test_the_end_of_the_service_says_so(
    opened: Callable[[str], connect], talk: Talk, server: uvicorn.Server
) -> None:
    async with opened("/ws/talk") as connection:
        server.should_exit = True
        assert (await closed(connection))[0] == 1012
    await asyncio.wait_for(talk.ended.wait(), 5)


async def test_the_log_has_one_line_and_no_query(
    opened: Callable[[str], connect], talk: Talk, parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    capture = LogCapture()
    monkeypatch.setattr(boundary, "log", structlog.wrap_logger(None, processors=[capture]))
    talk.lines = ["hello"]
    async with opened("/ws/talk?secret=1") as connection:
        await connection.recv()
        assert parts.traffic.open_sockets["/ws/talk"] == 1
    await asyncio.wait_for(talk.ended.wait(), 5)
    await refusal(opened("/ws/echo/x?secret=1"))
    assert [(line["event"], line["route"], line["status"], line["close_code"]) for line in capture.entries] == [
        ("websocket", "/ws/talk", 101, 1000),
        ("websocket", "/ws/echo/{number}", 400, None),
    ]
    assert "secret" not in json.dumps(capture.entries)
    assert parts.traffic.open_sockets["/ws/talk"] == 0
    assert parts.traffic.sockets == {("/ws/talk", 101): 1, ("/ws/echo/{number}", 400): 1}


@asynccontextmanager
async def raw(url: str, head: bytes) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A connection on which a request was sent, and nothing else happens by itself."""
    host, port = url.removeprefix("ws://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        writer.write(head + b"\r\n")
        yield reader, writer
    finally:
        writer.close()


@pytest.mark.parametrize(
    "head",
    [
        b"GET /ws/talk HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n",
        b"GET /ws/talk HTTP/1.1\r\n" + HANDSHAKE.replace(b"13", b"12"),
        b"GET /ws/talk HTTP/1.1\r\n" + HANDSHAKE.replace(b"AAAA==", b"AA=="),
        b"GET /ws/talk HTTP/1.1\r\n" + HANDSHAKE + b"X-A: " + b"x" * 20_000 + b"\r\n",
        b"GET /ws/talk HTTP/1.1\r\n" + HANDSHAKE + b"X-A: x\r\n" * 200,
        b"GET /" + b"x" * 20_000 + b" HTTP/1.1\r\n" + HANDSHAKE,
        b"GET /ws/talk HTTP/1.1\r\n" + HANDSHAKE + b"X-A\x00: x\r\n",
    ],
    ids=["no key", "version", "key", "long header", "many headers", "long path", "bad header"],
)  # fmt: skip
async def test_what_is_no_handshake_gets_an_envelope(url: str, head: bytes) -> None:
    async with raw(url, head) as (reader, _):
        answer = await asyncio.wait_for(reader.read(), 5)
    first, _, body = answer.partition(b"\r\n\r\n")
    assert first.startswith(b"HTTP/1.1 400 ")
    error = json.loads(body)["error"]
    assert error["code"] == "BAD_REQUEST"
    assert f"x-request-id: {error['request_id']}" in first.decode().lower()


async def test_an_upgrade_by_another_method_is_refused(url: str) -> None:
    async with raw(url, b"POST /ws/talk HTTP/1.1\r\nX-Request-Id: r-1\r\n" + HANDSHAKE) as (reader, _):
        answer = await asyncio.wait_for(reader.read(), 5)
    assert answer.startswith(b"HTTP/1.1 405 ")
    assert b'"request_id":"r-1"' in answer


async def opened_raw(reader: asyncio.StreamReader) -> None:
    assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101 ")


@pytest.fixture
def quick_pings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.gateway.__main__.PING_EVERY_S", 0.1)
    monkeypatch.setattr("services.gateway.__main__.PONG_WITHIN_S", 0.3)


@pytest.mark.usefixtures("quick_pings")
async def test_a_peer_that_answers_no_ping_is_given_up(token: str, talk: Talk, url: str) -> None:
    talk.lines = ["hello"]
    async with raw(url, f"GET /ws/talk?token={token} HTTP/1.1\r\n".encode() + HANDSHAKE) as (reader, _):
        await opened_raw(reader)
        await asyncio.wait_for(talk.ended.wait(), 5)


@pytest.mark.usefixtures("quick_pings")
async def test_a_peer_that_is_not_heard_is_not_given_up(opened: Callable[[str], connect], talk: Talk) -> None:
    talk.hears = asyncio.Event()
    async with opened("/ws/talk") as connection:
        for _ in range(10):
            await connection.send("x")
        await asyncio.sleep(1.0)
        assert not talk.ended.is_set()
        talk.hears.set()
        await asyncio.sleep(1.0)
        assert not talk.ended.is_set()
    await asyncio.wait_for(talk.ended.wait(), 5)


@pytest.mark.usefixtures("quick_pings")
async def test_a_function_that_takes_its_time_ends_when_the_connection_is_lost(
    opened: Callable[[str], connect], talk: Talk
) -> None:
    talk.hears = asyncio.Event()
    async with opened("/ws/talk?hears_out=0") as connection:
        for _ in range(100):
            await connection.send("x" * 10_000)
        connection.transport.abort()
        await asyncio.wait_for(talk.ended.wait(), 5)
    assert talk.left_with == 1006
    assert talk.heard == []


async def test_what_was_said_right_before_the_end_is_heard(opened: Callable[[str], connect], talk: Talk) -> None:
    for query in ("0", "1"):
        async with opened(f"/ws/talk?hears_out={query}") as connection:
            await connection.send("last words")
            await connection.close(4000)
        await asyncio.wait_for(talk.ended.wait(), 5)
        talk.ended.clear()
        assert (talk.heard.pop(), talk.left_with) == ("last words", 4000)
