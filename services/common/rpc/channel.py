"""Calling our own services."""

from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import grpc

from services.common import context
from services.common.rpc.interceptors import domain_error

MAX_MESSAGE_BYTES = 16 * 1024 * 1024
Response = TypeVar("Response")


def open_channel(socket: Path, *interceptors: grpc.aio.ClientInterceptor) -> grpc.aio.Channel:
    """A channel to a service on this machine; a service that restarts is found again within a second."""
    return grpc.aio.insecure_channel(
        f"unix:{socket}",
        options=[
            ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
            ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
            ("grpc.default_authority", "localhost"),
            ("grpc.initial_reconnect_backoff_ms", 50),
            ("grpc.min_reconnect_backoff_ms", 50),
            ("grpc.max_reconnect_backoff_ms", 500),
        ],
        interceptors=interceptors,
    )


async def call(method: Callable[..., Awaitable[Response]], request: object, timeout_s: float) -> Response:
    """One unary call with a deadline and the request id; raises HzelError, never a gRPC error."""
    try:
        metadata = ((context.REQUEST_ID_METADATA, context.request_id()),)
        return await method(request, timeout=timeout_s, metadata=metadata)
    except grpc.aio.AioRpcError as error:
        raise domain_error(error) from error


async def stream(
    method: Callable[..., AsyncIterable[Response]], request: object, timeout_s: float | None = None
) -> AsyncIterator[Response]:
    """The answers of a streaming call, with the request id; raises HzelError, never a gRPC error."""
    try:
        metadata = ((context.REQUEST_ID_METADATA, context.request_id()),)
        async for response in method(request, timeout=timeout_s, metadata=metadata):
            yield response
    except grpc.aio.AioRpcError as error:
        raise domain_error(error) from error
