"""What comes over a connection before it is a request."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator

import pytest
import uvicorn
from starlette.responses import PlainTextResponse
from starlette.types import Receive, Scope, Send

from services.gateway import http_protocol
from services.gateway.http_protocol import MAX_HEAD_BYTES, HttpProtocol

HEAD = b"POST / HTTP/1.1\r\nHost: x\r\n"


async def echo_length(scope: Scope, receive: Receive, send: Send) -> None:
    length = 0
    while (message := await receive()).get("more_body"):
        length += len(message["body"])
    length += len(message["body"])
    await PlainTextResponse(f"<{length}>")(scope, receive, send)


@pytest.fixture
async def address() -> AsyncIterator[tuple[str, int]]:
    listener = socket.create_server(("127.0.0.1", 0))
    bound: tuple[str, int] = listener.getsockname()
    server = uvicorn.Server(
        uvicorn.Config(echo_length, http=HttpProtocol, ws="none", lifespan="off", log_config=None, access_log=False)
    )
    serving = asyncio.create_task(server.serve([listener]))
    yield bound
    server.should_exit = True
    await serving


async def exchange(address: tuple[str, int], *chunks: bytes) -> bytes:
    """Sends everything, and returns all that is answered until the connection closes."""
    reader, writer = await asyncio.open_connection(*address)
    try:
        for chunk in chunks:
            writer.write(chunk)
            await writer.drain()
        return await asyncio.wait_for(reader.read(), 10)
    finally:
        writer.close()


def refusal(answer: bytes) -> str:
    """The message of the one answer there is, a bad request."""
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 ")
    error = json.loads(body)["error"]
    assert error["code"] == "BAD_REQUEST"
    assert f"x-request-id: {error['request_id']}".encode() in head
    message: str = error["message"]
    return message


async def test_what_is_no_http_gets_an_envelope(address: tuple[str, int]) -> None:
    for nonsense in (b"\x16\x03\x01\x02\x00", b"GET / HTTP/1.1\r\nHo st: x\r\n\r\n", b"BREW / HTTP/1.1\r\n\r\n"):
        assert "Invalid HTTP" in refusal(await exchange(address, nonsense))


@pytest.mark.parametrize("start", [HEAD + b"X-A: ", HEAD], ids=["value", "name"])
async def test_a_head_without_end_is_refused_at_its_limit(address: tuple[str, int], start: bytes) -> None:
    filling = [b"A" * 1024] * (MAX_HEAD_BYTES // 1024)
    assert str(MAX_HEAD_BYTES) in refusal(await exchange(address, start, *filling, b"A"))


async def test_many_headers_are_refused_at_the_same_limit(address: tuple[str, int]) -> None:
    filling = [b"X-A: b\r\n" * 128] * (MAX_HEAD_BYTES // 1024)
    assert str(MAX_HEAD_BYTES) in refusal(await exchange(address, HEAD, *filling))


async def test_large_bodies_and_many_requests_are_no_large_head(address: tuple[str, int]) -> None:
    body = b"x" * (4 * MAX_HEAD_BYTES)
    request = HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body
    closing = HEAD + b"Connection: close\r\n\r\n"
    answer = await exchange(address, request, request, *[HEAD + b"\r\n"] * 500, closing)
    assert answer.count(b"HTTP/1.1 200 ") == 503
    assert answer.count(b"<%d>" % len(body)) == 2


async def test_a_head_that_does_not_arrive_is_not_waited_for(
    address: tuple[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_protocol, "HEAD_TIMEOUT_S", 0.1)
    assert await exchange(address) == b""
    assert "did not arrive" in refusal(await exchange(address, HEAD))
