"""What happens, as those hear of it who follow it: once, in order, and only what is theirs."""

import asyncio
import os
import signal
import socket
import time
from typing import Any

import httpx
import psutil
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from bench.events import HANDSHAKE, reading
from bench.events import event_for as bench_event
from services.common.events import command_event
from services.common.ids import new_id
from tests.events import (
    TRANSPORTS,
    Told,
    event_for,
    publish,
    server_sent,
    stored,
    user_id_of,
    websocket,
)
from tests.stack import Client, Stack, eventually
from tests.terminal import terminal

pytestmark = pytest.mark.filterwarnings("ignore:.*socket.*:pytest.PytestUnraisableExceptionWarning")

SLOW_EVENTS = 12_000
AT_ONCE = 1000


@pytest.fixture(params=list(TRANSPORTS))
def follow(request: pytest.FixtureRequest) -> Any:
    return TRANSPORTS[request.param]


def in_short(frame: Told) -> str:
    """type, and what it became."""
    data = frame["data"]
    return " ".join((frame["type"], data.get("state") or data.get("status") or "")).strip()


async def test_the_life_of_a_container_is_told_in_order(stack: Stack, user: Client, follow: Any) -> None:
    async with follow(stack, user) as follower:
        opened = await follower.next()
        assert (opened["type"], opened["data"]) == ("stream.opened", {"resumed": False})
        record = await asyncio.to_thread(user.create)
        command = await asyncio.to_thread(user.submit, record["id"], 10, program="true")
        found = await follower.until(5)
        async with terminal(stack, user, record["id"]) as opened_terminal:
            await opened_terminal.runs("echo hello")
        found += await follower.until(2)
        await asyncio.to_thread(user.act, record["id"], "stop", timeout_s=0)
        await asyncio.to_thread(user.delete, record["id"])
        while in_short(found[-1]) != "container.deleted deleted":
            found += await follower.until(1)
    told = [in_short(frame) for frame in found]
    assert [one for one in told if one.startswith("container.")] == [
        "container.state_changed provisioning",
        "container.state_changed running",
        "container.state_changed stopped",
        "container.deleted deleted",
    ]
    assert [one for one in told if one.startswith("command.")] == [
        "command.status_changed queued",
        "command.status_changed running",
        "command.status_changed succeeded",
    ]
    assert [one for one in told if one.startswith("terminal.")] == ["terminal.opened", "terminal.closed"]
    assert {frame["container_id"] for frame in found} == {record["id"]}
    assert {frame["data"]["command_id"] for frame in found if "command" in frame["type"]} == {command["id"]}
    assert [frame["event_id"] for frame in found] == await stored(stack, {record["id"]})
    assert [int(frame["id"].split("-")[0]) for frame in found] == sorted({int(f["id"].split("-")[0]) for f in found})
    assert "node_name" not in found[0]


async def test_resuming_over_three_cuts_each_event_comes_once_and_in_order(stack: Stack, user: Client) -> None:
    async with websocket(stack, user) as follower:
        opened = await follower.next()
        assert opened is not None
    seen, last = [], opened["id"]
    with user.container() as record:
        # Cut after some events, while more happen, each time.
        for follow, wanted in ((websocket, 4), (server_sent, 5), (websocket, 3)):
            await asyncio.to_thread(user.run, record["id"], "true")
            async with follow(stack, user, last) as follower:
                resumed = await follower.next()
                assert resumed["data"] == {"resumed": True}
                running = asyncio.create_task(asyncio.to_thread(user.run, record["id"], "true"))
                frames = await follower.until(wanted)
            await running
            seen += [frame["event_id"] for frame in frames]
            last = frames[-1]["id"]
    async with server_sent(stack, user, last) as follower:
        while frames[-1]["type"] != "container.deleted":
            frames = await follower.until(1)
            seen.append(frames[0]["event_id"])
    everything = await stored(stack, {record["id"]})
    assert len(everything) >= 2 + 6 * 3 + 1
    assert seen == everything


async def test_another_user_s_events_are_never_seen(stack: Stack, user: Client, admin: Client, follow: Any) -> None:
    other = stack.new_user()
    async with follow(stack, user) as mine, follow(stack, other) as theirs, follow(stack, admin, "0") as everything:
        await mine.next(), await theirs.next()
        with user.container() as record, other.container() as foreign:
            await asyncio.to_thread(user.run, record["id"], "true")
            # An admin does something to it: it stays the owner's.
            await asyncio.to_thread(admin.run, foreign["id"], "true")
            async with terminal(stack, admin, foreign["id"]) as opened:
                await opened.runs("echo hello")
        for follower, container_id in ((mine, record["id"]), (theirs, foreign["id"])):
            found: list[Told] = []
            while not found or found[-1]["type"] != "container.deleted":
                found += await follower.until(1)
            assert {frame["container_id"] for frame in found} == {container_id}
            assert [frame["event_id"] for frame in found] == await stored(stack, {container_id})
        missing = {record["id"], foreign["id"]}
        while missing:
            frame = (await everything.until(1))[0]
            if frame["type"] == "container.deleted":
                missing.discard(frame["container_id"])


async def test_a_revoked_token_s_stream_closes(stack: Stack, user: Client) -> None:
    made = user.http.post("/api/v1/tokens", json={"name": "to be revoked"}).json()["data"]
    revoked = stack.client(made["token"])
    async with websocket(stack, revoked) as socket, server_sent(stack, revoked) as sent, websocket(stack, user) as good:
        await socket.next(), await sent.next(), await good.next()
        answer = await asyncio.to_thread(user.http.delete, f"/api/v1/tokens/{made['id']}")
        assert answer.status_code == 200
        assert await socket.end() == []
        assert socket.closed == (1008, "UNAUTHORIZED")
        (closed,) = await sent.end()
        assert closed["data"]["code"] == "UNAUTHORIZED"
        sent_events = await publish(stack, [event_for(user_id_of(user))])
        assert [frame["event_id"] for frame in await good.until(1)] == sent_events


async def test_who_may_not_is_refused_with_the_plain_status(stack: Stack, user: Client) -> None:
    nobody = stack.client("")
    for client, query, status, code in (
        (nobody, "", 401, "UNAUTHORIZED"),
        (user, "?last_event_id=nonsense", 400, "VALIDATION_FAILED"),
    ):
        answer = client.http.get(f"/api/v1/events{query}")
        assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
        headers = {key: value for key, value in client.http.headers.items() if key == "authorization"}
        with pytest.raises(InvalidStatus) as refused:
            await connect(f"{stack.url.replace('http', 'ws')}/ws/events{query}", additional_headers=headers, proxy=None)
        assert refused.value.response.status_code == status
    token = user.http.headers["Authorization"].removeprefix("Bearer ")
    async with connect(f"{stack.url.replace('http', 'ws')}/ws/events?token={token}", proxy=None) as connection:
        assert "stream.opened" in str(await connection.recv())


async def test_a_silent_stream_shows_that_it_lives_and_moves_on(stack: Stack, user: Client) -> None:
    """Somebody else's events are nothing to see, but a place to come back to."""
    headers = {"Authorization": user.http.headers["Authorization"]}
    async with (
        websocket(stack, user) as follower,
        httpx.AsyncClient(base_url=stack.url, headers=headers, timeout=60) as http,
        http.stream("GET", "/api/v1/events") as answer,
    ):
        await follower.next()
        await publish(stack, [event_for("nobody") for _ in range(3)])
        position = await follower.next()
        assert position is not None
        assert position["type"] == "stream.position"
        comments = 0
        async for line in answer.aiter_lines():
            comments += line == ":" or "stream.position" in line
            if comments == 2:
                break
    async with websocket(stack, user, position["id"]) as follower:
        assert (await follower.next() or {})["data"] == {"resumed": True}


async def read_on(follow: Any, stack: Stack, client: Client, after: str, seen: list[str], until: str) -> str:
    """As a client does that comes back whenever it is cut off; returns the last id."""
    while True:
        try:
            async with follow(stack, client, after) as follower:
                while (frame := await follower.next()) is not None:
                    assert frame["type"] != "stream.gap"
                    after = frame["id"]
                    if "event_id" in frame:
                        seen.append(frame["event_id"])
                        if frame["container_id"] == until and frame["type"] == "container.deleted":
                            return after
        except (OSError, httpx.HTTPError, InvalidStatus, AssertionError) as error:
            if isinstance(error, AssertionError) and "stream.gap" in str(error):
                raise
        await asyncio.sleep(0.2)


async def test_whoever_is_killed_meanwhile_no_event_is_lost_or_told_twice(own_stack: Stack) -> None:
    user = own_stack.new_user()
    async with websocket(own_stack, user) as follower:
        opened = await follower.next()
        assert opened is not None
    record = await asyncio.to_thread(user.create)
    seen: dict[str, list[str]] = {name: [] for name in TRANSPORTS}
    reading_on = [
        asyncio.create_task(read_on(follow, own_stack, user, opened["id"], seen[name], record["id"]))
        for name, follow in TRANSPORTS.items()
    ]
    for program in ("nats", "gateway", "lifecycle", "nats"):
        await asyncio.to_thread(user.run, record["id"], "true")
        submitted = await asyncio.to_thread(user.submit, record["id"], command="sleep 1")
        os.kill(own_stack.pid_of(program), signal.SIGKILL)
        await asyncio.to_thread(own_stack.comes_back)
        await asyncio.to_thread(user.ended, submitted["id"])
    # In the ordinary way, too: nobody who follows holds it up.
    begun = time.monotonic()
    for action in ("stop", "start"):
        await asyncio.to_thread(own_stack.supervise, action, "gateway")
    assert time.monotonic() - begun < 7
    await asyncio.to_thread(own_stack.comes_back)
    await asyncio.to_thread(user.delete, record["id"])
    await asyncio.gather(*reading_on)
    everything = await stored(own_stack, {record["id"]})
    assert len(everything) == 2 + 4 * 6 + 1
    assert seen == dict.fromkeys(TRANSPORTS, everything)


async def test_who_follows_stays_while_others_are_away(own_stack: Stack) -> None:
    user = own_stack.new_user()
    me = user_id_of(user)
    async with websocket(own_stack, user) as follower, server_sent(own_stack, user) as other:
        await follower.next(), await other.next()
        await asyncio.to_thread(own_stack.supervise, "stop", "nats")
        answer = await asyncio.to_thread(user.http.get, "/api/v1/events")
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "UNAVAILABLE")
        assert answer.headers["Retry-After"]
        await asyncio.to_thread(own_stack.supervise, "start", "nats")
        await asyncio.to_thread(own_stack.comes_back)
        sent = await publish(own_stack, [event_for(me)])
        # Only lifecycle can say whose container this is; what comes behind it must wait.
        await asyncio.to_thread(own_stack.supervise, "stop", "lifecycle")
        stranger = command_event(new_id(), new_id(), "queued", "node", {"requested_by": me})
        sent += (await publish(own_stack, [stranger, event_for(me)]))[1:]
        await asyncio.to_thread(own_stack.supervise, "start", "lifecycle")
        for one in (follower, other):
            assert [frame["event_id"] for frame in await one.until(2)] == sent


def with_small_buffers(url: str) -> socket.socket:
    """A connection on which little is under way."""
    host, port = url.removeprefix("http://").split(":")
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.connect((host, int(port)))
    return connection


async def test_a_slow_reader_is_dropped_with_a_reason_and_goes_on(own_stack: Stack) -> None:
    user = own_stack.new_user()
    me = user_id_of(user)
    with with_small_buffers(own_stack.url) as connection:
        token = user.http.headers["Authorization"]
        connection.sendall(f"GET /api/v1/events HTTP/1.1\r\nHost: x\r\nAuthorization: {token}\r\n\r\n".encode())
        slow = {"sock": with_small_buffers(own_stack.url), "max_queue": 1}
        async with websocket(own_stack, user, **slow) as follower, server_sent(own_stack, user) as quick:
            first = [await follower.next()]
            await quick.next()
            sent = []
            for _ in range(SLOW_EVENTS // AT_ONCE):
                batch = await publish(own_stack, [event_for(me, text="x" * 200) for _ in range(AT_ONCE)])
                # Whoever reads gets them all, whatever others do.
                assert [frame["event_id"] for frame in await quick.until(AT_ONCE)] == batch
                sent += batch
            found = first + await follower.end()
            assert follower.closed == (1013, "SLOW_READER")
        text = await asyncio.to_thread(_rest_of, connection)
    assert '"type":"stream.closed"' in text
    assert '"code":"SLOW_READER"' in text
    seen = [frame["event_id"] for frame in found if frame is not None and "event_id" in frame]
    assert 0 < len(seen) < SLOW_EVENTS
    last = found[-1]
    assert last is not None
    async with websocket(own_stack, user, last["id"]) as follower:
        seen += [frame["event_id"] for frame in await follower.until(SLOW_EVENTS - len(seen))]
    assert seen == sent


def _rest_of(connection: socket.socket) -> str:
    connection.settimeout(30)
    data = bytearray()
    while not data.endswith(b"0\r\n\r\n"):
        part = connection.recv(65536)
        if not part:
            break
        data += part
    return data.decode()


async def test_a_client_that_reads_nothing_at_all_is_cut_off(stack: Stack, user: Client) -> None:
    token = user.http.headers["Authorization"]
    gateway = psutil.Process(stack.pid_of("gateway"))
    with with_small_buffers(stack.url) as socket, with_small_buffers(stack.url) as sent:
        for connection, path, more in ((socket, "/ws/events", HANDSHAKE), (sent, "/api/v1/events", "")):
            request = f"GET {path} HTTP/1.1\r\nHost: x\r\nAuthorization: {token}\r\n{more}\r\n"
            connection.sendall(request.encode())
        ports = {connection.getsockname()[1] for connection in (socket, sent)}

        def connected() -> set[int]:
            return ports & {one.raddr.port for one in gateway.net_connections("tcp") if one.raddr}

        async with server_sent(stack, user) as quick:
            await quick.next()
            for _ in range(3):
                await publish(stack, [event_for(user_id_of(user), text="x" * 300) for _ in range(AT_ONCE)])
                await quick.until(AT_ONCE)
            assert connected() == ports
            await asyncio.to_thread(eventually, lambda: not connected(), 60)
            await publish(stack, [event_for(user_id_of(user))])
            await quick.until(1)


async def test_a_thousand_readers_see_a_hundred_changes(stack: Stack, user: Client) -> None:
    token = user.http.headers["Authorization"].removeprefix("Bearer ")
    for kind in ("websocket", "sse"):
        async with reading(stack, token, kind, 1000) as progress:
            begun = time.perf_counter()
            await publish(stack, [bench_event(user_id_of(user)) for _ in range(100)])
            await progress.reaches(100)
            print(f"{kind}: {time.perf_counter() - begun:.2f} s")
