"""Commands while the exec service dies again and again."""

import os
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.stack import Client, Stack, eventually

# The client's library drops connections whose server was killed without closing them.
pytestmark = pytest.mark.filterwarnings("ignore:.*socket.*:pytest.PytestUnraisableExceptionWarning")


def kill(stack: Stack, program: str) -> None:
    os.kill(stack.pid_of(program), signal.SIGKILL)


def submitted(client: Client, container_id: str, key: str, **body: Any) -> str:
    """Submits with a key until there is an answer; returns the command's id."""

    def attempt() -> str | None:
        url = f"/api/v1/containers/{container_id}/commands"
        try:
            answer = client.http.post(url, json=body, headers={"Idempotency-Key": key})
        except httpx.HTTPError:
            return None
        assert answer.status_code in (201, 503, 504), answer.text
        return answer.json()["data"]["id"] if answer.status_code == 201 else None

    return eventually(attempt, 60)


def result(client: Client, command_id: str, within_s: float = 120) -> dict[str, Any]:
    def look() -> dict[str, Any] | None:
        try:
            answer = client.http.get(f"/api/v1/commands/{command_id}")
        except httpx.HTTPError:
            return None
        if answer.status_code != 200:
            assert answer.status_code in (503, 504), answer.text
            return None
        record = answer.json()["data"]
        return record if record["status"] not in ("queued", "running") else None

    return eventually(look, within_s)


def test_commands_outlive_the_exec_service_without_losing_a_byte(own_stack: Stack) -> None:
    admin = own_stack.client()
    container = admin.create(memory_mb=512)
    box, stop = container["id"], threading.Event()

    def killer() -> None:
        while not stop.wait(2):
            kill(own_stack, "exec")

    count = "i=0; while [ $i -lt 4000 ]; do echo $i; i=$((i+1)); usleep 10000; done"
    thread = threading.Thread(target=killer)
    thread.start()
    try:
        with ThreadPoolExecutor(8) as pool:
            long = list(pool.map(lambda n: submitted(admin, box, f"long-{n}", command=count), range(20)))
            short = list(
                pool.map(
                    lambda n: submitted(admin, box, f"short-{n}", command=f"echo {n}; echo e{n} >&2; exit {n % 256}"),
                    range(200),
                )
            )
            results = list(pool.map(lambda command_id: result(admin, command_id), short))
            long_results = list(pool.map(lambda command_id: result(admin, command_id, 240), long))
    finally:
        stop.set()
        thread.join()
    for number, record in enumerate(results):
        assert (record["stdout"], record["stderr"]) == (f"{number}\n", f"e{number}\n"), record
        assert (record["exit_code"], record["signal"], record["error"]) == (number % 256, None, None), record
    expected = "".join(f"{number}\n" for number in range(4000))
    for record in long_results:
        assert record["stdout"] == expected
        assert (record["status"], record["exit_code"]) == ("succeeded", 0)
    own_stack.comes_back()
    eventually(lambda: list((own_stack.run_dir / "exec").iterdir()) == [])
    assert len(admin.run(box, "ps")["stdout"].splitlines()) <= 6, "nothing of the commands runs on"
    admin.delete(box)


def test_what_ended_while_exec_was_down_is_complete(own_stack: Stack) -> None:
    admin = own_stack.client()
    box = admin.create()["id"]
    ids = {
        "exit": admin.submit(box, command="sleep 1; echo last words; exit 137")["id"],
        "signal": admin.submit(box, command="sleep 1; echo last words; kill -KILL $$")["id"],
        "more than a pipe holds": admin.submit(box, command="sleep 1; seq 400000")["id"],
    }
    for command_id in ids.values():
        eventually(lambda command_id=command_id: admin.command(command_id)["status"] == "running")
    own_stack.supervise("stop", "exec")
    pattern = "last words"
    eventually(lambda: not any(pattern in _cmdline(pid) for pid in Path("/proc").glob("[0-9]*")), 30)
    own_stack.supervise("start", "exec")
    ended = result(admin, ids["exit"])
    assert (ended["stdout"], ended["exit_code"], ended["signal"]) == ("last words\n", 137, None)
    killed = result(admin, ids["signal"])
    assert (killed["stdout"], killed["exit_code"], killed["signal"]) == ("last words\n", None, "KILL")
    flood = result(admin, ids["more than a pipe holds"])
    assert flood["stdout"] == "".join(f"{number}\n" for number in range(1, 400001))
    admin.delete(box)


def test_the_queue_goes_on_in_order_after_a_crash(own_stack: Stack) -> None:
    admin = own_stack.client()
    box = admin.create()["id"]
    blockers = [admin.submit(box, command="sleep 300")["id"] for _ in range(32)]
    eventually(lambda: admin.command(blockers[-1])["status"] == "running")
    waiting = [admin.submit(box, command=f"echo {number} >> /tmp/order; sleep 0.2")["id"] for number in range(5)]
    kill(own_stack, "exec")
    own_stack.comes_back()
    assert {admin.command(command_id)["status"] for command_id in waiting} == {"queued"}
    cancelled = eventually(lambda: admin.http.post(f"/api/v1/commands/{blockers[0]}/cancel").json().get("data"))
    assert cancelled["status"] == "cancelled"
    assert [result(admin, command_id)["status"] for command_id in waiting] == ["succeeded"] * 5
    admin.http.post(f"/api/v1/commands/{blockers[1]}/cancel")
    assert admin.run(box, "cat /tmp/order")["stdout"] == "0\n1\n2\n3\n4\n"
    admin.delete(box)


def test_a_keeper_that_dies_is_told_everything_again(own_stack: Stack) -> None:
    admin = own_stack.client()
    box = admin.create()["id"]
    running = admin.submit(box, command="sleep 3; echo out; exit 200")["id"]
    eventually(lambda: admin.command(running)["status"] == "running")
    kill(own_stack, "keeper")
    assert admin.run(box, "kill -KILL $$")["exit_code"] in (None, 137)
    eventually(lambda: admin.run(box, "kill -TERM $$; sleep 9")["signal"] == "TERM")
    own_stack.supervise("stop", "exec")
    own_stack.supervise("start", "exec")
    ended = result(admin, running)
    assert (ended["stdout"], ended["exit_code"]) == ("out\n", 200)
    admin.delete(box)


def test_containerd_dying_takes_no_command_with_it(own_stack: Stack) -> None:
    admin = own_stack.client()
    box = admin.create()["id"]
    running = admin.submit(box, command="for i in $(seq 50); do echo $i; usleep 100000; done; exit 9")["id"]
    eventually(lambda: admin.command(running)["status"] == "running")
    kill(own_stack, "containerd")
    ended = result(admin, running)
    assert ended["stdout"] == "".join(f"{number}\n" for number in range(1, 51))
    assert (ended["exit_code"], ended["error"]) == (9, None)
    own_stack.comes_back()
    admin.delete(box)


def _cmdline(folder: Path) -> str:
    try:
        return (folder / "cmdline").read_text()
    except OSError:
        return ""
