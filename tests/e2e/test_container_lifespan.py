"""Containers that are ended because nobody uses them, or because their time is over."""

import sqlite3
from contextlib import closing
from datetime import datetime, timedelta
from typing import Any

import pytest

from tests.e2e.test_container_changes import patch, patched, until_deleted
from tests.e2e.test_container_life import vanishes
from tests.e2e.test_container_restarts import row, story
from tests.e2e.test_crashes import kill
from tests.stack import Client, Stack, eventually
from tests.terminal import terminal

BUSY = ["sh", "-c", "while :; do :; done"]


def moment(text: str) -> datetime:
    return datetime.fromisoformat(text)


def event(stack: Stack, container_id: str, what: str) -> dict[str, Any]:
    """The only one of its kind, once it is there."""
    (found,) = eventually(lambda: [one for one in story(stack, container_id) if one["what"] == what] or None)
    return found


def is_gone(client: Client, container_id: str) -> bool:
    return client.http.get(f"/api/v1/containers/{container_id}").status_code == 404


def is_measured(stack: Stack, container_id: str) -> bool:
    """Whether its idleness is being counted."""
    return row(stack, container_id)["idle_since"] is not None


def test_an_idle_container_is_stopped_and_says_why(stack: Stack, user: Client) -> None:
    with user.container(auto_stop_s=3, restart_policy="always") as record:
        assert record["auto_stop_s"] == 3
        stopped = user.wait_for(record["id"], "stopped")
        assert stopped["state_reason"].startswith("idle: ")
        assert moment(stopped["finished_at"]) - moment(record["started_at"]) >= timedelta(seconds=3)
        assert row(stack, record["id"])["desired"] == "stopped", "whatever its restart policy"
        assert user.act(record["id"], "start")["state_reason"] is None
        assert user.wait_for(record["id"], "stopped")["state_reason"].startswith("idle: ")


async def test_what_is_used_is_not_stopped(stack: Stack, user: Client) -> None:
    """The last of these containers to be made is idle: when that is stopped, the others would have been."""
    with (
        user.container(auto_stop_s=3) as typed_in,
        user.container(auto_stop_s=3) as working,
        user.container(auto_stop_s=3, command=BUSY) as busy,
        user.container(auto_stop_s=3) as paused,
        user.container() as unlimited,
    ):
        async with terminal(stack, user, typed_in["id"]):
            command = user.submit(working["id"], command="sleep 1000")
            user.act(paused["id"], "pause")
            with user.container(auto_stop_s=6) as idle:
                assert user.wait_for(idle["id"], "stopped")["state_reason"].startswith("idle: ")
            for used in (typed_in, working, busy, unlimited):
                assert user.get(used["id"])["state"] == "running"
            assert user.get(paused["id"])["state"] == "paused"
            user.http.post(f"/api/v1/commands/{command['id']}/cancel")
            user.act(paused["id"], "resume")
        ended_at = moment(user.command(command["id"])["finished_at"])
        for used in (typed_in, working, paused):
            stopped = user.wait_for(used["id"], "stopped")
            assert stopped["state_reason"].startswith("idle: ")
            assert moment(stopped["finished_at"]) - ended_at >= timedelta(seconds=2)
        assert user.get(busy["id"])["state"] == "running"


def test_commands_that_are_shorter_than_a_look_count(stack: Stack, user: Client) -> None:
    with user.container(auto_stop_s=3) as used, user.container(auto_stop_s=8) as idle:
        while user.get(idle["id"])["state"] == "running":
            assert user.submit(used["id"], wait=5, program="true")["status"] == "succeeded"
        assert user.wait_for(idle["id"], "stopped")["state_reason"].startswith("idle: ")
        assert user.wait_for(used["id"], "stopped")["state_reason"].startswith("idle: ")
        assert moment(event(stack, idle["id"], "stopped")["time"]) < moment(event(stack, used["id"], "stopped")["time"])


def test_the_limits_are_changed_and_removed_while_it_runs(stack: Stack, user: Client) -> None:
    with user.container(auto_stop_s=3600, ttl_s=3600) as record:
        eventually(lambda: is_measured(stack, record["id"]))
        changed = patched(user, record["id"], auto_stop_s=None, ttl_s=None)
        assert changed == {**record, "auto_stop_s": None, "expires_at": None}
        longer = patched(user, record["id"], ttl_s=7200)
        assert longer["expires_at"] > record["expires_at"]
        assert patched(user, record["id"], name="still")["expires_at"] == longer["expires_at"]
        patched(user, record["id"], auto_stop_s=2)
        assert user.wait_for(record["id"], "stopped")["state_reason"].startswith("idle: ")
        patched(user, record["id"], ttl_s=1)
        eventually(lambda: is_gone(user, record["id"]))


@pytest.mark.parametrize("field", ["auto_stop_s", "ttl_s"])
def test_a_limit_is_a_number_of_seconds(user: Client, field: str) -> None:
    with user.container() as record:
        for value in (0, -1, 1.5, "5", True, 2**31):
            for answer in (
                patch(user, record["id"], **{field: value}),
                user.http.post("/api/v1/containers", json={"hostname": "a", field: value}),
            ):
                assert (answer.status_code, answer.json()["error"]["code"]) == (400, "VALIDATION_FAILED")


@pytest.mark.parametrize("state", ["running", "paused", "stopped"])
def test_a_container_is_deleted_when_its_time_is_over(stack: Stack, user: Client, state: str) -> None:
    record = user.create(ttl_s=4, restart_policy="always", command=BUSY)
    assert moment(record["expires_at"]) - moment(record["created_at"]) == timedelta(seconds=4)
    if state != "running":
        user.act(record["id"], {"paused": "pause", "stopped": "stop"}[state])
    eventually(lambda: is_gone(user, record["id"]))
    expiring, deleted = event(stack, record["id"], "expiring"), event(stack, record["id"], "deleted")
    assert moment(expiring["expires_at"]) == moment(record["expires_at"])
    assert moment(expiring["time"]) < moment(record["expires_at"]) <= moment(deleted["time"])
    assert deleted["state_reason"].startswith("expired: ")
    assert user.http.get(f"/api/v1/containers/{record['id']}").status_code == 404
    vanishes(stack, record["id"])


def test_the_end_is_told_a_minute_before_it(stack: Stack, user: Client) -> None:
    with user.container(ttl_s=62) as record:
        expiring = event(stack, record["id"], "expiring")
        assert moment(expiring["time"]) >= moment(record["expires_at"]) - timedelta(seconds=60)
        patched(user, record["id"], ttl_s=3600)
        assert not row(stack, record["id"])["is_expiry_told"]


def test_limits_survive_the_death_of_every_service(own_stack: Stack) -> None:
    admin = own_stack.client()
    idle, short = admin.create(auto_stop_s=20), admin.create(ttl_s=3600)
    eventually(lambda: is_measured(own_stack, idle["id"]))
    since = row(own_stack, idle["id"])["idle_since"]
    kill(own_stack, "lifecycle", "exec", "terminal")
    own_stack.comes_back()
    assert row(own_stack, idle["id"])["idle_since"] == since, "what was counted before counts"
    assert admin.wait_for(idle["id"], "stopped", within_s=60)["state_reason"].startswith("idle: ")
    own_stack.supervise("stop", "lifecycle")
    with closing(sqlite3.connect(own_stack.state_dir / "lifecycle/lifecycle.db")) as database:
        # Its time was over while nobody was there.
        database.execute("UPDATE containers SET expires_at = '2026-01-01 00:00:00.000000' WHERE id = ?", [short["id"]])
        database.commit()
    own_stack.supervise("start", "lifecycle")
    own_stack.comes_back()
    eventually(lambda: is_gone(admin, short["id"]))
    what = [one["what"] for one in eventually(lambda: until_deleted(own_stack, short["id"]))]
    assert what == ["provisioning", "running", "expiring", "deleted"]


def test_nothing_is_stopped_while_it_is_not_known_what_goes_on(own_stack: Stack) -> None:
    admin = own_stack.client()
    record = admin.create(auto_stop_s=3)
    running = admin.submit(record["id"], command="sleep 1000")
    other = admin.create()
    own_stack.supervise("stop", "exec")
    patched(admin, other["id"], ttl_s=6)
    eventually(lambda: is_gone(admin, other["id"]))
    assert admin.get(record["id"])["state"] == "running"
    own_stack.supervise("start", "exec")
    own_stack.comes_back()
    assert admin.command(running["id"])["status"] == "running"
    admin.http.post(f"/api/v1/commands/{running['id']}/cancel")
    assert admin.wait_for(record["id"], "stopped")["state_reason"].startswith("idle: ")
