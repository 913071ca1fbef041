"""Containers in the database, on SQLite and PostgreSQL."""

import asyncio
import dataclasses
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, select, update

from services.common.containerd.images import Image
from services.common.database import Database
from services.common.errors import Conflict, ContainerNotFound, Unavailable
from services.common.ids import new_id
from services.common.outbox import Outbox
from services.lifecycle.container import Change, Container, Update, Wanted
from services.lifecycle.numbering import Numbering
from services.lifecycle.restart_policy import RestartPolicy, Restarts
from services.lifecycle.state import Desired, State, TransitionRefused
from services.lifecycle.store import Store
from services.lifecycle.tables import deleted_containers, outbox

MIGRATIONS = Path(__file__).parents[3] / "services/lifecycle/migrations"
IMAGE = Image("hzel/busybox:latest", "sha256:1", "sha256:2", ("/init",), ("sleep", "1"), ("A=é",), "/", "1000")
SUBNET = IPv4Network("10.86.0.0/20")


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    opened = Database(database_url, "lifecycle")
    await opened.open(MIGRATIONS)
    yield opened
    await opened.close()


def store_of(database: Database, node: str = "node-a") -> Store:
    return Store(database, Outbox(database, outbox, "nats://127.0.0.1:1"), node)


@pytest.fixture
def store(database: Database) -> Store:
    return store_of(database)


def wanted(name: str = "box", **changes: Any) -> Wanted:
    given: dict[str, Any] = {
        "name": name,
        "image": "hzel/busybox",
        "command": ("sh", "-c", "é\n"),
        "env": {"A": "1", "B": ""},
        "labels": {"team": "blue"},
        "cpu_cores": 2,
        "memory_mb": 64,
        "disk_gb": 3,
        "runtime": "crun",
    }
    return Wanted(**given | changes)


def numbers(subnet: IPv4Network = SUBNET) -> Numbering:
    return Numbering(subnet, 1 << 28)


async def added(
    store: Store, name: str = "box", user: str = "ada", numbering: Numbering | None = None, **changes: Any
) -> Container:
    return await store.add(new_id(), user, wanted(name, **changes), IMAGE, numbering or numbers())


async def events(database: Database) -> list[tuple[str, dict[str, Any]]]:
    """Subjects and data, in order."""
    async with database.transaction() as connection:
        rows = await connection.execute(select(outbox.c.subject, outbox.c.body).order_by(outbox.c.id))
        return [(row.subject, json.loads(row.body)["data"]) for row in rows]


async def test_a_row_comes_back_as_it_was_written(store: Store) -> None:
    made = await added(store)
    assert (made.state, made.desired, made.ctid) == (State.PROVISIONING, Desired.RUNNING, 100)
    assert (made.ip_address, made.id_base) == ("10.86.0.2", 1 << 28)
    assert await store.get(made.id) == made
    assert await store.all() == [made]


async def test_a_row_without_an_image_gets_it_later_for_good(store: Store) -> None:
    made = await store.add(new_id(), "ada", wanted(), None, numbers())
    assert made.image is None
    resolved = await store.resolve(made, IMAGE)
    assert resolved == dataclasses.replace(made, image=IMAGE)
    assert (await store.get(made.id)).image == IMAGE


async def test_a_name_is_taken_once_for_each_owner(store: Store) -> None:
    numbering = numbers()
    await added(store, numbering=numbering)
    await added(store, user="bob", numbering=numbering)
    with pytest.raises(Conflict, match="named box already"):
        await added(store, numbering=numbering)


async def test_of_many_who_want_a_name_at_the_same_time_one_gets_it(store: Store) -> None:
    numbering = numbers()
    results = await asyncio.gather(*(added(store, numbering=numbering) for _ in range(10)), return_exceptions=True)
    assert sum(isinstance(result, Container) for result in results) == 1
    assert all(isinstance(result, Container | Conflict) for result in results)


async def test_numbers_addresses_and_ranges_are_never_shared(store: Store) -> None:
    numbering = numbers()
    made = await asyncio.gather(*(added(store, f"box-{number}", numbering=numbering) for number in range(20)))
    for kind in ("ctid", "ip_address", "id_base"):
        assert len({getattr(one, kind) for one in made}) == 20


async def test_a_full_node_takes_no_more(store: Store) -> None:
    numbering = numbers(IPv4Network("10.0.0.0/29"))
    for number in range(numbering.capacity):
        await added(store, f"box-{number}", numbering=numbering)
    with pytest.raises(Unavailable, match="no free address"):
        await added(store, "one-more", numbering=numbering)


async def test_a_restarted_service_gives_no_number_that_is_in_use(store: Store) -> None:
    first = await added(store, "one")
    second = await added(store, "two", numbering=numbers())
    assert first.ctid != second.ctid


async def test_an_id_that_was_deleted_makes_no_second_container(store: Store) -> None:
    made = await added(store)
    await store.remove(made)
    with pytest.raises(Conflict, match="deleted again"):
        await store.add(made.id, "ada", wanted(), IMAGE, numbers())
    assert await store.find(made.id) is None
    await added(store)  # the name is free again


async def test_deleted_ids_are_forgotten_after_a_while(store: Store, database: Database) -> None:
    await store.remove(await added(store, "one"))
    async with database.transaction() as connection:
        old = datetime.now(UTC) - timedelta(days=3)
        await connection.execute(update(deleted_containers).values(deleted_at=old))
    await store.remove(await added(store, "two"))
    async with database.transaction() as connection:
        assert await connection.scalar(select(func.count()).select_from(deleted_containers)) == 1


async def test_every_change_of_state_is_written_with_its_event(store: Store, database: Database) -> None:
    made = await added(store)
    now = datetime.now(UTC)
    running = await store.change(made, Change(State.RUNNING, started_at=now))
    assert (running.state, running.started_at) == (State.RUNNING, now)
    stopped = await store.change(running, Change(State.STOPPED, "exited: so", Desired.STOPPED, None, now, 3))
    assert (stopped.exit_code, stopped.finished_at, stopped.started_at) == (3, now, now)
    await store.remove(stopped)
    found = await events(database)
    assert [subject.removeprefix(f"hzel.container.{made.id}.") for subject, _ in found] == [
        "provisioning",
        "running",
        "stopped",
        "deleted",
    ]
    assert found[2][1] == {
        "state": "stopped",
        "state_reason": "exited: so",
        "exit_code": 3,
        "user_id": "ada",
        "name": "box",
    }


async def test_what_a_change_does_not_mention_stays(store: Store) -> None:
    now = datetime.now(UTC)
    made = await store.change(await added(store), Change(State.RUNNING, started_at=now))
    stopped = await store.change(made, Change(State.STOPPED, finished_at=now, exit_code=0))
    again = await store.change(stopped, Change(State.PROVISIONING, desired=Desired.RUNNING))
    assert (again.exit_code, again.finished_at, again.started_at) == (0, now, now)
    fresh = await store.change(stopped, Change(State.PROVISIONING, forget_last_run=True))
    assert (fresh.exit_code, fresh.finished_at, fresh.started_at) == (None, None, now)


async def test_a_change_that_the_table_refuses_writes_nothing(store: Store, database: Database) -> None:
    made = await store.change(await added(store), Change(State.STOPPED))
    with pytest.raises(TransitionRefused):
        await store.change(made, Change(State.RUNNING))
    assert (await store.get(made.id)).state is State.STOPPED
    assert len(await events(database)) == 2


async def test_an_update_changes_what_it_mentions_and_tells_of_it(store: Store, database: Database) -> None:
    made = await added(store)
    named = await store.update(made, Update(name="crate"))
    assert named == dataclasses.replace(made, wanted=dataclasses.replace(made.wanted, name="crate"))
    labelled = await store.update(named, Update(labels={"k": "v"}))
    assert (labelled.wanted.name, labelled.wanted.labels) == ("crate", {"k": "v"})
    assert await store.update(labelled, Update()) == labelled
    found = await events(database)
    assert [subject.rpartition(".")[2] for subject, _ in found] == ["provisioning", "updated", "updated"]
    assert (found[1][1]["state"], found[1][1]["name"]) == ("provisioning", "crate")


async def test_an_update_takes_no_name_that_another_of_its_owners_containers_has(store: Store) -> None:
    numbering = numbers()
    made, _ = await added(store, "box", numbering=numbering), await added(store, "crate", numbering=numbering)
    await added(store, "chest", "bob", numbering)
    with pytest.raises(Conflict, match="named crate already"):
        await store.update(made, Update(name="crate"))
    assert await store.get(made.id) == made
    for name in ("box", "chest"):
        assert (await store.update(made, Update(name=name))).wanted.name == name


async def test_how_restarts_stand_is_kept_until_somebody_wants_something_else(store: Store) -> None:
    made = await added(store, restart_policy=RestartPolicy.parse("on-failure:3"))
    assert made.restarts == Restarts()
    planned = made.restarts.planned(0, datetime.now(UTC))
    waiting = await store.change(made, Change(State.STOPPED, "exited: so", exit_code=3, restarts=planned))
    assert (waiting.desired, waiting.restarts, waiting.exit_code) == (Desired.RUNNING, planned, 3)
    again = await store.change(waiting, Change(State.PROVISIONING, "restarted: so", restarts=planned.begun()))
    assert await store.get(made.id) == again
    assert (again.restarts, again.exit_code) == (Restarts(1, 100), 3)
    running = await store.change(again, Change(State.RUNNING, again.state_reason))
    assert running.restarts == Restarts(1, 100)
    assert str(running.wanted.restart_policy) == "on-failure:3"
    assert (await store.want(running, Desired.STOPPED)).restarts == Restarts()


async def test_those_with_a_limit_are_found(store: Store) -> None:
    numbering = numbers()
    plain = await added(store, "plain", numbering=numbering)
    idle = await added(store, "idle", numbering=numbering, auto_stop_s=5)
    short = await store.add(new_id(), "ada", wanted("short"), IMAGE, numbering, 60)
    assert short.expires_at == short.created_at + timedelta(seconds=60)
    assert await store.limited() == [idle, short]
    assert (await store.update(plain, Update(ttl_s=5))).expires_at is not None
    await store.update(idle, Update(auto_stop_s=0))
    await store.update(short, Update(ttl_s=0))
    assert [one.id for one in await store.limited()] == [plain.id]


async def test_since_when_it_is_idle_is_noted_unless_somebody_did_something(store: Store) -> None:
    made = await store.change(await added(store, auto_stop_s=5), Change(State.RUNNING, started_at=datetime.now(UTC)))
    await store.note_idle(made, 1234.567)
    noted = await store.get(made.id)
    assert noted == dataclasses.replace(made, idle_since=1234.567)
    await store.note_idle(made, 1.0)
    assert await store.get(made.id) == noted, "that was said of a row that is another by now"
    await store.note_idle(noted, None)
    assert await store.get(made.id) == made
    await store.note_idle(made, 2.0)
    assert (await store.update(noted, Update(auto_stop_s=9))).idle_since is None
    await store.note_idle(made, 3.0)
    assert (await store.change(made, Change(State.PAUSED))).idle_since is None


async def test_that_the_end_is_near_is_told_once_for_each_end(store: Store, database: Database) -> None:
    made = await store.add(new_id(), "ada", wanted(), IMAGE, numbers(), 60)
    told = await store.tell_expiry(made)
    assert told == dataclasses.replace(made, is_expiry_told=True)
    subject, data = (await events(database))[-1]
    assert subject == f"hzel.container.{made.id}.expiring"
    assert datetime.fromisoformat(data["expires_at"]) == made.expires_at
    assert data["state"] == "provisioning"
    assert not (await store.update(told, Update(ttl_s=120))).is_expiry_told


async def test_what_is_wanted_is_written_without_an_event(store: Store, database: Database) -> None:
    made = await added(store)
    assert (await store.want(made, Desired.DELETED)).desired is Desired.DELETED
    assert len(await events(database)) == 1


async def test_a_row_that_is_gone_is_told_so(store: Store, database: Database) -> None:
    made = await added(store)
    await store.remove(made)
    for change in (store.get(made.id), store.change(made, Change(State.RUNNING)), store.want(made, Desired.STOPPED)):
        with pytest.raises(ContainerNotFound):
            await change
    assert len(await events(database)) == 2


async def test_a_node_sees_only_its_own_rows(store: Store, database: Database) -> None:
    made = await added(store)
    other = store_of(database, "node-b")
    assert await other.find(made.id) is None
    assert await other.all() == []
    assert await other.page("", [], {}, "", 10) == []
    # The other node's numbers are its own, too.
    assert (await added(other, "other")).ctid == made.ctid


async def test_pages_are_in_the_order_of_creation(store: Store) -> None:
    numbering = numbers()
    made = [await added(store, f"box-{number}", numbering=numbering) for number in range(5)]
    first = await store.page("", [], {}, "", 2)
    rest = await store.page("", [], {}, first[-1].id, 10)
    assert [*first, *rest] == made


async def test_pages_are_filtered_by_owner_state_and_labels(store: Store) -> None:
    numbering = numbers()
    blue = await added(store, "blue", numbering=numbering, labels={"team": "blue", "a.b/c-d": "x'\""})
    red = await added(store, "red", "bob", numbering, labels={"team": "red"})
    none = await store.change(await added(store, "none", "bob", numbering, labels={}), Change(State.FAILED))

    async def names(
        user: str = "", states: list[State] | None = None, labels: dict[str, str] | None = None
    ) -> set[str]:
        return {one.wanted.name for one in await store.page(user, states or [], labels or {}, "", 10)}

    assert await names("bob") == {red.wanted.name, none.wanted.name}
    assert await names("nobody") == set()
    assert await names(states=[State.FAILED]) == {"none"}
    assert await names(states=[State.FAILED, State.PROVISIONING]) == {"blue", "red", "none"}
    assert await names(labels={"team": "blue"}) == {"blue"}
    assert await names(labels={"team": "blue", "a.b/c-d": "x'\""}) == {blue.wanted.name}
    assert await names(labels={"team": "red", "a.b/c-d": "x'\""}) == set()
    assert await names(labels={"team": ""}) == set()
    assert await names(labels={"absent": "x"}) == set()


async def test_what_the_node_has_chosen_is_kept(store: Store, database: Database) -> None:
    assert await store.choices() is None
    await store.choose(SUBNET, 1 << 28)
    await store.choose(IPv4Network("10.86.16.0/20"), 1 << 29)
    assert await store.choices() == (IPv4Network("10.86.16.0/20"), 1 << 29)
    assert await store_of(database, "node-b").choices() is None
