"""What containers use, as their owner is told, against what the kernel and containerd say."""

import asyncio
import json
import os
import re
import signal
import socket
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import InvalidStatus

from services.common.containerd.connection import Connection
from services.common.containerd.metrics import Metrics
from services.common.counters import Counters
from tests.stack import Client, Stack, eventually

MIB = 1024**2
BUSY = ["sh", "-c", "while :; do :; done"]
LISTENING = ["sh", "-c", "nc -l -p 9999 > /dev/null; touch /tmp/received; sleep 1000"]
# A reader that does not read keeps the writer's block in memory.
HOLDING = ["sh", "-c", "dd if=/dev/zero bs=100M count=1 2> /dev/null | sleep 1000"]
UNIFIED = Path("/sys/fs/cgroup/cgroup.controllers").exists()


def metrics(client: Client, container_id: str) -> dict[str, Any]:
    answer = client.http.get(f"/api/v1/containers/{container_id}/metrics")
    assert answer.status_code == 200, answer.text
    return answer.json()["data"]


def history(client: Client, container_id: str, **query: Any) -> dict[str, Any]:
    answer = client.http.get(f"/api/v1/containers/{container_id}/metrics/history", params=query)
    assert answer.status_code == 200, answer.text
    return answer.json()["data"]


def cpu_time_s(stack: Stack, container_id: str) -> float:
    """As the kernel counts it."""
    group = f"{stack.instance}/{container_id}"
    if UNIFIED:
        return int(Path(f"/sys/fs/cgroup/{group}/cpu.stat").read_text().split()[1]) / 1e6
    return int(Path(f"/sys/fs/cgroup/cpuacct/{group}/cpuacct.usage").read_text()) / 1e9


def throttled_ns(stack: Stack, container_id: str) -> int:
    """As the kernel counts it."""
    name, scale = ("throttled_usec", 1000) if UNIFIED else ("throttled_time", 1)
    group = Path("/sys/fs/cgroup" if UNIFIED else "/sys/fs/cgroup/cpu") / stack.instance / container_id
    figures = dict(line.split() for line in (group / "cpu.stat").read_text().splitlines())
    return int(figures[name]) * scale


def as_containerd_says(stack: Stack, container_id: str) -> Counters:
    async def ask() -> Counters | None:
        connection = Connection(stack.run_dir / "containerd/containerd.sock", stack.instance)
        try:
            return await Metrics(connection).get(container_id)
        finally:
            await connection.close()

    found = asyncio.run(ask())
    assert found is not None
    return found


def send(record: dict[str, Any], size: int) -> None:
    """Sends bytes to what listens in the container, until it has them all."""
    deadline = time.monotonic() + 10
    while True:
        try:
            connection = socket.create_connection((record["ip_address"], 9999), timeout=10)
            break
        except ConnectionRefusedError:
            assert time.monotonic() < deadline
            time.sleep(0.05)
    with connection:
        connection.sendall(b"x" * size)
        connection.shutdown(socket.SHUT_WR)
        connection.recv(1)


def watch(stack: Stack, client: Client | None, container_id: str) -> connect:
    url = f"{stack.url.replace('http', 'ws')}/ws/metrics/{container_id}"
    headers = {"Authorization": client.http.headers["Authorization"]} if client else {}
    return connect(url, additional_headers=headers, proxy=None)


async def samples(connection: ClientConnection, count: int) -> list[dict[str, Any]]:
    async with asyncio.timeout(count + 10):
        return [json.loads(await connection.recv()) for _ in range(count)]


def test_cpu_is_what_the_kernel_says(stack: Stack, admin: Client) -> None:
    """One of its two cores for ten seconds: 50 %, or what is left of it on a busy machine."""
    with admin.container(command=BUSY, cpu_cores=2) as record:
        metrics(admin, record["id"])
        time.sleep(1.0)
        used, begun = cpu_time_s(stack, record["id"]), time.time()
        time.sleep(10)
        used, passed = cpu_time_s(stack, record["id"]) - used, time.time() - begun
        time.sleep(1.5)
        since = datetime.fromtimestamp(begun, UTC).isoformat()
        told = history(admin, record["id"], since=since)["series"]["cpu_percent"][:10]
    kernel = 100 * used / passed / 2
    assert len(told) >= 9
    assert abs(sum(told) / len(told) - kernel) <= 2
    assert max(told) <= 55, "more than one core can't be used by one process"


def test_cpu_is_never_above_100_and_what_the_limit_took_is_told(stack: Stack, admin: Client) -> None:
    command = ["sh", "-c", "(while :; do :; done) & (while :; do :; done) & while :; do :; done"]
    with admin.container(command=command, cpu_cores=1) as record:
        first = metrics(admin, record["id"])
        assert 0 < first["cpu_percent"] <= 100, "right in the first answer"
        assert first["uptime_s"] < 10
        time.sleep(3)
        later = metrics(admin, record["id"])
        told = history(admin, record["id"])["series"]["cpu_percent"]
        # None at all where others leave it less than its limit.
        throttled = throttled_ns(stack, record["id"])
    assert later["cpu_usage_ns"] > first["cpu_usage_ns"]
    assert first["cpu_throttled_ns"] <= later["cpu_throttled_ns"] <= throttled
    assert all(0 <= percent <= 100 for percent in told)


def test_memory_is_what_is_held_and_not_what_can_be_dropped(admin: Client) -> None:
    write = ["sh", "-c", "dd if=/dev/zero of=/f bs=1M count=60 conv=fsync; touch /tmp/written; sleep 1000"]
    with admin.container(command=HOLDING, memory_mb=256) as holder, admin.container(command=write) as writer:
        # It takes a moment until all of the block has been written.
        eventually(lambda: metrics(admin, holder["id"])["memory_used_mb"] >= 97)
        time.sleep(2)
        held = metrics(admin, holder["id"])
        assert abs(held["memory_used_bytes"] / MIB - 100) <= 3
        assert abs(held["memory_used_mb"] - 100) <= 3
        assert (held["memory_limit_mb"], held["memory_limit_bytes"]) == (256, 256 * MIB)
        written = eventually(
            lambda: found if (found := metrics(admin, writer["id"]))["disk_used_bytes"] > 60 * MIB else None
        )
        assert written["memory_used_mb"] < 30
        assert written["disk_limit_bytes"] > 900 * MIB
        assert written["io_write_bytes"] is not None
        eventually(lambda: metrics(admin, writer["id"])["io_write_bytes"] >= 60 * MIB)
        assert metrics(admin, writer["id"])["io_write_bytes"] < 70 * MIB


def test_received_bytes_are_counted_and_a_restart_begins_anew(admin: Client) -> None:
    with admin.container(command=LISTENING) as record:
        assert metrics(admin, record["id"])["network_rx_bytes"] < 10_000
        send(record, 10_000_000)
        received = eventually(
            lambda: found if (found := metrics(admin, record["id"]))["network_rx_bytes"] >= 10_000_000 else None
        )
        assert abs(received["network_rx_bytes"] - 10_000_000) <= 200_000
        assert 0 < received["network_tx_bytes"] < 1_000_000
        told = eventually(lambda: _received(admin, record["id"]))
        assert abs(told - 10_000_000) <= 200_000
        admin.act(record["id"], "restart", timeout_s=0)
        anew = metrics(admin, record["id"])
        assert anew["network_rx_bytes"] < 10_000
        assert anew["uptime_s"] < received["uptime_s"] + 5
        assert anew["cpu_usage_ns"] < 10**9
        assert _received(admin, record["id"]), "the past is kept"


def _received(client: Client, container_id: str) -> int | None:
    """The sum over the history, once the bytes are in it."""
    total = sum(history(client, container_id)["series"]["network_rx_bytes"])
    return total if total >= 9_000_000 else None


def test_both_ways_agree(stack: Stack, admin: Client) -> None:
    """The kernel's files and containerd, of a container that holds memory and has stopped working."""
    with admin.container(command=HOLDING, memory_mb=256) as record:
        eventually(lambda: metrics(admin, record["id"])["memory_used_mb"] >= 97)
        time.sleep(2)
        told, reported = metrics(admin, record["id"]), as_containerd_says(stack, record["id"])
    assert reported.memory_used_bytes == pytest.approx(told["memory_used_bytes"], rel=0.02)
    assert reported.memory_limit_bytes == told["memory_limit_bytes"]
    assert reported.cpu_usage_ns == pytest.approx(told["cpu_usage_ns"], rel=0.02)
    assert (reported.pids, reported.pids_limit) == (told["pids"], told["pids_limit"])
    assert reported.oom_kills == told["oom_kills"]


async def test_a_watcher_gets_a_sample_a_second_until_the_end(stack: Stack, user: Client) -> None:
    record = user.create()
    try:
        async with watch(stack, user, record["id"]) as connection:
            seen = await samples(connection, 5)
            user.act(record["id"], "stop", timeout_s=0)
            await asyncio.wait_for(connection.wait_closed(), 10)
            assert connection.close_code == 1000
    finally:
        user.delete(record["id"])
    assert {sample["type"] for sample in seen} == {"sample"}
    moments = [datetime.fromisoformat(sample["sampled_at"]) for sample in seen]
    assert moments == sorted(set(moments))
    assert timedelta(seconds=1.5) < moments[-1] - moments[0] < timedelta(seconds=10)
    expected = """
        cpu_percent memory_used_mb memory_limit_mb network_rx_bytes network_tx_bytes sampled_at cpu_usage_ns
        cpu_throttled_ns memory_used_bytes memory_limit_bytes disk_used_bytes disk_limit_bytes io_read_bytes
        io_write_bytes pids pids_limit oom_kills uptime_s
    """
    assert set(seen[0]) == {*expected.split(), "type"}


def test_the_past_in_steps(admin: Client) -> None:
    with admin.container() as record:
        assert history(admin, record["id"])["times"] == []
        eventually(lambda: len(history(admin, record["id"])["times"]) >= 5)
        fine, coarse = history(admin, record["id"]), history(admin, record["id"], step=2)
        begun = datetime.fromisoformat(fine["holds_since"])
    assert (fine["step_s"], coarse["step_s"]) == (1, 2)
    assert abs(begun - datetime.fromisoformat(record["started_at"])) < timedelta(seconds=5)
    assert len(coarse["times"]) < len(fine["times"])
    for found in (fine, coarse):
        assert found["times"] == sorted(set(found["times"]))
        assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", moment) for moment in found["times"])
        assert {len(series) for series in found["series"].values()} == {len(found["times"])}


async def test_who_may_not_is_refused_and_what_does_not_run_has_no_figures(
    stack: Stack, admin: Client, user: Client
) -> None:
    record = admin.create()
    paths = [f"/api/v1/containers/{record['id']}/metrics{suffix}" for suffix in ("", "/history")]
    try:
        for path in paths:
            refused = user.http.get(path)
            assert (refused.status_code, refused.json()["error"]["code"]) == (403, "FORBIDDEN")
        assert await refusal(watch(stack, user, record["id"])) == (403, "FORBIDDEN")
        assert await refusal(watch(stack, None, record["id"])) == (401, "UNAUTHORIZED")
        admin.act(record["id"], "stop", timeout_s=0)
        for path in paths:
            refused = admin.http.get(path)
            assert (refused.status_code, refused.json()["error"]["code"]) == (409, "CONFLICT")
        assert await refusal(watch(stack, admin, record["id"])) == (409, "CONFLICT")
    finally:
        admin.delete(record["id"])
    for path in paths:
        assert admin.http.get(path).json()["error"]["code"] == "CONTAINER_NOT_FOUND"
    assert await refusal(watch(stack, admin, record["id"])) == (404, "CONTAINER_NOT_FOUND")


async def refusal(attempt: connect) -> tuple[int, str]:
    """Status and code of a refusal before the upgrade."""
    with pytest.raises(InvalidStatus) as refused:
        await attempt
    return refused.value.response.status_code, json.loads(refused.value.response.body)["error"]["code"]


def test_prometheus_is_told_of_containers_node_and_services(stack: Stack, admin: Client, user: Client) -> None:
    assert user.http.get("/metrics").status_code == 403
    assert httpx.get(f"{stack.url}/metrics").status_code == 401
    with user.container(command=BUSY) as record:
        metrics(user, record["id"])
        found = {
            (sample.name, sample.labels.get("container_id")): sample
            for family in text_string_to_metric_families(admin.http.get("/metrics").text)
            for sample in family.samples
        }
    of_container = found["hzel_container_cpu_usage_seconds_total", record["id"]]
    assert of_container.value > 0
    assert of_container.labels["node"] == "test-node"
    info = found["hzel_container_info", record["id"]].labels
    assert (info["name"], info["user_id"], info["state"]) == (record["name"], record["user_id"], "running")
    assert found["hzel_node_cpu_usage_seconds_total", None].value > 0
    assert found["hzel_events_unpublished", None].labels["service"]
    services = {
        sample.labels["service"]
        for family in text_string_to_metric_families(admin.http.get("/metrics").text)
        for sample in family.samples
        if sample.name == "hzel_process_resident_memory_bytes"
    }
    assert {"lifecycle", "metrics", "gateway", "containerd", "nats"} <= services


def test_calls_that_a_stream_answers_are_counted_when_they_end(admin: Client, user: Client) -> None:
    def downloads() -> float:
        return sum(
            sample.value
            for family in text_string_to_metric_families(admin.http.get("/metrics").text)
            for sample in family.samples
            if sample.name == "hzel_rpc_calls_total" and sample.labels["method"] == "ReadOutput"
        )

    with user.container() as record:
        command = user.run(record["id"], "echo x")
        before = downloads()
        assert user.http.get(f"/api/v1/commands/{command['id']}/output?stream=stdout").content == b"x\n"
        eventually(lambda: downloads() > before)


def test_sampling_outlives_lifecycle_and_containerd(own_stack: Stack) -> None:
    admin = own_stack.client()
    record = admin.create(command=BUSY)
    before = metrics(admin, record["id"])
    own_stack.supervise("stop", "lifecycle")
    own_stack.supervise("stop", "containerd")
    alone = eventually(
        lambda: found if (found := metrics(admin, record["id"]))["uptime_s"] > before["uptime_s"] + 3 else None
    )
    assert alone["cpu_usage_ns"] > before["cpu_usage_ns"]
    assert len(history(admin, record["id"])["times"]) >= 2
    own_stack.supervise("start", "containerd")
    own_stack.supervise("start", "lifecycle")
    own_stack.comes_back()
    os.kill(own_stack.pid_of("metrics"), signal.SIGKILL)
    own_stack.comes_back()
    again = eventually(lambda: answer if (answer := _asked(admin, record["id"])) else None)
    assert again["uptime_s"] > alone["uptime_s"]
    assert again["cpu_usage_ns"] > alone["cpu_usage_ns"]
    assert again["io_read_bytes"] >= alone["io_read_bytes"]
    holds_since = datetime.fromisoformat(history(admin, record["id"])["holds_since"])
    assert holds_since > datetime.fromisoformat(alone["sampled_at"]), "the past is lost, and it says so"
    admin.delete(record["id"])


def _asked(client: Client, container_id: str) -> dict[str, Any] | None:
    answer = client.http.get(f"/api/v1/containers/{container_id}/metrics")
    return answer.json()["data"] if answer.status_code == 200 else None
