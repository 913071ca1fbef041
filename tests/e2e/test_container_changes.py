"""A container that is changed while it runs: its name, its labels; paused and resumed."""

import os
import signal
import time
from typing import Any

import httpx
import pytest
from websockets.exceptions import InvalidStatus

from tests.e2e.test_container_life import init_pid, traces, vanishes
from tests.e2e.test_container_restarts import story
from tests.e2e.test_crashes import kill
from tests.stack import Client, Stack, eventually, new_name
from tests.terminal import terminal

TICKING = ["sh", "-c", "while :; do date +%s%N > /tmp/tick; sleep 0.05; done"]


def patch(client: Client, container_id: str, **body: Any) -> httpx.Response:
    return client.http.patch(f"/api/v1/containers/{container_id}", json=body)


def patched(client: Client, container_id: str, **body: Any) -> dict[str, Any]:
    answer = patch(client, container_id, **body)
    assert answer.status_code == 200, answer.text
    return answer.json()["data"]


def refused(answer: httpx.Response, status: int, code: str) -> dict[str, Any]:
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code), answer.text
    return answer.json()["error"]


def said(client: Client, container_id: str, shell: str) -> str:
    result = client.run(container_id, shell)
    assert result["status"] == "succeeded", result
    return result["stdout"].strip()


def tick(stack: Stack, record: dict[str, Any]) -> str:
    return stack.on_node("cat", f"/proc/{init_pid(stack, record)}/root/tmp/tick")


def task_status(stack: Stack, container_id: str) -> str:
    socket = str(stack.run_dir / "containerd/containerd.sock")
    listed = stack.on_node("ctr", "--address", socket, "--namespace", stack.instance, "task", "ls")
    return next(line.split()[2] for line in listed.splitlines() if line.startswith(container_id))


def by_hand(stack: Stack, action: str, container_id: str) -> None:
    """Pauses or resumes a task behind hzel's back."""
    socket = str(stack.run_dir / "containerd/containerd.sock")
    stack.on_node("ctr", "--address", socket, "--namespace", stack.instance, "task", action, container_id)


def until_deleted(stack: Stack, container_id: str) -> list[dict[str, Any]] | None:
    """All its events, once the last of them is there."""
    events = story(stack, container_id)
    return events if events[-1]["what"] == "deleted" else None


def test_a_new_name_is_seen_inside_and_lasts(stack: Stack, user: Client) -> None:
    name = new_name()
    with user.container() as record:
        said(user, record["id"], "echo 10.9.9.9 mine >> /etc/hosts")
        changed = patched(user, record["id"], name=name)
        assert changed == {**record, "name": name}
        script = "hostname; cat /proc/sys/kernel/hostname /etc/hostname; cat /etc/hosts"
        first, second, third, *hosts = said(user, record["id"], script).splitlines()
        assert (first, second, third) == (name, name, name)
        assert f"{record['ip_address']} {name}" in hosts
        assert "10.9.9.9 mine" in hosts, "what somebody has added stays"
        assert not [line for line in hosts if record["name"] in line]
        assert patched(user, record["id"], name=name)["name"] == name
        user.act(record["id"], "restart", timeout_s=1)
        assert said(user, record["id"], "hostname; echo $HOSTNAME").split() == [name, name]
    assert [event["what"] for event in story(stack, record["id"])][2:4] == ["updated", "updated"]


def test_a_stopped_container_has_its_new_name_at_the_next_start(user: Client) -> None:
    name = new_name()
    with user.container() as record:
        user.act(record["id"], "stop", timeout_s=0)
        assert patched(user, record["id"], name=name)["state"] == "stopped"
        user.act(record["id"], "start")
        assert said(user, record["id"], "hostname; cat /etc/hostname").split() == [name, name]


def test_a_full_disk_does_not_keep_the_name_from_changing(user: Client) -> None:
    name = new_name()
    with user.container(hostname="a") as record:
        user.run(record["id"], "dd if=/dev/zero of=/fill bs=1M; rm /etc/nothing; sync")
        assert patched(user, record["id"], name=name)["name"] == name
        assert said(user, record["id"], "hostname; cat /etc/hostname").split() == [name, name]


def test_a_name_is_taken_once_for_each_owner_and_freed_by_a_change(stack: Stack, user: Client) -> None:
    with user.container() as one, user.container() as other, stack.new_user().container(hostname=one["name"]):
        error = refused(patch(user, other["id"], name=one["name"]), 409, "CONFLICT")
        assert one["name"] in error["message"]
        assert user.get(other["id"]) == other
        assert said(user, other["id"], "hostname") == other["name"]
        patched(user, one["id"], name=new_name())
        assert patched(user, other["id"], name=one["name"])["name"] == one["name"]


def test_labels_are_replaced_as_a_whole(user: Client) -> None:
    with user.container(labels={"a": "1", "b": "2"}) as record:
        assert patched(user, record["id"], labels={"b": "3"})["labels"] == {"b": "3"}
        assert [one["id"] for one in user.http.get("/api/v1/containers?label=b=3").json()["data"]] == [record["id"]]
        assert user.http.get("/api/v1/containers?label=a=1").json()["data"] == []
        assert patched(user, record["id"])["labels"] == {"b": "3"}
        assert patched(user, record["id"], labels={})["labels"] == {}


@pytest.mark.parametrize(
    ("field", "value"),
    [("name", "No"), ("name", None), ("labels", None), ("labels", {"a b": ""}), ("cpu_cores", 2), ("memory_mb", 128),
     ("disk_gb", 2), ("state", "running"), ("restart_policy", "always")],
)  # fmt: skip
def test_what_can_not_be_changed_is_refused_and_named(user: Client, field: str, value: object) -> None:
    with user.container() as record:
        error = refused(patch(user, record["id"], **{"name": "fine", field: value}), 400, "VALIDATION_FAILED")
        assert {detail["field"].partition(".")[0] for detail in error["details"]} == {field}
        assert user.get(record["id"]) == record


def test_anothers_container_is_neither_changed_nor_paused(stack: Stack, user: Client) -> None:
    stranger = stack.new_user()
    with user.container() as record:
        refused(patch(stranger, record["id"], name="mine"), 403, "FORBIDDEN")
        for action in ("pause", "resume"):
            refused(stranger.http.post(f"/api/v1/containers/{record['id']}/{action}"), 403, "FORBIDDEN")
        assert user.get(record["id"]) == record


def test_a_paused_container_stands_still_and_goes_on(stack: Stack, user: Client) -> None:
    with user.container(command=TICKING) as record:
        eventually(lambda: tick(stack, record))
        running = user.submit(record["id"], command="sleep 0.3; echo done")
        paused = user.act(record["id"], "pause")
        assert paused == {**record, "state": "paused"}
        assert user.act(record["id"], "pause") == paused
        assert [one["id"] for one in user.http.get("/api/v1/containers?state=paused").json()["data"]] == [record["id"]]
        before = tick(stack, record)
        assert user.command(running["id"], wait=1)["status"] == "running", "it is halted as well"
        assert tick(stack, record) == before
        assert user.act(record["id"], "resume") == record
        assert user.act(record["id"], "resume") == record
        assert user.ended(running["id"])["stdout"] == "done\n"
        eventually(lambda: tick(stack, record) != before)
    what = [event["what"] for event in eventually(lambda: until_deleted(stack, record["id"]))]
    assert what == ["provisioning", "running", "paused", "running", "deleted"]


def test_a_pause_in_the_middle_of_a_start_takes_it_along(user: Client) -> None:
    """Processes that the runtime is just adding are frozen half-way into the container."""
    with user.container(memory_mb=256) as record:
        submitted = []
        for number in range(30):
            submitted.append(user.submit(record["id"], command="sleep 0.1; echo done")["id"])
            # At another moment of the start each time.
            time.sleep(number / 1000)
            assert user.act(record["id"], "pause")["state"] == "paused"
            assert user.act(record["id"], "resume")["state"] == "running"
        for command_id in submitted:
            ended = user.ended(command_id)
            assert (ended["status"], ended["stdout"], ended["error"]) in (
                ("succeeded", "done\n", None),
                ("failed", "", "the container is not running"),  # it had not begun when it was paused
            )


async def test_nothing_is_begun_in_a_paused_container(stack: Stack, user: Client) -> None:
    with user.container() as record:
        user.act(record["id"], "pause")
        submitted = user.http.post(f"/api/v1/containers/{record['id']}/commands", json={"program": "true"})
        assert refused(submitted, 409, "CONFLICT")["message"] == "the container is paused"
        with pytest.raises(InvalidStatus) as refusal:
            async with terminal(stack, user, record["id"]):
                pytest.fail("it was opened")
        assert refusal.value.response.status_code == 409
        refused(user.http.post(f"/api/v1/containers/{record['id']}/start"), 409, "CONFLICT")
        metrics = user.http.get(f"/api/v1/containers/{record['id']}/metrics")
        assert metrics.status_code == 200
        assert metrics.json()["data"]["pids"] >= 2
        name = new_name()
        assert patched(user, record["id"], name=name)["state"] == "paused"
        user.act(record["id"], "resume")
        assert said(user, record["id"], "hostname; cat /etc/hostname").split() == [name, name]


def test_only_what_runs_is_paused(user: Client) -> None:
    with user.container() as record:
        user.act(record["id"], "stop", timeout_s=0)
        for action in ("pause", "resume"):
            refused(user.http.post(f"/api/v1/containers/{record['id']}/{action}"), 409, "CONFLICT")


def test_a_paused_container_hears_the_stop(user: Client) -> None:
    command = ["sh", "-c", "trap 'exit 5' TERM; touch /tmp/ready; while :; do sleep 0.05; done"]
    with user.container(command=command) as record:
        said(user, record["id"], "until [ -e /tmp/ready ]; do sleep 0.05; done")
        user.act(record["id"], "pause")
        stopped = user.act(record["id"], "stop")
        assert (stopped["state"], stopped["exit_code"]) == ("stopped", 5)
        assert user.act(record["id"], "start")["state"] == "running"


def test_a_paused_container_is_restarted_killed_and_deleted(stack: Stack, user: Client) -> None:
    stubborn = ["sh", "-c", "trap '' TERM; while :; do sleep 1; done"]
    record = user.create(command=stubborn)
    user.act(record["id"], "pause")
    assert user.act(record["id"], "restart", timeout_s=0)["state"] == "running"
    user.act(record["id"], "pause")
    assert user.act(record["id"], "stop", timeout_s=0)["exit_code"] == 137
    assert traces(stack, record["id"]) == ["file", "record"]
    user.act(record["id"], "start")
    user.act(record["id"], "pause")
    user.delete(record["id"])
    vanishes(stack, record["id"])


def test_a_command_that_is_cancelled_while_it_is_paused_ends_with_all_it_started(user: Client) -> None:
    with user.container() as record:
        running = user.submit(record["id"], command="trap '' TERM; sleep 1000 & sleep 1000 & wait")
        eventually(lambda: user.command(running["id"])["status"] == "running")
        user.act(record["id"], "pause")
        user.http.post(f"/api/v1/commands/{running['id']}/cancel", timeout=60)
        user.act(record["id"], "resume")
        assert user.ended(running["id"])["status"] == "cancelled"
        assert said(user, record["id"], "ps | grep -c '[s]leep 1000' || true") == "0"


def test_pauses_survive_every_crash_as_the_truth(own_stack: Stack) -> None:
    admin = own_stack.client()
    paused, running = admin.create(), admin.create()
    admin.act(paused["id"], "pause")
    for programs in (["lifecycle"], ["containerd"], ["containerd", "lifecycle"]):
        kill(own_stack, *programs)
        own_stack.comes_back()
        assert admin.get(paused["id"])["state"] == "paused"
        assert task_status(own_stack, paused["id"]) == "PAUSED"
        assert admin.get(running["id"])["state"] == "running"
    # As if lifecycle had died between the act and its row.
    own_stack.supervise("stop", "lifecycle")
    by_hand(own_stack, "pause", running["id"])
    by_hand(own_stack, "resume", paused["id"])
    own_stack.supervise("start", "lifecycle")
    own_stack.comes_back()
    assert admin.wait_for(running["id"], "paused")
    assert admin.wait_for(paused["id"], "running")
    assert admin.act(running["id"], "resume")["state"] == "running"
    # One that ends while it is paused and nobody looks.
    admin.act(paused["id"], "pause")
    own_stack.supervise("stop", "lifecycle")
    os.kill(init_pid(own_stack, paused), signal.SIGKILL)
    by_hand(own_stack, "resume", paused["id"])
    own_stack.supervise("start", "lifecycle")
    own_stack.comes_back()
    assert admin.wait_for(paused["id"], "stopped")["exit_code"] == 137
    admin.act(running["id"], "pause")
    own_stack.down()
    own_stack.up()
    admin = own_stack.client()
    assert admin.get(running["id"])["state"] == "stopped"
    assert admin.act(running["id"], "start")["state"] == "running"


def test_a_rename_that_was_cut_short_is_finished_by_the_next_lifecycle(own_stack: Stack) -> None:
    admin = own_stack.client()
    record = admin.create()
    namespace = f"--uts=/proc/{init_pid(own_stack, record)}/ns/uts"
    own_stack.supervise("stop", "lifecycle")
    own_stack.on_node("nsenter", namespace, "hostname", "before")
    own_stack.supervise("start", "lifecycle")
    own_stack.comes_back()
    assert eventually(lambda: said(admin, record["id"], "hostname; cat /etc/hostname").split() == [record["name"]] * 2)
