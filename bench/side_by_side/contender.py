"""What both sides are asked to do. Every answer is checked: a failure is no fast success."""

from typing import Protocol

import httpx

# Of every container, on both sides.
MEMORY_MB = 64
CPU_CORES = 1
PIDS_LIMIT = 4096
STOP_TIMEOUT_S = 10
REQUEST_TIMEOUT_S = 120.0
CONNECTIONS = httpx.Limits(max_connections=64, max_keepalive_connections=64)


class Contender(Protocol):
    """Each method but `output` is over when the other side has answered that it is done."""

    async def nothing(self) -> None:
        """The cheapest request there is: what it costs to ask at all."""

    async def create(self) -> str:
        """A running container of the busybox image; returns its id."""

    async def get(self, container_id: str) -> None: ...

    async def stop(self, container_id: str) -> None: ...

    async def start(self, container_id: str) -> None: ...

    async def delete(self, container_id: str) -> None:
        """Of a running container, by force."""

    async def command(self, container_id: str) -> None:
        """Runs /bin/true and learns that it exited with 0."""

    async def output(self, container_id: str, size: int) -> None:
        """Runs a command that prints so many bytes, and receives them all."""


def checked(response: httpx.Response, status: int) -> httpx.Response:
    if response.status_code != status:
        request = response.request
        raise RuntimeError(f"{request.method} {request.url.path}: {response.status_code} {response.text[:500]}")
    return response


async def received(response: httpx.Response) -> int:
    """The bytes of a body that is streamed."""
    count = 0
    async for piece in response.aiter_raw():
        count += len(piece)
    return count
