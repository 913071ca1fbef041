"""Commands in the database. Every change of status is written together with its event."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Row, bindparam, delete, func, insert, select, update

from services.common.database import Connection, Database
from services.common.errors import CommandNotFound
from services.common.events import command_event
from services.common.outbox import Outbox
from services.exec.command import Command, CommandSpec, Outcome, Status
from services.exec.tables import commands

_BY_ID = select(commands).where(commands.c.id == bindparam("id"), commands.c.node_name == bindparam("node_name"))
# Built once: SQLAlchemy takes longer to build a statement than SQLite to run it. The columns are those of the values.
_INSERT = insert(commands)
_UPDATE = update(commands).where(commands.c.id == bindparam("command_id")).returning(*commands.c)
_FINAL = [status.value for status in Status if status.is_final]


class Store:
    """The rows of one node."""

    def __init__(self, database: Database, outbox: Outbox, node_name: str) -> None:
        self._database = database
        self._outbox = outbox
        self._node_name = node_name

    async def add(
        self, command_id: str, seq: int, container_id: str, requested_by: str, spec: CommandSpec, durable: bool = True
    ) -> Command:
        """`durable` off: for a caller who hears of it only when it has ended, or after `confirm`."""
        command = Command(
            id=command_id,
            seq=seq,
            container_id=container_id,
            requested_by=requested_by,
            spec=spec,
            status=Status.QUEUED,
            exit_code=None,
            signal="",
            timed_out=False,
            error="",
            stdout_bytes=0,
            stderr_bytes=0,
            truncated=False,
            created_at=datetime.now(UTC),
            started_at=None,
            finished_at=None,
        )
        async with self._database.transaction(durable) as connection:
            await connection.execute(_INSERT, {**_values(command), "node_name": self._node_name})
            await self._announce(connection, command)
        self._outbox.wake()
        return command

    async def confirm(self, command: Command) -> None:
        """Makes durable what was added without."""
        statement = update(commands).where(commands.c.id == command.id).values(seq=command.seq)
        async with self._database.transaction() as connection:
            await connection.execute(statement)

    async def mark_running(self, command: Command) -> Command:
        """Written before the command is started, so that it is never started a second time.

        A power cut ends the command itself, so it need not survive one.
        """
        values = {"status": Status.RUNNING.value, "started_at": datetime.now(UTC)}
        return await self._update(command.id, values, durable=False)

    async def finish(self, command: Command, outcome: Outcome) -> Command:
        values = {
            "status": outcome.status.value,
            "exit_code": outcome.exit_code,
            "signal": outcome.signal,
            "timed_out": outcome.timed_out,
            "error": outcome.error,
            "stdout_bytes": outcome.stdout_bytes,
            "stderr_bytes": outcome.stderr_bytes,
            "truncated": outcome.truncated,
            "finished_at": datetime.now(UTC),
            # Nobody needs it any more, and it may be large or secret.
            "stdin": None,
        }
        return await self._update(command.id, values, durable=True)

    async def find(self, command_id: str) -> Command | None:
        row = await self._database.read_one(_BY_ID, {"id": command_id, "node_name": self._node_name})
        return _command(row) if row is not None else None

    async def get(self, command_id: str) -> Command:
        """Raises CommandNotFound."""
        found = await self.find(command_id)
        if found is None:
            raise CommandNotFound
        return found

    async def page(self, container_id: str, before_id: str, limit: int) -> list[Command]:
        """Up to `limit` commands of a container, the newest first."""
        query = select(commands).where(commands.c.container_id == container_id)
        query = query.where(commands.c.node_name == self._node_name)
        if before_id:
            query = query.where(commands.c.id < before_id)
        query = query.order_by(commands.c.id.desc()).limit(limit)
        async with self._database.transaction(durable=False) as connection:
            return [_command(row) for row in await connection.execute(query)]

    async def unfinished(self) -> list[Command]:
        """Queued and running, in the order in which they were submitted."""
        query = select(commands).where(commands.c.status.not_in(_FINAL), commands.c.node_name == self._node_name)
        async with self._database.transaction(durable=False) as connection:
            return [_command(row) for row in await connection.execute(query.order_by(commands.c.seq))]

    async def last_seq(self) -> int:
        query = select(func.max(commands.c.seq)).where(commands.c.node_name == self._node_name)
        async with self._database.transaction(durable=False) as connection:
            return (await connection.execute(query)).scalar_one() or 0

    async def finished_before(self, moment: datetime, limit: int) -> list[str]:
        """The longest finished, of those that finished before a moment."""
        query = select(commands.c.id).where(commands.c.node_name == self._node_name, commands.c.finished_at < moment)
        async with self._database.transaction(durable=False) as connection:
            rows = await connection.execute(query.order_by(commands.c.finished_at).limit(limit))
            return [row.id for row in rows]

    async def finished_with_output(self) -> list[tuple[str, int]]:
        """Ids and bytes written of finished commands, the longest finished first."""
        written = commands.c.stdout_bytes + commands.c.stderr_bytes
        query = select(commands.c.id, func.min(written, commands.c.max_output_bytes).label("kept"))
        if not self._database.is_sqlite:
            query = select(commands.c.id, func.least(written, commands.c.max_output_bytes).label("kept"))
        query = query.where(commands.c.node_name == self._node_name, commands.c.finished_at.is_not(None), written > 0)
        async with self._database.transaction(durable=False) as connection:
            return [(row.id, row.kept) for row in await connection.execute(query.order_by(commands.c.finished_at))]

    async def remove(self, command_ids: list[str]) -> None:
        async with self._database.transaction() as connection:
            await connection.execute(delete(commands).where(commands.c.id.in_(command_ids)))

    async def _update(self, command_id: str, values: Mapping[str, Any], durable: bool) -> Command:
        async with self._database.transaction(durable) as connection:
            row = (await connection.execute(_UPDATE, {**values, "command_id": command_id})).one_or_none()
            if row is None:
                raise CommandNotFound
            command = _command(row)
            await self._announce(connection, command)
        self._outbox.wake()
        return command

    async def _announce(self, connection: Connection, command: Command) -> None:
        data = {
            "container_id": command.container_id,
            "requested_by": command.requested_by,
            "status": command.status.value,
            "exit_code": command.exit_code,
            "signal": command.signal or None,
        }
        event = command_event(command.id, command.container_id, command.status.value, self._node_name, data)
        await self._outbox.add(connection, event)


def _values(command: Command) -> dict[str, Any]:
    spec = command.spec
    return {
        "id": command.id,
        "seq": command.seq,
        "container_id": command.container_id,
        "requested_by": command.requested_by,
        "program": spec.program,
        "args": list(spec.args),
        "command": spec.command,
        "env": dict(spec.env),
        "cwd": spec.cwd,
        "user": spec.user,
        "stdin": spec.stdin,
        "stdin_open": spec.stdin_open,
        "timeout_s": spec.timeout_s,
        "max_output_bytes": spec.max_output_bytes,
        "status": command.status.value,
        "exit_code": command.exit_code,
        "signal": command.signal,
        "timed_out": command.timed_out,
        "error": command.error,
        "stdout_bytes": command.stdout_bytes,
        "stderr_bytes": command.stderr_bytes,
        "truncated": command.truncated,
        "created_at": command.created_at,
        "started_at": command.started_at,
        "finished_at": command.finished_at,
    }


def _command(row: Row[Any]) -> Command:
    spec = CommandSpec(
        program=row.program,
        args=tuple(row.args),
        command=row.command,
        env=row.env,
        cwd=row.cwd,
        user=row.user,
        stdin=row.stdin,
        stdin_open=row.stdin_open,
        timeout_s=row.timeout_s,
        max_output_bytes=row.max_output_bytes,
    )
    return Command(
        id=row.id,
        seq=row.seq,
        container_id=row.container_id,
        requested_by=row.requested_by,
        spec=spec,
        status=Status(row.status),
        exit_code=row.exit_code,
        signal=row.signal,
        timed_out=row.timed_out,
        error=row.error,
        stdout_bytes=row.stdout_bytes,
        stderr_bytes=row.stderr_bytes,
        truncated=row.truncated,
        created_at=row.created_at,
        started_at=row.started_at,
        finished_at=row.finished_at,
    )
