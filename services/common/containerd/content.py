"""Blobs in containerd's content store, and the leases that keep them until something names them."""

import hashlib
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

from containerd.services.content.v1 import content_pb2, content_pb2_grpc
from containerd.services.leases.v1 import leases_pb2, leases_pb2_grpc

from services.common.containerd.connection import Connection
from services.common.containerd.errors import ContainerdAlreadyExists, ContainerdError, containerd_errors
from services.common.ids import new_id

PIECE_BYTES = 4 * 1024 * 1024
WRITE_TIMEOUT_S = 600.0
# Small documents only (manifests, configurations): whatever claims to be larger is not one.
MAX_DOCUMENT_BYTES = 4 * 1024 * 1024


class Content:
    def __init__(self, connection: Connection) -> None:
        self._call = connection.call
        self._metadata = connection.metadata
        self._stub = content_pb2_grpc.ContentStub(connection.channel)
        self._leases = leases_pb2_grpc.LeasesStub(connection.channel)

    @asynccontextmanager
    async def lease(self) -> AsyncIterator[str]:
        """What is made under the lease is safe from collection until the block ends, or for an hour."""
        expires = datetime.now(UTC) + timedelta(hours=1)
        create = leases_pb2.CreateRequest(
            id=f"hzel-{new_id()}", labels={"containerd.io/gc.expire": expires.isoformat(timespec="seconds")}
        )
        reply = await self._call("create lease", create.id, self._leases.Create, create)
        try:
            yield reply.lease.id
        finally:
            delete = leases_pb2.DeleteRequest(id=reply.lease.id)
            await self._call("delete lease", reply.lease.id, self._leases.Delete, delete)

    async def read_document(self, digest: str) -> bytes:
        request = content_pb2.ReadContentRequest(digest=digest)
        data = bytearray()
        with containerd_errors("read blob", digest):
            async for piece in self._stub.Read(request, timeout=30, metadata=self._metadata):
                data += piece.data
                if len(data) > MAX_DOCUMENT_BYTES:
                    raise ContainerdError(f"blob {digest} is too large for a document")
        return bytes(data)

    async def write_file(self, path: Path, digest: str, labels: Mapping[str, str], lease: str) -> None:
        await self._write(digest, path.stat().st_size, _pieces(path), labels, lease)

    async def write_document(self, data: bytes, labels: Mapping[str, str], lease: str) -> str:
        """Stores a small blob; returns its digest."""
        digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
        await self._write(digest, len(data), iter((data,)), labels, lease)
        return digest

    async def _write(
        self, digest: str, size: int, pieces: Iterator[bytes], labels: Mapping[str, str], lease: str
    ) -> None:
        async def requests() -> AsyncIterator[content_pb2.WriteContentRequest]:
            offset = 0
            for piece in pieces:
                yield content_pb2.WriteContentRequest(
                    action=content_pb2.WRITE, ref=ref, total=size, expected=digest, offset=offset, data=piece
                )
                offset += len(piece)
            yield content_pb2.WriteContentRequest(
                action=content_pb2.COMMIT, ref=ref, total=size, expected=digest, offset=size, labels=dict(labels)
            )

        ref = f"{new_id()}-{digest}"
        metadata = (*self._metadata, ("containerd-lease", lease))
        try:
            with containerd_errors("write blob", digest):
                async for _ in self._stub.Write(requests(), timeout=WRITE_TIMEOUT_S, metadata=metadata):
                    pass
        except ContainerdAlreadyExists:
            # The blob may have been written without the labels that keep what it names.
            info = content_pb2.Info(digest=digest, labels=dict(labels))
            update = content_pb2.UpdateRequest(info=info)
            update.update_mask.paths.extend(f"labels.{key}" for key in labels)
            await self._call("label blob", digest, self._stub.Update, update, lease=lease)


def _pieces(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while piece := file.read(PIECE_BYTES):
            yield piece
