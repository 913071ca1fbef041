"""Between a domain error and the wire, in both directions, and the request id beside it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
import structlog

from services.common import context
from services.common.errors import HzelError, Internal, TimedOut, Unavailable, from_code
from services.common.ids import sane_request_id

log = structlog.get_logger(__name__)

ERROR_CODE_METADATA = "hzel-error-code"
Context = grpc.aio.ServicerContext[Any, Any]


class ErrorInterceptor(grpc.aio.ServerInterceptor):
    """Binds the caller's request id; turns what a method raises into a status and its code.

    Streaming methods are asynchronous generators.
    """

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any] | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        handler = await continuation(handler_call_details)
        # Health and reflection are not ours to guard.
        if handler is None or not handler_call_details.method.startswith("/hzel."):
            return handler
        name = handler_call_details.method
        codecs = {
            "request_deserializer": handler.request_deserializer,
            "response_serializer": handler.response_serializer,
        }
        if handler.stream_stream is not None:
            return grpc.stream_stream_rpc_method_handler(_guarded_stream(handler.stream_stream, name), **codecs)
        if handler.unary_stream is not None:
            return grpc.unary_stream_rpc_method_handler(_guarded_stream(handler.unary_stream, name), **codecs)
        if handler.stream_unary is not None:
            return grpc.stream_unary_rpc_method_handler(_guarded(handler.stream_unary, name), **codecs)
        if handler.unary_unary is not None:
            return grpc.unary_unary_rpc_method_handler(_guarded(handler.unary_unary, name), **codecs)
        return handler


# The types of grpcio's handlers describe synchronous servers only, hence Any below.


def _guarded(method: Any, name: str) -> Any:
    async def guarded(request: Any, call: Context) -> Any:
        _enter(call)
        try:
            return await method(request, call)
        except Exception as error:  # every one of them ends the call, one way or the other
            await _end(call, name, error)

    return guarded


def _guarded_stream(method: Any, name: str) -> Any:
    async def guarded(request: Any, call: Context) -> AsyncIterator[Any]:
        _enter(call)
        try:
            async for response in method(request, call):
                yield response
        except Exception as error:  # as above
            await _end(call, name, error)

    return guarded


def _enter(call: Context) -> None:
    metadata = {key: value for key, value in call.invocation_metadata() or () if isinstance(value, str)}
    context.enter_request(sane_request_id(metadata.get(context.REQUEST_ID_METADATA)))


async def _end(call: Context, name: str, error: Exception) -> None:
    if isinstance(error, grpc.aio.AbortError | grpc.aio.UsageError):
        raise error
    if not isinstance(error, HzelError):
        log.error("rpc_failed", method=name, exc_info=error)
        error = Internal()
    await abort(call, error)


async def abort(call: Context, error: HzelError) -> None:
    """Ends the call with the error's status, its code in the trailing metadata."""
    await call.abort(error.grpc_status, error.message, trailing_metadata=((ERROR_CODE_METADATA, error.code),))


def domain_error(error: grpc.aio.AioRpcError) -> HzelError:
    """What one of our services reported, or what its silence means to a client."""
    for key, value in error.trailing_metadata() or ():
        if key == ERROR_CODE_METADATA and isinstance(value, str):
            return from_code(value, error.details() or "")
    if error.code() == grpc.StatusCode.DEADLINE_EXCEEDED:
        return TimedOut("the node did not answer in time")
    if error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED):
        return Unavailable("the node's service is not available, try again")
    return Internal()
