"""The routes of metrics, while neither lifecycle nor metrics is there."""

from collections.abc import Callable

import httpx
import pytest

Refused = Callable[[httpx.Response, int, str], dict[str, object]]

# The routes don't know which database there is.
pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)

METRICS = "/api/v1/containers/01930000-0000-7000-8000-000000000000/metrics"


async def test_nothing_is_said_to_strangers(anonymous: httpx.AsyncClient, refused: Refused) -> None:
    for path in (METRICS, f"{METRICS}/history"):
        refused(await anonymous.get(path), 401, "UNAUTHORIZED")


async def test_without_the_services_calls_say_when_to_try_again(client: httpx.AsyncClient, refused: Refused) -> None:
    for path in (METRICS, f"{METRICS}/history?since=2026-01-02T03:04:05Z&step=60"):
        refused(await client.get(path), 503, "UNAVAILABLE")


async def test_what_is_no_uuid_names_no_container(client: httpx.AsyncClient, refused: Refused) -> None:
    for path in ("metrics", "metrics/history"):
        refused(await client.get(f"/api/v1/containers/%2e%2e/{path}"), 404, "CONTAINER_NOT_FOUND")


@pytest.mark.parametrize(
    ("query", "field"),
    [("since=yesterday", "since"), ("since=2026-01-02", "since"), ("since=2026-01-02T03:04:05", "since"),
     ("since=1767323045", "since"), ("since=", "since"), ("since=2026-02-30T00:00:00Z", "since"), ("step=0", "step"),
     ("step=-1", "step"), ("step=604801", "step"), ("step=1.5", "step"), ("step=", "step")],
)  # fmt: skip
async def test_a_bad_parameter_is_named(client: httpx.AsyncClient, refused: Refused, query: str, field: str) -> None:
    error = refused(await client.get(f"{METRICS}/history?{query}"), 400, "VALIDATION_FAILED")
    assert [detail["field"] for detail in error["details"]] == [field]  # type: ignore[attr-defined]
