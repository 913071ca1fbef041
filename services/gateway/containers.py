"""What can be done with containers, and by whom."""

from collections.abc import Sequence

from services.common.errors import ContainerNotFound, FieldError, Forbidden, NotBuilt, ValidationFailed
from services.common.ids import is_id, new_id
from services.gateway import audit_draft
from services.gateway.authentication import Caller
from services.gateway.clients import Container, ContainerState, LifecycleClient, Node, Page
from services.gateway.idempotency import Answer, Idempotency, KeyedRequest
from services.gateway.schemas import ContainerRecord, CreateContainer, Envelope, StopContainer, UpdateContainer

CREATED = 201
MAX_OWNERS_REMEMBERED = 20_000


class Containers:
    """Every method raises Forbidden for another's container and ContainerNotFound for none."""

    def __init__(self, lifecycle: LifecycleClient, idempotency: Idempotency) -> None:
        self._lifecycle = lifecycle
        self._idempotency = idempotency
        self._owners: dict[str, str] = {}

    async def create(self, caller: Caller, order: CreateContainer, wait: bool) -> Container:
        """Running or failed, or with `wait` off still provisioning."""
        await self._check(order)
        return await self._create(new_id(), caller, order, wait)

    async def create_once(
        self, caller: Caller, order: CreateContainer, wait: bool, request: KeyedRequest
    ) -> tuple[Answer, bool]:
        """As `create`, but however often the request comes; see `Idempotency.once`."""

        async def check() -> None:
            await self._check(order)

        async def act(container_id: str) -> Answer:
            container = await self._create(container_id, caller, order, wait)
            return Answer(CREATED, Envelope(data=ContainerRecord.of(container)).model_dump_json())

        return await self._idempotency.once(request, check, act)

    async def get(self, caller: Caller, container_id: str) -> Container:
        container = await self._lifecycle.get(_canonical(container_id))
        _refuse_foreign(caller, container)
        return container

    async def list(
        self,
        caller: Caller,
        states: Sequence[ContainerState],
        labels: dict[str, str],
        after_id: str | None,
        limit: int,
    ) -> Page:
        """The caller's own; an admin's are everyone's."""
        owner = None if caller.is_admin else caller.user_id
        return await self._lifecycle.list(owner, states, labels, after_id, limit)

    async def start(self, caller: Caller, container_id: str) -> Container:
        return _told(await self._lifecycle.start(await self._own(caller, container_id)))

    async def stop(self, caller: Caller, container_id: str, order: StopContainer) -> Container:
        return _told(await self._lifecycle.stop(await self._own(caller, container_id), order.timeout_s))

    async def restart(self, caller: Caller, container_id: str, order: StopContainer) -> Container:
        return _told(await self._lifecycle.restart(await self._own(caller, container_id), order.timeout_s))

    async def pause(self, caller: Caller, container_id: str) -> Container:
        return await self._lifecycle.pause(await self._own(caller, container_id))

    async def resume(self, caller: Caller, container_id: str) -> Container:
        return await self._lifecycle.resume(await self._own(caller, container_id))

    async def update(self, caller: Caller, container_id: str, order: UpdateContainer) -> Container:
        own = await self._own(caller, container_id)
        audit_draft.note(fields=", ".join(sorted(order.model_fields_set)), name=order.name or None)
        return await self._lifecycle.update(own, order.update())

    async def delete(self, caller: Caller, container_id: str) -> None:
        await self._lifecycle.delete(await self._own(caller, container_id))

    async def admit(self, caller: Caller, container_id: str) -> str:
        """The id in its one form, if the caller may do everything with the container.

        For hot paths: an owner never changes, so he is asked for once; whether the container is still there
        shows when something is done with it.
        """
        container_id = _canonical(container_id)
        owner = self._owners.get(container_id)
        if owner is None:
            if len(self._owners) >= MAX_OWNERS_REMEMBERED:
                self._owners.clear()
            owner = self._owners[container_id] = (await self._lifecycle.get(container_id)).user_id
        if not caller.is_admin and owner != caller.user_id:
            raise Forbidden("this container belongs to someone else")
        return container_id

    async def _create(self, container_id: str, caller: Caller, order: CreateContainer, wait: bool) -> Container:
        wanted = order.wanted()
        audit_draft.note(
            container_id=container_id,
            name=wanted.name,
            image=wanted.image or None,
            cpu_cores=wanted.cpu_cores,
            memory_mb=wanted.memory_mb,
            disk_gb=wanted.disk_gb,
        )
        return _told(await self._lifecycle.create(container_id, caller.user_id, wanted, order.ttl_s, wait))

    async def _own(self, caller: Caller, container_id: str) -> str:
        container_id = _canonical(container_id)
        if not caller.is_admin:
            _refuse_foreign(caller, await self._lifecycle.get(container_id))
        return container_id

    async def _check(self, order: CreateContainer) -> None:
        check_limits(order, await self._lifecycle.node())
        if unbuilt := order.unbuilt_fields():
            raise NotBuilt(f"not implemented yet: {', '.join(unbuilt)}")


def check_limits(order: CreateContainer, node: Node) -> None:
    """Raises ValidationFailed where the node cannot give what is asked."""
    limits = (
        ("cpu_cores", order.cpu_cores, node.max_cpu_cores, "cores"),
        ("memory_mb", order.memory_mb, node.max_memory_mb, "MiB"),
        ("disk_gb", order.disk_gb, node.max_disk_gb, "GiB"),
    )
    details = [
        FieldError(field, f"must be at most {limit} ({unit})") for field, asked, limit, unit in limits if asked > limit
    ]
    if order.runtime is not None and order.runtime not in node.runtimes:
        details.append(FieldError("runtime", f"must be one of {', '.join(node.runtimes)}"))
    if details:
        fields = ", ".join(detail.field for detail in details)
        raise ValidationFailed(f"the node cannot give what is asked: {fields}", tuple(details))


def _canonical(container_id: str) -> str:
    """Lower case; what is no UUID names no container."""
    container_id = container_id.lower()
    if not is_id(container_id):
        raise ContainerNotFound
    return container_id


def _told(container: Container) -> Container:
    """For the audit log: a container that has failed is an answer like any other, but no success."""
    if container.state is ContainerState.FAILED:
        audit_draft.failed((container.state_reason or "failed").partition(":")[0])
    return container


def _refuse_foreign(caller: Caller, container: Container) -> None:
    if not caller.is_admin and container.user_id != caller.user_id:
        raise Forbidden("this container belongs to someone else")
