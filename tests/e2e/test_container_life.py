"""A container from its creation to its deletion, seen by its owner over REST and by root on the node."""

import json
import re
from pathlib import Path
from typing import Any

from tests.stack import Client, Stack, eventually, new_name

RFC_3339 = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z")
ID_RANGE = 65536


def init_pid(stack: Stack, record: dict[str, Any]) -> int:
    """The host's pid of the container's first process."""
    listed = stack.on_node(
        "ctr",
        "--address",
        str(stack.run_dir / "containerd/containerd.sock"),
        "--namespace",
        stack.instance,
        "task",
        "ls",
    )
    return next(int(line.split()[1]) for line in listed.splitlines() if line.startswith(record["id"]))


def traces(stack: Stack, container_id: str) -> list[str]:
    """Everything on the node that has the container's name on it."""
    tail = container_id.replace("-", "")[-12:]
    listings = {
        "mount": stack.on_node("cat", "/proc/self/mountinfo"),
        "loop device": stack.on_node("losetup", "--list", "--noheadings", "--output", "BACK-FILE"),
        # Other containers' folders vanish while it looks, which it calls an error.
        "cgroup": stack.on_node("sh", "-c", f"find /sys/fs/cgroup -maxdepth 4 -name {container_id} 2>/dev/null; true"),
        "file": stack.on_node(
            "sh", "-c", f"find {stack.state_dir} {stack.run_dir} -name '*{container_id}*' 2>/dev/null; true"
        ),
        "record": stack.on_node(
            "ctr",
            "--address",
            str(stack.run_dir / "containerd/containerd.sock"),
            "--namespace",
            stack.instance,
            "c",
            "ls",
        ),
    }
    found = [kind for kind, text in listings.items() if container_id in text]
    by_tail = {"link": stack.on_node("ip", "link"), "nft": stack.on_node("nft", "list", "ruleset")}
    return found + [kind for kind, text in by_tail.items() if tail in text]


def vanishes(stack: Stack, container_id: str) -> None:
    """Waits until nothing on the node has the container's name on it."""
    found = traces(stack, container_id)

    def is_gone() -> bool:
        found[:] = traces(stack, container_id)
        return not found

    try:
        eventually(is_gone)
    except AssertionError as error:
        raise AssertionError(f"left of {container_id}: {found}") from error


def test_a_create_answers_with_a_running_container(admin: Client) -> None:
    name = new_name()
    with admin.container(hostname=name, memory_mb=128, disk_gb=3, labels={"team": "a"}, env={"X": "1"}) as record:
        assert record["state"] == "running"
        assert record["state_reason"] is None
        assert (record["name"], record["memory_mb"], record["disk_gb"], record["cpu_cores"]) == (name, 128, 3, 1)
        assert record["proxmox_ctid"] == record["ctid"] >= 100
        assert record["permissions"] == 255
        assert record["labels"] == {"team": "a"}
        assert record["env"] == {"X": "1"}
        assert record["image"] == "hzel/busybox"
        assert record["runtime"] == "crun"
        assert record["node_name"] == "test-node"
        assert record["ip_address"]
        assert record["exit_code"] is None
        assert record["finished_at"] is None
        assert RFC_3339.fullmatch(record["created_at"])
        assert RFC_3339.fullmatch(record["started_at"])
        assert admin.get(record["id"]) == record


def test_each_container_has_a_user_range_of_its_own(stack: Stack, admin: Client) -> None:
    with admin.container() as one, admin.container() as other:
        maps = [Path(f"/proc/{init_pid(stack, record)}/uid_map").read_text().split() for record in (one, other)]
    starts = [int(start) for inside, start, _ in maps]
    assert [int(inside) for inside, _, _ in maps] == [0, 0]
    assert [int(length) for _, _, length in maps] == [ID_RANGE, ID_RANGE]
    assert abs(starts[0] - starts[1]) >= ID_RANGE
    assert min(starts) >= 1 << 28


def test_the_disk_limit_is_the_size_of_the_root_filesystem(stack: Stack, admin: Client) -> None:
    with admin.container(disk_gb=2) as record:
        root = f"/proc/{init_pid(stack, record)}/root"
        size = int(stack.on_node("stat", "-f", "-c", "%b", root)) * int(stack.on_node("stat", "-f", "-c", "%S", root))
    assert 1.8 * 1024**3 < size <= 2 * 1024**3


def test_what_fills_its_disk_fills_only_its_own(stack: Stack, admin: Client) -> None:
    fill = "dd if=/dev/zero of=/fill bs=1M; dd if=/dev/zero of=/etc/hosts bs=1M; touch /tmp/filled; sleep 1000"
    with admin.container(disk_gb=1, command=["sh", "-c", fill]) as record, admin.container() as other:
        root = Path(f"/proc/{init_pid(stack, record)}/root")
        size = eventually(lambda: (root / "fill").stat().st_size if (root / "tmp/filled").exists() else None, 60)
        assert 0.8 * 1024**3 < size + (root / "etc/hosts").stat().st_size <= 1024**3
        assert admin.get(other["id"])["state"] == "running"


def test_the_processes_are_confined(stack: Stack, admin: Client) -> None:
    with admin.container() as record:
        pid = init_pid(stack, record)
        status = dict(
            line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":\t" in line
        )
        child = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0]
    assert status["Seccomp"] == "2"
    assert int(status["CapEff"], 16) == 0xA80425FB, "Docker's default set"
    assert int(status["CapBnd"], 16) == 0xA80425FB
    assert int(status["Uid"].split()[0]) >= 1 << 28
    assert child


def test_memory_over_the_limit_kills_and_says_so(admin: Client) -> None:
    hog = ["sh", "-c", "dd if=/dev/zero of=/dev/null bs=200M count=1"]
    with admin.container(memory_mb=48, command=["sh", "-c", f"exec {hog[2]}"]) as record:
        ended = admin.wait_for(record["id"], "stopped")
    assert ended["state_reason"].startswith("oom_killed: ")
    assert ended["exit_code"] == 137


def test_a_container_that_ends_by_itself_says_how(admin: Client) -> None:
    with admin.container(command=["sh", "-c", "sleep 0.2; exit 7"]) as record:
        ended = admin.wait_for(record["id"], "stopped")
    assert ended["exit_code"] == 7
    assert ended["state_reason"].startswith("exited: ")
    assert ended["ip_address"] is None
    assert ended["finished_at"] > ended["started_at"]


def test_stop_start_and_restart_keep_the_disk(stack: Stack, admin: Client) -> None:
    with admin.container() as record:
        (Path(f"/proc/{init_pid(stack, record)}/root") / "root/kept").write_text("here")
        stopped = admin.act(record["id"], "stop")
        assert (stopped["state"], stopped["state_reason"]) == ("stopped", None)
        assert admin.act(record["id"], "stop")["state"] == "stopped"
        assert traces(stack, record["id"]) == ["file", "record"]
        started = admin.act(record["id"], "start")
        assert started["state"] == "running"
        assert started["started_at"] > record["started_at"]
        assert started["finished_at"] is None
        assert started["ip_address"] == record["ip_address"]
        assert admin.act(record["id"], "start") == started
        before = init_pid(stack, record)
        assert admin.act(record["id"], "restart", timeout_s=1)["state"] == "running"
        after = init_pid(stack, record)
        assert before != after
        assert (Path(f"/proc/{after}/root") / "root/kept").read_text() == "here"


def test_a_process_that_ignores_term_is_killed_after_the_timeout(admin: Client) -> None:
    with admin.container(command=["sh", "-c", "trap '' TERM; while :; do sleep 1; done"]) as record:
        stopped = admin.act(record["id"], "stop", timeout_s=1)
    assert stopped["state"] == "stopped"
    assert stopped["exit_code"] == 137


def test_delete_leaves_no_trace(stack: Stack, admin: Client) -> None:
    record = admin.create()
    assert traces(stack, record["id"])
    admin.delete(record["id"])
    vanishes(stack, record["id"])
    again = admin.http.delete(f"/api/v1/containers/{record['id']}")
    assert (again.status_code, again.json()["error"]["code"]) == (404, "CONTAINER_NOT_FOUND")


def test_without_waiting_the_answer_comes_at_once(admin: Client) -> None:
    record = admin.create(wait=False)
    assert record["state"] == "provisioning"
    assert admin.wait_for(record["id"], "running", "failed")["state"] == "running"
    admin.delete(record["id"])


def test_an_idempotency_key_makes_one_container(admin: Client) -> None:
    key, name = new_name(), new_name()
    body = {"hostname": name, "memory_mb": 64, "disk_gb": 1, "image": "hzel/busybox"}
    answers = [
        admin.http.post("/api/v1/containers", json=body, headers={"Idempotency-Key": key}).json()["data"]
        for _ in range(3)
    ]
    assert answers[0]["state"] == "running"
    assert answers[1] == answers[0] == answers[2]
    other = admin.http.post("/api/v1/containers", json=body | {"memory_mb": 65}, headers={"Idempotency-Key": key})
    assert (other.status_code, other.json()["error"]["code"]) == (422, "IDEMPOTENCY_MISMATCH")
    admin.delete(answers[0]["id"])
    late = admin.http.post("/api/v1/containers", json=body, headers={"Idempotency-Key": key})
    assert late.json()["data"] == answers[0], "the first answer, and no second container"
    assert admin.http.get(f"/api/v1/containers/{answers[0]['id']}").status_code == 404


def test_an_image_that_is_not_there_fails_the_create(stack: Stack, admin: Client) -> None:
    record = admin.create(image="nobody/nothing:9")
    assert record["state"] == "failed"
    assert record["state_reason"].startswith("image_missing: ")
    admin.delete(record["id"])
    assert traces(stack, record["id"]) == []


def test_a_command_that_is_not_there_fails_the_create(stack: Stack, admin: Client) -> None:
    record = admin.create(command=["/no/such/program"])
    assert record["state"] == "failed"
    assert record["state_reason"] == "entrypoint_missing: there is no executable '/no/such/program' in the image"
    admin.delete(record["id"])
    assert traces(stack, record["id"]) == []


def test_json_is_what_the_contract_says(admin: Client) -> None:
    with admin.container() as record:
        answer = admin.http.get(f"/api/v1/containers/{record['id']}")
    assert json.loads(answer.text).keys() == {"data"}
    assert answer.headers["x-request-id"]
    fields = """
        id name node_name cpu_cores memory_mb disk_gb state created_at permissions proxmox_ctid ctid user_id image
        runtime labels env ip_address started_at finished_at exit_code state_reason
        auto_stop_s expires_at restart_policy
    """
    assert set(fields.split()) <= answer.json()["data"].keys()
