"""A route of the API: the caller is known before a byte of the body is read, and the body is strict JSON."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Annotated, Any

from fastapi import Request, Response, Security
from fastapi.openapi.models import HTTPBearer
from fastapi.routing import APIRoute
from fastapi.security.base import SecurityBase

from services.common.errors import InvalidRequest, PayloadTooLarge
from services.gateway.authentication import Caller
from services.gateway.parts import parts
from services.gateway.strict_json import Json, parse

MAX_BODY_BYTES = 1024 * 1024
BODY_TIMEOUT_S = 30.0
# How the description calls it.
BEARER_NAME = "token"
BEARER = HTTPBearer(description="A personal access token, `hzel_…`")


class JsonRequest(Request):
    """A request whose body, if it has one, is JSON of at most `MAX_BODY_BYTES`."""

    _read: bytes | None = None
    _parsed: Json = None

    async def body(self) -> bytes:
        """Raises PayloadTooLarge as soon as it is, whatever the headers said."""
        if self._read is None:
            try:
                async with asyncio.timeout(BODY_TIMEOUT_S):
                    self._read = await self._read_bounded()
            except TimeoutError as error:
                raise InvalidRequest(f"the body did not arrive within {BODY_TIMEOUT_S:.0f} seconds") from error
        return self._read

    async def json(self) -> Json:
        """None for an empty body. Raises InvalidRequest."""
        if self._read is None and await self.body():
            media_type = self.headers.get("content-type", "").partition(";")[0].strip().lower()
            if media_type != "application/json":
                raise InvalidRequest("the body must be JSON, with content-type application/json")
            self._parsed = parse(await self.body())
        return self._parsed

    async def _read_bounded(self) -> bytes:
        declared = self.headers.get("content-length", "0")
        if declared.isdecimal() and int(declared) > MAX_BODY_BYTES:
            raise _too_large()
        chunks = bytearray()
        async for chunk in self.stream():
            chunks += chunk
            if len(chunks) > MAX_BODY_BYTES:
                raise _too_large()
        return bytes(chunks)


class ApiRoute(APIRoute):
    """Refuses, in this order: who is not known, what is no JSON, what is not valid."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()
        body_field = self.body_field

        async def admitted(request: Request) -> Response:
            authorization = request.headers.get("authorization")
            request.state.caller = await parts(request).authentication.caller(authorization)
            if body_field is None:
                return await handle(request)
            json_request = JsonRequest(request.scope, request.receive)
            # Read here, since the framework would turn our errors into its own.
            await json_request.json()
            if not await json_request.body() and body_field.field_info.is_required():
                raise InvalidRequest("a body is needed: a JSON object")
            return await handle(json_request)

        return admitted


class _BearerToken(SecurityBase):
    """Hands the route its caller, and tells OpenAPI how to become one."""

    def __init__(self) -> None:
        self.model = BEARER
        self.scheme_name = BEARER_NAME

    async def __call__(self, request: Request) -> Caller:
        caller: Caller = request.state.caller
        return caller


KnownCaller = Annotated[Caller, Security(_BearerToken())]


def _too_large() -> PayloadTooLarge:
    return PayloadTooLarge(f"the body is larger than {MAX_BODY_BYTES} bytes")
