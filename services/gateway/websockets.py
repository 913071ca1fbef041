"""WebSockets in routes: who calls, refusals before the upgrade, and a conversation until either side ends it.

    @router.websocket("/ws/things/{thing_id}")
    async def watch_thing(socket: WebSocket, parts: TheParts, caller: SocketCaller, thing_id: ThingId) -> None:
        thing = await parts.things.get(caller, thing_id)
        await converse(socket, parts.things.watch(thing), parts.things.hear)

- `SocketCaller` is the caller, from the header `Authorization` or else from `?token=`.
- Whatever is raised before the socket is accepted refuses the upgrade: an HzelError with its HTTP status and
  envelope, as in any other route.
- `converse` accepts, sends what an asynchronous generator yields, and hands each message of the client to a
  function. It returns when the generator has ended (normal close), the client has left, or the service stops; the
  generator is closed then, so its `finally` runs. What either raises closes the socket: see `CLOSE_CODES`.
  With `first_decides` it accepts only once there is a first frame: what is raised instead of one is a refusal.
- `on_left` is told the code with which the client left, 1006 where it did so without a word; the generator is closed
  after it. `allow_messages_of` lets it send larger messages than others may.
- Nothing is queued: a client that reads slowly holds the generator, a function that takes its time holds the client.
  Unless it `hears_out`, it is cancelled soon after the connection is gone, and what came behind it is dropped.
- Pings and the limit of a message are in `websocket_protocol`; the request id and the log line in `boundary`.
"""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from typing import Annotated

import structlog
from fastapi import Depends, WebSocket, WebSocketDisconnect

from services.common.errors import (
    Forbidden,
    HzelError,
    InvalidRequest,
    RateLimited,
    TimedOut,
    Unauthenticated,
    Unavailable,
)
from services.gateway.authentication import Caller
from services.gateway.parts import parts
from services.gateway.websocket_protocol import LARGER_MESSAGES, LOST

log = structlog.get_logger(__name__)

NORMAL_CLOSURE = 1000
INTERNAL_ERROR = 1011
# RFC 6455, section 7.4, and its registry; any other error is 1011. The reason in the frame is the error's code.
CLOSE_CODES: dict[type[HzelError], int] = {
    InvalidRequest: 1008,
    Unauthenticated: 1008,
    Forbidden: 1008,
    Unavailable: 1013,
    RateLimited: 1013,
    TimedOut: 1013,
}
# What a client has said right before its connection was lost.
HEARD_WITHIN_S = 0.5
Frame = str | bytes


async def _caller(socket: WebSocket) -> Caller:
    authorization = socket.headers.get("authorization")
    if authorization is None and (token := socket.query_params.get("token")) is not None:
        authorization = f"Bearer {token}"
    caller = await parts(socket).authentication.caller(authorization)
    socket.state.caller = caller
    return caller


SocketCaller = Annotated[Caller, Depends(_caller)]


async def nothing_heard(_message: Frame) -> None:
    """For conversations in which only the server speaks."""


async def unnoticed(_code: int) -> None:
    """For conversations that are over when the client has left, however it did."""


async def converse(
    socket: WebSocket,
    outgoing: AsyncGenerator[Frame, None],
    incoming: Callable[[Frame], Awaitable[None]] = nothing_heard,
    *,
    first_decides: bool = False,
    hears_out: bool = True,
    on_left: Callable[[int], Awaitable[None]] = unnoticed,
) -> None:
    """See above. Once the socket is accepted, raises only what is a fault of ours."""
    async with aclosing(outgoing):
        first = await anext(outgoing, None) if first_decides else None
        await socket.accept()
        code: int | None = NORMAL_CLOSURE
        reason = ""
        try:
            async with asyncio.TaskGroup() as group:
                hearing = group.create_task(_hear(socket, incoming, on_left, hears_out))
                if first is not None:
                    await _say(socket, first)
                async for frame in outgoing:
                    await _say(socket, frame)
                hearing.cancel()
        except* WebSocketDisconnect:
            code = None
        except* HzelError as failed:
            code, reason = _close(failed)
    if code is not None:
        with contextlib.suppress(WebSocketDisconnect):
            await socket.close(code, reason)


def allow_messages_of(socket: WebSocket, most: int) -> None:
    """From now on the client's messages may have up to `most` bytes."""
    socket.scope["extensions"][LARGER_MESSAGES]["allow"](most)


async def _hear(
    socket: WebSocket,
    incoming: Callable[[Frame], Awaitable[None]],
    on_left: Callable[[int], Awaitable[None]],
    hears_out: bool,
) -> None:
    lost: asyncio.Future[int] = socket.scope["extensions"][LOST]["code"]
    while True:
        message = await socket.receive()
        if message["type"] == "websocket.disconnect":
            code = message["code"]
            break
        text = message.get("text")
        hearing = incoming(text if text is not None else message["bytes"])
        if hears_out:
            await hearing
        elif not await _while_connected(lost, hearing):
            code = lost.result()
            break
    await on_left(code)
    raise WebSocketDisconnect(code)


async def _while_connected(lost: asyncio.Future[int], hearing: Awaitable[None]) -> bool:
    """False where it was cancelled because the connection was lost."""
    connected = asyncio.timeout(None)

    def cut_short(_lost: asyncio.Future[int]) -> None:
        if not is_heard:
            connected.reschedule(asyncio.get_running_loop().time() + HEARD_WITHIN_S)

    is_heard = False
    lost.add_done_callback(cut_short)
    try:
        async with connected:
            await hearing
    except TimeoutError:
        if not connected.expired():
            raise
    finally:
        is_heard = True
        lost.remove_done_callback(cut_short)
    return not connected.expired()


async def _say(socket: WebSocket, frame: Frame) -> None:
    if isinstance(frame, str):
        await socket.send_text(frame)
    else:
        await socket.send_bytes(frame)


def _close(failed: ExceptionGroup[HzelError]) -> tuple[int, str]:
    error = failed.exceptions[0]
    if isinstance(error, ExceptionGroup):
        return _close(error)
    if (code := close_code(error)) == INTERNAL_ERROR:
        log.warning("conversation_failed", code=error.code, reason=error.message)
    return code, error.code


def close_code(error: HzelError) -> int:
    return next((code for kind, code in CLOSE_CODES.items() if isinstance(error, kind)), INTERNAL_ERROR)
