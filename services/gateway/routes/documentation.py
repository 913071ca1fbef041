"""The API's description: for programs and for people."""

import json
from typing import Any

from fastapi import APIRouter
from fastapi.responses import HTMLResponse, Response

from services.gateway.docs_page import docs_page

# The page needs its own style and nothing else.
_PAGE_HEADERS = {"Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'"}


def documentation_router(document: dict[str, Any]) -> APIRouter:
    router = APIRouter(include_in_schema=False)
    text = json.dumps(document)
    page = docs_page(document)

    @router.get("/api/v1/openapi.json")
    async def get_openapi_document() -> Response:
        return Response(text, media_type="application/json")

    @router.get("/docs")
    async def get_docs() -> Response:
        return HTMLResponse(page, headers=_PAGE_HEADERS)

    return router
