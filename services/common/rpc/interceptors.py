"""Between a domain error and the wire, in both directions, and the request id beside it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, cast

import grpc
import structlog

from services.common import context
from services.common.errors import HzelError, Internal, TimedOut, Unavailable, from_code
from services.common.ids import sane_request_id

log = structlog.get_logger(__name__)

ERROR_CODE_METADATA = "hzel-error-code"


class ErrorInterceptor(grpc.aio.ServerInterceptor):
    """Binds the caller's request id; turns what a unary method raises into a status and its code."""

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any] | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        handler = await continuation(handler_call_details)
        if handler is None or handler.unary_unary is None:
            return handler
        # The types describe synchronous servers only.
        method = cast("Callable[[Any, Any], Awaitable[Any]]", handler.unary_unary)

        async def guarded(request: Any, call: grpc.aio.ServicerContext[Any, Any]) -> Any:
            metadata = {key: value for key, value in call.invocation_metadata() or () if isinstance(value, str)}
            context.enter_request(sane_request_id(metadata.get(context.REQUEST_ID_METADATA)))
            try:
                return await method(request, call)
            except HzelError as error:
                await abort(call, error)
            except (grpc.aio.AbortError, grpc.aio.UsageError):
                raise
            except Exception:
                log.exception("rpc_failed", method=handler_call_details.method)
                await abort(call, Internal())

        return grpc.unary_unary_rpc_method_handler(
            guarded,
            request_deserializer=handler.request_deserializer,
            response_serializer=handler.response_serializer,
        )


async def abort(call: grpc.aio.ServicerContext[Any, Any], error: HzelError) -> None:
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
