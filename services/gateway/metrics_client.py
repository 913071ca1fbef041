"""What the gateway asks of metrics, in its own words."""

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import grpc
from google.protobuf.timestamp_pb2 import Timestamp
from hzel.metrics.v1 import metrics_pb2 as pb
from hzel.metrics.v1 import metrics_pb2_grpc

from services.common.rpc.channel import call, stream

READ_TIMEOUT_S = 10.0
SERIES = (
    "cpu_percent",
    "memory_used_bytes",
    "disk_used_bytes",
    "pids",
    "network_rx_bytes",
    "network_tx_bytes",
    "io_read_bytes",
    "io_write_bytes",
)


@dataclass(frozen=True)
class Snapshot:
    """A limit is None where there is none; the disk's figures are None where it could not be looked at."""

    container_id: str
    sampled_at: datetime
    started_at: datetime
    cpu_percent: float
    cpu_cores: float
    cpu_usage_ns: int
    cpu_throttled_ns: int
    memory_used_bytes: int
    memory_limit_bytes: int | None
    network_rx_bytes: int
    network_tx_bytes: int
    disk_used_bytes: int | None
    disk_limit_bytes: int | None
    io_read_bytes: int | None
    io_write_bytes: int | None
    pids: int
    pids_limit: int | None
    oom_kills: int


@dataclass(frozen=True)
class History:
    """`series` has a list as long as `times` for each name of SERIES; what is not known is not a number."""

    holds_since: datetime
    step_s: int
    times: Sequence[datetime]
    series: Mapping[str, Sequence[float]]


@dataclass(frozen=True)
class ServiceUsage:
    name: str
    cpu_usage_s: float
    memory_bytes: int
    started_at: datetime


@dataclass(frozen=True)
class NodeUsage:
    """`cpu_usage_s` is of all cores, since boot; the disk is the one with the state folder."""

    name: str
    booted_at: datetime
    cpu_cores: int
    cpu_percent: float
    cpu_usage_s: float
    load: tuple[float, float, float]
    memory_total_bytes: int
    memory_available_bytes: int
    disk_total_bytes: int
    disk_free_bytes: int
    network_rx_bytes: int
    network_tx_bytes: int
    containers: int
    services: tuple[ServiceUsage, ...]


class MetricsClient:
    """Calls raise the HzelError that metrics reported, Unavailable or TimedOut; each but a stream has a deadline."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub = metrics_pb2_grpc.MetricsServiceStub(channel)

    async def snapshot(self, container_id: str) -> Snapshot:
        """Raises Conflict for a container that is not running."""
        request = pb.GetSnapshotRequest(container_id=container_id)
        return _snapshot((await call(self._stub.GetSnapshot, request, READ_TIMEOUT_S)).snapshot)

    async def snapshots(self) -> list[Snapshot]:
        """Of all that run."""
        answer = await call(self._stub.ListSnapshots, pb.ListSnapshotsRequest(), READ_TIMEOUT_S)
        return [_snapshot(snapshot) for snapshot in answer.snapshots]

    async def history(self, container_id: str, since: datetime | None, step_s: int | None) -> History:
        """Raises Conflict for a container that is not running."""
        request = pb.GetHistoryRequest(container_id=container_id, step_s=step_s)
        if since is not None:
            request.since.FromDatetime(since)
        answer = await call(self._stub.GetHistory, request, READ_TIMEOUT_S)
        return History(
            holds_since=_moment(answer.holds_since),
            step_s=answer.step_s,
            times=[datetime.fromtimestamp(time, UTC) for time in answer.times],
            series={name: getattr(answer, name) for name in SERIES},
        )

    async def watch(self, container_id: str) -> AsyncIterator[Snapshot]:
        """One at once and one a second, until the container ends. Raises Conflict for one that is not running."""
        async for answer in stream(self._stub.Watch, pb.WatchRequest(container_id=container_id)):
            yield _snapshot(answer.snapshot)

    async def node(self) -> NodeUsage:
        answer = await call(self._stub.GetNode, pb.GetNodeRequest(), READ_TIMEOUT_S)
        return NodeUsage(
            name=answer.name,
            booted_at=_moment(answer.booted_at),
            cpu_cores=answer.cpu_cores,
            cpu_percent=answer.cpu_percent,
            cpu_usage_s=answer.cpu_usage_s,
            load=(answer.load_1, answer.load_5, answer.load_15),
            memory_total_bytes=answer.memory_total_bytes,
            memory_available_bytes=answer.memory_available_bytes,
            disk_total_bytes=answer.disk_total_bytes,
            disk_free_bytes=answer.disk_free_bytes,
            network_rx_bytes=answer.network_rx_bytes,
            network_tx_bytes=answer.network_tx_bytes,
            containers=answer.containers,
            services=tuple(
                ServiceUsage(service.name, service.cpu_usage_s, service.memory_bytes, _moment(service.started_at))
                for service in answer.services
            ),
        )


def _snapshot(message: pb.Snapshot) -> Snapshot:
    return Snapshot(
        container_id=message.container_id,
        sampled_at=_moment(message.sampled_at),
        started_at=_moment(message.started_at),
        cpu_percent=message.cpu_percent,
        cpu_cores=message.cpu_cores,
        cpu_usage_ns=message.cpu_usage_ns,
        cpu_throttled_ns=message.cpu_throttled_ns,
        memory_used_bytes=message.memory_used_bytes,
        memory_limit_bytes=message.memory_limit_bytes if message.HasField("memory_limit_bytes") else None,
        network_rx_bytes=message.network_rx_bytes,
        network_tx_bytes=message.network_tx_bytes,
        disk_used_bytes=message.disk_used_bytes if message.HasField("disk_used_bytes") else None,
        disk_limit_bytes=message.disk_limit_bytes if message.HasField("disk_limit_bytes") else None,
        io_read_bytes=message.io_read_bytes if message.HasField("io_read_bytes") else None,
        io_write_bytes=message.io_write_bytes if message.HasField("io_write_bytes") else None,
        pids=message.pids,
        pids_limit=message.pids_limit if message.HasField("pids_limit") else None,
        oom_kills=message.oom_kills,
    )


def _moment(stamp: Timestamp) -> datetime:
    return stamp.ToDatetime(UTC)
