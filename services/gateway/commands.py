"""What can be done with commands, and by whom."""

from collections.abc import AsyncIterator

from services.common.errors import CommandNotFound, Conflict, ContainerNotFound, Forbidden
from services.common.ids import is_id, new_id
from services.gateway import audit_draft
from services.gateway.authentication import Caller
from services.gateway.clients import ContainerState
from services.gateway.command_schemas import CommandRecord, SubmitCommand
from services.gateway.containers import Containers
from services.gateway.exec_client import Command, CommandPage, CommandStatus, ExecClient, Output, StreamName
from services.gateway.idempotency import Answer, Idempotency, KeyedRequest
from services.gateway.schemas import Envelope

CREATED = 201


class Commands:
    """Every method raises Forbidden for what is in another's container, CommandNotFound or ContainerNotFound."""

    def __init__(self, execs: ExecClient, containers: Containers, idempotency: Idempotency) -> None:
        self._execs = execs
        self._containers = containers
        self._idempotency = idempotency

    async def submit(self, caller: Caller, container_id: str, order: SubmitCommand, wait_s: int) -> Command:
        """Queued, or ended if it did within `wait_s` seconds."""
        container_id = await self._containers.admit(caller, container_id)
        return await self._submit(new_id(), caller, container_id, order, wait_s)

    async def submit_once(
        self, caller: Caller, container_id: str, order: SubmitCommand, wait_s: int, request: KeyedRequest
    ) -> tuple[Answer, bool]:
        """As `submit`, but however often the request comes; see `Idempotency.once`."""

        async def check() -> None:
            await self._containers.admit(caller, container_id)

        async def act(command_id: str) -> Answer:
            admitted = await self._containers.admit(caller, container_id)
            command = await self._submit(command_id, caller, admitted, order, wait_s)
            return Answer(CREATED, Envelope(data=CommandRecord.of(command)).model_dump_json())

        return await self._idempotency.once(request, check, act)

    async def get(self, caller: Caller, command_id: str, wait_s: int) -> Command:
        command_id = _canonical(command_id)
        if wait_s:
            # Nobody waits for what he may not see.
            await self._admit(caller, await self._execs.get(command_id, with_output=False))
        command = await self._execs.get(command_id, wait_s)
        await self._admit(caller, command)
        return command

    async def list(self, caller: Caller, container_id: str, before_id: str | None, limit: int) -> CommandPage:
        container_id = await self._containers.admit(caller, container_id)
        page = await self._execs.list(container_id, before_id, limit)
        if not page.commands:
            # A container that was deleted has no commands any more, and is not there.
            await self._containers.get(caller, container_id)
        return page

    async def cancel(self, caller: Caller, command_id: str) -> Command:
        return await self._execs.cancel(await self._own(caller, command_id))

    async def watch(
        self, caller: Caller, command_id: str, offset: int
    ) -> AsyncIterator[CommandStatus | Output | Command]:
        own = await self._own(caller, command_id)
        async for event in self._execs.watch(own, offset):
            yield event

    async def read_output(
        self, caller: Caller, command_id: str, stream: StreamName, offset: int
    ) -> AsyncIterator[bytes]:
        own = await self._own(caller, command_id)
        async for data in self._execs.read_output(own, stream, offset):
            yield data

    async def send_input(self, command_id: str, data: bytes) -> None:
        """For one who watches the command already; so are the next two."""
        await self._execs.send_input(command_id, data)

    async def end_input(self, command_id: str) -> None:
        await self._execs.end_input(command_id)

    async def send_signal(self, command_id: str, name: str) -> None:
        await self._execs.send_signal(command_id, name)

    async def _submit(
        self, command_id: str, caller: Caller, container_id: str, order: SubmitCommand, wait_s: int
    ) -> Command:
        # Shell text holds arguments.
        audit_draft.handed_on(command_id=command_id, program=order.program or "/bin/sh")
        try:
            return await self._execs.submit(command_id, container_id, caller.user_id, order.order(), wait_s)
        except Conflict as error:
            # It does not run; perhaps it is not there at all.
            container = await self._containers.get(caller, container_id)
            if container.state is ContainerState.PAUSED:
                raise Conflict("the container is paused") from error
            raise

    async def _own(self, caller: Caller, command_id: str) -> str:
        command = await self._execs.get(_canonical(command_id), with_output=False)
        await self._admit(caller, command)
        return command.id

    async def _admit(self, caller: Caller, command: Command) -> None:
        audit_draft.note(container_id=command.container_id)
        try:
            await self._containers.admit(caller, command.container_id)
        except ContainerNotFound as error:
            # Whose it was is not known any more.
            if command.requested_by != caller.user_id:
                raise Forbidden("this command was someone else's") from error


def _canonical(command_id: str) -> str:
    command_id = command_id.lower()
    if not is_id(command_id):
        raise CommandNotFound
    return command_id
