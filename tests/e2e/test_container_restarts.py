"""Containers that are started again by themselves: when, how often, and when not."""

import asyncio
import json
import os
import signal
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import nats
import pytest

from tests.e2e.test_container_life import init_pid, vanishes
from tests.e2e.test_crashes import kill
from tests.stack import Client, Stack, eventually

# Long enough to have been seen running.
FAILING = ["sh", "-c", "sleep 0.3; exit 4"]


def story(stack: Stack, container_id: str) -> list[dict[str, Any]]:
    """The events of a container in order: their data, with `what` and `time`."""

    async def read() -> list[dict[str, Any]]:
        client = await nats.connect(stack.nats_url, connect_timeout=10)
        try:
            stream = client.jetstream()
            subscription = await stream.subscribe(f"hzel.container.{container_id}.>", ordered_consumer=True)
            found: list[dict[str, Any]] = []
            while True:
                message = await subscription.next_msg(timeout=10)
                event = json.loads(message.data)
                found.append({**event["data"], "what": message.subject.split(".")[-1], "time": event["time"]})
                if message.metadata.num_pending == 0:
                    return found
        finally:
            await client.close()

    return asyncio.run(read())


def ends(stack: Stack, container_id: str) -> list[dict[str, Any]]:
    return [event for event in story(stack, container_id) if event["what"] == "stopped"]


def row(stack: Stack, container_id: str) -> dict[str, Any]:
    with closing(sqlite3.connect(stack.state_dir / "lifecycle/lifecycle.db")) as database:
        database.row_factory = sqlite3.Row
        return dict(database.execute("SELECT * FROM containers WHERE id = ?", [container_id]).fetchone())


def program_pid(stack: Stack, record: dict[str, Any]) -> int:
    """Of what the container runs: the child of its init."""
    pid = init_pid(stack, record)
    return int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0])


def test_a_policy_is_in_the_record_and_no_is_the_default(user: Client) -> None:
    with user.container() as plain, user.container(restart_policy="on-failure:3") as record:
        assert plain["restart_policy"] == "no"
        assert user.get(record["id"])["restart_policy"] == "on-failure:3"
    for wrong in ("sometimes", "on-failure:0", "", None):
        body = {"hostname": "a", "restart_policy": wrong}
        assert user.http.post("/api/v1/containers", json=body).status_code == 400


def test_a_killed_program_is_started_again_and_says_why(stack: Stack, user: Client) -> None:
    with user.container(restart_policy="on-failure") as record:
        os.kill(program_pid(stack, record), signal.SIGKILL)
        eventually(lambda: user.get(record["id"])["state_reason"])
        again = user.wait_for(record["id"], "running")
        assert again["started_at"] > record["started_at"]
        assert again["state_reason"].startswith("restarted: by its policy, time 1 ")
        assert again["exit_code"] == 137
        assert again["ip_address"] == record["ip_address"]
        (end,) = ends(stack, record["id"])
        assert (end["state_reason"].partition(":")[0], end["exit_code"]) == ("exited", 137)
        restarted = user.act(record["id"], "restart", timeout_s=0)
        assert (restarted["state_reason"], restarted["exit_code"]) == (None, None), "its owner has begun it anew"


def test_the_memory_limit_is_told_from_a_kill(stack: Stack, user: Client) -> None:
    once = "[ -e /root/again ] && exec sleep 1000; touch /root/again; exec dd if=/dev/zero of=/dev/null bs=200M count=1"
    with user.container(restart_policy="always", memory_mb=48, command=["sh", "-c", once]) as record:
        ended = eventually(lambda: ends(stack, record["id"]) or None)
        assert (ended[0]["state_reason"].partition(":")[0], ended[0]["exit_code"]) == ("oom_killed", 137)
        user.wait_for(record["id"], "running")
        os.kill(program_pid(stack, record), signal.SIGKILL)
        eventually(lambda: len(ends(stack, record["id"])) == 2)
        last = ends(stack, record["id"])[-1]
        assert (last["state_reason"].partition(":")[0], last["exit_code"]) == ("exited", 137)


def test_a_success_ends_on_failure_and_not_always(stack: Stack, user: Client) -> None:
    fine = ["sh", "-c", "sleep 0.3; exit 0"]
    with user.container(restart_policy="on-failure", command=fine) as record:
        ended = user.wait_for(record["id"], "stopped")
        assert (ended["exit_code"], ended["state_reason"].partition(":")[0]) == (0, "exited")
        assert row(stack, record["id"])["desired"] == "stopped"
    with user.container(restart_policy="always", command=fine) as record:
        eventually(lambda: len(ends(stack, record["id"])) >= 3)


def test_restarts_end_at_the_number_that_was_given(stack: Stack, user: Client) -> None:
    with user.container(restart_policy="on-failure:2", command=FAILING) as record:
        eventually(lambda: row(stack, record["id"])["desired"] == "stopped")
        # Published a moment later.
        eventually(lambda: len(ends(stack, record["id"])) == 3)
        what = [event["what"] for event in story(stack, record["id"])]
        assert what == ["provisioning", "running", "stopped"] * 3
        assert [end["exit_code"] for end in ends(stack, record["id"])] == [4] * 3
        user.act(record["id"], "start")
        eventually(lambda: row(stack, record["id"])["restart_count"] == 1)


def waiting(stack: Stack, container_id: str, restarts: int) -> dict[str, Any]:
    """Its row, once it waits for a restart after at least so many others."""

    def look() -> dict[str, Any] | None:
        found = row(stack, container_id)
        return found if found["restart_at"] is not None and found["restart_count"] >= restarts else None

    return eventually(look, 60)


@pytest.mark.parametrize("action", ["stop", "delete", "start"])
def test_its_owner_ends_the_wait(stack: Stack, user: Client, action: str) -> None:
    with user.container(restart_policy="always", command=FAILING) as record:
        waiting(stack, record["id"], 3)
        if action == "delete":
            user.delete(record["id"])
            vanishes(stack, record["id"])
            assert user.http.get(f"/api/v1/containers/{record['id']}").status_code == 404
            return
        answer = user.act(record["id"], action)
        kept = row(stack, record["id"])
        if action == "stop":
            assert answer["state"] == "stopped"
            assert (kept["desired"], kept["restart_at"], kept["restart_count"]) == ("stopped", None, 0)
        else:
            assert (answer["state"], answer["state_reason"]) == ("running", None)
            assert kept["restart_count"] == 0


def test_a_restart_that_fails_is_tried_again(stack: Stack, user: Client) -> None:
    with user.container(restart_policy="always", command=["/bin/sh", "-c", "sleep 0.3; rm /bin/sh"]) as record:
        failed = eventually(lambda: one if (one := user.get(record["id"]))["state"] == "failed" else None)
        assert failed["state_reason"].startswith("entrypoint_missing: ")
        eventually(lambda: row(stack, record["id"])["restart_count"] >= 3)
        assert user.act(record["id"], "stop")["state"] == "stopped"
        assert row(stack, record["id"])["restart_at"] is None


def test_a_wait_survives_the_death_of_lifecycle(own_stack: Stack) -> None:
    admin = own_stack.client()
    record = admin.create(restart_policy="always", command=FAILING)
    before = waiting(own_stack, record["id"], 4)
    kill(own_stack, "lifecycle")
    own_stack.comes_back()
    eventually(lambda: row(own_stack, record["id"])["restart_count"] > before["restart_count"])
    counts = [
        int(event["state_reason"].split("time ")[1].split()[0])
        for event in story(own_stack, record["id"])
        if event["what"] == "running" and event["state_reason"]
    ]
    assert counts == list(range(1, len(counts) + 1)), "none is missing and none came twice"
    waiting(own_stack, record["id"], 5)
    kill(own_stack, "containerd", "lifecycle")
    own_stack.comes_back()
    waiting(own_stack, record["id"], 6)
    assert admin.act(record["id"], "stop")["state"] == "stopped"
    kill(own_stack, "lifecycle")
    own_stack.comes_back()
    assert admin.get(record["id"])["state"] == "stopped"
    admin.delete(record["id"])


def test_what_ends_while_lifecycle_is_away_is_started_again(own_stack: Stack) -> None:
    admin = own_stack.client()
    record = admin.create(restart_policy="on-failure")
    own_stack.supervise("stop", "lifecycle")
    os.kill(program_pid(own_stack, record), signal.SIGKILL)
    own_stack.supervise("start", "lifecycle")
    own_stack.comes_back()
    again = eventually(lambda: one if (one := admin.get(record["id"]))["exit_code"] == 137 else None)
    assert admin.wait_for(again["id"], "running")["state_reason"].startswith("restarted: ")


def test_after_down_and_a_reboot_only_what_shall_always_run_is_started(own_stack: Stack) -> None:
    admin = own_stack.client()
    always, stopped, plain, failing = (
        admin.create(restart_policy=policy) for policy in ("always", "always", "no", "on-failure")
    )
    paused = admin.create(restart_policy="always")
    admin.act(stopped["id"], "stop", timeout_s=0)
    admin.act(paused["id"], "pause")
    own_stack.down()
    assert row(own_stack, always["id"])["state_reason"].startswith("node_stopped: ")
    own_stack.up()
    admin = own_stack.client()
    for record in (always, paused):
        again = admin.wait_for(record["id"], "running")
        assert "hzel was stopped on the node" in again["state_reason"]
    for record in (stopped, plain, failing):
        assert admin.get(record["id"])["state"] == "stopped"

    for record in (plain, failing):
        admin.act(record["id"], "start")
    own_stack.supervise("stop", "lifecycle")
    for record in (always, plain, failing):
        # Like a reboot: nothing of it is left, and it had been started before the machine was.
        own_stack.on_node("sh", "-c", f"kill -9 {init_pid(own_stack, record)}")
        own_stack.on_node(*ctr(own_stack), "task", "rm", "--force", record["id"])
    with closing(sqlite3.connect(own_stack.state_dir / "lifecycle/lifecycle.db")) as database:
        database.execute("UPDATE containers SET started_at = '2001-01-01 00:00:00.000000'")
        database.commit()
    own_stack.supervise("start", "lifecycle")
    own_stack.comes_back()
    again = admin.wait_for(always["id"], "running")
    assert "the node was restarted" in again["state_reason"]
    assert again["exit_code"] is None
    for record in (plain, failing):
        assert admin.wait_for(record["id"], "stopped")["state_reason"].startswith("node_restarted: ")
    assert admin.get(stopped["id"])["state"] == "stopped"


def ctr(stack: Stack) -> list[str]:
    return ["ctr", "--address", str(stack.run_dir / "containerd/containerd.sock"), "--namespace", stack.instance]
