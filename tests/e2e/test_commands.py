"""Commands in a container, as a client of the REST API sees them."""

import hashlib
import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from services.common.ids import new_id
from tests.e2e.test_bad_input import refusal
from tests.e2e.test_container_life import init_pid
from tests.stack import Client, Stack, eventually, new_name


@pytest.fixture(scope="module")
def owner(stack: Stack) -> Client:
    return stack.new_user()


@pytest.fixture(scope="module")
def box(owner: Client) -> Iterator[str]:
    """The id of a running container."""
    with owner.container(memory_mb=256) as record:
        yield record["id"]


def test_a_command_answers_with_its_output_and_exit_code(owner: Client, box: str) -> None:
    record = owner.submit(box, wait=30, program="sh", args=["-c", "echo out; echo err >&2; exit 3"])
    assert (record["status"], record["exit_code"], record["signal"]) == ("failed", 3, None)
    assert (record["stdout"], record["stderr"]) == ("out\n", "err\n")
    assert (record["stdout_bytes"], record["stderr_bytes"], record["truncated"]) == (4, 4, False)
    assert record["program"] == "sh"
    assert record["args"] == ["-c", "echo out; echo err >&2; exit 3"]
    assert record["container_id"] == box
    assert record["requested_by"]
    assert record["created_at"] <= record["started_at"] <= record["finished_at"]
    assert owner.command(record["id"]) == record


def test_success_is_exit_code_0(owner: Client, box: str) -> None:
    record = owner.submit(box, wait=30, program="true")
    assert (record["status"], record["exit_code"], record["error"]) == ("succeeded", 0, None)


def test_shell_text_runs_in_a_shell_and_a_program_does_not(owner: Client, box: str) -> None:
    assert owner.run(box, "echo $((6*7))")["stdout"] == "42\n"
    plain = owner.submit(box, wait=30, program="echo", args=["$((6*7))", "*", "; rm -rf /"])
    assert plain["stdout"] == "$((6*7)) * ; rm -rf /\n"


def test_while_it_runs_its_output_is_empty(owner: Client, box: str) -> None:
    record = owner.submit(box, command="echo early; sleep 60")
    running = eventually(lambda: r if (r := owner.command(record["id"]))["status"] == "running" else None)
    assert (running["stdout"], running["stderr"], running["exit_code"]) == ("", "", None)
    owner.http.post(f"/api/v1/commands/{record['id']}/cancel")


@pytest.mark.parametrize("status", [1, 2, 126, 127, 128, 129, 137, 143, 255])
def test_an_exit_code_is_never_taken_for_a_signal(owner: Client, box: str, status: int) -> None:
    record = owner.run(box, f"exit {status}")
    assert (record["status"], record["exit_code"], record["signal"]) == ("failed", status, None)


@pytest.mark.parametrize("name", ["KILL", "TERM", "SEGV", "HUP"])
def test_a_signal_is_never_taken_for_an_exit_code(owner: Client, box: str, name: str) -> None:
    record = owner.run(box, f"kill -{name} $$; sleep 5")
    assert (record["status"], record["exit_code"], record["signal"]) == ("failed", None, name)


def test_environment_directory_and_user(owner: Client, stack: Stack) -> None:
    passwd = "echo app:x:1000:1001:App:/home/app:/bin/sh >> /etc/passwd; echo grp:x:1002:app >> /etc/group"
    with owner.container(env={"FROM_CREATE": "1", "BOTH": "create"}) as record:
        box = record["id"]
        assert owner.run(box, passwd)["status"] == "succeeded"
        shown = owner.run(
            box, 'echo "$FROM_CREATE $BOTH $HERE $HOME $PWD"', env={"BOTH": "exec", "HERE": "x y"}, cwd="/tmp"
        )
        assert shown["stdout"] == "1 exec x y /root /tmp\n"
        named = owner.run(box, 'echo "$(id -u) $(id -g) $(id -G) $HOME"', user="app")
        assert named["stdout"] == "1000 1001 1001 1002 /home/app\n"
        assert owner.run(box, "id -u; id -g", user="1234:77")["stdout"] == "1234\n77\n"
        assert owner.run(box, "id -u; id -g", user="app:grp")["stdout"] == "1000\n1002\n"


def test_it_is_confined_like_its_container(owner: Client, box: str, stack: Stack) -> None:
    status = owner.run(box, "cat /proc/self/status")["stdout"]
    fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    assert fields["Seccomp"] == "2"
    assert int(fields["CapBnd"], 16) == 0xA80425FB
    assert owner.run(box, "cat /proc/self/uid_map")["stdout"].split()[0] == "0"
    assert owner.run(box, "unshare -U true")["status"] == "failed"
    assert owner.run(box, "mount -t tmpfs x /mnt")["status"] == "failed"
    assert int(owner.run(box, "cat /proc/self/oom_score_adj")["stdout"]) >= 0


@pytest.mark.parametrize(
    ("body", "error"),
    [
        ({"program": "/no/such"}, "there is no executable '/no/such' in the container"),
        ({"program": "nosuch"}, "there is no executable 'nosuch' in the container"),
        ({"program": "/etc/passwd"}, "there is no executable '/etc/passwd' in the container"),
        ({"program": "true", "user": "nobody-here"}, "there is no user 'nobody-here' in the container"),
        ({"program": "true", "user": "0:nogroup-here"}, "there is no group 'nogroup-here' in the container"),
        ({"program": "true", "cwd": "/no/where"}, "there is no directory '/no/where' in the container"),
    ],
)
def test_what_cannot_be_started_fails_and_says_why(owner: Client, box: str, body: dict[str, Any], error: str) -> None:
    record = owner.submit(box, wait=30, **body)
    assert (record["status"], record["error"], record["exit_code"]) == ("failed", error, None)


def test_files_that_are_traps_are_not_walked_into(stack: Stack, owner: Client) -> None:
    with owner.container() as record:
        box = record["id"]
        for trap in (
            "ln -sf /proc/1/root/etc/passwd /etc/passwd",
            "rm -f /etc/passwd; mkfifo /etc/passwd",
            "rm -f /etc/passwd; ln -s /dev/zero /etc/passwd",
            "rm -f /etc/passwd; dd if=/dev/zero of=/etc/passwd bs=1M count=0 seek=900 2>/dev/null",
            "rm -f /etc/passwd; ln -s ../../../../../../etc/passwd /etc/passwd",
            "rm -rf /etc; ln -s / /etc",
        ):
            assert owner.run(box, trap)["error"] is None, trap
            begun = time.monotonic()
            assert owner.submit(box, wait=30, program="/bin/true", user="0")["status"] == "succeeded", trap
            refused = owner.submit(box, wait=30, program="/bin/true", user="messagebus")
            assert refused["error"] == "there is no user 'messagebus' in the container", trap
            assert time.monotonic() - begun < 10, trap


def test_stdin_is_read_to_its_end(owner: Client, box: str) -> None:
    assert owner.run(box, "wc -c")["stdout"].strip() == "0", "without stdin there is none"
    assert owner.run(box, "cat", stdin="grüße\n")["stdout"] == "grüße\n"
    text = "x" * 200_000
    assert owner.run(box, "sha256sum", stdin=text)["stdout"].split()[0] == hashlib.sha256(text.encode()).hexdigest()
    assert owner.run(box, "true", stdin=text)["status"] == "succeeded", "nobody has to read it"


def test_more_than_the_limit_is_counted_and_flagged(owner: Client, box: str) -> None:
    record = owner.run(box, "head -c 3000000 /dev/zero; echo end >&2", max_output_bytes=1_000_000)
    assert record["truncated"] is True
    assert (record["stdout_bytes"], record["stderr_bytes"]) == (3_000_000, 4)
    kept = owner.http.get(f"/api/v1/commands/{record['id']}/output?stream=stdout").content
    assert kept == b"\0" * 1_000_000


def test_binary_output_is_complete_and_takes_little_memory(owner: Client, box: str, stack: Stack) -> None:
    shell = "head -c 100000000 /dev/urandom > /tmp/r; sha256sum < /tmp/r >&2; cat /tmp/r; rm /tmp/r"
    digest = hashlib.sha256()
    with stack.using_at_most("exec", 150_000_000):
        record = owner.ended(owner.submit(box, command=shell, max_output_bytes=200_000_000)["id"], within_s=120)
        with owner.http.stream("GET", f"/api/v1/commands/{record['id']}/output?stream=stdout") as answer:
            for piece in answer.iter_bytes():
                digest.update(piece)
    assert (record["status"], record["stdout_bytes"], record["truncated"]) == ("succeeded", 100_000_000, False)
    assert record["output_omitted"] is True
    assert digest.hexdigest() == record["stderr"].split()[0]
    tail = owner.http.get(f"/api/v1/commands/{record['id']}/output?stream=stdout&offset=99999990")
    assert len(tail.content) == 10


def test_a_container_that_has_just_ended_takes_no_command_and_one_that_was_started_again_does(
    owner: Client, stack: Stack
) -> None:
    with owner.container() as container:
        where = f"/api/v1/containers/{container['id']}/commands"
        for _ in range(3):
            assert owner.run(container["id"], "echo here")["stdout"] == "here\n"
            os.kill(init_pid(stack, container), signal.SIGKILL)
            # Whoever the kernel has not told yet may still take one; it can't run.
            answer = owner.http.post(f"{where}?wait=20", json={"program": "true"})
            assert answer.status_code == 409 or answer.json()["data"]["status"] == "failed"
            owner.wait_for(container["id"], "stopped")
            assert refusal(owner.http.post(where, json={"program": "true"}), 409, "CONFLICT")
            owner.act(container["id"], "start")


def test_a_timeout_ends_the_whole_tree_and_keeps_what_was_written(owner: Client, box: str, stack: Stack) -> None:
    shell = "echo before; (trap '' TERM; exec setsid sh -c 'while :; do sleep 1; done') & sleep 1000"
    record = owner.ended(owner.submit(box, command=shell, timeout_s=1)["id"])
    assert (record["status"], record["timed_out"], record["stdout"]) == ("failed", True, "before\n")
    assert (record["exit_code"], record["signal"]) == (None, "TERM")
    assert "while :" not in owner.run(box, "ps")["stdout"]


def test_cancel_ends_everything_even_what_hides(owner: Client, stack: Stack) -> None:
    with owner.container() as container:
        box = container["id"]
        hide = "setsid env -i /bin/sh -c 'trap \"\" TERM HUP; exec /bin/sleep 7777' >/dev/null 2>&1 </dev/null &"
        record = owner.submit(box, command=f"({hide}) ; echo started; sleep 8888")
        eventually(lambda: "8888" in owner.run(box, "ps")["stdout"])
        assert "7777" in owner.run(box, "ps")["stdout"]
        answer = owner.http.post(f"/api/v1/commands/{record['id']}/cancel")
        cancelled = answer.json()["data"]
        assert (cancelled["status"], cancelled["signal"], cancelled["stdout"]) == ("cancelled", "TERM", "started\n")
        listed = owner.run(box, "ps")["stdout"]
        assert "7777" not in listed
        assert "8888" not in listed
        assert owner.http.post(f"/api/v1/commands/{record['id']}/cancel").json()["data"] == cancelled


def test_what_a_command_leaves_running_goes_on_and_does_not_hold_it(owner: Client, box: str) -> None:
    record = owner.run(box, "sleep 6666 & echo done")
    assert (record["status"], record["stdout"]) == ("succeeded", "done\n")
    assert "6666" in owner.run(box, "ps; pkill -f 6666")["stdout"]


def test_a_container_that_stops_ends_its_commands(owner: Client) -> None:
    with owner.container() as container:
        record = owner.submit(container["id"], command="echo kept; sleep 1000")
        eventually(lambda: owner.command(record["id"])["status"] == "running")
        eventually(lambda: owner.http.get(f"/api/v1/commands/{record['id']}/output").content == b"kept\n")
        owner.act(container["id"], "stop", timeout_s=1)
        ended = owner.ended(record["id"])
        assert (ended["status"], ended["stdout"]) == ("failed", "kept\n")
        assert ended["error"].endswith("the container stopped while the command ran")
        assert ended["exit_code"] is None
        refusal(
            owner.http.post(f"/api/v1/containers/{container['id']}/commands", json={"program": "true"}), 409, "CONFLICT"
        )


def test_commands_wait_their_turn_and_those_waiting_can_be_cancelled(owner: Client) -> None:
    with owner.container() as container:
        box = container["id"]
        running = [owner.submit(box, command="sleep 300") for _ in range(32)]
        waiting = [owner.submit(box, command="echo ran") for _ in range(3)]
        eventually(lambda: all(owner.command(one["id"])["status"] == "running" for one in running))
        assert {owner.command(one["id"])["status"] for one in waiting} == {"queued"}
        cancelled = owner.http.post(f"/api/v1/commands/{waiting[0]['id']}/cancel").json()["data"]
        assert (cancelled["status"], cancelled["started_at"]) == ("cancelled", None)
        owner.http.post(f"/api/v1/commands/{running[0]['id']}/cancel")
        assert owner.ended(waiting[1]["id"])["stdout"] == "ran\n"
        assert owner.ended(waiting[2]["id"])["stdout"] == "ran\n"


def test_an_idempotency_key_runs_a_command_once(owner: Client, box: str) -> None:
    key, file = new_name(), f"/tmp/{new_name()}"
    url = f"/api/v1/containers/{box}/commands?wait=30"
    body = {"command": f"echo x >> {file}; cat {file}"}
    with ThreadPoolExecutor(4) as pool:
        sent = [pool.submit(owner.http.post, url, json=body, headers={"Idempotency-Key": key}) for _ in range(4)]
        answers = [future.result().json()["data"] for future in sent]
    assert {answer["id"] for answer in answers} == {answers[0]["id"]}
    assert owner.ended(answers[0]["id"])["stdout"] == "x\n"
    assert owner.run(box, f"cat {file}")["stdout"] == "x\n"


def test_lists_are_newest_first_and_without_output(owner: Client) -> None:
    with owner.container() as container:
        box = container["id"]
        ids = [owner.run(box, f"echo {number}")["id"] for number in range(3)]
        first = owner.http.get(f"/api/v1/containers/{box}/commands?limit=2")
        assert [one["id"] for one in first.json()["data"]] == [ids[2], ids[1]]
        assert {one["stdout"] for one in first.json()["data"]} == {""}
        following = owner.http.get(first.links["next"]["url"])
        assert [one["id"] for one in following.json()["data"]] == [ids[0]]


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"program": ""},
        {"program": "a", "command": "b"},
        {"command": "a", "args": ["b"]},
        {"program": "a\0b"},
        {"program": "a", "args": ["\0"]},
        {"program": "a", "args": ["x" * 140_000]},
        {"program": "a", "args": "b"},
        {"program": "a", "env": {"1A": "x"}},
        {"program": "a", "cwd": "relative"},
        {"program": "a", "timeout_s": 0},
        {"program": "a", "max_output_bytes": 0},
        {"program": "a", "user": ""},
        {"program": "a", "shell": True},
    ],
)
def test_a_command_that_is_not_as_it_should_be(owner: Client, box: str, body: dict[str, Any]) -> None:
    refusal(owner.http.post(f"/api/v1/containers/{box}/commands", json=body), 400, "VALIDATION_FAILED")


def test_foreign_commands_and_those_that_are_not_there(stack: Stack, owner: Client, box: str) -> None:
    mine, other = owner.run(box, "echo secret"), stack.new_user()
    for method, path in (("GET", ""), ("POST", "/cancel"), ("GET", "/output")):
        refusal(other.http.request(method, f"/api/v1/commands/{mine['id']}{path}"), 403, "FORBIDDEN")
        refusal(owner.http.request(method, f"/api/v1/commands/{new_id()}{path}"), 404, "COMMAND_NOT_FOUND")
    refusal(other.http.post(f"/api/v1/containers/{box}/commands", json={"program": "true"}), 403, "FORBIDDEN")
    refusal(other.http.get(f"/api/v1/containers/{box}/commands"), 403, "FORBIDDEN")
    unknown = f"/api/v1/containers/{new_id()}/commands"
    refusal(owner.http.post(unknown, json={"program": "true"}), 404, "CONTAINER_NOT_FOUND")


def test_nothing_is_left_of_commands_that_have_ended(stack: Stack, owner: Client) -> None:
    with owner.container() as container:
        ids = [owner.run(container["id"], "echo x")["id"] for _ in range(5)]
        shim = int(Path(f"/proc/{init_pid(stack, container)}/status").read_text().split("PPid:\t")[1].split()[0])
        eventually(lambda: not any((stack.run_dir / "exec" / one).exists() for one in ids))
        fds = len(list(Path(f"/proc/{shim}/fd").iterdir()))
        for _ in range(20):
            owner.run(container["id"], "echo y")
        eventually(lambda: len(list(Path(f"/proc/{shim}/fd").iterdir())) <= fds)


def test_a_thousand_commands_each_with_its_own_output_and_exit_code(owner: Client) -> None:
    with owner.container(memory_mb=256) as container:

        def one(number: int) -> None:
            args = ["-c", f"printf %s x{number}; exit $(({number}%256))"]
            record = owner.ended(owner.submit(container["id"], wait=30, program="sh", args=args)["id"])
            assert (record["stdout"], record["exit_code"], record["signal"]) == (f"x{number}", number % 256, None)

        with ThreadPoolExecutor(16) as pool:
            list(pool.map(one, range(1000)))
