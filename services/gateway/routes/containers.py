"""Containers: create, list, look at, change, start, stop, restart, pause, resume, delete."""

import json
import re
from typing import Annotated

from fastapi import APIRouter, Header, Path, Query, Request, Response

from services.common.errors import (
    Conflict,
    ContainerNotFound,
    FieldError,
    Forbidden,
    IdempotencyMismatch,
    NotBuilt,
    PayloadTooLarge,
    ValidationFailed,
)
from services.gateway import audit_draft
from services.gateway.api_route import ApiRoute, KnownCaller
from services.gateway.clients import Container, ContainerState
from services.gateway.errors import enveloped_error
from services.gateway.idempotency import Answer, KeyedRequest
from services.gateway.openapi import COMMON_RESPONSES, described
from services.gateway.pagination import decode_cursor, next_link
from services.gateway.parts import TheParts
from services.gateway.schemas import (
    LABEL_KEY_PATTERN,
    MAX_LABEL_VALUE,
    ContainerRecord,
    CreateContainer,
    Envelope,
    StartContainer,
    StopContainer,
    UpdateContainer,
)

router = APIRouter(prefix="/api/v1/containers", route_class=ApiRoute, tags=["containers"], responses=COMMON_RESPONSES)

OF_ONE = described(Forbidden, ContainerNotFound)
OF_A_CHANGE = described(Forbidden, ContainerNotFound, Conflict, PayloadTooLarge)

ContainerId = Annotated[str, Path(description="UUID")]
IdempotencyKey = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        pattern=r"^[\x20-\x7e]+$",
        min_length=1,
        max_length=255,
        description="a repetition with the same key and body returns the first answer for 24 hours",
    ),
]


@router.post(
    "",
    status_code=201,
    response_model=Envelope[ContainerRecord],
    responses=described(Conflict, IdempotencyMismatch, NotBuilt, PayloadTooLarge),
)
async def create_container(
    request: Request,
    parts: TheParts,
    caller: KnownCaller,
    body: CreateContainer,
    wait: Annotated[int, Query(ge=0, le=1, description="0: answer at once, while it is provisioning")] = 1,
    idempotency_key: IdempotencyKey = None,
) -> Envelope[ContainerRecord] | Response:
    """Creates and starts a container; answers when it runs, or has failed and says why in `state_reason`."""
    if idempotency_key is None:
        return _record(await parts.containers.create(caller, body, bool(wait)))
    sent = await request.json()
    keyed = KeyedRequest.of(caller.user_id, idempotency_key, request.method, request.url.path, sent)
    answer, is_replayed = await parts.containers.create_once(caller, body, bool(wait), keyed)
    return kept(answer, is_replayed)


@router.get("")
async def list_containers(
    request: Request,
    response: Response,
    parts: TheParts,
    caller: KnownCaller,
    state: Annotated[list[ContainerState], Query(description="repeatable: any of them")] = [],  # noqa: B006
    label: Annotated[list[str], Query(description="`key=value`, repeatable: all of them")] = [],  # noqa: B006
    limit: Annotated[int, Query(ge=1, le=500)] = 100,
    cursor: Annotated[str | None, Query(max_length=255, description="from the Link header of the page before")] = None,
) -> Envelope[list[ContainerRecord]]:
    """Your own containers, oldest first; an admin's are everyone's. The next page is in the header `Link`."""
    after_id = decode_cursor(cursor) if cursor is not None else None
    page = await parts.containers.list(caller, state, parse_labels(label), after_id, limit)
    if page.next_after_id is not None:
        parameters = request.query_params.multi_items()
        response.headers["Link"] = next_link(request.url.path, parameters, page.next_after_id)
    return Envelope(data=[ContainerRecord.of(container) for container in page.containers])


@router.get("/{container_id}", responses=OF_ONE)
async def get_container(parts: TheParts, caller: KnownCaller, container_id: ContainerId) -> Envelope[ContainerRecord]:
    """One container."""
    return _record(await parts.containers.get(caller, container_id))


@router.post("/{container_id}/start", responses=OF_A_CHANGE)
async def start_container(
    parts: TheParts, caller: KnownCaller, container_id: ContainerId, body: StartContainer | None = None
) -> Envelope[ContainerRecord]:
    """Starts a stopped or failed container; one that runs is returned as it is, a paused one is refused (409)."""
    return _record(await parts.containers.start(caller, container_id))


@router.post("/{container_id}/stop", responses=OF_A_CHANGE)
async def stop_container(
    parts: TheParts, caller: KnownCaller, container_id: ContainerId, body: StopContainer | None = None
) -> Envelope[ContainerRecord]:
    """TERM, and after `timeout_s` seconds KILL; one that is stopped is returned as it is."""
    return _record(await parts.containers.stop(caller, container_id, body or StopContainer()))


@router.post("/{container_id}/restart", responses=OF_A_CHANGE)
async def restart_container(
    parts: TheParts, caller: KnownCaller, container_id: ContainerId, body: StopContainer | None = None
) -> Envelope[ContainerRecord]:
    """Stops the container if it runs, and starts it."""
    return _record(await parts.containers.restart(caller, container_id, body or StopContainer()))


@router.post("/{container_id}/pause", responses=OF_A_CHANGE)
async def pause_container(
    parts: TheParts, caller: KnownCaller, container_id: ContainerId, body: StartContainer | None = None
) -> Envelope[ContainerRecord]:
    """Freezes every process of a running container, which keeps its memory; one that is paused is returned as it is."""
    return _record(await parts.containers.pause(caller, container_id))


@router.post("/{container_id}/resume", responses=OF_A_CHANGE)
async def resume_container(
    parts: TheParts, caller: KnownCaller, container_id: ContainerId, body: StartContainer | None = None
) -> Envelope[ContainerRecord]:
    """Lets a paused container go on; one that runs is returned as it is."""
    return _record(await parts.containers.resume(caller, container_id))


@router.patch("/{container_id}", responses=OF_A_CHANGE)
async def update_container(
    parts: TheParts, caller: KnownCaller, container_id: ContainerId, body: UpdateContainer
) -> Envelope[ContainerRecord]:
    """Changes a container while it is what it is: no restart."""
    return _record(await parts.containers.update(caller, container_id, body))


@router.delete("/{container_id}", status_code=204, responses=described(Forbidden, ContainerNotFound, Conflict))
async def delete_container(parts: TheParts, caller: KnownCaller, container_id: ContainerId) -> Response:
    """Stops the container and destroys its disk."""
    await parts.containers.delete(caller, container_id)
    return Response(status_code=204)


def parse_labels(texts: list[str]) -> dict[str, str]:
    """From `key=value` each. Raises ValidationFailed."""
    labels: dict[str, str] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or not re.fullmatch(LABEL_KEY_PATTERN, key) or len(value) > MAX_LABEL_VALUE:
            raise ValidationFailed("a label filter is not valid", (FieldError("label", "must be key=value"),))
        if labels.setdefault(key, value) != value:
            raise ValidationFailed("a label filter is not valid", (FieldError("label", f"{key} has two values"),))
    return labels


def _record(container: Container) -> Envelope[ContainerRecord]:
    return Envelope(data=ContainerRecord.of(container))


def kept(answer: Answer, is_replayed: bool) -> Response:
    headers = {}
    if is_replayed:
        headers["Idempotent-Replayed"] = "true"
        audit_draft.note(replayed=True)
    if answer.status >= 400:
        return enveloped_error(answer.status, json.loads(answer.body), headers)
    return Response(answer.body, answer.status, headers, "application/json")
