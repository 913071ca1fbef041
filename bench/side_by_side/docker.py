"""Docker Engine over its HTTP API, on its unix socket."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx

from bench.side_by_side.contender import (
    CONNECTIONS,
    CPU_CORES,
    MEMORY_MB,
    PIDS_LIMIT,
    REQUEST_TIMEOUT_S,
    STOP_TIMEOUT_S,
    checked,
    received,
)

IMAGE = "busybox"
MIB = 1024**2
# Output comes in frames of a header, which names the stream and the length, and what was written.
FRAME_HEADER_BYTES = 8
TERMINAL_PIECE = 1024**2


class Docker:
    """Its containers have the limits that hzel's have, and an init as PID 1, which passes TERM on."""

    def __init__(self, socket: Path) -> None:
        self._socket = socket
        self._http = httpx.AsyncClient(
            transport=httpx.AsyncHTTPTransport(uds=str(socket), limits=CONNECTIONS),
            base_url="http://docker",
            timeout=REQUEST_TIMEOUT_S,
        )

    async def close(self) -> None:
        await self._http.aclose()

    async def import_image(self, tar: Path) -> None:
        """A root file system, as `docker import` does."""
        parameters = {"fromSrc": "-", "repo": IMAGE, "tag": "latest"}
        headers = {"Content-Type": "application/x-tar"}
        body = tar.read_bytes()
        checked(await self._http.post("/images/create", params=parameters, content=body, headers=headers), 200)

    async def versions(self) -> dict[str, str]:
        parts = checked(await self._http.get("/version"), 200).json()["Components"]
        return {part["Name"]: part["Version"] for part in parts}

    async def nothing(self) -> None:
        checked(await self._http.get("/_ping"), 200)

    async def create(self) -> str:
        limits = {
            "Init": True,
            "NanoCpus": CPU_CORES * 10**9,
            "Memory": MEMORY_MB * MIB,
            "MemorySwap": MEMORY_MB * MIB,
            "PidsLimit": PIDS_LIMIT,
        }
        order = {"Image": IMAGE, "Cmd": ["sleep", "infinity"], "HostConfig": limits}
        container_id: str = checked(await self._http.post("/containers/create", json=order), 201).json()["Id"]
        await self.start(container_id)
        return container_id

    async def get(self, container_id: str) -> None:
        checked(await self._http.get(f"/containers/{container_id}/json"), 200)

    async def stats(self, container_id: str) -> None:
        checked(await self._http.get(f"/containers/{container_id}/stats", params={"stream": "false"}), 200)

    async def stop(self, container_id: str) -> None:
        parameters = {"t": STOP_TIMEOUT_S}
        checked(await self._http.post(f"/containers/{container_id}/stop", params=parameters), 204)

    async def start(self, container_id: str) -> None:
        checked(await self._http.post(f"/containers/{container_id}/start"), 204)

    async def delete(self, container_id: str) -> None:
        parameters = {"force": "1", "v": "1"}
        checked(await self._http.delete(f"/containers/{container_id}", params=parameters), 204)

    async def command(self, container_id: str) -> None:
        await self._run(container_id, ["/bin/true"])

    async def output(self, container_id: str, size: int) -> None:
        count = await self._run(container_id, ["head", "-c", str(size), "/dev/zero"])
        if count < size + FRAME_HEADER_BYTES:
            raise RuntimeError(f"{count} of {size} bytes")

    @asynccontextmanager
    async def terminal(
        self, container_id: str, columns: int, rows: int
    ) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        """A shell on a terminal of its own; the connection is nothing but its output and input."""
        attached = {"AttachStdin": True, "AttachStdout": True, "AttachStderr": True, "Tty": True}
        order = attached | {"Cmd": ["sh"], "ConsoleSize": [rows, columns]}
        exec_id = checked(await self._http.post(f"/containers/{container_id}/exec", json=order), 201).json()["Id"]
        body = json.dumps({"Detach": False, "Tty": True, "ConsoleSize": [rows, columns]})
        reader, writer = await asyncio.open_unix_connection(self._socket, limit=TERMINAL_PIECE)
        try:
            writer.write(
                f"POST /exec/{exec_id}/start HTTP/1.1\r\nHost: docker\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n"
                f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode()
            )
            head = await reader.readuntil(b"\r\n\r\n")
            if not head.startswith(b"HTTP/1.1 101 "):
                raise RuntimeError(head.decode("latin-1"))
            yield reader, writer
        finally:
            writer.close()

    async def _run(self, container_id: str, arguments: list[str]) -> int:
        """Creates an exec, starts it, reads its output to the end, asks for its exit code; returns the bytes read."""
        order = {"AttachStdout": True, "AttachStderr": True, "Cmd": arguments}
        created = checked(await self._http.post(f"/containers/{container_id}/exec", json=order), 201)
        exec_id = created.json()["Id"]
        attached = {"Detach": False, "Tty": False}
        async with self._http.stream("POST", f"/exec/{exec_id}/start", json=attached) as response:
            count = await received(response)
        checked(response, 200)
        code = checked(await self._http.get(f"/exec/{exec_id}/json"), 200).json()["ExitCode"]
        if code != 0:
            raise RuntimeError(f"the command exited with {code}")
        return count
