"""What survives when processes die: everything that was acknowledged, and every container."""

import asyncio
import os
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import nats
import pytest

from services.common.ids import new_id
from tests.e2e.test_container_life import init_pid, vanishes
from tests.stack import Client, Stack, eventually, new_name

pytestmark = pytest.mark.filterwarnings("ignore:.*socket.*:pytest.PytestUnraisableExceptionWarning")


def kill(stack: Stack, *programs: str) -> None:
    for pid in [stack.pid_of(program) for program in programs]:
        os.kill(pid, signal.SIGKILL)


def events_of(stack: Stack, container_ids: set[str]) -> list[tuple[str, str]]:
    """(container id, state) of every stored event about the containers, in order."""

    async def read() -> list[tuple[str, str]]:
        client = await nats.connect(stack.nats_url, connect_timeout=10)
        try:
            stream = client.jetstream()
            subscription = await stream.subscribe("hzel.container.>", ordered_consumer=True)
            found = []
            pending = (await stream.stream_info("HZEL_EVENTS")).state.messages
            for _ in range(pending):
                message = await subscription.next_msg(timeout=10)
                _, _, container_id, what = message.subject.split(".")
                if container_id in container_ids:
                    found.append((container_id, what))
            return found
        finally:
            await client.close()

    return asyncio.run(read())


def test_containers_outlive_every_service(own_stack: Stack) -> None:
    admin = own_stack.client()
    with ThreadPoolExecutor(4) as pool:
        records = list(pool.map(lambda _: admin.create(), range(10)))
    assert {record["state"] for record in records} == {"running"}
    pids = {record["id"]: init_pid(own_stack, record) for record in records}

    for programs in (["lifecycle"], ["gateway"], ["nats"], ["lifecycle", "gateway", "nats"], ["containerd"]):
        kill(own_stack, *programs)
        own_stack.comes_back()
        listed = {entry["id"]: entry for entry in admin.http.get("/api/v1/containers").json()["data"]}
        assert {key: entry["state"] for key, entry in listed.items()} == dict.fromkeys(pids, "running")
        assert {record["id"]: init_pid(own_stack, record) for record in records} == pids

    restarted = admin.act(records[0]["id"], "restart", timeout_s=1)
    assert restarted["state"] == "running"
    os.kill(pids[records[1]["id"]], signal.SIGKILL)
    assert admin.wait_for(records[1]["id"], "stopped")["exit_code"] == 137
    for record in records:
        admin.delete(record["id"])
    ids = set(pids)
    eventually(lambda: len(events_of(own_stack, ids)) >= 34)
    seen = events_of(own_stack, ids)
    for container_id in ids - {records[0]["id"], records[1]["id"]}:
        mine = [what for identifier, what in seen if identifier == container_id]
        assert mine == ["provisioning", "running", "deleted"], "each once and in order"
    assert [what for identifier, what in seen if identifier == records[0]["id"]] == [
        "provisioning", "running", "stopped", "provisioning", "running", "deleted",
    ]  # fmt: skip
    for container_id in ids:
        vanishes(own_stack, container_id)


def test_a_container_that_ended_while_lifecycle_was_down_is_noticed(own_stack: Stack) -> None:
    admin = own_stack.client()
    record = admin.create()
    own_stack.supervise("stop", "lifecycle")
    os.kill(init_pid(own_stack, record), signal.SIGKILL)
    own_stack.supervise("start", "lifecycle")
    own_stack.comes_back()
    ended = admin.wait_for(record["id"], "stopped")
    assert (ended["exit_code"], ended["state_reason"].split(":")[0]) == (137, "exited")


def test_an_acknowledged_create_goes_on_after_a_crash(own_stack: Stack) -> None:
    admin = own_stack.client()
    records = [admin.create(wait=False) for _ in range(6)]
    kill(own_stack, "lifecycle")
    own_stack.comes_back()
    for record in records:
        assert admin.wait_for(record["id"], "running", "failed")["state"] == "running"


def test_retries_with_a_key_while_everything_dies_make_one_container(own_stack: Stack) -> None:
    admin = own_stack.client()
    stop = threading.Event()

    def killer() -> None:
        for programs in (["lifecycle"], ["gateway"], ["containerd"], ["lifecycle", "gateway", "nats"]):
            if stop.wait(0.7):
                return
            kill(own_stack, *programs)
            eventually(lambda: own_stack.is_ready() or stop.is_set())

    def create(number: int) -> dict[str, Any]:
        body = {"hostname": f"c{number}", "memory_mb": 64, "disk_gb": 1, "image": "hzel/busybox"}
        key = new_id()

        def attempt() -> dict[str, Any] | None:
            try:
                answer = admin.http.post("/api/v1/containers", json=body, headers={"Idempotency-Key": key})
            except httpx.HTTPError:
                return None
            assert answer.status_code in (201, 503, 504), answer.text
            return answer.json()["data"] if answer.status_code == 201 else None

        return eventually(attempt, 60)

    thread = threading.Thread(target=killer)
    thread.start()
    try:
        with ThreadPoolExecutor(4) as pool:
            made = list(pool.map(create, range(24)))
    finally:
        stop.set()
        thread.join()
    own_stack.comes_back()
    listed = admin.http.get("/api/v1/containers?limit=500").json()["data"]
    assert sorted(entry["id"] for entry in listed) == sorted(record["id"] for record in made)
    for entry in listed:
        settled = admin.wait_for(entry["id"], "running", "failed", "stopped")
        assert settled["state"] == "running" or settled["state_reason"], settled
    for entry in listed:
        deleted(admin, entry["id"])
    for entry in listed:
        vanishes(own_stack, entry["id"])


def deleted(admin: Client, container_id: str) -> None:
    def gone() -> bool:
        return admin.http.delete(f"/api/v1/containers/{container_id}").status_code in (204, 404)

    eventually(gone)


def test_containerd_killed_in_the_middle_of_a_create_fails_it_with_a_reason(own_stack: Stack) -> None:
    admin = own_stack.client()
    folder = own_stack.run_dir / "containers"
    with ThreadPoolExecutor(2) as pool:
        for _ in range(4):
            pending = pool.submit(admin.create)
            eventually(lambda pending=pending: pending.done() or any(folder.glob("*")))
            kill(own_stack, "containerd")
            record = pending.result()
            assert record["state"] in ("running", "failed")
            assert record["state"] == "running" or record["state_reason"].split(":")[0] in (
                "runtime_unavailable", "runtime_error", "start_timeout",
            )  # fmt: skip
            deleted(admin, record["id"])
            vanishes(own_stack, record["id"])


def test_stopping_and_starting_the_stack_keeps_containers(own_stack: Stack) -> None:
    admin = own_stack.client()
    record = admin.create(name=new_name())
    own_stack.down()
    own_stack.up()
    kept = own_stack.client().get(record["id"])
    assert kept["state"] == "stopped"
    assert own_stack.client().act(record["id"], "start")["state"] == "running"
