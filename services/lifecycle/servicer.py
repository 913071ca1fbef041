"""hzel.lifecycle.v1 over gRPC: parse, call, convert."""

from datetime import datetime
from typing import Any

import grpc
from google.protobuf.timestamp_pb2 import Timestamp
from hzel.lifecycle.v1 import lifecycle_pb2 as pb
from hzel.lifecycle.v1 import lifecycle_pb2_grpc

from services.common.containerd.connection import Connection
from services.common.settings import Settings
from services.lifecycle import requests
from services.lifecycle.container import Container
from services.lifecycle.operations import Operations
from services.lifecycle.runtimes import installed_runtimes
from services.lifecycle.state import LIVE, State

SERVICE_NAME = pb.DESCRIPTOR.services_by_name["LifecycleService"].full_name
HAS_ADDRESS = (State.PROVISIONING, *LIVE)
Context = grpc.aio.ServicerContext[Any, Any]


class LifecycleServicer(lifecycle_pb2_grpc.LifecycleServiceServicer):
    def __init__(self, operations: Operations, connection: Connection, settings: Settings) -> None:
        self._operations = operations
        self._connection = connection
        self._settings = settings

    async def CreateContainer(self, request: pb.CreateContainerRequest, context: Context) -> pb.CreateContainerResponse:
        wanted = requests.wanted(request.spec, self._settings)
        container_id = requests.new_container_id(request.id)
        ttl_s = requests.ttl(request)
        container = await self._operations.create(container_id, request.user_id, wanted, ttl_s, not request.no_wait)
        return pb.CreateContainerResponse(container=to_proto(container))

    async def GetContainer(self, request: pb.GetContainerRequest, context: Context) -> pb.GetContainerResponse:
        container = await self._operations.get(requests.container_id(request.id))
        return pb.GetContainerResponse(container=to_proto(container))

    async def ListContainers(self, request: pb.ListContainersRequest, context: Context) -> pb.ListContainersResponse:
        limit = requests.page_limit(request)
        # One more than asked for tells whether anything follows.
        found = await self._operations.page(
            request.user_id, requests.states(request), dict(request.labels), request.after_id, limit + 1
        )
        more = len(found) > limit
        return pb.ListContainersResponse(
            containers=[to_proto(container) for container in found[:limit]],
            next_after_id=found[limit - 1].id if more else "",
        )

    async def StartContainer(self, request: pb.StartContainerRequest, context: Context) -> pb.StartContainerResponse:
        container = await self._operations.start(requests.container_id(request.id))
        return pb.StartContainerResponse(container=to_proto(container))

    async def StopContainer(self, request: pb.StopContainerRequest, context: Context) -> pb.StopContainerResponse:
        timeout_s = requests.stop_timeout(request)
        container = await self._operations.stop(requests.container_id(request.id), timeout_s)
        return pb.StopContainerResponse(container=to_proto(container))

    async def RestartContainer(
        self, request: pb.RestartContainerRequest, context: Context
    ) -> pb.RestartContainerResponse:
        timeout_s = requests.stop_timeout(request)
        container = await self._operations.restart(requests.container_id(request.id), timeout_s)
        return pb.RestartContainerResponse(container=to_proto(container))

    async def PauseContainer(self, request: pb.PauseContainerRequest, context: Context) -> pb.PauseContainerResponse:
        container = await self._operations.pause(requests.container_id(request.id))
        return pb.PauseContainerResponse(container=to_proto(container))

    async def ResumeContainer(self, request: pb.ResumeContainerRequest, context: Context) -> pb.ResumeContainerResponse:
        container = await self._operations.resume(requests.container_id(request.id))
        return pb.ResumeContainerResponse(container=to_proto(container))

    async def UpdateContainer(self, request: pb.UpdateContainerRequest, context: Context) -> pb.UpdateContainerResponse:
        container = await self._operations.update(requests.container_id(request.id), requests.update(request))
        return pb.UpdateContainerResponse(container=to_proto(container))

    async def DeleteContainer(self, request: pb.DeleteContainerRequest, context: Context) -> pb.DeleteContainerResponse:
        await self._operations.delete(requests.container_id(request.id))
        return pb.DeleteContainerResponse()

    async def GetNode(self, request: pb.GetNodeRequest, context: Context) -> pb.GetNodeResponse:
        settings = self._settings
        return pb.GetNodeResponse(
            name=settings.node_name,
            cpu_cores=settings.max_cpu_cores,
            memory_mb=settings.max_memory_mb,
            max_disk_gb=settings.max_disk_gb,
            default_image=settings.default_image,
            default_runtime=settings.runtime,
            runtimes=installed_runtimes(),
            containerd_ready=self._operations.node_ready.is_set() and await self._connection.is_ready(),
        )


def to_proto(container: Container) -> pb.Container:
    wanted = container.wanted
    return pb.Container(
        id=container.id,
        user_id=container.user_id,
        ctid=container.ctid,
        node_name=container.node_name,
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
            restart_policy=str(wanted.restart_policy),
            auto_stop_s=wanted.auto_stop_s or 0,
        ),
        state=requests.STATES[container.state],
        state_reason=container.state_reason,
        ip_address=container.ip_address if container.state in HAS_ADDRESS else "",
        exit_code=container.exit_code,
        created_at=_stamp(container.created_at),
        started_at=_stamp(container.started_at),
        finished_at=_stamp(container.finished_at),
        expires_at=_stamp(container.expires_at),
    )


def _stamp(time: datetime | None) -> Timestamp | None:
    if time is None:
        return None
    stamp = Timestamp()
    stamp.FromDatetime(time)
    return stamp
