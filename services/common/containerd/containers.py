"""Container records: the specification a task is made from, and what keeps its image from being collected."""

from collections.abc import Mapping
from dataclasses import dataclass

from containerd.services.containers.v1 import containers_pb2, containers_pb2_grpc

from services.common.containerd.any import pack_spec
from services.common.containerd.connection import Connection
from services.common.containerd.errors import ContainerdAlreadyExists, ContainerdNotFound, containerd_errors
from services.common.containerd.snapshots import SNAPSHOTTER

RUNTIME_NAME = "io.containerd.runc.v2"


@dataclass(frozen=True)
class ContainerRecord:
    """`snapshot_key` names the image's top layer, which the record pins."""

    id: str
    image: str
    snapshot_key: str
    spec: Mapping[str, object]
    labels: Mapping[str, str]


class Containers:
    def __init__(self, connection: Connection) -> None:
        self._call = connection.call
        self._metadata = connection.metadata
        self._stub = containers_pb2_grpc.ContainersStub(connection.channel)

    async def put(self, record: ContainerRecord) -> None:
        """Creates the record, or gives the one there is a new specification and labels."""
        container = containers_pb2.Container(
            id=record.id,
            labels=dict(record.labels),
            image=record.image,
            runtime=containers_pb2.Container.Runtime(name=RUNTIME_NAME),
            spec=pack_spec("Spec", record.spec),
            snapshotter=SNAPSHOTTER,
            snapshot_key=record.snapshot_key,
        )
        create = containers_pb2.CreateContainerRequest(container=container)
        try:
            await self._call("create container", record.id, self._stub.Create, create)
        except ContainerdAlreadyExists:
            update = containers_pb2.UpdateContainerRequest(container=container)
            # The snapshot can't be changed, nor is it: a container keeps the layers its disk lies upon.
            update.update_mask.paths.extend(("spec", "labels"))
            await self._call("update container", record.id, self._stub.Update, update)

    async def specification(self, container_id: str) -> bytes:
        """The OCI specification as JSON. Raises ContainerdNotFound."""
        request = containers_pb2.GetContainerRequest(id=container_id)
        reply = await self._call("get container", container_id, self._stub.Get, request)
        return reply.container.spec.value

    async def delete(self, container_id: str) -> None:
        """Forgets the record; one that is gone already is no error."""
        request = containers_pb2.DeleteContainerRequest(id=container_id)
        try:
            await self._call("delete container", container_id, self._stub.Delete, request)
        except ContainerdNotFound:
            return

    async def list_ids(self) -> set[str]:
        """Ids of every record, read one at a time: a list of full specifications outgrows a message."""
        stream = self._stub.ListStream(containers_pb2.ListContainersRequest(), timeout=60, metadata=self._metadata)
        with containerd_errors("list containers", ""):
            return {reply.container.id async for reply in stream}
