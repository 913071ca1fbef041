"""Requests that must be refused: the contract's error, nothing changed, nothing left on the node."""

from collections.abc import Iterator
from typing import Any

import pytest

from services.common.ids import new_id
from tests.stack import Client, Stack, new_name

CREATE = "/api/v1/containers"


@pytest.fixture
def untouched(user: Client) -> Iterator[Client]:
    """A user who has no container, before and after."""
    assert user.http.get(CREATE).json() == {"data": []}
    yield user
    assert user.http.get(CREATE).json() == {"data": []}


def refusal(answer: Any, status: int, code: str) -> dict[str, Any]:
    """The error of a refused request, which is in the envelope and gives nothing away."""
    assert answer.status_code == status, answer.text
    assert answer.json().keys() == {"error"}
    error: dict[str, Any] = answer.json()["error"]
    assert error["code"] == code
    assert error["message"]
    assert error["request_id"] == answer.headers["x-request-id"]
    for secret in ("Traceback", "/var/", "/run/", "sqlite", "SELECT", "grpc", "StatusCode"):
        assert secret not in answer.text
    return error


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b'"text"', b"\xff\xfe", b'{"hostname": "a"', b'{"hostname": NaN}', b"[" * 20000, b"null"],
)
def test_a_body_that_is_no_json_object(untouched: Client, content: bytes) -> None:
    answer = untouched.http.post(CREATE, content=content, headers={"Content-Type": "application/json"})
    assert answer.status_code == 400
    refusal(answer, 400, answer.json()["error"]["code"])
    assert answer.json()["error"]["code"] in ("BAD_REQUEST", "VALIDATION_FAILED")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("hostname", "UPPER"),
        ("hostname", "-edge"),
        ("hostname", "under_score"),
        ("hostname", "a.b"),
        ("hostname", ""),
        ("hostname", "a" * 64),
        ("hostname", 5),
        ("hostname", None),
        ("hostname", "nul\0"),
        ("cpu_cores", 0),
        ("cpu_cores", 100000),
        ("cpu_cores", "1"),
        ("cpu_cores", 1.5),
        ("cpu_cores", True),
        ("memory_mb", 31),
        ("memory_mb", 10**9),
        ("memory_mb", -(10**30)),
        ("disk_gb", 0),
        ("disk_gb", 257),
        ("image", "../../etc/passwd"),
        ("image", "a b"),
        ("image", ["hzel/busybox"]),
        ("command", "sh -c true"),
        ("command", []),
        ("command", ["a\0b"]),
        ("command", ["x" * 200_000]),
        ("env", {"NOT-A-NAME": "x"}),
        ("env", {"A": 1}),
        ("labels", {"k": None}),
        ("runtime", "runsc-not-there"),
        ("surprise", 1),
        ("user_id", "somebody-else"),
    ],
)
def test_a_field_that_is_not_as_it_should_be(untouched: Client, field: str, value: object) -> None:
    body = {"hostname": new_name(), "memory_mb": 64, "disk_gb": 1, "image": "hzel/busybox"} | {field: value}
    error = refusal(untouched.http.post(CREATE, json=body), 400, "VALIDATION_FAILED")
    assert any(field in detail["field"] for detail in error["details"])


def test_a_body_of_10_mb(untouched: Client) -> None:
    answer = untouched.http.post(CREATE, json={"hostname": "a", "env": {"X": "y" * 10_000_000}})
    refusal(answer, 413, "PAYLOAD_TOO_LARGE")


def test_another_content_type(untouched: Client) -> None:
    refusal(untouched.http.post(CREATE, data={"hostname": "a"}), 400, "BAD_REQUEST")


def test_a_name_that_is_taken(user: Client) -> None:
    with user.container() as record:
        refusal(user.http.post(CREATE, json={"hostname": record["name"], "image": "hzel/busybox"}), 409, "CONFLICT")
        assert [entry["id"] for entry in user.http.get(CREATE).json()["data"]] == [record["id"]]


def test_the_same_name_for_two_owners(user: Client, stack: Stack) -> None:
    with user.container() as record, stack.new_user().container(hostname=record["name"]) as other:
        assert other["state"] == "running"


@pytest.mark.parametrize(("method", "path"), [("GET", ""), ("DELETE", ""), ("POST", "/start"), ("POST", "/stop")])
def test_a_foreign_container_and_one_that_is_not_there(stack: Stack, user: Client, method: str, path: str) -> None:
    with stack.new_user().container() as foreign:
        refusal(user.http.request(method, f"{CREATE}/{foreign['id']}{path}"), 403, "FORBIDDEN")
    for unknown in (new_id(), "no-id", "..%2f..%2fetc", "%00"):
        answer = user.http.request(method, f"{CREATE}/{unknown}{path}")
        assert answer.status_code == 404, answer.text
    refusal(user.http.request(method, f"{CREATE}/{new_id()}{path}"), 404, "CONTAINER_NOT_FOUND")


@pytest.mark.parametrize("token", ["", "hzel_" + "x" * 43, "hzel_", "a.b.c", "\xe9"])
def test_no_token_or_a_wrong_one(stack: Stack, token: str) -> None:
    headers = {"Authorization": f"Bearer {token}".encode("latin-1")} if token else {}
    answer = stack.client("").http.get(CREATE, headers=headers)
    refusal(answer, 401, "UNAUTHORIZED")


def test_a_revoked_token_is_refused_at_once(stack: Stack, user: Client) -> None:
    made = user.http.post("/api/v1/tokens", json={"name": "second"}).json()["data"]
    second = stack.client(made["token"])
    assert second.http.get(CREATE).status_code == 200
    assert user.http.delete(f"/api/v1/tokens/{made['id']}").status_code == 200
    refusal(second.http.get(CREATE), 401, "UNAUTHORIZED")


@pytest.mark.parametrize("query", ["limit=0", "limit=501", "limit=x", "cursor=nonsense", "state=flying", "label=nokey"])
def test_a_list_with_a_wrong_query(user: Client, query: str) -> None:
    refusal(user.http.get(f"{CREATE}?{query}"), 400, "VALIDATION_FAILED")


def test_unknown_routes_and_methods(user: Client) -> None:
    refusal(user.http.get("/api/v1/nothing"), 404, "NOT_FOUND")
    assert user.http.put(CREATE, json={}).status_code == 405


def test_what_is_not_built_yet_is_said_so(untouched: Client) -> None:
    body = {"hostname": new_name(), "image": "hzel/busybox"}
    refusal(untouched.http.post(CREATE, json=body | {"networks": [new_id()]}), 501, "NOT_IMPLEMENTED")


def test_lists_are_paged_and_filtered(user: Client) -> None:
    made = [user.create(labels={"n": str(number), "all": "yes"}) for number in range(3)]
    try:
        first = user.http.get(f"{CREATE}?limit=2&label=all=yes")
        assert [entry["id"] for entry in first.json()["data"]] == [record["id"] for record in made[:2]]
        following = user.http.get(first.links["next"]["url"])
        assert [entry["id"] for entry in following.json()["data"]] == [made[2]["id"]]
        assert "next" not in following.links
        assert [entry["id"] for entry in user.http.get(f"{CREATE}?label=n=1").json()["data"]] == [made[1]["id"]]
        user.act(made[0]["id"], "stop", timeout_s=1)
        stopped = user.http.get(f"{CREATE}?state=stopped").json()["data"]
        assert [entry["id"] for entry in stopped] == [made[0]["id"]]
    finally:
        for record in made:
            user.delete(record["id"])
