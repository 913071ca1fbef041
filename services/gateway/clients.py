"""What the gateway asks of a node, in its own words: protobuf ends here."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum

import grpc
from google.protobuf.timestamp_pb2 import Timestamp
from hzel.lifecycle.v1 import lifecycle_pb2 as pb
from hzel.lifecycle.v1 import lifecycle_pb2_grpc

from services.common.errors import Internal
from services.common.rpc.channel import call
from services.common.rpc.probe import Probe

READ_TIMEOUT_S = 10.0
START_TIMEOUT_S = 60.0
DELETE_TIMEOUT_S = 60.0
FREEZE_TIMEOUT_S = 60.0
STOP_MARGIN_S = 30.0
DEFAULT_STOP_TIMEOUT_S = 10
PROBE_TIMEOUT_S = 2.0
NODE_KEPT_S = 5.0


class ContainerState(StrEnum):
    PROVISIONING = "provisioning"
    RUNNING = "running"
    STOPPED = "stopped"
    FAILED = "failed"
    PAUSED = "paused"


@dataclass(frozen=True)
class Wanted:
    """What an owner may ask for; empty image, command and runtime mean the node's defaults."""

    name: str
    cpu_cores: int
    memory_mb: int
    disk_gb: int
    image: str
    command: Sequence[str]
    env: Mapping[str, str]
    labels: Mapping[str, str]
    runtime: str
    restart_policy: str = "no"
    auto_stop_s: int | None = None


@dataclass(frozen=True)
class Container:
    """`state_reason` is None, or a machine word, a colon and a sentence."""

    id: str
    user_id: str
    ctid: int
    node_name: str
    spec: Wanted
    state: ContainerState
    state_reason: str | None
    ip_address: str | None
    exit_code: int | None
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    expires_at: datetime | None = None


@dataclass(frozen=True)
class Update:
    """What an owner changes; None leaves a field as it is."""

    name: str | None = None
    labels: Mapping[str, str] | None = None
    auto_stop_s: int | None = None  # 0: never
    ttl_s: int | None = None  # from now on; 0: for ever


@dataclass(frozen=True)
class Page:
    """`next_after_id` is None on the last page."""

    containers: list[Container]
    next_after_id: str | None


@dataclass(frozen=True)
class Node:
    name: str
    max_cpu_cores: int
    max_memory_mb: int
    max_disk_gb: int
    runtimes: tuple[str, ...]
    containerd_ready: bool


class LifecycleClient:
    """Calls raise the HzelError that lifecycle reported, Unavailable or TimedOut; each has a deadline."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub = lifecycle_pb2_grpc.LifecycleServiceStub(channel)
        self._probe = Probe(channel)
        self._node: Node | None = None
        self._node_fetched_at = 0.0

    async def create(self, container_id: str, user_id: str, wanted: Wanted, ttl_s: int | None, wait: bool) -> Container:
        """Creates and starts; repeated with the same id it joins the first attempt. It is deleted after `ttl_s`."""
        request = pb.CreateContainerRequest(
            id=container_id,
            user_id=user_id,
            no_wait=not wait,
            ttl_s=ttl_s or 0,
            spec=pb.ContainerSpec(
                name=wanted.name,
                cpu_cores=wanted.cpu_cores,
                memory_mb=wanted.memory_mb,
                disk_gb=wanted.disk_gb,
                image=wanted.image,
                command=wanted.command,
                env=wanted.env,
                labels=wanted.labels,
                runtime=wanted.runtime,
                restart_policy=wanted.restart_policy,
                auto_stop_s=wanted.auto_stop_s or 0,
            ),
        )
        return _container((await call(self._stub.CreateContainer, request, START_TIMEOUT_S)).container)

    async def get(self, container_id: str) -> Container:
        request = pb.GetContainerRequest(id=container_id)
        return _container((await call(self._stub.GetContainer, request, READ_TIMEOUT_S)).container)

    async def list(
        self,
        user_id: str | None,
        states: Sequence[ContainerState],
        labels: Mapping[str, str],
        after_id: str | None,
        limit: int,
    ) -> Page:
        """Of one user, or of everyone; oldest first."""
        request = pb.ListContainersRequest(
            user_id=user_id or "",
            states=[_PROTO_STATES[state] for state in states],
            labels=labels,
            after_id=after_id or "",
            limit=limit,
        )
        page = await call(self._stub.ListContainers, request, READ_TIMEOUT_S)
        return Page([_container(one) for one in page.containers], page.next_after_id or None)

    async def start(self, container_id: str) -> Container:
        request = pb.StartContainerRequest(id=container_id)
        return _container((await call(self._stub.StartContainer, request, START_TIMEOUT_S)).container)

    async def stop(self, container_id: str, timeout_s: int) -> Container:
        request = pb.StopContainerRequest(id=container_id, timeout_s=timeout_s)
        deadline = timeout_s + STOP_MARGIN_S
        return _container((await call(self._stub.StopContainer, request, deadline)).container)

    async def restart(self, container_id: str, timeout_s: int) -> Container:
        request = pb.RestartContainerRequest(id=container_id, timeout_s=timeout_s)
        deadline = timeout_s + STOP_MARGIN_S + START_TIMEOUT_S
        return _container((await call(self._stub.RestartContainer, request, deadline)).container)

    async def pause(self, container_id: str) -> Container:
        request = pb.PauseContainerRequest(id=container_id)
        return _container((await call(self._stub.PauseContainer, request, FREEZE_TIMEOUT_S)).container)

    async def resume(self, container_id: str) -> Container:
        request = pb.ResumeContainerRequest(id=container_id)
        return _container((await call(self._stub.ResumeContainer, request, FREEZE_TIMEOUT_S)).container)

    async def update(self, container_id: str, update: Update) -> Container:
        request = pb.UpdateContainerRequest(
            id=container_id,
            name=update.name,
            labels=pb.Labels(labels=update.labels) if update.labels is not None else None,
            auto_stop_s=update.auto_stop_s,
            ttl_s=update.ttl_s,
        )
        return _container((await call(self._stub.UpdateContainer, request, READ_TIMEOUT_S)).container)

    async def delete(self, container_id: str) -> None:
        await call(self._stub.DeleteContainer, pb.DeleteContainerRequest(id=container_id), DELETE_TIMEOUT_S)

    async def node(self) -> Node:
        """As it was at most `NODE_KEPT_S` ago."""
        if self._node is None or time.monotonic() - self._node_fetched_at > NODE_KEPT_S:
            return await self.node_now(READ_TIMEOUT_S)
        return self._node

    async def node_now(self, timeout_s: float = PROBE_TIMEOUT_S) -> Node:
        answer = await call(self._stub.GetNode, pb.GetNodeRequest(), timeout_s)
        self._node = Node(
            name=answer.name,
            max_cpu_cores=answer.cpu_cores,
            max_memory_mb=answer.memory_mb,
            max_disk_gb=answer.max_disk_gb,
            runtimes=tuple(answer.runtimes),
            containerd_ready=answer.containerd_ready,
        )
        self._node_fetched_at = time.monotonic()
        return self._node

    async def check(self) -> None:
        """Raises Unavailable unless the service says that it serves."""
        await self._probe.check()


_PROTO_STATES = {
    ContainerState.PROVISIONING: pb.CONTAINER_STATE_PROVISIONING,
    ContainerState.RUNNING: pb.CONTAINER_STATE_RUNNING,
    ContainerState.STOPPED: pb.CONTAINER_STATE_STOPPED,
    ContainerState.FAILED: pb.CONTAINER_STATE_FAILED,
    ContainerState.PAUSED: pb.CONTAINER_STATE_PAUSED,
}
_STATES = {number: state for state, number in _PROTO_STATES.items()}


def _container(message: pb.Container) -> Container:
    if message.state not in _STATES or not message.HasField("created_at"):
        raise Internal
    return Container(
        id=message.id,
        user_id=message.user_id,
        ctid=message.ctid,
        node_name=message.node_name,
        spec=_wanted(message.spec),
        state=_STATES[message.state],
        state_reason=message.state_reason or None,
        ip_address=message.ip_address or None,
        exit_code=message.exit_code if message.HasField("exit_code") else None,
        created_at=_moment(message.created_at),
        started_at=_moment(message.started_at) if message.HasField("started_at") else None,
        finished_at=_moment(message.finished_at) if message.HasField("finished_at") else None,
        expires_at=_moment(message.expires_at) if message.HasField("expires_at") else None,
    )


def _wanted(spec: pb.ContainerSpec) -> Wanted:
    return Wanted(
        name=spec.name,
        cpu_cores=spec.cpu_cores,
        memory_mb=spec.memory_mb,
        disk_gb=spec.disk_gb,
        image=spec.image,
        command=tuple(spec.command),
        env=dict(spec.env),
        labels=dict(spec.labels),
        runtime=spec.runtime,
        restart_policy=spec.restart_policy or "no",
        auto_stop_s=spec.auto_stop_s or None,
    )


def _moment(stamp: Timestamp) -> datetime:
    return stamp.ToDatetime(UTC)
