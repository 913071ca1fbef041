"""hzel over its REST API."""

import uuid

import httpx

from bench.side_by_side.contender import (
    CONNECTIONS,
    CPU_CORES,
    MEMORY_MB,
    REQUEST_TIMEOUT_S,
    STOP_TIMEOUT_S,
    checked,
    received,
)
from tests.stack import BUSYBOX, Stack

API = "/api/v1"
WAIT_S = 60


class Hzel:
    def __init__(self, stack: Stack) -> None:
        token = (stack.state_dir / "admin-token").read_text().strip()
        headers = {"Authorization": f"Bearer {token}"}
        self._http = httpx.AsyncClient(
            base_url=stack.url, headers=headers, timeout=REQUEST_TIMEOUT_S, limits=CONNECTIONS
        )

    async def close(self) -> None:
        await self._http.aclose()

    async def nothing(self) -> None:
        checked(await self._http.get("/healthz"), 200)

    async def create(self) -> str:
        order = {
            "hostname": f"b-{uuid.uuid4().hex[:12]}",
            "image": BUSYBOX,
            "cpu_cores": CPU_CORES,
            "memory_mb": MEMORY_MB,
            "disk_gb": 1,
        }
        record = checked(await self._http.post(f"{API}/containers", json=order), 201).json()["data"]
        if record["state"] != "running":
            raise RuntimeError(f"created, but {record['state']}: {record['state_reason']}")
        container_id: str = record["id"]
        return container_id

    async def get(self, container_id: str) -> None:
        checked(await self._http.get(f"{API}/containers/{container_id}"), 200)

    async def stop(self, container_id: str) -> None:
        answer = await self._http.post(f"{API}/containers/{container_id}/stop", json={"timeout_s": STOP_TIMEOUT_S})
        if checked(answer, 200).json()["data"]["state"] != "stopped":
            raise RuntimeError(f"not stopped: {answer.text}")

    async def start(self, container_id: str) -> None:
        answer = await self._http.post(f"{API}/containers/{container_id}/start")
        if checked(answer, 200).json()["data"]["state"] != "running":
            raise RuntimeError(f"not running: {answer.text}")

    async def delete(self, container_id: str) -> None:
        checked(await self._http.delete(f"{API}/containers/{container_id}"), 204)

    async def command(self, container_id: str) -> None:
        await self._run(container_id, {"program": "/bin/true"})

    async def output(self, container_id: str, size: int) -> None:
        """Runs it to its end, then downloads what it printed."""
        await self.download(await self.print_bytes(container_id, size), size)

    async def print_bytes(self, container_id: str, size: int) -> str:
        """The first half of `output`; returns the command's id."""
        order = {"program": "head", "args": ["-c", str(size), "/dev/zero"], "max_output_bytes": size}
        return await self._run(container_id, order)

    async def download(self, command_id: str, size: int) -> None:
        async with self._http.stream("GET", f"{API}/commands/{command_id}/output") as response:
            count = await received(response)
        if response.status_code != 200 or count != size:
            raise RuntimeError(f"{response.status_code}, {count} of {size} bytes")

    async def _run(self, container_id: str, order: dict[str, object]) -> str:
        answer = await self._http.post(f"{API}/containers/{container_id}/commands?wait={WAIT_S}", json=order)
        record = checked(answer, 201).json()["data"]
        if record["status"] != "succeeded":
            raise RuntimeError(f"the command has not succeeded: {answer.text[:500]}")
        command_id: str = record["id"]
        return command_id
