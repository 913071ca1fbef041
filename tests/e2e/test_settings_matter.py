"""Stacks that are set up otherwise: small limits, PostgreSQL."""

import os
import shutil
import signal
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.e2e.test_bad_input import refusal
from tests.stack import Stack, eventually, remove_folder

# The client's library drops connections whose server was killed without closing them.
pytestmark = pytest.mark.filterwarnings("ignore:.*socket.*:pytest.PytestUnraisableExceptionWarning")


@contextmanager
def running(**settings: str) -> Iterator[Stack]:
    folder = Path(tempfile.mkdtemp(prefix="hzel-", dir="/var/tmp"))
    folder.chmod(0o711)
    stack = Stack.settings(folder, f"t{uuid.uuid4().hex[:5]}", **settings)
    try:
        stack.up()
        yield stack
    finally:
        if logs := os.environ.get("HZEL_TEST_LOGS"):
            shutil.copytree(stack.state_dir / "logs", Path(logs) / stack.instance, dirs_exist_ok=True)
        stack.down("--purge")
        remove_folder(folder)


def test_a_full_queue_refuses_and_says_when_to_come_back() -> None:
    with running(HZEL_COMMANDS_PER_CONTAINER="1", HZEL_COMMANDS_WAITING_PER_CONTAINER="2") as stack:
        admin = stack.client()
        box = admin.create()["id"]
        first = admin.submit(box, command="sleep 300")["id"]
        eventually(lambda: admin.command(first)["status"] == "running")
        waiting = [admin.submit(box, command="true")["id"] for _ in range(2)]
        answer = admin.http.post(f"/api/v1/containers/{box}/commands", json={"program": "true"})
        refusal(answer, 429, "RATE_LIMITED")
        assert int(answer.headers["retry-after"]) >= 1
        admin.http.post(f"/api/v1/commands/{first}/cancel")
        assert [admin.ended(command_id)["status"] for command_id in waiting] == ["succeeded", "succeeded"]


def test_everything_is_kept_in_postgresql(postgresql: str) -> None:
    with running(HZEL_DATABASE_URL=postgresql) as stack:
        admin = stack.client()
        box = admin.create(labels={"db": "pg"})["id"]
        assert admin.run(box, "echo hello; exit 3")["exit_code"] == 3
        slow = admin.submit(box, command="sleep 2; echo late")["id"]
        eventually(lambda: admin.command(slow)["status"] == "running")
        for program in ("lifecycle", "exec", "gateway"):
            os.kill(stack.pid_of(program), signal.SIGKILL)
        stack.comes_back()
        assert [one["id"] for one in admin.http.get("/api/v1/containers?label=db=pg").json()["data"]] == [box]
        assert admin.ended(slow)["stdout"] == "late\n"
        assert admin.act(box, "restart", timeout_s=1)["state"] == "running"
        admin.delete(box)
        files = {path.name for path in stack.state_dir.rglob("*.db")}
        assert not files & {"gateway.db", "lifecycle.db", "exec.db"}
