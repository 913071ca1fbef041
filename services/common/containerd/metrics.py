"""What containerd's shims read from the control groups of their tasks."""

from containerd.cgroups.v1 import metrics_pb2 as v1
from containerd.cgroups.v2 import metrics_pb2 as v2
from containerd.services.tasks.v1 import tasks_pb2, tasks_pb2_grpc
from google.protobuf.any_pb2 import Any

from services.common.containerd.connection import Connection
from services.common.containerd.errors import ContainerdError, ContainerdNotFound
from services.common.counters import Counters

# How the two versions write "no limit".
NO_MEMORY_LIMIT_V1 = (1 << 63) - (1 << 16)
NO_LIMIT_V2 = (1 << 64) - 1


class Metrics:
    def __init__(self, connection: Connection) -> None:
        self._call = connection.call
        self._stub = tasks_pb2_grpc.TasksStub(connection.channel)

    async def get(self, container_id: str) -> Counters | None:
        """None if there is no such task. How much CPU time it may use is not among what containerd tells."""
        request = tasks_pb2.MetricsRequest(filters=[f"id=={container_id}"])
        try:
            reply = await self._call("metrics of task", container_id, self._stub.Metrics, request)
        except ContainerdNotFound:
            return None
        return counters(reply.metrics[0].data) if reply.metrics else None


def counters(data: Any) -> Counters:
    """Raises ContainerdError for a kind of metrics that is neither version's."""
    if data.type_url == v2.Metrics.DESCRIPTOR.full_name:
        return _of_v2(v2.Metrics.FromString(data.value))
    if data.type_url == v1.Metrics.DESCRIPTOR.full_name:
        return _of_v1(v1.Metrics.FromString(data.value))
    raise ContainerdError(f"metrics of an unknown kind: {data.type_url}")


def _of_v1(metrics: v1.Metrics) -> Counters:
    limit = metrics.memory.usage.limit
    return Counters(
        cpu_usage_ns=metrics.cpu.usage.total,
        cpu_throttled_ns=metrics.cpu.throttling.throttled_time,
        cpu_limit_cores=None,
        memory_used_bytes=max(0, metrics.memory.usage.usage - metrics.memory.total_inactive_file),
        memory_limit_bytes=limit if 0 < limit < NO_MEMORY_LIMIT_V1 else None,
        pids=metrics.pids.current,
        pids_limit=metrics.pids.limit or None,
        oom_kills=metrics.memory_oom_control.oom_kill,
    )


def _of_v2(metrics: v2.Metrics) -> Counters:
    return Counters(
        cpu_usage_ns=metrics.cpu.usage_usec * 1000,
        cpu_throttled_ns=metrics.cpu.throttled_usec * 1000,
        cpu_limit_cores=None,
        memory_used_bytes=max(0, metrics.memory.usage - metrics.memory.inactive_file),
        memory_limit_bytes=_limit_v2(metrics.memory.usage_limit),
        pids=metrics.pids.current,
        pids_limit=_limit_v2(metrics.pids.limit),
        oom_kills=metrics.memory_events.oom_kill,
    )


def _limit_v2(limit: int) -> int | None:
    return limit if 0 < limit < NO_LIMIT_V2 else None
