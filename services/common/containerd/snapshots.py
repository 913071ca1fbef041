"""Snapshots of the overlay snapshotter: the unpacked layers of images."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from containerd.services.snapshots.v1 import snapshots_pb2, snapshots_pb2_grpc
from containerd.types.mount_pb2 import Mount

from services.common.containerd.connection import Connection
from services.common.containerd.errors import (
    ContainerdAlreadyExists,
    ContainerdError,
    ContainerdNotFound,
    containerd_errors,
)

SNAPSHOTTER = "overlayfs"


class Snapshots:
    def __init__(self, connection: Connection) -> None:
        self._call = connection.call
        self._metadata = connection.metadata
        self._stub = snapshots_pb2_grpc.SnapshotsStub(connection.channel)

    async def exists(self, name: str) -> bool:
        request = snapshots_pb2.StatSnapshotRequest(snapshotter=SNAPSHOTTER, key=name)
        try:
            await self._call("stat snapshot", name, self._stub.Stat, request)
        except ContainerdNotFound:
            return False
        return True

    async def prepare(self, key: str, parent: str, labels: Mapping[str, str], lease: str) -> Sequence[Mount]:
        """A writable snapshot on top of `parent` (empty: nothing); the mounts are for Diff.Apply."""
        request = snapshots_pb2.PrepareSnapshotRequest(
            snapshotter=SNAPSHOTTER, key=key, parent=parent, labels=dict(labels)
        )
        reply = await self._call("prepare snapshot", key, self._stub.Prepare, request, lease=lease)
        return reply.mounts

    async def commit(self, name: str, key: str, labels: Mapping[str, str], lease: str) -> None:
        """Makes a prepared snapshot read-only under `name`; one that is there already is as good."""
        request = snapshots_pb2.CommitSnapshotRequest(snapshotter=SNAPSHOTTER, name=name, key=key, labels=dict(labels))
        try:
            await self._call("commit snapshot", name, self._stub.Commit, request, lease=lease)
        except ContainerdAlreadyExists:
            await self.remove(key)

    async def remove(self, key: str) -> None:
        """Removes a snapshot; one that is gone already is no error."""
        request = snapshots_pb2.RemoveSnapshotRequest(snapshotter=SNAPSHOTTER, key=key)
        try:
            await self._call("remove snapshot", key, self._stub.Remove, request)
        except ContainerdNotFound:
            return

    async def list_names(self) -> set[str]:
        request = snapshots_pb2.ListSnapshotsRequest(snapshotter=SNAPSHOTTER)
        with containerd_errors("list snapshots", ""):
            stream = self._stub.List(request, timeout=60, metadata=self._metadata)
            return {info.name async for reply in stream for info in reply.info}

    async def layer_folders(self, name: str) -> tuple[Path, ...]:
        """The folders of a committed snapshot and its parents, topmost first, as overlayfs wants them.

        containerd tells them only as the mount options of a view, so one is made and removed again.
        """
        key = f"layers-of-{name}"
        await self.remove(key)
        request = snapshots_pb2.ViewSnapshotRequest(snapshotter=SNAPSHOTTER, key=key, parent=name)
        reply = await self._call("view snapshot", name, self._stub.View, request)
        try:
            return lower_folders(reply.mounts)
        finally:
            await self.remove(key)


def lower_folders(mounts: Sequence[Mount]) -> tuple[Path, ...]:
    """Reads the one mount of a view: a bind mount of a single layer, or an overlay of several."""
    if len(mounts) == 1 and mounts[0].type == "bind":
        return (Path(mounts[0].source),)
    if len(mounts) == 1 and mounts[0].type == "overlay":
        for option in mounts[0].options:
            if option.startswith("lowerdir="):
                return tuple(Path(folder) for folder in option.removeprefix("lowerdir=").split(":"))
    raise ContainerdError(f"cannot read the layers from mounts of type {[mount.type for mount in mounts]}")
