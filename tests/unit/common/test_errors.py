"""The error tree: its codes, and the way over gRPC and back."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import grpc
import pytest

from services.common import context, errors
from services.common.errors import BY_CODE, FieldError, HzelError, Internal, Unavailable, ValidationFailed, from_code
from services.common.rpc.channel import call, open_channel, stream
from services.common.rpc.server import serving

# As the API's contract has them.
STATUSES = {
    "BAD_REQUEST": 400,
    "VALIDATION_FAILED": 400,
    "UNAUTHORIZED": 401,
    "FORBIDDEN": 403,
    "QUOTA_EXCEEDED": 403,
    "NOT_FOUND": 404,
    "CONTAINER_NOT_FOUND": 404,
    "COMMAND_NOT_FOUND": 404,
    "METHOD_NOT_ALLOWED": 405,
    "CONFLICT": 409,
    "PAYLOAD_TOO_LARGE": 413,
    "IDEMPOTENCY_MISMATCH": 422,
    "RATE_LIMITED": 429,
    "INTERNAL_ERROR": 500,
    "NOT_IMPLEMENTED": 501,
    "UNAVAILABLE": 503,
    "SLOW_READER": 503,
    "TIMEOUT": 504,
}
Serve = Callable[[Callable[[], Any]], Awaitable[grpc.aio.Channel]]


def test_every_code_has_the_status_of_the_contract() -> None:
    assert {code: kind.http_status for code, kind in BY_CODE.items()} == STATUSES


def test_every_code_is_in_the_drawing_of_the_tree() -> None:
    drawing = errors.__doc__ or ""
    for code, kind in BY_CODE.items():
        assert f"{kind.__name__} " in drawing, kind
        assert code in drawing


def test_what_says_try_again_says_when() -> None:
    later = {code for code, kind in BY_CODE.items() if kind.retry_after_s is not None}
    assert later == {"RATE_LIMITED", "UNAVAILABLE", "SLOW_READER"}


def test_an_unknown_code_tells_nothing() -> None:
    error = from_code("SECRET_PATH", "/var/lib/somewhere")
    assert type(error) is Internal
    assert "somewhere" not in error.message


@pytest.fixture
async def serve(tmp_path: Path) -> AsyncIterator[Serve]:
    """Serves `Unary` and `Stream`, which call the given function; yields a channel to them."""
    async with AsyncExitStack() as stack:

        async def start(act: Callable[[], Any]) -> grpc.aio.Channel:
            async def unary(_request: bytes, _context: Any) -> bytes:
                result = act()
                return await result if asyncio.iscoroutine(result) else result

            async def streamed(_request: bytes, _context: Any) -> AsyncIterator[bytes]:
                yield b"first"
                yield act()

            def register(server: grpc.aio.Server) -> None:
                methods = {
                    "Unary": grpc.unary_unary_rpc_method_handler(unary),
                    "Stream": grpc.unary_stream_rpc_method_handler(streamed),
                }
                handler = grpc.method_handlers_generic_handler("hzel.test.v1.TestService", methods)
                server.add_generic_rpc_handlers((handler,))

            await stack.enter_async_context(serving(tmp_path / "test.sock", register, []))
            return await stack.enter_async_context(open_channel(tmp_path / "test.sock"))

        yield start


def raising(error: Exception) -> Callable[[], bytes]:
    def act() -> bytes:
        raise error

    return act


def made(kind: type[HzelError]) -> HzelError:
    return kind("because so")


@pytest.mark.parametrize("code", sorted(BY_CODE))
async def test_an_error_is_the_same_on_the_other_side(serve: Serve, code: str) -> None:
    channel = await serve(raising(made(BY_CODE[code])))
    with pytest.raises(HzelError, match="because so") as caught:
        await call(channel.unary_unary("/hzel.test.v1.TestService/Unary"), b"", 5)
    assert type(caught.value) is BY_CODE[code]
    answers = stream(channel.unary_stream("/hzel.test.v1.TestService/Stream"), b"", 5)
    assert await anext(answers) == b"first"
    with pytest.raises(HzelError, match="because so") as caught:
        await anext(answers)
    assert type(caught.value) is BY_CODE[code]


@pytest.mark.parametrize("error", [RuntimeError("/etc/secret"), KeyError("SELECT 1"), OSError(2, "x", "/root")])
async def test_a_fault_of_ours_says_nothing_of_itself(serve: Serve, error: Exception) -> None:
    channel = await serve(raising(error))
    with pytest.raises(HzelError) as caught:
        await call(channel.unary_unary("/hzel.test.v1.TestService/Unary"), b"", 5)
    assert type(caught.value) is Internal
    assert caught.value.message == Internal().message


async def test_a_service_that_is_not_there_is_unavailable(tmp_path: Path) -> None:
    async with open_channel(tmp_path / "nobody.sock") as channel:
        with pytest.raises(Unavailable):
            await call(channel.unary_unary("/hzel.test.v1.TestService/Unary"), b"", 5)


async def test_a_service_that_takes_too_long_has_timed_out(serve: Serve) -> None:
    async def never() -> bytes:
        await asyncio.Event().wait()
        return b""

    channel = await serve(never)
    with pytest.raises(errors.TimedOut):
        await call(channel.unary_unary("/hzel.test.v1.TestService/Unary"), b"", 0.2)


async def test_the_request_id_goes_along(serve: Serve) -> None:
    channel = await serve(lambda: context.request_id().encode())
    context.enter_request("req-7")
    assert await call(channel.unary_unary("/hzel.test.v1.TestService/Unary"), b"", 5) == b"req-7"
    answers = [one async for one in stream(channel.unary_stream("/hzel.test.v1.TestService/Stream"), b"", 5)]
    assert answers == [b"first", b"req-7"]


async def test_a_request_id_that_is_not_sane_is_replaced_on_the_way(serve: Serve) -> None:
    channel = await serve(lambda: context.request_id().encode())
    metadata = ((context.REQUEST_ID_METADATA, "a b;c"),)
    answer = await channel.unary_unary("/hzel.test.v1.TestService/Unary")(b"", timeout=5, metadata=metadata)
    assert answer
    assert answer != b"a b;c"


def test_a_validation_names_its_fields() -> None:
    error = ValidationFailed("x is wrong", (FieldError("x", "is wrong"),))
    assert [detail.field for detail in error.details] == ["x"]
