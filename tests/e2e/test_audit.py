"""The audit log of a running stack: what was done and refused is there, what was secret is nowhere."""

import asyncio
import json
import os
import re
import signal
import sqlite3
from collections.abc import Iterator
from typing import Any

import pytest
from websockets.asyncio.client import connect

from services.common.ids import new_id
from tests.stack import Client, Stack, eventually, new_name
from tests.terminal import terminal

LOGS = "/api/v1/audit-logs"
SOME_INPUT = json.dumps({"type": "input", "data": "input-s3cret\n"})


@pytest.fixture(scope="module")
def owner(stack: Stack) -> Client:
    return stack.new_user()


@pytest.fixture(scope="module")
def box(owner: Client) -> Iterator[str]:
    with owner.container(memory_mb=256) as record:
        yield record["id"]


def user_id(client: Client) -> str:
    found: str = client.http.get("/api/v1/auth/me").json()["data"]["user_id"]
    return found


def entries(admin: Client, **query: str) -> list[dict[str, Any]]:
    """The newest first."""
    answer = admin.http.get(LOGS, params=query)
    assert answer.status_code == 200, answer.text
    found: list[dict[str, Any]] = answer.json()["data"]
    return found


def the_entry(admin: Client, **query: str) -> dict[str, Any]:
    (found,) = entries(admin, **query)
    return found


def test_the_life_of_a_container_is_recorded(admin: Client, user: Client) -> None:
    name = new_name()
    record = user.create(name, env={"PASSWORD": "env-s3cret"})
    for action in ("stop", "start", "restart", "pause", "resume"):
        user.act(record["id"], action)
    changes = {"labels": {"a": "label"}, "name": f"{name}-2"}
    patched = user.http.patch(f"/api/v1/containers/{record['id']}", json=changes)
    assert patched.status_code == 200
    user.delete(record["id"])
    assert user.http.post(f"/api/v1/containers/{record['id']}/start").status_code == 404
    found = entries(admin, container_id=record["id"])
    assert [(entry["action"], entry["outcome"]) for entry in reversed(found)] == [
        ("container.create", "success"),
        ("container.stop", "success"),
        ("container.start", "success"),
        ("container.restart", "success"),
        ("container.pause", "success"),
        ("container.resume", "success"),
        ("container.update", "success"),
        ("container.delete", "success"),
        ("container.start", "failure"),
    ]
    assert {entry["user_id"] for entry in found} == {user_id(user)}
    made = found[-1]["metadata"]
    assert (made["name"], made["memory_mb"], made["address"]) == (name, 64, "127.0.0.1")
    assert found[0]["metadata"]["code"] == "CONTAINER_NOT_FOUND"
    changed = found[2]["metadata"]
    assert (changed["fields"], changed["name"]) == ("labels, name", f"{name}-2")


def test_a_container_that_does_not_start_is_a_failure(admin: Client, user: Client) -> None:
    with user.container(command=["/no/such/program"]) as record:
        if record["state"] != "failed":
            pytest.skip("it has started and ended")
        entry = the_entry(admin, container_id=record["id"], action="container.create")
        assert (entry["outcome"], entry["metadata"]["code"]) == ("failure", record["state_reason"].partition(":")[0])


def test_commands_are_recorded_by_their_program_alone(admin: Client, owner: Client, box: str) -> None:
    secrets = {"args": ["argument-s3cret"], "env": {"TOKEN": "env-s3cret"}, "stdin": "stdin-s3cret"}
    command = owner.submit(box, wait=30, program="/bin/echo", **secrets)
    assert command["status"] == "succeeded"
    entry = entries(admin, container_id=box, action="command.enqueue")[0]
    assert entry["outcome"] == "success"
    assert entry["metadata"]["command_id"] == command["id"]
    assert entry["metadata"]["program"] == "/bin/echo"
    owner.run(box, "echo shell-s3cret")
    assert entries(admin, container_id=box)[0]["metadata"]["program"] == "/bin/sh"
    assert "s3cret" not in str(entries(admin, container_id=box))


def test_a_command_has_one_entry_however_long_it_runs(admin: Client, owner: Client, box: str) -> None:
    command = owner.submit(box, program="sleep", args=["600"])
    answer = owner.http.post(f"/api/v1/commands/{command['id']}/cancel")
    assert answer.json()["data"]["status"] == "cancelled"
    found = [e for e in entries(admin, container_id=box) if e["metadata"].get("command_id") == command["id"]]
    assert [entry["action"] for entry in found] == ["command.cancel", "command.enqueue"]


def test_a_command_waited_for_is_recorded_while_it_runs(admin: Client, owner: Client, box: str) -> None:
    before = {entry["id"] for entry in entries(admin, container_id=box, action="command.enqueue")}

    async def watch() -> None:
        running = asyncio.to_thread(owner.submit, box, 10, command="sleep 5")
        task = asyncio.create_task(running)
        await asyncio.to_thread(
            eventually,
            lambda: {e["id"] for e in entries(admin, container_id=box, action="command.enqueue")} - before,
            within_s=4.5,
        )
        assert not task.done()
        await task

    asyncio.run(watch())


def test_a_command_that_is_refused_is_a_failure(admin: Client, user: Client) -> None:
    with user.container() as record:
        user.act(record["id"], "stop")
        for query in ("", "?wait=5"):
            answer = user.http.post(f"/api/v1/containers/{record['id']}/commands{query}", json={"program": "true"})
            assert answer.status_code == 409
        found = entries(admin, container_id=record["id"], action="command.enqueue", outcome="failure")
        assert [entry["metadata"]["code"] for entry in found] == ["CONFLICT"] * 2


def test_a_repeated_request_says_that_it_was_one(admin: Client, owner: Client, box: str) -> None:
    for _ in range(2):
        answer = owner.http.post(
            f"/api/v1/containers/{box}/commands", json={"program": "true"}, headers={"Idempotency-Key": f"k-{box}"}
        )
        assert answer.status_code == 201
    again, first = entries(admin, container_id=box, action="command.enqueue")[:2]
    assert again["metadata"]["replayed"] is True
    assert "replayed" not in first["metadata"]


def test_the_refused_are_recorded_with_what_they_wanted(admin: Client, user: Client, owner: Client, box: str) -> None:
    assert user.http.post(f"/api/v1/containers/{box}/stop").status_code == 403
    assert user.http.get(LOGS).status_code == 403
    assert user.http.get(f"{LOGS}/verify").status_code == 403
    found = entries(admin, user_id=user_id(user), action="access.refused")
    wanted = [entry["metadata"]["wanted"] for entry in reversed(found)]
    assert wanted == ["container.stop", f"GET {LOGS}", f"GET {LOGS}/verify"]
    assert found[-1]["container_id"] == box
    assert {entry["outcome"] for entry in found} == {"failure"}


def test_failed_authentication_is_recorded_but_fills_nothing(stack: Stack, admin: Client) -> None:
    stranger = stack.client("hzel_" + "s" * 43)
    before = len(entries(admin, action="auth.refused", limit="500"))
    for _ in range(300):
        assert stranger.http.get("/api/v1/containers").status_code == 401
    after = entries(admin, action="auth.refused", limit="500")
    assert after
    assert len(after) - before <= 4
    assert after[0]["user_id"] is None
    assert "ssss" not in str(after)


def test_tokens_and_users_are_recorded(admin: Client, user: Client) -> None:
    me = user.http.get("/api/v1/auth/me").json()["data"]
    made = user.http.post("/api/v1/tokens", json={"name": "ci"}).json()["data"]
    assert user.http.delete(f"/api/v1/tokens/{made['id']}").status_code == 200
    revoked, created = entries(admin, user_id=me["user_id"])
    assert (revoked["action"], created["action"]) == ("token.revoke", "token.create")
    assert revoked["metadata"]["token_id"] == created["metadata"]["token_id"] == made["id"]
    users = entries(admin, action="user.create", limit="500")
    assert [entry["metadata"]["by"] for entry in users if entry["metadata"]["email"] == me["email"]] == ["command line"]


async def test_a_terminal_is_recorded_from_open_to_close(stack: Stack, admin: Client, user: Client) -> None:
    with user.container() as record:
        async with terminal(stack, user, record["id"]) as opened:
            await opened.runs("echo keystroke-s3cret")
            assert (await opened.upload("/tmp/notes", b"upload-s3cret"))["type"] == "file_uploaded"
        found = await asyncio.to_thread(
            eventually, lambda: found if len(found := entries(admin, container_id=record["id"])) == 4 else None
        )
        close, upload, opening, _ = found
        assert [e["action"] for e in found[:3]] == ["terminal.close", "terminal.upload", "terminal.open"]
        assert upload["metadata"]["path"] == "/tmp/notes"
        assert upload["metadata"]["bytes"] == len(b"upload-s3cret")
        assert opening["metadata"]["session_id"] == close["metadata"]["session_id"]
        assert close["metadata"]["duration_s"] > 0
        assert close["metadata"]["received_bytes"] > 20
        assert close["metadata"]["sent_bytes"] > 20
        assert "s3cret" not in str(found)


async def test_input_and_signals_to_a_command_are_recorded(stack: Stack, admin: Client, user: Client) -> None:
    with user.container() as record:
        command = user.submit(record["id"], program="cat", stdin_open=True)
        url = f"{stack.url.replace('http', 'ws')}/ws/jobs/{command['id']}"
        headers = {"Authorization": user.http.headers["Authorization"]}
        async with connect(url, additional_headers=headers) as socket:
            await socket.send(SOME_INPUT)
            async with asyncio.timeout(30):
                async for message in socket:
                    kind = json.loads(message)["type"]
                    if kind == "output":
                        await socket.send(json.dumps({"type": "signal", "signal": "TERM"}))
                    elif kind == "error":  # not begun yet
                        await asyncio.sleep(0.05)
                        await socket.send(SOME_INPUT)
        found = entries(admin, container_id=record["id"])
        actions = [entry["action"] for entry in found]
        assert set(actions[:-3]) == {"command.signal"}
        assert actions[-3:] == ["command.input", "command.enqueue", "container.create"]
        assert {entry["metadata"]["command_id"] for entry in found[:-1]} == {command["id"]}
        assert "s3cret" not in str(found)


def test_a_terminal_that_is_refused_is_recorded(stack: Stack, admin: Client, user: Client, box: str) -> None:
    for container_id in (box, new_id()):
        headers = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13",
                   "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA=="}  # fmt: skip
        assert user.http.get(f"/ws/terminal/{container_id}", headers=headers).status_code in (403, 404)
    missing, refused = entries(admin, user_id=user_id(user))[:2]
    assert (refused["action"], refused["metadata"]["wanted"]) == ("access.refused", "terminal.open")
    assert (missing["action"], missing["outcome"]) == ("terminal.open", "failure")


def test_many_at_once_make_one_chain_without_a_secret(stack: Stack, admin: Client, owner: Client, box: str) -> None:
    async def burst() -> list[dict[str, Any]]:
        return await asyncio.gather(
            *(asyncio.to_thread(owner.submit, box, 20, program="true", args=[f"burst-s3cret-{n}"]) for n in range(40))
        )

    ids = {command["id"] for command in asyncio.run(burst())}
    found = entries(admin, container_id=box, action="command.enqueue", limit="500")
    assert ids <= {entry["metadata"].get("command_id") for entry in found}
    proof = admin.http.get(f"{LOGS}/verify").json()["data"]
    assert proof["valid"], proof
    assert " entries are sound" in stack.python("services.gateway.audit_verify")
    with sqlite3.connect(f"file:{stack.state_dir}/gateway/gateway.db?mode=ro", uri=True) as database:
        whole = str(database.execute("SELECT * FROM audit_log").fetchall())
    assert "s3cret" not in whole
    assert not re.search(r"hzel_[A-Za-z0-9_-]{20,}", whole)


def test_the_database_itself_refuses(stack: Stack, admin: Client) -> None:
    for statement in ("DELETE FROM audit_log", "UPDATE audit_log SET outcome = 'failure'"):
        with sqlite3.connect(f"{stack.state_dir}/gateway/gateway.db", timeout=30) as database:
            with pytest.raises(sqlite3.IntegrityError, match="only added to"):
                database.execute(statement)
            database.rollback()
    assert admin.http.get(f"{LOGS}/verify").json()["data"]["valid"]


def test_what_was_acknowledged_survives_the_death_of_the_gateway(own_stack: Stack) -> None:
    admin = own_stack.client()
    made = [admin.http.post("/api/v1/tokens", json={"name": f"t{n}"}).json()["data"]["id"] for n in range(20)]
    with admin.container() as record:
        command = admin.submit(record["id"], program="true")
        os.kill(own_stack.pid_of("gateway"), signal.SIGKILL)
        own_stack.comes_back(within_s=60)
        found = entries(own_stack.client(), limit="500")
    assert set(made) <= {entry["metadata"].get("token_id") for entry in found}
    assert command["id"] in {entry["metadata"].get("command_id") for entry in found}
    assert own_stack.client().http.get(f"{LOGS}/verify").json()["data"]["valid"]
