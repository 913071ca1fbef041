"""hzel.metrics.v1 over gRPC: parse, call, convert."""

import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc
from google.protobuf.timestamp_pb2 import Timestamp
from hzel.metrics.v1 import metrics_pb2 as pb
from hzel.metrics.v1 import metrics_pb2_grpc

from services.common.errors import ContainerNotFound, ValidationFailed
from services.common.ids import is_id
from services.metrics.history import COLUMNS, LEVELS, Series
from services.metrics.node import Node, NodeUsage, ServiceUsage
from services.metrics.sample import Sample
from services.metrics.sampler import Sampler

SERVICE_NAME = pb.DESCRIPTOR.services_by_name["MetricsService"].full_name
DEFAULT_AGE = timedelta(minutes=15)
MAX_STEP_S = LEVELS[-1].span_s
Context = grpc.aio.ServicerContext[Any, Any]


class MetricsServicer(metrics_pb2_grpc.MetricsServiceServicer):
    def __init__(self, sampler: Sampler, node: Node, node_name: str) -> None:
        self._sampler = sampler
        self._node = node
        self._node_name = node_name

    async def GetSnapshot(self, request: pb.GetSnapshotRequest, context: Context) -> pb.GetSnapshotResponse:
        sample = await self._sampler.snapshot(_container_id(request.container_id))
        return pb.GetSnapshotResponse(snapshot=to_proto(sample))

    async def ListSnapshots(self, request: pb.ListSnapshotsRequest, context: Context) -> pb.ListSnapshotsResponse:
        return pb.ListSnapshotsResponse(snapshots=[to_proto(sample) for sample in self._sampler.snapshots()])

    async def GetHistory(self, request: pb.GetHistoryRequest, context: Context) -> pb.GetHistoryResponse:
        history = await self._sampler.history(_container_id(request.container_id))
        now = time.time()
        since = (
            request.since.ToDatetime(UTC).timestamp()
            if request.HasField("since")
            else now - DEFAULT_AGE.total_seconds()
        )
        return _series(history.series(since, _step_s(request), now))

    async def Watch(self, request: pb.WatchRequest, context: Context) -> AsyncIterator[pb.WatchResponse]:
        async for sample in self._sampler.watch(_container_id(request.container_id)):
            yield pb.WatchResponse(snapshot=to_proto(sample))

    async def GetNode(self, request: pb.GetNodeRequest, context: Context) -> pb.GetNodeResponse:
        return _node(self._node_name, self._sampler.running, self._node.usage())


def to_proto(sample: Sample) -> pb.Snapshot:
    reading, counters = sample.reading, sample.reading.counters
    return pb.Snapshot(
        container_id=sample.container_id,
        sampled_at=_stamp(reading.unix_s),
        cpu_percent=sample.cpu_percent,
        cpu_cores=sample.cpu_cores,
        cpu_usage_ns=counters.cpu_usage_ns,
        cpu_throttled_ns=counters.cpu_throttled_ns,
        memory_used_bytes=counters.memory_used_bytes,
        memory_limit_bytes=counters.memory_limit_bytes,
        network_rx_bytes=reading.network_received,
        network_tx_bytes=reading.network_sent,
        disk_used_bytes=reading.disk.used if reading.disk is not None else None,
        disk_limit_bytes=reading.disk.limit if reading.disk is not None else None,
        io_read_bytes=reading.disk_io.read if reading.disk_io is not None else None,
        io_write_bytes=reading.disk_io.written if reading.disk_io is not None else None,
        pids=counters.pids,
        pids_limit=counters.pids_limit,
        oom_kills=counters.oom_kills,
        started_at=_stamp(sample.started_unix_s),
    )


def _series(series: Series) -> pb.GetHistoryResponse:
    columns = zip(*(point.values for point in series.points), strict=True) if series.points else [()] * len(COLUMNS)
    return pb.GetHistoryResponse(
        holds_since=_stamp(series.holds_since),
        step_s=series.step_s,
        times=[point.time for point in series.points],
        **dict(zip(COLUMNS, columns, strict=True)),
    )


def _node(name: str, containers: int, usage: NodeUsage) -> pb.GetNodeResponse:
    return pb.GetNodeResponse(
        name=name,
        sampled_at=_stamp(usage.unix_s),
        booted_at=_stamp(usage.booted_unix_s),
        cpu_cores=usage.cpu_cores,
        cpu_percent=usage.cpu_percent,
        cpu_usage_s=usage.cpu_usage_s,
        load_1=usage.load[0],
        load_5=usage.load[1],
        load_15=usage.load[2],
        memory_total_bytes=usage.memory_total_bytes,
        memory_available_bytes=usage.memory_available_bytes,
        disk_total_bytes=usage.disk_total_bytes,
        disk_free_bytes=usage.disk_free_bytes,
        network_rx_bytes=usage.network_rx_bytes,
        network_tx_bytes=usage.network_tx_bytes,
        containers=containers,
        services=[_service(service) for service in usage.services],
    )


def _service(service: ServiceUsage) -> pb.ServiceUsage:
    return pb.ServiceUsage(
        name=service.name,
        pid=service.pid,
        cpu_usage_s=service.cpu_usage_s,
        memory_bytes=service.memory_bytes,
        started_at=_stamp(service.started_unix_s),
    )


def _container_id(text: str) -> str:
    """What is no id names no container, nor a folder."""
    if not is_id(text):
        raise ContainerNotFound
    return text


def _step_s(request: pb.GetHistoryRequest) -> int | None:
    if not request.HasField("step_s"):
        return None
    if not 1 <= request.step_s <= MAX_STEP_S:
        raise ValidationFailed(f"step must be 1 to {MAX_STEP_S} seconds")
    return request.step_s


def _stamp(unix_s: float) -> Timestamp:
    stamp = Timestamp()
    stamp.FromDatetime(datetime.fromtimestamp(unix_s, UTC))
    return stamp
