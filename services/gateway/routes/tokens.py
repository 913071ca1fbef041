"""Personal access tokens, and who the caller is."""

from typing import Annotated, Literal

from fastapi import APIRouter, Path

from services.common.errors import NotFound, PayloadTooLarge
from services.common.ids import is_id
from services.gateway.api_route import ApiRoute, KnownCaller
from services.gateway.openapi import COMMON_RESPONSES, described
from services.gateway.parts import TheParts
from services.gateway.schemas import CreateToken, Envelope, Me, NewToken, TokenRecord

router = APIRouter(prefix="/api/v1", route_class=ApiRoute, tags=["identity"], responses=COMMON_RESPONSES)


@router.get("/auth/me")
async def get_me(caller: KnownCaller) -> Envelope[Me]:
    """Whose token this is."""
    return Envelope(
        data=Me(user_id=caller.user_id, email=caller.email, role=caller.role, auth_method=caller.auth_method)
    )


@router.post("/tokens", status_code=201, responses=described(PayloadTooLarge))
async def create_token(parts: TheParts, caller: KnownCaller, body: CreateToken) -> Envelope[NewToken]:
    """Makes a token that may do what its owner may. It is shown this once."""
    token, kept = await parts.accounts.create_token(caller.user_id, body.name, body.expires_at)
    return Envelope(data=NewToken.with_secret(token, kept))


@router.get("/tokens")
async def list_tokens(parts: TheParts, caller: KnownCaller) -> Envelope[list[TokenRecord]]:
    """Your own tokens, newest first, revoked ones too."""
    return Envelope(data=[TokenRecord.of(token) for token in await parts.accounts.list_tokens(caller.user_id)])


@router.delete("/tokens/{token_id}", responses=described(NotFound))
async def revoke_token(
    parts: TheParts, caller: KnownCaller, token_id: Annotated[str, Path(description="UUID")]
) -> Envelope[Literal["revoked"]]:
    """Revokes one of your tokens, at once."""
    token_id = token_id.lower()
    if not is_id(token_id):
        raise NotFound("there is no such token")
    await parts.accounts.revoke_token(caller.user_id, token_id)
    return Envelope(data="revoked")
