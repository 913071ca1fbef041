"""`/ws/jobs/{id}`: following a command over a WebSocket."""

import asyncio
import base64
import hashlib
import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import websockets
from websockets.asyncio.client import ClientConnection, connect

from services.common.ids import new_id
from tests.stack import Client, Stack, eventually


@pytest.fixture(scope="module")
def owner(stack: Stack) -> Client:
    return stack.new_user()


@pytest.fixture(scope="module")
def box(owner: Client) -> Iterator[str]:
    with owner.container(memory_mb=256) as record:
        yield record["id"]


def job(stack: Stack, client: Client, command_id: str, query: str = "") -> connect:
    url = f"{stack.url.replace('http', 'ws')}/ws/jobs/{command_id}{query}"
    headers = {"Authorization": client.http.headers["Authorization"]}
    return connect(url, additional_headers=headers, max_size=None)


async def frames(socket: ClientConnection) -> AsyncIterator[dict[str, Any]]:
    """Until the server closes; the close must be a normal one."""
    async for message in socket:
        yield json.loads(message)
    assert socket.close_code == 1000


async def followed(stack: Stack, client: Client, command_id: str, query: str = "") -> list[dict[str, Any]]:
    async with job(stack, client, command_id, query) as socket:
        return [frame async for frame in frames(socket)]


def text_of(seen: list[dict[str, Any]], stream: str) -> str:
    return "".join(frame["data"] for frame in seen if frame["type"] == "output" and frame["stream"] == stream)


async def test_it_replays_and_follows_to_the_end(stack: Stack, owner: Client, box: str) -> None:
    command = owner.submit(box, command="for i in 1 2 3; do echo out $i; echo err $i >&2; sleep 0.2; done; exit 4")
    seen = await followed(stack, owner, command["id"])
    assert seen[0] in ({"type": "status", "status": "queued"}, {"type": "status", "status": "running"})
    assert text_of(seen, "stdout") == "out 1\nout 2\nout 3\n"
    assert text_of(seen, "stderr") == "err 1\nerr 2\nerr 3\n"
    assert (seen[-1]["type"], seen[-1]["status"], seen[-1]["exit_code"]) == ("exit", "failed", 4)
    again = await followed(stack, owner, command["id"])
    assert again[0] == {"type": "status", "status": "failed"}
    assert text_of(again, "stdout") == text_of(seen, "stdout")
    assert again[-1] == seen[-1]


async def test_offsets_count_the_bytes_of_both_streams_without_gaps(stack: Stack, owner: Client, box: str) -> None:
    command = owner.run(box, "for i in $(seq 50); do echo o$i; echo e$i >&2; done")
    seen = [frame for frame in await followed(stack, owner, command["id"]) if frame["type"] == "output"]
    offset = 0
    for frame in seen:
        assert frame["offset"] == offset
        offset += frame["length"]
    assert offset == command["stdout_bytes"] + command["stderr_bytes"]
    rest = await followed(stack, owner, command["id"], f"?offset={seen[0]['length'] + 1}")
    outputs = [frame for frame in rest if frame["type"] == "output"]
    assert sum(frame["length"] for frame in outputs) == offset - seen[0]["length"] - 1


async def test_a_client_that_comes_back_50_times_sees_every_byte_once(stack: Stack, owner: Client, box: str) -> None:
    shell = "i=0; while [ $i -lt 3000 ]; do echo line $i é; i=$((i+1)); [ $((i%20)) = 0 ] && sleep 0.03; done; true"
    command = owner.submit(box, command=shell)
    offset, text = 0, ""
    for _ in range(50):
        async with job(stack, owner, command["id"], f"?offset={offset}") as socket:
            async for frame in frames(socket):
                if frame["type"] == "output":
                    text += frame["data"]
                    offset = frame["offset"] + frame["length"]
                    break
    for frame in await followed(stack, owner, command["id"], f"?offset={offset}"):
        text += frame.get("data", "")
    assert text == "".join(f"line {number} é\n" for number in range(3000))


async def test_a_character_is_never_broken_even_by_the_other_stream(stack: Stack, owner: Client, box: str) -> None:
    shell = (
        r"""printf '\360\237'; sleep 0.3; printf 'E' >&2; sleep 0.3; printf '\230\200!\303'; sleep 0.2; printf '\251'"""
    )
    command = owner.submit(box, command=shell)
    seen = await followed(stack, owner, command["id"])
    assert text_of(seen, "stdout") == "😀!é"
    assert text_of(seen, "stderr") == "E"
    error = next(frame for frame in seen if frame["type"] == "output" and frame["stream"] == "stderr")
    rest = await followed(stack, owner, command["id"], f"?offset={error['offset'] + error['length']}")
    assert text_of(rest, "stdout") == "😀!é", "the held-back half belongs to what comes after"


async def test_bytes_that_are_no_text_are_replaced_or_come_as_base64(stack: Stack, owner: Client, box: str) -> None:
    command = owner.run(box, r"printf 'a\377b\303'")
    assert command["stdout"] == "a\ufffdb\ufffd"
    assert text_of(await followed(stack, owner, command["id"]), "stdout") == "a\ufffdb\ufffd"
    raw = await followed(stack, owner, command["id"], "?encoding=base64")
    assert b"".join(base64.b64decode(f["data"]) for f in raw if f["type"] == "output") == b"a\xffb\xc3"


async def test_100_mb_arrive_complete_as_base64(stack: Stack, owner: Client, box: str) -> None:
    shell = "head -c 100000000 /dev/urandom > /tmp/b; sha256sum < /tmp/b >&2; cat /tmp/b; rm /tmp/b"
    command = owner.submit(box, command=shell, max_output_bytes=200_000_000)
    digests = {"stdout": hashlib.sha256(), "stderr": hashlib.sha256()}
    stderr = b""
    with stack.using_at_most("exec", 150_000_000):
        async with job(stack, owner, command["id"], "?encoding=base64") as socket:
            async for frame in frames(socket):
                if frame["type"] == "output":
                    data = base64.b64decode(frame["data"])
                    digests[frame["stream"]].update(data)
                    stderr += data if frame["stream"] == "stderr" else b""
    assert digests["stdout"].hexdigest() == stderr.decode().split()[0]


async def until(socket: ClientConnection, wanted: str) -> None:
    text = ""
    while wanted not in text:
        text += json.loads(await asyncio.wait_for(socket.recv(), 20)).get("data", "")


async def test_input_and_its_end(stack: Stack, owner: Client, box: str) -> None:
    shell = 'while read line; do echo "<$line>"; done; echo over'
    command = owner.submit(box, command=shell, stdin_open=True, stdin="first\n")
    async with job(stack, owner, command["id"]) as socket:
        await until(socket, "<first>")
        await socket.send(json.dumps({"type": "input", "data": "second é\n"}))
        await until(socket, "<second é>")
        await socket.send(json.dumps({"type": "eof"}))
        rest = [frame async for frame in frames(socket)]
    assert text_of(rest, "stdout") == "over\n"
    assert rest[-1]["exit_code"] == 0


async def test_a_signal_reaches_the_command(stack: Stack, owner: Client, box: str) -> None:
    command = owner.submit(box, command="trap 'echo caught; exit 5' USR1; echo ready; while :; do usleep 10000; done")
    async with job(stack, owner, command["id"]) as socket:
        await until(socket, "ready")
        await socket.send(json.dumps({"type": "signal", "signal": "USR1"}))
        rest = [frame async for frame in frames(socket)]
    assert text_of(rest, "stdout") == "caught\n"
    assert (rest[-1]["exit_code"], rest[-1]["signal"]) == (5, None)


async def test_a_frame_that_is_wrong_gets_an_error_and_nothing_ends(stack: Stack, owner: Client, box: str) -> None:
    command = owner.submit(box, command="sleep 2; echo still here")
    async with job(stack, owner, command["id"]) as socket:
        for wrong in (
            "no json",
            "{}",
            '{"type": "input"}',
            '{"type": "input", "data": "x"}',
            '{"type":"signal","signal":"NO"}',
        ):
            await socket.send(wrong)
        seen = [frame async for frame in frames(socket)]
    assert len([frame for frame in seen if frame["type"] == "error"]) == 5
    assert text_of(seen, "stdout") == "still here\n"


async def test_disconnecting_does_not_end_the_command(stack: Stack, owner: Client, box: str) -> None:
    command = owner.submit(box, command="sleep 1; echo survived")
    async with job(stack, owner, command["id"]) as socket:
        await socket.recv()
    assert (await asyncio.to_thread(owner.ended, command["id"]))["stdout"] == "survived\n"


async def test_a_hundred_readers_and_a_slow_one_see_the_same(stack: Stack, owner: Client, box: str) -> None:
    shell = "sleep 1; i=0; while [ $i -lt 2000 ]; do echo line number $i of many; i=$((i+1)); done"
    command = owner.submit(box, command=shell)

    async def slow() -> str:
        text = ""
        async with job(stack, owner, command["id"]) as socket:
            async for frame in frames(socket):
                text += frame.get("data", "")
                await asyncio.sleep(0.05)
        return text

    async def quick() -> str:
        return text_of(await followed(stack, owner, command["id"]), "stdout")

    texts = await asyncio.gather(slow(), *(quick() for _ in range(100)))
    assert set(texts) == {"".join(f"line number {number} of many\n" for number in range(2000))}


async def test_a_refused_upgrade_is_refused_with_a_plain_answer(stack: Stack, owner: Client, box: str) -> None:
    command = owner.run(box, "true")
    cases = [
        (stack.new_user(), command["id"], "", 403, "FORBIDDEN"),
        (owner, new_id(), "", 404, "COMMAND_NOT_FOUND"),
        (owner, "nonsense", "", 404, "COMMAND_NOT_FOUND"),
        (owner, command["id"], "?offset=-1", 400, "VALIDATION_FAILED"),
        (owner, command["id"], "?encoding=rot13", 400, "VALIDATION_FAILED"),
    ]
    for client, command_id, query, status, code in cases:
        with pytest.raises(websockets.InvalidStatus) as refused:
            async with job(stack, client, command_id, query):
                pass
        assert refused.value.response.status_code == status
        assert json.loads(refused.value.response.body)["error"]["code"] == code
    with pytest.raises(websockets.InvalidStatus) as refused:
        async with connect(f"{stack.url.replace('http', 'ws')}/ws/jobs/{command['id']}"):
            pass
    assert refused.value.response.status_code == 401


async def test_a_queued_command_tells_when_it_runs(stack: Stack, owner: Client) -> None:
    with owner.container() as container:
        blockers = [owner.submit(container["id"], command="sleep 300") for _ in range(32)]
        eventually(lambda: owner.command(blockers[-1]["id"])["status"] == "running")
        waiting = owner.submit(container["id"], command="echo hello")
        async with job(stack, owner, waiting["id"]) as socket:
            assert json.loads(await socket.recv()) == {"type": "status", "status": "queued"}
            await asyncio.to_thread(owner.http.post, f"/api/v1/commands/{blockers[0]['id']}/cancel")
            rest = [frame async for frame in frames(socket)]
    assert rest[0] == {"type": "status", "status": "running"}
    assert text_of(rest, "stdout") == "hello\n"
