"""Containers in the database. Every change of state is written together with its event."""

import dataclasses
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Network
from typing import Any

from sqlalchemy import Row, bindparam, delete, insert, select, update
from sqlalchemy.exc import IntegrityError

from services.common.containerd.images import Image
from services.common.database import Connection, Database
from services.common.errors import Conflict, ContainerNotFound, Unavailable
from services.common.events import container_event
from services.common.outbox import Outbox
from services.lifecycle import state as states
from services.lifecycle.container import Change, Container, Wanted
from services.lifecycle.numbering import Numbering
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
        self, container_id: str, user_id: str, wanted: Wanted, image: Image | None, numbering: Numbering
    ) -> Container:
        """Writes a new row, `provisioning`. Raises Conflict when the name is taken or the id was deleted."""
        async with self._database.transaction() as connection:
            await self._refuse_taken(connection, container_id, user_id, wanted.name)
            query = select(containers.c.number).where(containers.c.node_name == self._node_name)
            ctid = numbering.next_free({row.number for row in await connection.execute(query)})
            if ctid is None:
                raise Unavailable("the node has no free address left")
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
                created_at=datetime.now(UTC),
                started_at=None,
                finished_at=None,
            )
            states.check(None, container.state)
            try:
                await connection.execute(insert(containers).values(_values(container)))
            except IntegrityError as error:
                # Another node of the same database took the name meanwhile.
                raise Conflict(f"you have a container named {wanted.name} already") from error
            await self._announce(connection, container, container.state.value)
        self._outbox.wake()
        return container

    async def change(self, container: Container, change: Change) -> Container:
        """Applies a change of state and returns the new row. Raises ContainerNotFound."""
        states.check(container.state, change.state)
        values: dict[str, Any] = {"state": change.state.value, "state_reason": change.reason}
        if change.forget_last_run:
            values |= {"exit_code": None, "finished_at": None}
        if change.desired is not None:
            values["desired"] = change.desired.value
        for name in ("started_at", "finished_at", "exit_code"):
            if (value := getattr(change, name)) is not None:
                values[name] = value
        async with self._database.transaction() as connection:
            row = await self._update(connection, container.id, values)
            await self._announce(connection, row, change.state.value)
        self._outbox.wake()
        return row

    async def want(self, container: Container, desired: Desired) -> Container:
        """Writes down what is to become of a container before anything is done about it."""
        async with self._database.transaction() as connection:
            return await self._update(connection, container.id, {"desired": desired.value})

    async def resolve(self, container: Container, image: Image) -> Container:
        """Writes down what the container's reference means, once."""
        async with self._database.transaction() as connection:
            return await self._update(connection, container.id, {"resolved_image": _image_values(image)})

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
        return _container(row) if row is not None else None

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
            return [_container(row) for row in await connection.execute(query.limit(limit))]

    async def all(self) -> list[Container]:
        query = select(containers).where(containers.c.node_name == self._node_name).order_by(containers.c.id)
        async with self._database.transaction() as connection:
            return [_container(row) for row in await connection.execute(query)]

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
        same = select(containers.c.id).where(containers.c.user_id == user_id, containers.c.name == name)
        if (await connection.execute(same)).first() is not None:
            raise Conflict(f"you have a container named {name} already")

    async def _update(self, connection: Connection, container_id: str, values: Mapping[str, Any]) -> Container:
        statement = update(containers).where(containers.c.id == container_id).values(dict(values))
        row = (await connection.execute(statement.returning(*containers.c))).one_or_none()
        if row is None:
            raise ContainerNotFound()
        return _container(row)

    async def _announce(self, connection: Connection, container: Container, what: str) -> None:
        data = {
            "state": what,
            "state_reason": container.state_reason or None,
            "exit_code": container.exit_code,
            "user_id": container.user_id,
            "name": container.wanted.name,
        }
        await self._outbox.add(connection, container_event(container.id, what, container.node_name, data))


def _values(container: Container) -> dict[str, Any]:
    wanted = container.wanted
    return {
        "id": container.id,
        "node_name": container.node_name,
        "user_id": container.user_id,
        # `ctid` is taken in PostgreSQL, by a column of its own.
        "number": container.ctid,
        "name": wanted.name,
        "image": wanted.image,
        "resolved_image": _image_values(container.image),
        "command": list(wanted.command),
        "env": dict(wanted.env),
        "labels": dict(wanted.labels),
        "cpu_cores": wanted.cpu_cores,
        "memory_mb": wanted.memory_mb,
        "disk_gb": wanted.disk_gb,
        "runtime": wanted.runtime,
        "id_base": container.id_base,
        "ip_address": container.ip_address,
        "state": container.state.value,
        "desired": container.desired.value,
        "state_reason": container.state_reason,
        "exit_code": container.exit_code,
        "created_at": container.created_at,
        "started_at": container.started_at,
        "finished_at": container.finished_at,
    }


def _image_values(image: Image | None) -> Mapping[str, Any] | None:
    return dataclasses.asdict(image) if image is not None else None


def _image(values: Mapping[str, Any] | None) -> Image | None:
    if values is None:
        return None
    lists = {name: tuple(values[name]) for name in ("entrypoint", "command", "env")}
    return Image(**{**values, **lists})


def _container(row: Row[Any]) -> Container:
    wanted = Wanted(
        name=row.name,
        image=row.image,
        command=tuple(row.command),
        env=row.env,
        labels=row.labels,
        cpu_cores=row.cpu_cores,
        memory_mb=row.memory_mb,
        disk_gb=row.disk_gb,
        runtime=row.runtime,
    )
    return Container(
        id=row.id,
        node_name=row.node_name,
        user_id=row.user_id,
        ctid=row.number,
        wanted=wanted,
        image=_image(row.resolved_image),
        id_base=row.id_base,
        ip_address=row.ip_address,
        state=State(row.state),
        desired=Desired(row.desired),
        state_reason=row.state_reason,
        exit_code=row.exit_code,
        created_at=row.created_at,
        started_at=row.started_at,
        finished_at=row.finished_at,
    )
