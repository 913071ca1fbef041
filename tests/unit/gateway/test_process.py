"""The gateway as a process: `python -m services.gateway`."""

import asyncio
import contextlib
import json
import os
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from services.gateway.__main__ import listening_socket

ROOT = Path(__file__).parents[3]


@contextlib.asynccontextmanager
async def gateway(state: Path, **more: str) -> AsyncIterator[tuple[asyncio.subprocess.Process, str]]:
    """A running one and its address, taken from its log; no lifecycle, no NATS."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "services.gateway",
        cwd=ROOT,
        env={
            **{name: value for name, value in os.environ.items() if not name.startswith("HZEL_")},
            "PYTHONPATH": f"{ROOT}:{ROOT / 'gen'}",
            "HZEL_STATE_DIR": str(state),
            "HZEL_RUN_DIR": str(state / "run"),
            "HZEL_LISTEN": "127.0.0.1:0",
            "HZEL_NATS_URL": "nats://127.0.0.1:1",
            **more,
        },
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stderr is not None
    try:
        async with asyncio.timeout(30):
            while record := json.loads(await process.stderr.readline()):
                if record["event"] == "serving":
                    break
        yield process, record["address"]
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.communicate()


async def test_it_serves_alone_and_stops_when_told(tmp_path: Path) -> None:
    async with gateway(tmp_path) as (process, address), httpx.AsyncClient(base_url=f"http://{address}") as client:
        assert (await client.get("/healthz")).status_code == 200
        assert (await client.get("/readyz")).status_code == 503
        token = (tmp_path / "admin-token").read_text().strip()
        headers = {"Authorization": f"Bearer {token}"}
        answer = await client.get("/api/v1/containers", headers=headers)
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "UNAVAILABLE")
        assert "server" not in answer.headers
        process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(10):
            assert await process.wait() == 0


async def test_a_killed_one_comes_back_with_the_same_admin(tmp_path: Path) -> None:
    for _ in range(2):
        async with gateway(tmp_path) as (process, address):
            headers = {"Authorization": f"Bearer {(tmp_path / 'admin-token').read_text().strip()}"}
            async with httpx.AsyncClient(base_url=f"http://{address}") as client:
                assert (await client.get("/api/v1/auth/me", headers=headers)).status_code == 200
            process.kill()
            await process.wait()


async def test_a_request_that_outlasts_the_stop_is_told_so(tmp_path: Path) -> None:
    async with gateway(tmp_path) as (process, address):
        token = (tmp_path / "admin-token").read_text().strip()
        host, port = address.split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        head = f"POST /api/v1/tokens HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n"
        writer.write(f"{head}Content-Type: application/json\r\nContent-Length: 10\r\n\r\n{{".encode())
        await writer.drain()
        # Until another request is answered, the first has not surely been seen.
        async with httpx.AsyncClient(base_url=f"http://{address}") as client:
            await client.get("/healthz")
        started = time.monotonic()
        process.send_signal(signal.SIGTERM)
        answer = await asyncio.wait_for(reader.read(), 10)
        assert answer.startswith(b"HTTP/1.1 503 ")
        assert b'"UNAVAILABLE"' in answer
        assert await asyncio.wait_for(process.wait(), 10) == 0
        assert time.monotonic() - started < 10
        writer.close()


async def test_a_body_that_is_sent_in_full_before_the_answer_is_read_gets_its_413(tmp_path: Path) -> None:
    async with gateway(tmp_path) as (_, address):
        headers = {"Authorization": f"Bearer {(tmp_path / 'admin-token').read_text().strip()}"}
        async with httpx.AsyncClient(base_url=f"http://{address}", headers=headers) as client:
            answer = await client.post(
                "/api/v1/containers", content=b" " * 10_000_000, headers={"content-type": "application/json"}
            )
            assert answer.status_code == 413
            assert (await client.get("/api/v1/auth/me")).status_code == 200


async def test_a_token_in_the_query_of_a_websocket_is_in_no_log(tmp_path: Path) -> None:
    async with gateway(tmp_path, HZEL_LOG_LEVEL="debug") as (process, address):
        token = (tmp_path / "admin-token").read_text().strip()
        for path in ("/ws/nothing", "/ws/nothing/else"):
            with pytest.raises(InvalidStatus):
                await connect(f"ws://{address}{path}?token={token}", proxy=None)
        process.send_signal(signal.SIGTERM)
        assert process.stderr is not None
        log = await asyncio.wait_for(process.stderr.read(), 10)
    assert log.count(b'"websocket"') == 2
    assert token.encode() not in log


def test_the_address_may_be_taken() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(OSError, match="in use"):
        listening_socket(f"127.0.0.1:{taken.getsockname()[1]}")
