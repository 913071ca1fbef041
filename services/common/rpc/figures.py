"""What a service tells about its own work, over gRPC beside its own API: see figures.proto."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

import grpc
from hzel.figures.v1 import figures_pb2 as pb
from hzel.figures.v1 import figures_pb2_grpc

from services.common.rpc.channel import call

TIMEOUT_S = 5.0


@dataclass(frozen=True)
class Figure:
    """`name` is as Prometheus names metrics, unit included, without a prefix; `_total` ends that of a counter."""

    name: str
    help: str
    value: float


Figures = Callable[[], Awaitable[Sequence[Figure]]]


class FiguresServicer(figures_pb2_grpc.FiguresServiceServicer):
    def __init__(self, *sources: Figures) -> None:
        self._sources = sources

    async def GetFigures(
        self, request: pb.GetFiguresRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.GetFiguresResponse:
        figures = [figure for source in self._sources for figure in await source()]
        return pb.GetFiguresResponse(
            figures=[pb.Figure(name=figure.name, help=figure.help, value=figure.value) for figure in figures]
        )


class FiguresClient:
    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub = figures_pb2_grpc.FiguresServiceStub(channel)

    async def get(self) -> list[Figure]:
        """Raises HzelError."""
        answer = await call(self._stub.GetFigures, pb.GetFiguresRequest(), TIMEOUT_S)
        return [Figure(figure.name, figure.help, figure.value) for figure in answer.figures]
