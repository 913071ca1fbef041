"""Images as containerd keeps them: a name that points at a manifest, its configuration and unpacked layers."""

import asyncio
import hashlib
import json
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from containerd.services.diff.v1 import diff_pb2, diff_pb2_grpc
from containerd.services.images.v1 import images_pb2, images_pb2_grpc
from containerd.types.descriptor_pb2 import Descriptor

from services.common.containerd.connection import Connection
from services.common.containerd.content import Content
from services.common.containerd.errors import (
    ContainerdAlreadyExists,
    ContainerdError,
    ContainerdNotFound,
)
from services.common.containerd.snapshots import SNAPSHOTTER, Snapshots
from services.common.ids import new_id

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar"
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
UNPACK_TIMEOUT_S = 600.0


@dataclass(frozen=True)
class Image:
    """`chain_id` names the snapshot of all layers; the rest is what its configuration says."""

    name: str
    digest: str
    chain_id: str
    entrypoint: tuple[str, ...]
    command: tuple[str, ...]
    env: tuple[str, ...]
    working_dir: str
    user: str


class Images:
    def __init__(self, connection: Connection) -> None:
        self._call = connection.call
        self._stub = images_pb2_grpc.ImagesStub(connection.channel)
        self._diff = diff_pb2_grpc.DiffStub(connection.channel)
        self._content = Content(connection)
        self._snapshots = Snapshots(connection)
        self._by_digest: dict[tuple[str, str], Image] = {}
        self._layers: dict[str, tuple[Path, ...]] = {}
        self._reading_layers = asyncio.Lock()

    async def get(self, name: str) -> Image | None:
        """The image of that full name, None if the node has none; its manifest must be for this machine."""
        try:
            reply = await self._call("get image", name, self._stub.Get, images_pb2.GetImageRequest(name=name))
        except ContainerdNotFound:
            return None
        target = reply.image.target
        known = self._by_digest.get((name, target.digest))
        if known is None:
            try:
                known = await self._read(name, target)
            except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
                # An index, or what claims to be a manifest and is none.
                raise ContainerdError(f"the image {name} can't be read: {error!r}") from error
            self._by_digest = {key: image for key, image in self._by_digest.items() if key[0] != name}
            self._by_digest[name, target.digest] = known
        return known

    async def layers(self, image: Image) -> tuple[Path, ...]:
        """Folders on the node, topmost first; they stay the same as long as anything names the snapshot."""
        async with self._reading_layers:
            if image.chain_id not in self._layers:
                self._layers[image.chain_id] = await self._snapshots.layer_folders(image.chain_id)
            return self._layers[image.chain_id]

    async def import_rootfs(self, name: str, tar: Path, config: Mapping[str, Any]) -> None:
        """Makes an image of one layer from a tar of its root filesystem; replaces one of the same name.

        `config` is the `config` object of an OCI image configuration (Cmd, Env, …).
        """
        diff_id = _file_digest(tar)
        document = {
            "architecture": ARCHITECTURES[platform.machine()],
            "os": "linux",
            "created": datetime.now(UTC).isoformat(),
            "config": dict(config),
            "rootfs": {"type": "layers", "diff_ids": [diff_id]},
        }
        async with self._content.lease() as lease:
            await self._content.write_file(tar, diff_id, {"containerd.io/uncompressed": diff_id}, lease)
            await self._unpack(Descriptor(media_type=LAYER, digest=diff_id, size=tar.stat().st_size), lease)
            config_data = json.dumps(document).encode()
            config_digest = await self._content.write_document(
                config_data, {f"containerd.io/gc.ref.snapshot.{SNAPSHOTTER}": diff_id}, lease
            )
            manifest = {
                "schemaVersion": 2,
                "mediaType": MANIFEST,
                "config": {"mediaType": CONFIG, "digest": config_digest, "size": len(config_data)},
                "layers": [{"mediaType": LAYER, "digest": diff_id, "size": tar.stat().st_size}],
            }
            manifest_data = json.dumps(manifest).encode()
            digest = await self._content.write_document(
                manifest_data,
                {
                    "containerd.io/gc.ref.content.config": config_digest,
                    "containerd.io/gc.ref.content.l.0": diff_id,
                },
                lease,
            )
            await self._name(name, Descriptor(media_type=MANIFEST, digest=digest, size=len(manifest_data)), lease)

    async def _name(self, name: str, target: Descriptor, lease: str) -> None:
        image = images_pb2.Image(name=name, target=target)
        create = images_pb2.CreateImageRequest(image=image)
        try:
            await self._call("create image", name, self._stub.Create, create, lease=lease)
        except ContainerdAlreadyExists:
            update = images_pb2.UpdateImageRequest(image=image)
            update.update_mask.paths.append("target")
            await self._call("update image", name, self._stub.Update, update, lease=lease)

    async def _unpack(self, layer: Descriptor, lease: str) -> None:
        """Unpacks the only layer of an image: its chain id is its diff id."""
        chain_id = layer.digest
        if await self._snapshots.exists(chain_id):
            return
        key = f"extract-{new_id()} {chain_id}"
        mounts = await self._snapshots.prepare(key, "", {"containerd.io/snapshot.ref": chain_id}, lease)
        request = diff_pb2.ApplyRequest(diff=layer, mounts=mounts)
        try:
            applied = await self._call(
                "unpack layer", layer.digest, self._diff.Apply, request, UNPACK_TIMEOUT_S, lease=lease
            )
            if applied.applied.digest != chain_id:
                raise ContainerdError(f"layer {layer.digest} unpacked to {applied.applied.digest}")
        except ContainerdError:
            await self._snapshots.remove(key)
            raise
        await self._snapshots.commit(chain_id, key, {}, lease)

    async def _read(self, name: str, target: Descriptor) -> Image:
        manifest = json.loads(await self._content.read_document(target.digest))
        document = json.loads(await self._content.read_document(manifest["config"]["digest"]))
        config = document.get("config") or {}
        return Image(
            name=name,
            digest=target.digest,
            chain_id=_chain_id(document["rootfs"]["diff_ids"]),
            entrypoint=tuple(config.get("Entrypoint") or ()),
            command=tuple(config.get("Cmd") or ()),
            env=tuple(config.get("Env") or ()),
            working_dir=config.get("WorkingDir") or "/",
            user=config.get("User") or "",
        )


def full_name(reference: str) -> str:
    """A reference with its tag written out: `hzel/busybox` is `hzel/busybox:latest`."""
    last = reference.rsplit("/", 1)[-1]
    return reference if ":" in last or "@" in last else f"{reference}:latest"


def _chain_id(diff_ids: list[str]) -> str:
    """The name of the snapshot of all layers, as the OCI image specification defines it."""
    chain = diff_ids[0]
    for diff_id in diff_ids[1:]:
        chain = f"sha256:{hashlib.sha256(f'{chain} {diff_id}'.encode()).hexdigest()}"
    return chain


def _file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"
