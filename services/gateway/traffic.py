"""What the gateway has done since it started, counted: requests, WebSockets, and the calls it made to services."""

import asyncio
import time
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, cast

import grpc

# Upper bounds, seconds; a last bucket holds what took longer.
BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
NO_ROUTE = "none"


class Durations:
    """A histogram: how many took no longer than each bound of `BUCKETS_S`, and longer than the one before."""

    def __init__(self) -> None:
        self.counts = [0] * (len(BUCKETS_S) + 1)
        self.sum_s = 0.0

    def add(self, seconds: float) -> None:
        self.counts[bisect_left(BUCKETS_S, seconds)] += 1
        self.sum_s += seconds


@dataclass
class Traffic:
    """Routes are templates, `NO_ROUTE` where there is none: what clients send makes no new series."""

    requests: Counter[tuple[str, str, int]] = field(default_factory=Counter)  # method, route, status
    request_durations: dict[tuple[str, str], Durations] = field(default_factory=lambda: defaultdict(Durations))
    sockets: Counter[tuple[str, int]] = field(default_factory=Counter)  # route, status of the handshake
    open_sockets: Counter[str] = field(default_factory=Counter)  # route
    calls: Counter[tuple[str, str, str]] = field(default_factory=Counter)  # service, method, gRPC status
    call_durations: dict[tuple[str, str], Durations] = field(default_factory=lambda: defaultdict(Durations))

    def add_request(self, method: str, route: str | None, status: int, seconds: float) -> None:
        self.requests[method, route or NO_ROUTE, status] += 1
        self.request_durations[method, route or NO_ROUTE].add(seconds)

    def open_socket(self, route: str) -> None:
        self.open_sockets[route] += 1

    def add_socket(self, route: str | None, status: int, was_open: bool) -> None:
        self.sockets[route or NO_ROUTE, status] += 1
        if was_open:
            self.open_sockets[route or NO_ROUTE] -= 1

    def add_call(self, path: str, status: str, seconds: float) -> None:
        """`path` as gRPC writes it: /service/method."""
        self.add_stream(path, status)
        _, service, method = path.split("/")
        self.call_durations[service, method].add(seconds)

    def add_stream(self, path: str, status: str) -> None:
        _, service, method = path.split("/")
        self.calls[service, method, status] += 1


class CallCounter(grpc.aio.UnaryUnaryClientInterceptor):
    """Counts the unary calls of a channel."""

    def __init__(self, traffic: Traffic) -> None:
        self._traffic = traffic

    async def intercept_unary_unary(
        self,
        continuation: Callable[[grpc.aio.ClientCallDetails, Any], Awaitable[Any]],
        client_call_details: grpc.aio.ClientCallDetails,
        request: Any,
    ) -> Any:
        started = time.perf_counter()
        call = await continuation(client_call_details, request)
        status: grpc.StatusCode = await call.code()
        self._traffic.add_call(_path(client_call_details), status.name, time.perf_counter() - started)
        return call


class StreamCounter(grpc.aio.UnaryStreamClientInterceptor):
    """Counts the calls of a channel that are answered by a stream, when they end; one that is left is CANCELLED.

    How long one lasts says nothing: as long as somebody listens.
    """

    def __init__(self, traffic: Traffic) -> None:
        self._traffic = traffic
        self._ending: set[asyncio.Task[None]] = set()

    async def intercept_unary_stream(
        self,
        continuation: Callable[[grpc.aio.ClientCallDetails, Any], Awaitable[Any]],
        client_call_details: grpc.aio.ClientCallDetails,
        request: Any,
    ) -> Any:
        call = await continuation(client_call_details, request)
        path = _path(client_call_details)

        def ended(_call: Any) -> None:
            # Its status is there already, and can only be awaited.
            task = asyncio.create_task(self._count(path, call))
            self._ending.add(task)
            task.add_done_callback(self._ending.discard)

        call.add_done_callback(ended)
        return call

    async def _count(self, path: str, call: Any) -> None:
        status: grpc.StatusCode = await call.code()
        self._traffic.add_stream(path, status.name)


def _path(details: grpc.aio.ClientCallDetails) -> str:
    # Its type says that it is text.
    path = cast("str | bytes", details.method)
    return path.decode() if isinstance(path, bytes) else path
