"""What the containers' own processes write, read over REST while everything around it dies."""

import contextlib
import itertools
import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.e2e.test_container_life import vanishes
from tests.stack import Client, Stack, eventually

LINES = 50_000
MIB = 1024**2
# The client's library drops connections whose server was killed without closing them.
pytestmark = pytest.mark.filterwarnings("ignore:.*socket.*:pytest.PytestUnraisableExceptionWarning")


def url(container_id: str) -> str:
    return f"/api/v1/containers/{container_id}/logs"


def entries(client: Client, container_id: str, **query: Any) -> list[dict[str, Any]]:
    """What there is now."""
    answer = client.http.get(url(container_id), params=query)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].startswith("application/x-ndjson")
    return [json.loads(line) for line in answer.content.split(b"\n")[:-1]]


@contextlib.contextmanager
def following(client: Client, container_id: str, **query: Any) -> Iterator[Iterator[dict[str, Any]]]:
    with client.http.stream("GET", url(container_id), params={"follow": "true"} | query) as answer:
        assert answer.status_code == 200, answer.read()
        yield _parsed(answer)


def _parsed(answer: httpx.Response) -> Iterator[dict[str, Any]]:
    rest = b""
    for data in answer.iter_raw():
        *lines, rest = (rest + data).split(b"\n")
        yield from map(json.loads, lines)


def words(found: list[dict[str, Any]]) -> list[str]:
    return [entry["line"] for entry in found]


def said(client: Client, container_id: str, *expected: str, **query: Any) -> list[dict[str, Any]]:
    """Waits until the log has these lines; the order of those of different streams is nobody's."""

    def look() -> list[dict[str, Any]] | None:
        found = entries(client, container_id, **query)
        return found if sorted(words(found)) == sorted(expected) else None

    return eventually(look)


def grow(found: list[dict[str, Any]]) -> bool:
    return all(one["time"] < other["time"] for one, other in itertools.pairwise(found))


def counting(lines: int, at_a_time: int) -> list[str]:
    """A container's command: numbers, with a short rest now and then."""
    rest = f"[ $((i % {at_a_time})) -ne 0 ] || usleep 20000"
    return ["sh", "-c", f"i=0; while [ $i -lt {lines} ]; do echo $i; i=$((i+1)); {rest}; done; sleep 1000"]


def test_a_follow_that_is_cut_and_resumed_has_each_line_once_and_in_order(admin: Client) -> None:
    with admin.container(command=["sh", "-c", f"seq {LINES}; sleep 1000"]) as record:
        found: list[dict[str, Any]] = []
        for part in (9_000, 17_000, 23_000, LINES):
            since = {"since": found[-1]["time"]} if found else {}
            with following(admin, record["id"], **since) as lines:
                found += itertools.islice(lines, part - len(found))
        assert words(found) == [str(number) for number in range(1, LINES + 1)]
        assert grow(found)
        assert entries(admin, record["id"]) == found
        assert entries(admin, record["id"], since=found[-1]["time"]) == []


def test_stream_tail_and_since_choose(admin: Client) -> None:
    shell = "for i in 1 2 3; do echo out $i; usleep 20000; echo err $i >&2; usleep 20000; done; sleep 1000"
    with admin.container(command=["sh", "-c", shell]) as record:
        box = record["id"]
        both = said(admin, box, "out 1", "err 1", "out 2", "err 2", "out 3", "err 3")
        assert grow(both)
        out, err = ([entry for entry in both if entry["stream"] == stream] for stream in ("stdout", "stderr"))
        assert (words(out), words(err)) == (["out 1", "out 2", "out 3"], ["err 1", "err 2", "err 3"])
        assert entries(admin, box, stream="stdout") == out
        assert entries(admin, box, stream="stderr") == err
        assert entries(admin, box, tail=2) == both[-2:]
        assert entries(admin, box, tail=0) == []
        assert entries(admin, box, tail=2, stream="stdout") == out[1:]
        for number, entry in enumerate(both):
            assert entries(admin, box, since=entry["time"]) == both[number + 1 :]
        assert entries(admin, box, since=both[0]["time"], tail=3) == both[-3:]
        assert entries(admin, box, since=both[4]["time"], tail=3) == both[-1:]


def test_the_log_goes_on_over_stops_and_starts_and_so_does_who_follows(admin: Client) -> None:
    with admin.container(command=["sh", "-c", "echo begin; printf unfinished; sleep 1000"]) as record:
        box = record["id"]
        with following(admin, box) as lines:
            assert next(lines)["line"] == "begin"
            admin.act(box, "stop", timeout_s=0)
            assert next(lines)["line"] == "unfinished"
            admin.act(box, "start")
            assert next(lines)["line"] == "begin"
            admin.act(box, "restart", timeout_s=0)
            assert words(list(itertools.islice(lines, 2))) == ["unfinished", "begin"]
        assert words(entries(admin, box)) == ["begin", "unfinished", "begin", "unfinished", "begin"]


@pytest.mark.parametrize(
    ("command", "last_words", "exit_code"),
    [
        (["sh", "-c", "echo bye; exit 3"], [("stdout", "bye")], 3),
        (["sh", "-c", "printf bye; printf sorry >&2; exit 4"], [("stdout", "bye"), ("stderr", "sorry")], 4),
        (["busybox", "no-such-applet"], [("stderr", "no-such-applet: applet not found")], 127),
    ],
)
def test_a_container_that_ends_at_once_has_its_last_words(
    admin: Client, command: list[str], last_words: list[tuple[str, str]], exit_code: int
) -> None:
    with admin.container(command=command) as record:
        ended = admin.wait_for(record["id"], "stopped", "failed")
        found = entries(admin, record["id"])
        assert sorted((entry["stream"], entry["line"]) for entry in found) == sorted(last_words)
        assert ended["exit_code"] == exit_code


def test_the_process_may_open_its_output_again(admin: Client) -> None:
    with admin.container(command=["sh", "-c", "echo out > /dev/stdout; echo err > /dev/stderr; sleep 1000"]) as record:
        found = said(admin, record["id"], "out", "err")
        assert {entry["stream"]: entry["line"] for entry in found} == {"stdout": "out", "stderr": "err"}


def test_bytes_and_long_lines(admin: Client) -> None:
    shell = (
        r"printf 'a\377b\r\n\n'; dd if=/dev/zero bs=40000 count=1 2>/dev/null | tr '\0' x; echo; echo end; sleep 1000"
    )
    with admin.container(command=["sh", "-c", shell]) as record:
        expected = ["a\ufffdb\r", "", "x" * 16384, "x" * 16384, "x" * 7232, "end"]
        found = said(admin, record["id"], *expected)
        assert words(found) == expected
        assert [entry.get("partial", False) for entry in found] == [False, False, True, True, False, False]


def test_what_is_not_yours_or_not_there_or_makes_no_sense_is_refused(admin: Client, user: Client) -> None:
    with admin.container() as record:
        box = record["id"]
        assert entries(admin, box) == []
        assert user.http.get(url(box)).status_code == 403
        for query in (
            {"stream": "stdin"},
            {"since": "yesterday"},
            {"since": "2026-01-01"},
            {"tail": -1},
            {"tail": "x"},
        ):
            answer = admin.http.get(url(box), params=query)
            assert (answer.status_code, answer.json()["error"]["code"]) == (400, "VALIDATION_FAILED"), query
    gone = admin.http.get(url(box))
    assert (gone.status_code, gone.json()["error"]["code"]) == (404, "CONTAINER_NOT_FOUND")


def test_delete_ends_who_follows_and_leaves_nothing_of_the_log(stack: Stack, admin: Client) -> None:
    record = admin.create(command=["sh", "-c", "echo here; sleep 1000"])
    with following(admin, record["id"]) as lines:
        assert next(lines)["line"] == "here"
        admin.delete(record["id"])
        assert list(lines) == []
    vanishes(stack, record["id"])


def test_a_flood_is_bounded_and_its_neighbours_go_on(stack: Stack, admin: Client) -> None:
    with admin.container(command=["yes", "0123456789" * 6]) as noisy, admin.container() as neighbour:
        folder = stack.state_dir / "container-logs" / noisy["id"]
        sizes = []

        def is_rotated() -> bool:
            files = list(folder.iterdir())
            with contextlib.suppress(FileNotFoundError):
                sizes.append(sum(file.stat().st_blocks * 512 for file in files))
            assert admin.run(neighbour["id"], "echo hi")["stdout"] == "hi\n"
            return {file.name for file in files} >= {"6.index", "5.index"}

        eventually(is_rotated, 60)
        assert max(sizes) < 31 * MIB
        assert len(sizes) > 10
        admin.act(noisy["id"], "stop", timeout_s=0)
        found = entries(admin, noisy["id"], since="2020-01-01T00:00:00Z")
        assert found[0].keys() == {"time", "lost_bytes"}
        assert grow(found)
        assert {entry["line"] for entry in found[2:-1]} == {"0123456789" * 6}
        assert entries(admin, noisy["id"], tail=5) == found[-5:]


@pytest.mark.parametrize("program", ["lifecycle", "containerd"])
def test_no_line_is_lost_or_repeated_when_it_is_killed(own_stack: Stack, program: str) -> None:
    admin = own_stack.client()
    record = admin.create(command=counting(LINES, 400))
    with following(admin, record["id"]) as lines:
        found = []
        for part in (5_000, 20_000, 35_000):
            found += itertools.islice(lines, part - len(found))
            os.kill(own_stack.pid_of(program), signal.SIGKILL)
            eventually(lambda: own_stack.pid_of(program) > 0)
        found += itertools.islice(lines, LINES - len(found))
    assert words(found) == [str(number) for number in range(LINES)]
    assert grow(found)
    own_stack.comes_back()
    assert admin.get(record["id"])["state"] == "running"
    assert entries(admin, record["id"]) == found
    admin.delete(record["id"])


def test_what_a_container_says_while_lifecycle_is_down_is_kept(own_stack: Stack) -> None:
    admin = own_stack.client()
    told = "until [ -e /go ]; do usleep 50000; done"
    short, blocked = (
        admin.create(command=["sh", "-c", f"echo first; {told}; seq {count}; echo last words >&2; exit 3"])
        for count in (30000, 400000)
    )
    long = admin.create(command=["sh", "-c", "trap 'echo told to; exit 5' TERM; echo up; while :; do sleep 0.1; done"])
    said(admin, long["id"], "up")
    for record in (short, blocked):
        said(admin, record["id"], "first")
        assert admin.run(record["id"], "true")["status"] == "succeeded"
    os.kill(own_stack.pid_of("keeper"), signal.SIGKILL)
    eventually(lambda: all(is_held(own_stack, record["id"]) for record in (short, blocked, long)))
    own_stack.supervise("stop", "lifecycle")
    for record in (short, blocked):
        assert admin.run(record["id"], "touch /go")["status"] == "succeeded"
    eventually(lambda: not any("seq 30000;" in _cmdline(pid) for pid in _processes()))
    own_stack.supervise("start", "lifecycle")
    own_stack.comes_back()
    for record, count in ((short, 30000), (blocked, 400000)):
        ended = admin.wait_for(record["id"], "stopped")
        assert ended["exit_code"] == 3
        numbers = [str(number) for number in range(1, count + 1)]
        assert words(entries(admin, record["id"], stream="stdout")) == ["first", *numbers]
        assert words(entries(admin, record["id"], stream="stderr")) == ["last words"]
    own_stack.down()
    assert not (own_stack.run_dir / "logs").exists()
    own_stack.up()
    again = own_stack.client()
    assert words(entries(again, long["id"])) == ["up", "told to"]
    for record in (short, blocked, long):
        again.delete(record["id"])
    assert list((own_stack.state_dir / "container-logs").iterdir()) == []


def is_held(stack: Stack, container_id: str) -> bool:
    """Whether the keeper, too, would read the container's output."""
    files = Path(f"/proc/{stack.pid_of('keeper')}/fd").iterdir()
    with contextlib.suppress(FileNotFoundError):
        return sum(container_id in str(file.readlink()) for file in files) == 2
    return False


def test_a_gateway_that_stops_breaks_off_who_follows(own_stack: Stack) -> None:
    admin = own_stack.client()
    record = admin.create(command=counting(3000, 100))
    with following(admin, record["id"]) as lines:
        found = list(itertools.islice(lines, 100))
        own_stack.supervise("stop", "gateway")
        with pytest.raises(httpx.RemoteProtocolError):
            found.extend(lines)
    own_stack.supervise("start", "gateway")
    own_stack.comes_back()
    with following(admin, record["id"], since=found[-1]["time"]) as lines:
        found += itertools.islice(lines, 3000 - len(found))
    assert words(found) == [str(number) for number in range(3000)]
    admin.delete(record["id"])


def test_who_reads_slowly_is_told_what_is_missing(stack: Stack, admin: Client) -> None:
    with admin.container(command=["yes", "0123456789" * 6]) as record, following(admin, record["id"]) as lines:
        assert next(lines)["line"] == "0123456789" * 6
        eventually(lambda: (stack.state_dir / "container-logs" / record["id"] / "7.index").exists(), 60)
        gap = next(entry for entry in lines if "lost_bytes" in entry)
        assert gap["lost_bytes"] > MIB
        assert gap["time"] < next(lines)["time"]


def _processes() -> Iterator[Path]:
    return Path("/proc").glob("[0-9]*")


def _cmdline(folder: Path) -> str:
    try:
        return (folder / "cmdline").read_text()
    except OSError:
        return ""
