"""The bodies of the metrics routes."""

import math
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Literal, Self, TypeVar

from pydantic import BaseModel, Field

from services.gateway.metrics_client import History, Snapshot

MIB = 1024**2
Value = TypeVar("Value", int, float)


class ContainerMetrics(BaseModel):
    """Counters are since the container last started."""

    cpu_percent: float = Field(description="of its own cores over the last second, 0 to 100")
    memory_used_mb: int = Field(description="MiB, without page cache that can be dropped")
    memory_limit_mb: int | None = Field(description="MiB")
    network_rx_bytes: int
    network_tx_bytes: int
    sampled_at: datetime
    cpu_usage_ns: int
    cpu_throttled_ns: int = Field(description="how long it was kept from running by its limit")
    memory_used_bytes: int
    memory_limit_bytes: int | None
    disk_used_bytes: int | None
    disk_limit_bytes: int | None
    io_read_bytes: int | None = Field(description="from its own disk")
    io_write_bytes: int | None
    pids: int = Field(description="processes and threads")
    pids_limit: int | None
    oom_kills: int = Field(description="processes killed for want of memory")
    uptime_s: float

    @classmethod
    def of(cls, snapshot: Snapshot) -> Self:
        limit = snapshot.memory_limit_bytes
        return cls(
            cpu_percent=round(snapshot.cpu_percent, 2),
            memory_used_mb=round(snapshot.memory_used_bytes / MIB),
            memory_limit_mb=limit // MIB if limit is not None else None,
            network_rx_bytes=snapshot.network_rx_bytes,
            network_tx_bytes=snapshot.network_tx_bytes,
            sampled_at=snapshot.sampled_at,
            cpu_usage_ns=snapshot.cpu_usage_ns,
            cpu_throttled_ns=snapshot.cpu_throttled_ns,
            memory_used_bytes=snapshot.memory_used_bytes,
            memory_limit_bytes=limit,
            disk_used_bytes=snapshot.disk_used_bytes,
            disk_limit_bytes=snapshot.disk_limit_bytes,
            io_read_bytes=snapshot.io_read_bytes,
            io_write_bytes=snapshot.io_write_bytes,
            pids=snapshot.pids,
            pids_limit=snapshot.pids_limit,
            oom_kills=snapshot.oom_kills,
            uptime_s=round((snapshot.sampled_at - snapshot.started_at).total_seconds(), 3),
        )


class MetricsSample(ContainerMetrics):
    """A frame of `/ws/metrics/{id}`."""

    type: Literal["sample"] = "sample"


class Series(BaseModel):
    """The first four are means over a step, the others amounts during it. null: not known."""

    cpu_percent: list[float | None]
    memory_used_bytes: list[int | None]
    disk_used_bytes: list[int | None]
    pids: list[float | None]
    network_rx_bytes: list[int | None]
    network_tx_bytes: list[int | None]
    io_read_bytes: list[int | None]
    io_write_bytes: list[int | None]


class MetricsHistory(BaseModel):
    """A list of `series` has a value for each of `times`; a time when nothing was sampled is not among them."""

    holds_since: datetime = Field(description="nothing older is kept at this step")
    step_s: int
    times: list[datetime] = Field(description="where a step begins")
    series: Series

    @classmethod
    def of(cls, history: History) -> Self:
        series = Series(
            cpu_percent=_each(history.series["cpu_percent"], _two_places),
            memory_used_bytes=_each(history.series["memory_used_bytes"], round),
            disk_used_bytes=_each(history.series["disk_used_bytes"], round),
            pids=_each(history.series["pids"], _two_places),
            network_rx_bytes=_each(history.series["network_rx_bytes"], round),
            network_tx_bytes=_each(history.series["network_tx_bytes"], round),
            io_read_bytes=_each(history.series["io_read_bytes"], round),
            io_write_bytes=_each(history.series["io_write_bytes"], round),
        )
        return cls(holds_since=history.holds_since, step_s=history.step_s, times=list(history.times), series=series)


def _each(values: Sequence[float], rounded: Callable[[float], Value]) -> list[Value | None]:
    return [None if math.isnan(value) else rounded(value) for value in values]


def _two_places(value: float) -> float:
    return round(value, 2)
