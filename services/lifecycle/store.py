"""Containers in the database. Every change of state is written together with its event."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Network
from typing import Any

from sqlalchemy import bindparam, delete, insert, or_, select, update
from sqlalchemy.exc import IntegrityError

from services.common.containerd.images import Image
from services.common.database import Connection, Database
from services.common.errors import Conflict, ContainerNotFound, Unavailable
from services.common.events import container_event
from services.common.outbox import Outbox
from services.lifecycle import state as states
from services.lifecycle.container import Change, Container, Update, Wanted
from services.lifecycle.numbering import Numbering
from services.lifecycle.restart_policy import Restarts
from services.lifecycle.rows import container_of, image_values, restart_values, row_values
from services.lifecycle.state import Desired, State
from services.lifecycle.tables import containers, deleted_containers, node_choices

DELETED_REMEMBERED = timedelta(hours=48)
_BY_ID = select(containers).where(containers.c.id == bindparam("id"), containers.c.node_name == bindparam("node_name"))


class Store:
    """The rows of one node."""

    def __init__(self, database: Database, outbox: Outbox, node_name: str) -> None:
        self._database = database
        self._outbox = outbox
        self._node_name = node_name

    async def add(
        self,
        container_id: str,
        user_id: str,
        wanted: Wanted,
        image: Image | None,
        numbering: Numbering,
        ttl_s: int | None = None,
    ) -> Container:
        """Writes a new row, `provisioning`. Raises Conflict when the name is taken or the id was deleted."""
        async with self._database.transaction() as connection:
            await self._refuse_taken(connection, container_id, user_id, wanted.name)
            query = select(containers.c.number).where(containers.c.node_name == self._node_name)
            ctid = numbering.next_free({row.number for row in await connection.execute(query)})
            if ctid is None:
                raise Unavailable("the node has no free address left")
            now = datetime.now(UTC)
            container = Container(
                id=container_id,
                node_name=self._node_name,
                user_id=user_id,
                ctid=ctid,
                wanted=wanted,
                image=image,
                id_base=numbering.id_base(ctid),
                ip_address=str(numbering.address(ctid)),
                state=State.PROVISIONING,
                desired=Desired.RUNNING,
                state_reason="",
                exit_code=None,
                created_at=now,
                started_at=None,
                finished_at=None,
                restarts=Restarts(),
                expires_at=now + timedelta(seconds=ttl_s) if ttl_s is not None else None,
            )
            states.check(None, container.state)
            try:
                await connection.execute(insert(containers).values(row_values(container)))
            except IntegrityError as error:
                # Another node of the same database took the name meanwhile.
                raise _taken(wanted.name) from error
            await self._announce(connection, container, container.state.value)
        self._outbox.wake()
        return container

    async def change(self, container: Container, change: Change) -> Container:
        """Applies a change of state and returns the new row. Raises ContainerNotFound."""
        states.check(container.state, change.state)
        values: dict[str, Any] = {"state": change.state.value, "state_reason": change.reason, "idle_since": None}
        if change.forget_last_run:
            values |= {"exit_code": None, "finished_at": None}
        if change.desired is not None:
            values["desired"] = change.desired.value
        for name in ("started_at", "finished_at", "exit_code"):
            if (value := getattr(change, name)) is not None:
                values[name] = value
        if change.restarts is not None:
            values |= restart_values(change.restarts)
        async with self._database.transaction() as connection:
            row = await self._update(connection, container.id, values)
            await self._announce(connection, row, change.state.value)
        self._outbox.wake()
        return row

    async def update(self, container: Container, update: Update) -> Container:
        """Raises Conflict where the name is another container's."""
        values: dict[str, Any] = {}
        if update.labels is not None:
            values["labels"] = dict(update.labels)
        if update.name is not None:
            values["name"] = update.name
        if update.auto_stop_s is not None:
            values |= {"auto_stop_s": update.auto_stop_s or None, "idle_since": None}
        if update.ttl_s is not None:
            ends = datetime.now(UTC) + timedelta(seconds=update.ttl_s) if update.ttl_s else None
            values |= {"expires_at": ends, "is_expiry_told": False}
        if not values:
            return container
        async with self._database.transaction() as connection:
            if update.name is not None:
                await self._refuse_taken_name(connection, container.id, container.user_id, update.name)
            try:
                row = await self._update(connection, container.id, values)
            except IntegrityError as error:
                raise _taken(update.name or "") from error
            await self._announce(connection, row, "updated")
        self._outbox.wake()
        return row

    async def limited(self) -> list[Container]:
        """Those that may not stay for ever, or not unused."""
        has_limit = or_(containers.c.auto_stop_s.is_not(None), containers.c.expires_at.is_not(None))
        query = select(containers).where(containers.c.node_name == self._node_name, has_limit)
        return [container_of(row) for row in await self._database.read(query)]

    async def note_idle(self, container: Container, since: float | None) -> None:
        """Since when nobody has used it, unless the row says otherwise by now. Lost with the machine, as its clock."""
        is_unchanged = containers.c.idle_since.is_not_distinct_from(container.idle_since)
        is_same_run = containers.c.started_at == container.started_at
        note = update(containers).where(containers.c.id == container.id, is_unchanged, is_same_run)
        async with self._database.transaction(durable=False) as connection:
            await connection.execute(note.values(idle_since=since))

    async def tell_expiry(self, container: Container) -> Container:
        """That its end is near, once."""
        async with self._database.transaction() as connection:
            row = await self._update(connection, container.id, {"is_expiry_told": True})
            await self._announce(connection, row, "expiring")
        self._outbox.wake()
        return row

    async def want(self, container: Container, desired: Desired) -> Container:
        """Writes down what is to become of a container before anything is done about it; a restart is not, then."""
        values = {"desired": desired.value, **restart_values(Restarts())}
        async with self._database.transaction() as connection:
            return await self._update(connection, container.id, values)

    async def resolve(self, container: Container, image: Image) -> Container:
        """Writes down what the container's reference means, once."""
        async with self._database.transaction() as connection:
            return await self._update(connection, container.id, {"resolved_image": image_values(image)})

    async def remove(self, container: Container) -> None:
        now = datetime.now(UTC)
        async with self._database.transaction() as connection:
            await connection.execute(delete(containers).where(containers.c.id == container.id))
            await connection.execute(insert(deleted_containers).values(id=container.id, deleted_at=now))
            old = deleted_containers.c.deleted_at < now - DELETED_REMEMBERED
            await connection.execute(delete(deleted_containers).where(old))
            await self._announce(connection, container, "deleted")
        self._outbox.wake()

    async def get(self, container_id: str) -> Container:
        """Raises ContainerNotFound."""
        found = await self.find(container_id)
        if found is None:
            raise ContainerNotFound()
        return found

    async def find(self, container_id: str) -> Container | None:
        row = await self._database.read_one(_BY_ID, {"id": container_id, "node_name": self._node_name})
        return container_of(row) if row is not None else None

    async def page(
        self, user_id: str, wanted_states: Sequence[State], labels: Mapping[str, str], after_id: str, limit: int
    ) -> list[Container]:
        """Up to `limit` rows behind `after_id`, in the order of ids; empty filters match everything."""
        query = select(containers).where(containers.c.node_name == self._node_name).order_by(containers.c.id)
        if user_id:
            query = query.where(containers.c.user_id == user_id)
        if wanted_states:
            query = query.where(containers.c.state.in_([state.value for state in wanted_states]))
        for key, value in labels.items():
            query = query.where(containers.c.labels[key].as_string() == value)
        if after_id:
            query = query.where(containers.c.id > after_id)
        async with self._database.transaction() as connection:
            return [container_of(row) for row in await connection.execute(query.limit(limit))]

    async def all(self) -> list[Container]:
        query = select(containers).where(containers.c.node_name == self._node_name).order_by(containers.c.id)
        async with self._database.transaction() as connection:
            return [container_of(row) for row in await connection.execute(query)]

    async def choices(self) -> tuple[IPv4Network, int] | None:
        """The subnet and the first host uid this node has chosen, None before it has."""
        query = select(node_choices).where(node_choices.c.node_name == self._node_name)
        async with self._database.transaction() as connection:
            row = (await connection.execute(query)).one_or_none()
        return (IPv4Network(row.subnet), row.id_base) if row is not None else None

    async def choose(self, subnet: IPv4Network, id_base: int) -> None:
        async with self._database.transaction() as connection:
            await connection.execute(delete(node_choices).where(node_choices.c.node_name == self._node_name))
            await connection.execute(
                insert(node_choices).values(node_name=self._node_name, subnet=str(subnet), id_base=id_base)
            )

    async def _refuse_taken(self, connection: Connection, container_id: str, user_id: str, name: str) -> None:
        gone = select(deleted_containers.c.id).where(deleted_containers.c.id == container_id)
        if (await connection.execute(gone)).first() is not None:
            raise Conflict("this container was created and deleted again")
        await self._refuse_taken_name(connection, container_id, user_id, name)

    async def _refuse_taken_name(self, connection: Connection, container_id: str, user_id: str, name: str) -> None:
        same = select(containers.c.id).where(
            containers.c.user_id == user_id, containers.c.name == name, containers.c.id != container_id
        )
        if (await connection.execute(same)).first() is not None:
            raise _taken(name)

    async def _update(self, connection: Connection, container_id: str, values: Mapping[str, Any]) -> Container:
        statement = update(containers).where(containers.c.id == container_id).values(dict(values))
        row = (await connection.execute(statement.returning(*containers.c))).one_or_none()
        if row is None:
            raise ContainerNotFound()
        return container_of(row)

    async def _announce(self, connection: Connection, container: Container, what: str) -> None:
        data = {
            "state": what if what == "deleted" else container.state.value,
            "state_reason": container.state_reason or None,
            "exit_code": container.exit_code,
            "user_id": container.user_id,
            "name": container.wanted.name,
        }
        if container.expires_at is not None:
            data["expires_at"] = container.expires_at.isoformat(timespec="microseconds").replace("+00:00", "Z")
        await self._outbox.add(connection, container_event(container.id, what, container.node_name, data))


def _taken(name: str) -> Conflict:
    return Conflict(f"you have a container named {name} already")
