"""The description: complete, sound, and without a door to the outside."""

import json
import re
from typing import Any

import httpx
import pytest

from services.gateway.accounts import TOKEN_FORMAT

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


@pytest.fixture
async def document(anonymous: httpx.AsyncClient) -> dict[str, Any]:
    answer = await anonymous.get("/api/v1/openapi.json")
    assert answer.headers["content-type"] == "application/json"
    found: dict[str, Any] = answer.json()
    return found


def operations(document: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {
        f"{method.upper()} {path}": operation
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    }


async def test_every_route_is_described(document: dict[str, Any]) -> None:
    assert set(operations(document)) == {
        "GET /healthz",
        "GET /readyz",
        "GET /api/v1/healthz",
        "GET /api/v1/auth/me",
        "GET /api/v1/tokens",
        "POST /api/v1/tokens",
        "DELETE /api/v1/tokens/{token_id}",
        "GET /api/v1/containers",
        "POST /api/v1/containers",
        "GET /api/v1/containers/{container_id}",
        "DELETE /api/v1/containers/{container_id}",
        "PATCH /api/v1/containers/{container_id}",
        "POST /api/v1/containers/{container_id}/start",
        "POST /api/v1/containers/{container_id}/stop",
        "POST /api/v1/containers/{container_id}/restart",
        "POST /api/v1/containers/{container_id}/pause",
        "POST /api/v1/containers/{container_id}/resume",
        "GET /api/v1/containers/{container_id}/logs",
        "GET /api/v1/containers/{container_id}/commands",
        "POST /api/v1/containers/{container_id}/commands",
        "GET /api/v1/commands/{command_id}",
        "POST /api/v1/commands/{command_id}/cancel",
        "GET /api/v1/commands/{command_id}/output",
        "GET /api/v1/containers/{container_id}/metrics",
        "GET /api/v1/containers/{container_id}/metrics/history",
        "GET /metrics",
        "GET /api/v1/events",
        "GET /api/v1/audit-logs",
        "GET /api/v1/audit-logs/verify",
        "GET /api/v1/terminal-recordings/{recording_id}",
    }


async def test_every_reference_leads_somewhere(document: dict[str, Any]) -> None:
    for name in re.findall(r'"#/components/schemas/([^"]+)"', json.dumps(document)):
        assert name in document["components"]["schemas"]
    assert "HTTPValidationError" not in json.dumps(document)


async def test_what_needs_a_token_says_so_and_which_errors_it_has(document: dict[str, Any]) -> None:
    for name, operation in operations(document).items():
        if name.endswith("z"):
            assert "security" not in operation
        else:
            assert operation["security"] == [{"token": []}]
            assert {"400", "401", "500", "503", "504"} <= set(operation["responses"])
    assert "422" not in operations(document)["GET /api/v1/containers"]["responses"]
    create = operations(document)["POST /api/v1/containers"]["responses"]
    assert {"201", "409", "413", "422", "501"} <= set(create)


async def test_the_page_for_people_loads_nothing(anonymous: httpx.AsyncClient) -> None:
    answer = await anonymous.get("/docs")
    assert answer.headers["content-type"].startswith("text/html")
    assert answer.headers["content-security-policy"] == "default-src 'none'; style-src 'unsafe-inline'"
    assert "<script" not in answer.text
    assert re.findall(r'(?:src|href)="([^"]*)"', answer.text) == ["/api/v1/openapi.json"]
    for name in ("/api/v1/containers/{container_id}/restart", "hostname", "timeout_s", "Idempotency-Key"):
        assert name in answer.text
    assert not TOKEN_FORMAT.search(answer.text)
