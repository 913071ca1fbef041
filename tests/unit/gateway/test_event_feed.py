"""Readers of the event stream, on a real NATS server that comes and goes. Containers are there in name only."""

import asyncio
import json
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import nats
import pytest
from sqlalchemy import update

from services.common.database import Database
from services.common.errors import HzelError, RateLimited, SlowReader, Unauthenticated, Unavailable
from services.common.events import STREAM, OutgoingEvent, command_event, container_event
from services.common.ids import new_id
from services.common.outbox import ensure_stream
from services.common.rpc.channel import open_channel
from services.gateway import event_feed, event_reader, events
from services.gateway.accounts import Accounts, Role, User, add_token
from services.gateway.authentication import Authentication, Caller
from services.gateway.clients import LifecycleClient
from services.gateway.event_positions import Position
from services.gateway.event_reader import Reader
from services.gateway.events import Events
from services.gateway.tables import users
from tests.unit.common.test_outbox import Broker

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)

WITHIN_S = 20
Told = dict[str, Any]


@pytest.fixture
async def broker(tmp_path: Path) -> AsyncIterator[Broker]:
    started = Broker(tmp_path / "nats")
    await started.start()
    yield started
    await started.kill()


@asynccontextmanager
async def following(broker: Broker, database: Database, folder: Path, per_user: int = 3) -> AsyncIterator[Events]:
    """The gateway's part, running; lifecycle is not there."""
    async with open_channel(folder / "nobody.sock") as channel:
        found = Events(broker.url, LifecycleClient(channel), Authentication(database), 10, per_user)
        running = asyncio.create_task(found.run())
        try:
            yield found
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)


@pytest.fixture
async def feed(broker: Broker, database: Database, tmp_path: Path) -> AsyncIterator[Events]:
    async with following(broker, database, tmp_path) as found:
        yield found


@pytest.fixture
async def caller(database: Database, user: User, token: str) -> Caller:
    return await Authentication(database).caller(f"Bearer {token}")


@pytest.fixture
async def root(database: Database, admin: User) -> Caller:
    async with database.transaction() as connection:
        token, _ = await add_token(connection, admin.id, "laptop", None)
    return await Authentication(database).caller(f"Bearer {token}")


def of(owner: str, what: str = "running", container_id: str | None = None) -> OutgoingEvent:
    return container_event(container_id or new_id(), what, "node", {"state": what, "user_id": owner})


async def publish(broker: Broker, *sent: OutgoingEvent) -> list[str]:
    """Returns the ids of the events."""
    client = await nats.connect(broker.url)
    try:
        stream = client.jetstream()
        await ensure_stream(stream)
        for event in sent:
            await stream.publish(event.subject, event.body.encode(), headers={"Nats-Msg-Id": event.id})
    finally:
        await client.close()
    return [event.id for event in sent]


async def told(reader: Reader, count: int) -> list[Told]:
    """The next frames, of which there must be no more at once."""
    found: list[Told] = []
    async with asyncio.timeout(WITHIN_S):
        while len(found) < count:
            found += [json.loads(frame.text) for frame in await reader.next(WITHIN_S)]
    assert len(found) == count, found
    return found


async def some(reader: Reader, most: int) -> list[Told]:
    """The first of what comes, at least one."""
    async with asyncio.timeout(WITHIN_S):
        while not (frames := await reader.next(WITHIN_S)):
            pass
    return [json.loads(frame.text) for frame in frames[: max(1, most)]]


def ids(frames: list[Told]) -> list[str]:
    return [frame["event_id"] for frame in frames]


async def nothing_more(reader: Reader) -> None:
    assert await reader.next(0.2) == []


async def test_everyone_sees_his_own_and_admins_see_all(
    broker: Broker, feed: Events, caller: Caller, root: Caller
) -> None:
    async with feed.reading(caller, None) as (mine, first), feed.reading(root, None) as (everything, _):
        assert json.loads(first.text)["type"] == "stream.opened"
        container_id = new_id()
        sent = await publish(
            broker,
            of("somebody"),
            of(caller.user_id, "running", container_id),
            command_event(new_id(), container_id, "queued", "node", {"requested_by": "an admin"}),
            of("somebody"),
            of(caller.user_id, "deleted", container_id),
            command_event(new_id(), container_id, "failed", "node", {"requested_by": "an admin"}),
        )
        assert ids(await told(everything, 6)) == sent
        assert ids(await told(mine, 4)) == [sent[1], sent[2], sent[4], sent[5]]
        await nothing_more(mine)


async def test_whose_command_it_is_is_found_in_the_past_of_the_stream(
    broker: Broker, database: Database, caller: Caller, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lifecycle is not there to be asked, and the gateway is newer than the container."""
    monkeypatch.setattr(event_feed, "KEPT_EVENTS", 1)
    container_id = new_id()
    await publish(broker, of(caller.user_id, "deleted", container_id), of("somebody"))
    async with following(broker, database, tmp_path) as feed, feed.reading(caller, None) as (reader, _):
        sent = await publish(broker, command_event(new_id(), container_id, "failed", "node", {}))
        assert ids(await told(reader, 1)) == sent


async def test_who_comes_back_goes_on_where_he_was_through_any_number_of_cuts(
    broker: Broker, database: Database, caller: Caller, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From memory, and from NATS where the gateway is a new one that has kept less."""
    sent, seen = [], []
    position: Position | None = None
    for kept, read_at_once in ((4096, 256), (3, 2), (1, 256), (4096, 1)):
        monkeypatch.setattr(event_feed, "KEPT_EVENTS", kept)
        monkeypatch.setattr(event_feed, "READ_AT_ONCE", read_at_once)
        async with following(broker, database, tmp_path) as feed:
            if position is None:
                async with feed.reading(caller, None) as (reader, _):
                    position = reader.position
            for batch in (10, 7):
                mixed = [of(caller.user_id if number % 2 else "somebody") for number in range(batch)]
                await publish(broker, *mixed)
                mine = [event.id for event in mixed[1::2]]
                sent += mine
                async with feed.reading(caller, position) as (reader, first):
                    assert json.loads(first.text)["data"] == {"resumed": True}
                    half = await some(reader, len(mine) // 2)
                    seen += ids(half)
                    position = Position.parse(half[-1]["id"])
                async with feed.reading(caller, position) as (reader, _):
                    rest = await told(reader, len(sent) - len(seen))
                    seen += ids(rest)
                    position = Position.parse(rest[-1]["id"])
    assert seen == sent


async def test_0_replays_all_that_is_kept(broker: Broker, feed: Events, caller: Caller) -> None:
    sent = await publish(broker, *(of(caller.user_id) for _ in range(5)))
    async with feed.reading(caller, Position.parse("0")) as (reader, first):
        assert json.loads(first.text)["type"] == "stream.opened"
        assert ids(await told(reader, 5)) == sent


async def test_a_broker_that_is_killed_interrupts_but_loses_nothing(
    broker: Broker, feed: Events, caller: Caller
) -> None:
    sent = []
    async with feed.reading(caller, None) as (reader, _):
        for _ in range(3):
            sent += await publish(broker, *(of(caller.user_id) for _ in range(5)))
            await broker.kill()
            await broker.start()
            sent += await publish(broker, *(of(caller.user_id) for _ in range(5)))
        seen = []
        async with asyncio.timeout(WITHIN_S):
            while len(seen) < len(sent):
                seen += [json.loads(frame.text)["event_id"] for frame in await reader.next(WITHIN_S)]
        assert seen == sent
        await nothing_more(reader)


async def test_where_nats_has_lost_its_store_everyone_hears_of_the_gap(
    broker: Broker, feed: Events, caller: Caller, root: Caller
) -> None:
    async with feed.reading(caller, None) as (reader, _):
        first = of(caller.user_id)
        await publish(broker, *(of("somebody") for _ in range(5)), first)
        (seen,) = await told(reader, 1)
        await broker.kill()
        broker.forget_everything()
        await broker.start()
        # The outbox sends its latest again.
        second = of(caller.user_id)
        await publish(broker, first, second)
        gap, again, new = await told(reader, 3)
        assert (gap["type"], gap["data"]) == ("stream.gap", {"reason": "lost"})
        assert gap["id"] == seen["id"]
        assert ids([again, new]) == [first.id, second.id], "the same event has the same event_id"
    for lost in (seen["id"], gap["id"]):
        async with feed.reading(caller, Position.parse(lost)) as (reader, opening):
            assert json.loads(opening.text)["type"] == "stream.gap"
            assert ids(await told(reader, 2)) == [first.id, second.id]
    async with feed.reading(caller, Position.parse(again["id"])) as (reader, opening):
        assert json.loads(opening.text)["type"] == "stream.opened"
        assert ids(await told(reader, 1)) == [second.id]


async def test_where_nats_has_lost_its_last_writes_the_numbers_deceive_nobody(
    broker: Broker, feed: Events, caller: Caller, tmp_path: Path
) -> None:
    """As after a power cut: the stream is the one it was, but its last numbers are given a second time."""
    kept, lost, new = ([of(caller.user_id) for _ in range(3)] for _ in range(3))
    async with feed.reading(caller, None) as (reader, _):
        seen = []
        for batch in (kept, lost):
            await publish(broker, *batch)
            while len(seen) < (3 if batch is kept else 6):
                seen += await some(reader, 3)
            await broker.kill()
            if batch is kept:
                shutil.copytree(tmp_path / "nats", tmp_path / "before")
                await broker.start()
        broker.forget_everything()
        shutil.copytree(tmp_path / "before", tmp_path / "nats")
        await broker.start()
        # The outbox sends its latest again, but what others tell comes first.
        await publish(broker, *new, *lost)
        found: list[Told] = []
        async with asyncio.timeout(WITHIN_S):
            while not found or found[-1].get("event_id") != lost[-1].id:
                found += await some(reader, 100)
    assert found[0]["type"] == "stream.gap"
    assert {event.id for event in new} <= set(ids(found[1:]))
    async with feed.reading(caller, Position.parse(seen[-1]["id"])) as (reader, opening):
        assert json.loads(opening.text)["data"] == {"reason": "lost"}
        again: list[Told] = []
        async with asyncio.timeout(WITHIN_S):
            while not again or again[-1]["event_id"] != lost[-1].id:
                again += await some(reader, 100)
    assert {event.id for event in new} <= set(ids(again))
    async with feed.reading(caller, Position.parse(seen[1]["id"])) as (reader, opening):
        assert json.loads(opening.text)["data"] == {"resumed": True}, "this one is where it was"


async def test_what_has_expired_is_told_as_a_gap(
    broker: Broker, database: Database, caller: Caller, tmp_path: Path
) -> None:
    async with following(broker, database, tmp_path) as feed:
        await publish(broker, *(of(caller.user_id) for _ in range(6)))
        async with feed.reading(caller, Position.parse("0")) as (reader, _):
            seen = await told(reader, 6)
    client = await nats.connect(broker.url)
    await client.jetstream().purge_stream(STREAM, seq=5)
    await client.close()
    async with following(broker, database, tmp_path) as feed:
        async with feed.reading(caller, Position.parse(seen[1]["id"])) as (reader, opening):
            assert json.loads(opening.text)["data"] == {"reason": "expired"}
            assert ids(await told(reader, 2)) == ids(seen[4:])
        async with feed.reading(caller, Position.parse(seen[3]["id"])) as (reader, opening):
            assert json.loads(opening.text)["data"] == {"resumed": True}
            assert ids(await told(reader, 2)) == ids(seen[4:])


async def test_a_reader_who_only_waits_moves_on_and_is_never_too_slow(
    broker: Broker, feed: Events, caller: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed._feed.window, "_size", 10)
    async with feed.reading(caller, None) as (reader, first):
        waiting = asyncio.create_task(reader.next(1.5))
        await asyncio.sleep(0)
        await publish(broker, *(of("somebody") for _ in range(100)))
        assert await waiting == []
        assert reader.position.seq == first.position.seq + 100
        sent = await publish(broker, of(caller.user_id))
        assert ids(await told(reader, 1)) == sent


async def test_a_reader_who_is_too_far_behind_is_told_so_and_goes_on_from_his_last_id(
    broker: Broker, feed: Events, caller: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed._feed.window, "_size", 10)
    async with feed.reading(caller, None) as (reader, _):
        first = await publish(broker, of(caller.user_id))
        (seen,) = await told(reader, 1)
        sent = await publish(broker, *(of(caller.user_id) for _ in range(100)))
        async with asyncio.timeout(WITHIN_S):
            while feed._feed.position.seq < 101:
                await asyncio.sleep(0.01)
        with pytest.raises(SlowReader):
            await reader.next(1)
    assert ids([seen]) == first
    async with feed.reading(caller, Position.parse(seen["id"])) as (reader, _):
        found = []
        while len(found) < 100:
            found += await reader.next(WITHIN_S)
        assert [json.loads(frame.text)["event_id"] for frame in found] == sent


async def test_a_client_that_takes_nothing_is_dropped(
    feed: Events, caller: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_reader, "TAKEN_WITHIN_S", 0.1)
    async with feed.reading(caller, None) as (reader, _):
        with pytest.raises(SlowReader):
            await reader.write(lambda _data: asyncio.sleep(60), b"")


@pytest.mark.parametrize("what", ["revoked", "demoted"])
async def test_a_stream_ends_with_the_rights_it_was_opened_with(
    feed: Events, database: Database, caller: Caller, root: Caller, what: str
) -> None:
    async with feed.reading(root, None) as (reader, _), feed.reading(caller, None) as (other, _):
        if what == "revoked":
            await Accounts(database).revoke_token(root.user_id, root.token_id)
        else:
            async with database.transaction() as connection:
                await connection.execute(update(users).values(role=Role.USER))
        for one in (reader.next(WITHIN_S), reader.write(lambda _data: asyncio.sleep(60), b"")):
            with pytest.raises(Unauthenticated):
                await one
        await nothing_more(other)


async def test_too_many_are_refused_and_leaving_makes_room(feed: Events, caller: Caller, root: Caller) -> None:
    async with feed.reading(caller, None), feed.reading(caller, None):
        async with feed.reading(caller, None):
            with pytest.raises(RateLimited):
                await feed.reading(caller, None).__aenter__()
            async with feed.reading(root, None):
                pass
        async with feed.reading(caller, None):
            pass


async def test_without_nats_nobody_begins_and_who_reads_stays(
    broker: Broker, feed: Events, caller: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "READY_WITHIN_S", 0.5)
    async with feed.reading(caller, None) as (reader, _):
        await broker.kill()
        async with asyncio.timeout(WITHIN_S):
            while feed._feed.ready.is_set():
                await asyncio.sleep(0.01)
        with pytest.raises(Unavailable):
            await feed.reading(caller, None).__aenter__()
        await nothing_more(reader)
        await broker.start()
        sent = await publish(broker, of(caller.user_id))
        assert ids(await told(reader, 1)) == sent


async def test_the_end_of_the_service_ends_every_stream(feed: Events, caller: Caller) -> None:
    async with feed.reading(caller, None) as (reader, _):
        feed.stop()
        with pytest.raises(HzelError, match="stopping"):
            await reader.next(WITHIN_S)
    with pytest.raises(Unavailable, match="stopping"):
        await feed.reading(caller, None).__aenter__()
