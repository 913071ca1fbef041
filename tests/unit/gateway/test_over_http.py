"""The application as clients meet it, while lifecycle and NATS are not there."""

import json
from collections.abc import AsyncIterator, Callable

import httpx
import pytest
import structlog
from structlog.testing import LogCapture

from services.common.ids import is_id
from services.gateway import boundary
from services.gateway.accounts import User
from services.gateway.app import create_app
from services.gateway.parts import Parts

Refused = Callable[[httpx.Response, int, str], dict[str, object]]

# The routes don't know which database there is.
pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)

SOME_ID = "01930000-0000-7000-8000-000000000000"
CONTAINERS = "/api/v1/containers"
JSON = {"content-type": "application/json"}


def fields(error: dict[str, object]) -> set[str]:
    details = error["details"]
    assert isinstance(details, list)
    return {detail["field"] for detail in details}


async def test_every_answer_names_its_request(client: httpx.AsyncClient) -> None:
    assert is_id((await client.get("/healthz")).headers["x-request-id"])
    sent = await client.get("/api/v1/auth/me", headers={"X-Request-Id": "build-17.b_2"})
    assert sent.headers["x-request-id"] == "build-17.b_2"
    for insane in ("a b", "", "x" * 129, "<script>", "-a"):
        answer = await client.get("/nowhere", headers={"X-Request-Id": insane})
        assert is_id(answer.headers["x-request-id"])


async def test_the_service_is_alive_without_anything_else(anonymous: httpx.AsyncClient) -> None:
    alive = await anonymous.get("/healthz")
    assert (alive.status_code, alive.text) == (200, "ok\n")
    assert (await anonymous.get("/api/v1/healthz")).json() == {"data": "ok"}


async def test_readiness_names_each_dependency(anonymous: httpx.AsyncClient, refused: Refused) -> None:
    answer = await anonymous.get("/readyz")
    error = refused(answer, 503, "UNAVAILABLE")
    assert answer.headers["retry-after"] == "1"
    assert error["details"] == [
        {"field": "database", "message": "ok"},
        {"field": "lifecycle", "message": "unavailable"},
        {"field": "containerd", "message": "unknown"},
        {"field": "nats", "message": "unavailable"},
        {"field": "metrics", "message": "unavailable"},
    ]


async def test_who_am_i(client: httpx.AsyncClient, user: User) -> None:
    answer = await client.get("/api/v1/auth/me")
    assert answer.json()["data"] == {"user_id": user.id, "email": user.email, "role": "user", "auth_method": "pat"}
    assert answer.headers["cache-control"] == "no-store"


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", CONTAINERS), ("POST", CONTAINERS), ("GET", f"{CONTAINERS}/{SOME_ID}"), ("GET", "/api/v1/tokens"),
     ("POST", "/api/v1/tokens"), ("GET", "/api/v1/auth/me"), ("DELETE", f"{CONTAINERS}/nonsense")],
)  # fmt: skip
async def test_nothing_is_said_to_strangers(
    anonymous: httpx.AsyncClient, refused: Refused, method: str, path: str
) -> None:
    for headers in ({}, {"Authorization": "Bearer hzel_" + "x" * 43}):
        answer = await anonymous.request(method, path, headers=headers, content=b"{not json")
        refused(answer, 401, "UNAUTHORIZED")
        assert answer.headers["www-authenticate"].startswith("Bearer")


async def test_unknown_paths_and_methods(client: httpx.AsyncClient, refused: Refused) -> None:
    for path in ("/", "/nowhere", "/api/v1", f"{CONTAINERS}/", f"{CONTAINERS}/{SOME_ID}/metric", "/api/v1/audit-log"):
        refused(await client.get(path), 404, "NOT_FOUND")
    answer = await client.put(CONTAINERS)
    refused(answer, 405, "METHOD_NOT_ALLOWED")
    assert answer.headers["allow"] == "GET, POST"
    assert (await client.post(f"{CONTAINERS}/{SOME_ID}")).headers["allow"] == "DELETE, GET, PATCH"


@pytest.mark.parametrize(
    "body", [b"", b"   ", b"{", b"{'a': 1}", b'{"hostname": "a", "hostname": "a"}', b"\xff", b'{"hostname": NaN}',
             b"[" * 100_000, b'{"cpu_cores": ' + b"9" * 5000 + b"}", b'{"hostname": "\\ud800"}'],
)  # fmt: skip
async def test_what_is_no_json_is_a_bad_request(client: httpx.AsyncClient, refused: Refused, body: bytes) -> None:
    refused(await client.post(CONTAINERS, content=body, headers=JSON), 400, "BAD_REQUEST")


@pytest.mark.parametrize(
    "content_type", ["", "text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x",
                     "application/jsonp", "text/json", "x application/json"],
)  # fmt: skip
async def test_another_content_type_is_a_bad_request(
    client: httpx.AsyncClient, refused: Refused, content_type: str
) -> None:
    headers = {"content-type": content_type} if content_type else {}
    refused(await client.post(CONTAINERS, content=b'{"hostname": "a"}', headers=headers), 400, "BAD_REQUEST")


@pytest.mark.parametrize(
    ("body", "field"),
    [([], "body"), ("a", "body"), (None, "body"), ({}, "hostname"), ({"hostname": "A"}, "hostname"),
     ({"hostname": "a", "x": 1}, "x"), ({"hostname": "a", "cpu_cores": 1.0}, "cpu_cores"),
     ({"hostname": "a", "memory_mb": "512"}, "memory_mb"), ({"hostname": "a", "disk_gb": True}, "disk_gb"),
     ({"hostname": "a", "env": {"A": "\0"}}, "env.A")],
)  # fmt: skip
async def test_what_is_not_valid_names_its_field(
    client: httpx.AsyncClient, refused: Refused, body: object, field: str
) -> None:
    answer = await client.post(CONTAINERS, content=json.dumps(body), headers=JSON)
    assert fields(refused(answer, 400, "VALIDATION_FAILED")) == {field}


@pytest.mark.parametrize(
    ("query", "field"),
    [("limit=0", "limit"), ("limit=501", "limit"), ("limit=x", "limit"), ("limit=", "limit"), ("state=gone", "state.0"),
     ("label=a", "label"), ("label==b", "label"), ("label=a=1&label=a=2", "label"), ("cursor=x", "cursor"),
     ("cursor=", "cursor")],
)  # fmt: skip
async def test_a_bad_filter_names_its_parameter(
    client: httpx.AsyncClient, refused: Refused, query: str, field: str
) -> None:
    error = refused(await client.get(f"{CONTAINERS}?{query}"), 400, "VALIDATION_FAILED")
    assert fields(error) == {field}


@pytest.mark.parametrize("key", ["", "x" * 256, "tab\there", "\u00e4"])
async def test_an_idempotency_key_is_short_printable_ascii(
    client: httpx.AsyncClient, refused: Refused, key: str
) -> None:
    headers = {b"Idempotency-Key": key.encode("latin-1")}
    answer = await client.post(CONTAINERS, json={"hostname": "a"}, headers=headers)
    assert fields(refused(answer, 400, "VALIDATION_FAILED")) == {"Idempotency-Key"}


async def test_wait_is_0_or_1(client: httpx.AsyncClient, refused: Refused) -> None:
    for value in ("2", "-1", "yes", ""):
        answer = await client.post(f"{CONTAINERS}?wait={value}", json={"hostname": "a"})
        assert fields(refused(answer, 400, "VALIDATION_FAILED")) == {"wait"}


async def test_a_body_of_10_mb_is_too_large_however_it_is_sent(client: httpx.AsyncClient, refused: Refused) -> None:
    sent = 0

    async def chunks() -> AsyncIterator[bytes]:
        nonlocal sent
        for _ in range(160):
            sent += 65536
            yield b" " * 65536

    refused(await client.post(CONTAINERS, content=b" " * 10_000_000, headers=JSON), 413, "PAYLOAD_TOO_LARGE")
    refused(await client.post(CONTAINERS, content=chunks(), headers=JSON), 413, "PAYLOAD_TOO_LARGE")
    assert sent < 1_200_000


async def test_a_body_of_exactly_1_mib_is_read(client: httpx.AsyncClient, refused: Refused) -> None:
    body = b'{"hostname": "A"}'.ljust(1024 * 1024)
    refused(await client.post(CONTAINERS, content=body, headers=JSON), 400, "VALIDATION_FAILED")
    refused(await client.post(CONTAINERS, content=body + b" ", headers=JSON), 413, "PAYLOAD_TOO_LARGE")


async def test_what_is_no_uuid_names_no_container(client: httpx.AsyncClient, refused: Refused) -> None:
    for name in ("x", "1", f"{SOME_ID}0", "%2e%2e", "%00", "'"):
        for method, suffix in (
            ("GET", ""),
            ("DELETE", ""),
            ("POST", "/start"),
            ("POST", "/stop"),
            ("POST", "/restart"),
        ):
            refused(await client.request(method, f"{CONTAINERS}/{name}{suffix}"), 404, "CONTAINER_NOT_FOUND")


async def test_without_lifecycle_calls_say_when_to_try_again(client: httpx.AsyncClient, refused: Refused) -> None:
    answers = [
        await client.get(CONTAINERS),
        await client.get(f"{CONTAINERS}/{SOME_ID}"),
        await client.post(CONTAINERS, json={"hostname": "a"}),
        await client.post(CONTAINERS, json={"hostname": "a"}, headers={"Idempotency-Key": "k"}),
        await client.post(f"{CONTAINERS}/{SOME_ID}/stop", json={"timeout_s": 0}),
        await client.delete(f"{CONTAINERS}/{SOME_ID}"),
    ]
    for answer in answers:
        refused(answer, 503, "UNAVAILABLE")
        assert answer.headers["retry-after"] == "1"


async def test_actions_take_an_empty_body_and_no_nonsense(client: httpx.AsyncClient, refused: Refused) -> None:
    path = f"{CONTAINERS}/{SOME_ID}"
    for action in ("start", "stop", "restart"):
        refused(await client.post(f"{path}/{action}"), 503, "UNAVAILABLE")
        refused(await client.post(f"{path}/{action}", json={}), 503, "UNAVAILABLE")
        refused(await client.post(f"{path}/{action}", json={"x": 1}), 400, "VALIDATION_FAILED")
        refused(await client.post(f"{path}/{action}", content=b"x", headers=JSON), 400, "BAD_REQUEST")
    refused(await client.post(f"{path}/start", json={"timeout_s": 1}), 400, "VALIDATION_FAILED")
    for timeout in (-1, 301, 1.0, "1", True):
        refused(await client.post(f"{path}/stop", json={"timeout_s": timeout}), 400, "VALIDATION_FAILED")


async def test_the_life_of_a_token(client: httpx.AsyncClient, refused: Refused) -> None:
    made = await client.post("/api/v1/tokens", json={"name": "ci", "expires_at": "2999-01-01T00:00:00+01:00"})
    assert made.status_code == 201
    record = made.json()["data"]
    token = record.pop("token")
    assert record["expires_at"] == "2998-12-31T23:00:00Z"
    assert set(record) == {"id", "name", "prefix", "created_at", "expires_at", "last_used_at", "revoked_at"}
    assert (await client.get("/api/v1/tokens")).json()["data"][0] == record
    as_ci = {"Authorization": f"Bearer {token}"}
    assert (await client.get("/api/v1/auth/me", headers=as_ci)).status_code == 200
    revoked = await client.delete(f"/api/v1/tokens/{record['id'].upper()}")
    assert (revoked.status_code, revoked.json()) == (200, {"data": "revoked"})
    refused(await client.get("/api/v1/auth/me", headers=as_ci), 401, "UNAUTHORIZED")
    for unknown in (SOME_ID, "x"):
        refused(await client.delete(f"/api/v1/tokens/{unknown}"), 404, "NOT_FOUND")
    for body in (
        {},
        {"name": ""},
        {"name": "x" * 101},
        {"name": "a\nb"},
        {"name": "a", "expires_at": "2020-01-01T00:00:00Z"},
    ):
        refused(await client.post("/api/v1/tokens", json=body), 400, "VALIDATION_FAILED")


async def test_a_fault_of_ours_tells_the_log_and_not_the_client(
    parts: Parts, refused: Refused, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(_authorization: str | None) -> None:
        raise RuntimeError("SELECT secret FROM /var/lib")

    capture = LogCapture()
    monkeypatch.setattr(boundary, "log", structlog.wrap_logger(None, processors=[capture]))
    monkeypatch.setattr(parts.authentication, "caller", broken)
    transport = httpx.ASGITransport(create_app(parts))
    async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as client:
        answer = await client.get("/api/v1/auth/me?token=secret", headers={"X-Request-Id": "r-1"})
    refused(answer, 500, "INTERNAL_ERROR")
    assert "secret" not in answer.text
    fault, line = capture.entries
    assert (fault["event"], fault["exc_info"]) == ("request_failed", True)
    assert (line["event"], line["route"], line["status"]) == ("request", "/api/v1/auth/me", 500)
    assert "secret" not in json.dumps(line)
