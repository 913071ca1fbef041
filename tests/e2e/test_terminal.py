"""A terminal as its user has it: what it shows, what it hears, and what is left when it ends."""

import asyncio
import contextlib
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from services.common.ids import new_id
from tests.stack import Client, Stack, eventually
from tests.terminal import Terminal, terminal, url

GONE_WITHIN_S = 1.0


@pytest.fixture(scope="module")
def container(stack: Stack) -> Iterator[dict[str, Any]]:
    with stack.client().container(memory_mb=512) as record:
        yield record


def processes(stack: Stack, container_id: str) -> list[int]:
    """Host pids of everything in the container but its own first process and that one's child."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if f"/{stack.instance}/{container_id}" in (folder / "cgroup").read_text():
                inside = (folder / "status").read_text().split("NSpid:", 1)[1].split("\n", 1)[0].split()[-1]
                if inside not in ("1", "2"):
                    found.append(int(folder.name))
    return found


def leftovers(stack: Stack, container_id: str) -> list[str]:
    """What a session leaves if it leaves anything: processes, FIFOs, control groups."""
    groups = subprocess.run(
        ["find", "/sys/fs/cgroup", "-ignore_readdir_race", "-name", "session-*", "-path", f"*/{container_id}/*"],
        capture_output=True, text=True, check=False,
    ).stdout.split()  # fmt: skip
    folders = [
        str(folder)
        for folder in (stack.run_dir / "terminal").glob("*")
        if (folder / "container").exists() and (folder / "container").read_text() == container_id
    ]
    return [*map(str, processes(stack, container_id)), *groups, *folders]


async def gone(stack: Stack, container_id: str, within_s: float = 3 * GONE_WITHIN_S) -> None:
    """The time allowed is more than a second, since this machine may be busy."""
    await asyncio.to_thread(eventually, lambda: not leftovers(stack, container_id), within_s)


async def starts(opened: Terminal, command: str) -> None:
    """Types a command and returns once it is running."""
    await opened.runs("true")
    await opened.type(f"{command}\n")
    await opened.shows(f"{command}\r\n")
    line = command.replace(" ", "\0") + "\0"

    def runs() -> bool:
        for folder in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if (folder / "cmdline").read_text() == line:
                    return True
        return False

    await asyncio.to_thread(eventually, runs)


# --- opening ---


async def test_the_first_message_sets_the_size_before_the_shell_looks(
    stack: Stack, admin: Client, container: dict[str, Any]
) -> None:
    for number in range(8):
        headers = {"Authorization": admin.http.headers["Authorization"]}
        async with connect(url(stack, container["id"]), additional_headers=headers, compression=None) as socket:
            opened = Terminal(socket)
            await opened.resize(100 + number, 30)
            assert (await opened.frame("opened"))["container_id"] == container["id"]
            size = await opened.frame("resized")
            if size == {"type": "resized", "cols": 80, "rows": 24}:
                # Our message was later than the 100 ms it has: this machine is busy.
                size = await opened.frame("resized")
            assert size == {"type": "resized", "cols": 100 + number, "rows": 30}
            assert await opened.runs("stty size") == f"30 {100 + number}"


async def test_the_size_is_there_from_the_first_byte_of_a_program(
    stack: Stack, admin: Client, container: dict[str, Any]
) -> None:
    async with terminal(stack, admin, container["id"]) as prepared:
        await prepared.runs("printf '#!/bin/sh\\nstty size\\n' > /bin/look; chmod +x /bin/look")
    look = {"shell": "look", "cols": 91, "rows": 17}
    for _ in range(12):
        async with terminal(stack, admin, container["id"], **look) as opened:
            await opened.rest()
            assert opened.output == "17 91\r\n"


async def test_without_a_size_it_opens_with_80_by_24_after_a_moment(
    stack: Stack, admin: Client, container: dict[str, Any]
) -> None:
    headers = {"Authorization": admin.http.headers["Authorization"]}
    async with connect(url(stack, container["id"]), additional_headers=headers, compression=None) as socket:
        opened = Terminal(socket)
        assert await opened.frame("resized") == {"type": "resized", "cols": 80, "rows": 24}
        assert await opened.runs("stty size") == "24 80"


async def test_the_login_is_that_of_the_containers_own_files(
    stack: Stack, admin: Client, container: dict[str, Any]
) -> None:
    async with terminal(stack, admin, container["id"]) as root:
        await root.runs("mkdir -p /home/ada; chown 1000:1000 /home/ada; grep -q ^ada /etc/passwd ||"
                        " echo 'ada:x:1000:1000::/home/ada:/bin/sh' >> /etc/passwd")  # fmt: skip
        assert await root.runs("id -u; pwd; echo $TERM $HOME $SHELL") == "0\n/root\nxterm-256color /root /bin/sh"
    async with terminal(stack, admin, container["id"], user="ada") as ada:
        printed = await ada.runs("id -u; id -g; pwd; echo $USER $HOME $-; touch mine; stat -c %u mine")
        assert printed.splitlines()[:3] == ["1000", "1000", "/home/ada"]
        assert printed.splitlines()[3].startswith("ada /home/ada ")
        assert printed.splitlines()[4] == "1000"
    placing = {"cwd": "/usr", "shell": "/bin/ash"}
    async with terminal(stack, admin, container["id"], **placing) as placed:
        assert await placed.runs("pwd; echo $SHELL") == "/usr\n/bin/ash"


@pytest.mark.parametrize(
    ("query", "status", "code"),
    [
        ({"user": "nobody-there"}, 400, "VALIDATION_FAILED"),
        ({"shell": "no-such-shell"}, 400, "VALIDATION_FAILED"),
        ({"cwd": "/no/such/place"}, 400, "VALIDATION_FAILED"),
        ({"cols": "0"}, 400, "VALIDATION_FAILED"),
        ({"session": "x", "watch": "y"}, 400, "VALIDATION_FAILED"),
        ({"session": "00000000-0000-7000-8000-000000000000"}, 404, "NOT_FOUND"),
    ],
)
async def test_what_cannot_be_opened_is_refused_before_the_upgrade(
    stack: Stack, admin: Client, container: dict[str, Any], query: dict[str, str], status: int, code: str
) -> None:
    with pytest.raises(InvalidStatus) as refused:
        async with terminal(stack, admin, container["id"], **query):
            pass
    assert refused.value.response.status_code == status
    assert json.loads(refused.value.response.body or b"")["error"]["code"] == code


async def test_another_ones_container_a_stopped_one_and_none_are_refused(
    stack: Stack, admin: Client, user: Client, container: dict[str, Any]
) -> None:
    async def status(client: Client, container_id: str) -> int:
        with pytest.raises(InvalidStatus) as refused:
            async with terminal(stack, client, container_id):
                pass
        return refused.value.response.status_code

    assert await status(user, container["id"]) == 403
    assert await status(admin, new_id()) == 404
    with admin.container() as stopped:
        admin.act(stopped["id"], "stop", timeout_s=0)
        assert await status(admin, stopped["id"]) == 409


# --- at work ---


async def test_keys_do_what_they_do_in_a_terminal(stack: Stack, admin: Client, container: dict[str, Any]) -> None:
    async with terminal(stack, admin, container["id"]) as opened:
        await starts(opened, "sleep 1000")
        await opened.type("\x03")
        await opened.shows("^C")
        await opened.type("echo status $?\n")
        await opened.shows("status 130")
        await starts(opened, "sleep 1001")
        await opened.type("\x1a")
        await opened.shows("Stopped")
        assert "sleep 1001" in await opened.runs("jobs")
        await opened.type("fg\n")
        await opened.shows("sleep 1001")
        await opened.type("\x03")
        await opened.type("exit 3\n")
        closed = await opened.frame("closed")
        assert (closed["reason"], closed["exit_code"]) == ("exited", 3)
        assert await opened.rest() == 1000
    async with terminal(stack, admin, container["id"]) as opened:
        await opened.shows("# ")
        await opened.type("\x04")
        assert (await opened.frame("closed"))["exit_code"] == 0
    await gone(stack, container["id"])


async def test_full_screen_programs_work(stack: Stack, admin: Client, container: dict[str, Any]) -> None:
    async with terminal(stack, admin, container["id"]) as opened:
        await opened.runs("seq 1 500 > /tmp/numbers")
        await opened.type("vi /tmp/numbers\n")
        await opened.shows("1/500")
        await opened.type("dd:wq\n")
        await opened.shows("# ")
        assert await opened.runs("head -1 /tmp/numbers") == "2"
        await opened.type("less /tmp/numbers\n")
        await opened.shows("24\r\n")
        await opened.type("G")
        await opened.shows("500")
        assert any("500" in line for line in opened.screen.display)
        await opened.type("q")
        await opened.type("top\n")
        await opened.shows("COMMAND")
        await opened.type("q")
        assert await opened.runs("echo fine") == "fine"


async def test_a_storm_of_resizes_ends_with_the_last(stack: Stack, admin: Client, container: dict[str, Any]) -> None:
    async with terminal(stack, admin, container["id"]) as opened:
        await opened.frame("resized")
        for side in range(20, 220):
            await opened.resize(side, 40)
        answers = 0
        while (await opened.frame("resized"))["cols"] != 219:
            answers += 1
        assert answers < 199
        assert await opened.runs("stty size") == "40 219"


async def test_malformed_frames_get_an_error_and_the_session_goes_on(
    stack: Stack, admin: Client, container: dict[str, Any]
) -> None:
    async with terminal(stack, admin, container["id"]) as opened:
        for bad in (
            "", "nonsense", "[]", "{}", '{"type":"dance"}', '{"type":"input"}', '{"type":"input","data":1}',
            '{"type":"input","data":"\\ud800"}', '{"type":"resize","cols":0,"rows":10}',
            '{"type":"resize","cols":true,"rows":10}', '{"type":"resize","cols":80,"rows":1e9}', "[" * 100_000,
        ):  # fmt: skip
            await opened.socket.send(bad)
            assert (await opened.frame("error"))["message"], bad
        assert await opened.runs("echo fine") == "fine"


async def test_characters_are_never_broken_and_bytes_stay_bytes(
    stack: Stack, admin: Client, container: dict[str, Any]
) -> None:
    split = r"printf '\342\202'; sleep 0.3; printf '\254 \377 \360\237'; sleep 0.3; printf '\230\200'"
    async with terminal(stack, admin, container["id"]) as text:
        assert await text.runs(split) == "€ � 😀"
    async with terminal(stack, admin, container["id"], binary=1) as raw:
        await raw.socket.send(f"stty -echo; {split}; exit\n".encode())
        assert await raw.rest() == 1000
        assert b"\xe2\x82\xac \xff \xf0\x9f\x98\x80" in raw.raw
        assert [frame["type"] for frame in raw.frames] == ["opened", "resized", "closed"]


async def test_megabytes_arrive_whole_in_both_directions(
    stack: Stack, admin: Client, container: dict[str, Any]
) -> None:
    async with terminal(stack, admin, container["id"], binary=1) as opened:
        await opened.socket.send(b"stty raw -echo; echo ready; head -c 3000000 | md5sum; exit\n")
        while b"ready" not in opened.raw:
            await opened.hear()
        data = bytes(range(256)) * 12000
        await opened.socket.send(data[:3_000_000])
        await opened.rest()
        assert hashlib.md5(data[:3_000_000], usedforsecurity=False).hexdigest().encode() in opened.raw
    async with terminal(stack, admin, container["id"], binary=1) as opened:
        await opened.socket.send(b"stty raw -echo; echo be''gin; seq 1 3000000; exit\n")
        await opened.rest()
        numbers = opened.raw.split(b"begin\n", 1)[1].split(b"\n")
        assert numbers[:3_000_000] == [b"%d" % number for number in range(1, 3_000_001)]


# --- ending ---

LEAVE_THINGS_BEHIND = (
    "trap '' HUP; sleep 2001 & nohup sleep 2002 >/dev/null 2>&1 & setsid sleep 2003 & "
    "(setsid sh -c 'trap \"\" HUP TERM; sleep 2004 & wait' &) ; sleep 2005 & kill -STOP $!"
)


@pytest.mark.parametrize("how", ["close", "abort", "exit", "kill"])
async def test_the_shell_and_all_it_started_are_gone_when_it_ends(
    stack: Stack, admin: Client, container: dict[str, Any], how: str
) -> None:
    async with terminal(stack, admin, container["id"]) as opened:
        await opened.runs(LEAVE_THINGS_BEHIND)
        eventually(lambda: len(processes(stack, container["id"])) >= 6)
        if how == "close":
            await opened.socket.close()
        elif how == "abort":
            opened.socket.transport.abort()
        elif how == "exit":
            # The first time it only says that a job is halted.
            await opened.type("exit\nexit\n")
            await opened.rest()
        else:
            await opened.type("kill -9 $$\n")
            assert (await opened.frame("closed"))["exit_code"] == 137
        await gone(stack, container["id"])


async def test_stopping_the_container_closes_its_terminals(stack: Stack, admin: Client) -> None:
    with admin.container() as record:
        async with terminal(stack, admin, record["id"]) as opened:
            await opened.shows("# ")
            await asyncio.to_thread(admin.act, record["id"], "stop", timeout_s=0)
            assert (await opened.frame("closed"))["reason"] == "exited"
            assert await opened.rest() == 1000
        await gone(stack, record["id"])
        assert admin.act(record["id"], "start")["state"] == "running"


async def test_two_hundred_sessions_each_echo_and_leave_nothing(
    stack: Stack, admin: Client, container: dict[str, Any]
) -> None:
    async def one(number: int, all_open: asyncio.Barrier) -> None:
        async with terminal(stack, admin, container["id"]) as opened:
            await opened.frame("opened", within_s=120)
            await all_open.wait()
            assert await opened.runs(f"echo {number}", within_s=60) == str(number)
            await all_open.wait()

    together = asyncio.Barrier(200)
    async with asyncio.timeout(180), asyncio.TaskGroup() as group:
        for number in range(200):
            group.create_task(one(number, together))
    await gone(stack, container["id"], within_s=30)


# --- resuming, watching, recording ---


async def test_a_dropped_session_is_resumed_with_its_scrollback(
    stack: Stack, admin: Client, container: dict[str, Any]
) -> None:
    async with terminal(stack, admin, container["id"], resume=30) as first:
        session = (await first.frame("opened"))["session_id"]
        await first.runs("echo remem''ber; x=17")
        await first.type("sleep 0.5; echo mean''while\n")
        await first.shows("sleep 0.5")
        first.socket.transport.abort()
    await asyncio.sleep(1)
    async with terminal(stack, admin, container["id"], session=session) as second:
        assert (await second.frame("opened"))["session_id"] == session
        await second.shows("remember")
        await second.shows("meanwhile")
        assert await second.runs("echo $x") == "17"
        async with terminal(stack, admin, container["id"], session=session) as third:
            await third.type("echo ag''ain $x\n")
            await third.shows("again 17")
            assert (await second.frame("closed"))["reason"] == "taken_over"
            await third.socket.close()
    await gone(stack, container["id"])
    with pytest.raises(InvalidStatus):
        async with terminal(stack, admin, container["id"], session=session):
            pass


async def test_a_dropped_session_is_kept_no_longer_than_asked(
    stack: Stack, admin: Client, container: dict[str, Any]
) -> None:
    async with terminal(stack, admin, container["id"], resume=1) as first:
        await first.shows("# ")
        first.socket.transport.abort()
    await asyncio.sleep(0.3)
    assert leftovers(stack, container["id"])
    await gone(stack, container["id"], within_s=4)


async def test_a_watcher_sees_everything_and_changes_nothing(
    stack: Stack, admin: Client, user: Client, container: dict[str, Any]
) -> None:
    async with terminal(stack, admin, container["id"]) as opened:
        session = (await opened.frame("opened"))["session_id"]
        await opened.runs("echo bef''ore")
        async with terminal(stack, admin, container["id"], watch=session) as watcher:
            await watcher.shows("before")
            await opened.type("echo af''ter\n")
            await watcher.shows("after")
            await watcher.type("echo intru''der\n")
            assert "watch" in (await watcher.frame("error"))["message"]
            with pytest.raises(InvalidStatus):
                async with terminal(stack, user, container["id"], watch=session):
                    pass
        assert "intruder" not in await opened.runs("echo on")
        async with terminal(stack, admin, container["id"], watch=session) as watcher:
            await opened.type("exit\n")
            assert (await watcher.frame("closed"))["reason"] == "exited"


async def test_a_recording_is_played_by_asciinema(
    stack: Stack, admin: Client, user: Client, container: dict[str, Any], tmp_path: Path
) -> None:
    async with terminal(stack, admin, container["id"], record=1, cols=90, rows=20) as opened:
        session = (await opened.frame("opened"))["session_id"]
        await opened.runs(r"printf '\342\202'; sleep 0.1; printf '\254\n'; echo rec''orded")
        await opened.resize(70, 18)
        await opened.frame("resized")
        await opened.type("exit\n")
        await opened.rest()
    answer = eventually(
        lambda: found if "exit" in (found := admin.http.get(f"/api/v1/terminal-recordings/{session}")).text else None
    )
    assert answer.headers["content-type"] == "application/x-asciicast"
    header, *lines = map(json.loads, answer.text.splitlines())
    assert (header["version"], header["width"], header["height"]) == (2, 90, 20)
    assert [line[0] for line in lines] == sorted(line[0] for line in lines)
    cast = tmp_path / "session.cast"
    cast.write_text(answer.text)
    played = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-m", "asciinema", "cat", str(cast)],
        capture_output=True, check=True, timeout=60, env=os.environ | {"LC_ALL": "C.UTF-8", "HOME": str(tmp_path)},
    )  # fmt: skip
    assert "€" in played.stdout.decode()
    assert "recorded" in played.stdout.decode()
    assert user.http.get(f"/api/v1/terminal-recordings/{session}").status_code == 403
    assert admin.http.get(f"/api/v1/terminal-recordings/{container['id']}").status_code == 404
