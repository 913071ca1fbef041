"""The channel to containerd and the namespace every call is made in."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import grpc
import structlog
from containerd.services.namespaces.v1 import namespaces_pb2, namespaces_pb2_grpc
from containerd.services.version.v1 import version_pb2_grpc
from google.protobuf.empty_pb2 import Empty

from services.common.containerd.errors import ContainerdAlreadyExists, ContainerdUnavailable, containerd_errors

log = structlog.get_logger(__name__)

MAX_MESSAGE_BYTES = 16 * 1024 * 1024
CALL_TIMEOUT_S = 10.0
Response = TypeVar("Response")


class Connection:
    """One HTTP/2 connection to containerd, shared by all that speak to it."""

    def __init__(self, socket: Path, namespace: str) -> None:
        self.namespace = namespace
        self.channel = grpc.aio.insecure_channel(
            f"unix:{socket}",
            options=[
                ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
                ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
                # The socket's path would be sent as the authority otherwise, %-encoded: Go refuses it.
                ("grpc.default_authority", "localhost"),
                ("grpc.initial_reconnect_backoff_ms", 50),
                ("grpc.min_reconnect_backoff_ms", 50),
                ("grpc.max_reconnect_backoff_ms", 500),
            ],
        )
        self.metadata = (("containerd-namespace", namespace),)

    async def close(self) -> None:
        await self.channel.close()

    async def call(
        self,
        what: str,
        identifier: str,
        method: Callable[..., Awaitable[Response]],
        request: object,
        timeout_s: float | None = CALL_TIMEOUT_S,
        lease: str | None = None,
    ) -> Response:
        """One call; `what` and `identifier` name it in the error. Raises ContainerdError."""
        metadata = self.metadata if lease is None else (*self.metadata, ("containerd-lease", lease))
        with containerd_errors(what, identifier):
            return await method(request, timeout=timeout_s, metadata=metadata)

    async def ensure_namespace(self) -> None:
        stub = namespaces_pb2_grpc.NamespacesStub(self.channel)
        request = namespaces_pb2.CreateNamespaceRequest(namespace=namespaces_pb2.Namespace(name=self.namespace))
        try:
            await self.call("create namespace", self.namespace, stub.Create, request)
        except ContainerdAlreadyExists:
            log.debug("namespace_exists", namespace=self.namespace)

    async def is_ready(self) -> bool:
        stub = version_pb2_grpc.VersionStub(self.channel)
        try:
            await self.call("version", "", stub.Version, Empty(), timeout_s=2.0)
        except ContainerdUnavailable:
            return False
        return True

    async def wait_until_ready(self) -> None:
        """Returns once containerd answers, however long that takes: the caller sets the deadline."""
        while not await self.is_ready():
            await asyncio.sleep(0.05)
