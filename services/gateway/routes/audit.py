"""The audit log, for admins: read and proved. Nothing here, nor anywhere else, changes it."""

from typing import Annotated

from fastapi import APIRouter, Query, Request, Response
from pydantic import AwareDatetime, BeforeValidator

from services.common.errors import Forbidden, RateLimited
from services.gateway.api_route import ApiRoute, KnownCaller
from services.gateway.audit import AuditFilter
from services.gateway.audit_entry import Outcome
from services.gateway.audit_schemas import AuditRecord, AuditVerification
from services.gateway.authentication import Caller
from services.gateway.openapi import COMMON_RESPONSES, described
from services.gateway.pagination import decode_cursor, next_link
from services.gateway.parts import TheParts
from services.gateway.schemas import Envelope, rfc_3339

router = APIRouter(prefix="/api/v1/audit-logs", route_class=ApiRoute, tags=["audit"], responses=COMMON_RESPONSES)

Id = Annotated[str | None, Query(max_length=64, description="UUID")]
Time = Annotated[AwareDatetime | None, BeforeValidator(rfc_3339), Query()]


@router.get("", responses=described(Forbidden))
async def list_audit_logs(
    request: Request,
    response: Response,
    parts: TheParts,
    caller: KnownCaller,
    user_id: Id = None,
    container_id: Id = None,
    action: Annotated[str | None, Query(max_length=64, examples=["container.start"])] = None,
    outcome: Outcome | None = None,
    since: Time = None,
    until: Time = None,
    limit: Annotated[int, Query(ge=1, le=500)] = 100,
    cursor: Annotated[str | None, Query(max_length=255, description="from the Link header of the page before")] = None,
) -> Envelope[list[AuditRecord]]:
    """Who did what and who was refused, the newest first. The next page is in the header `Link`."""
    _only_admins(caller)
    before_id = decode_cursor(cursor) if cursor is not None else None
    user_id, container_id = user_id and user_id.lower(), container_id and container_id.lower()
    wanted = AuditFilter(user_id, container_id, action, outcome, since, until)
    page = await parts.audit.page(wanted, before_id, limit)
    if page.next_before_id is not None:
        parameters = request.query_params.multi_items()
        response.headers["Link"] = next_link(request.url.path, parameters, page.next_before_id)
    return Envelope(data=[AuditRecord.of(link) for link in page.links])


@router.get("/verify", responses=described(Forbidden, RateLimited))
async def verify_audit_log(parts: TheParts, caller: KnownCaller) -> Envelope[AuditVerification]:
    """Whether every entry is as it was written, and none is missing before the last."""
    _only_admins(caller)
    return Envelope(data=AuditVerification.of(await parts.audit.verify()))


def _only_admins(caller: Caller) -> None:
    if not caller.is_admin:
        raise Forbidden("only an admin may read the audit log")
