"""What a body may say, and which field is blamed for what it may not."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from pydantic import ValidationError

from services.common.errors import ValidationFailed
from services.gateway.clients import Node, Update
from services.gateway.containers import check_limits
from services.gateway.errors import MAX_DETAILS, validation_failed
from services.gateway.schemas import CreateContainer, CreateToken, StopContainer, UpdateContainer

NODE = Node("n1", max_cpu_cores=2, max_memory_mb=4096, max_disk_gb=256, runtimes=("crun",), containerd_ready=True)


def blamed(body: Any) -> set[str]:
    """The fields at fault in the body of a create."""
    with pytest.raises(ValidationError) as refusal:
        CreateContainer.model_validate(body)
    located = [{**one, "loc": ("body", *one["loc"])} for one in refusal.value.errors()]
    return {detail.field for detail in validation_failed(located).details}


def test_a_host_name_is_enough() -> None:
    wanted = CreateContainer.model_validate({"hostname": "web-1"}).wanted()
    assert (wanted.name, wanted.cpu_cores, wanted.memory_mb, wanted.disk_gb) == ("web-1", 1, 512, 18)
    assert (wanted.image, list(wanted.command), wanted.runtime) == ("", [], "")


def test_name_is_another_name_of_hostname() -> None:
    assert CreateContainer.model_validate({"name": "a"}).wanted().name == "a"
    assert CreateContainer.model_validate({"name": "a", "hostname": "a"}).wanted().name == "a"
    assert blamed({"name": "a", "hostname": "b"}) == {"name"}
    assert blamed({}) == {"hostname"}


@pytest.mark.parametrize("hostname", ["a", "0", "a-b", "a" * 63, "1-2-3"])
def test_rfc_1123_labels_are_host_names(hostname: str) -> None:
    assert CreateContainer.model_validate({"hostname": hostname}).wanted().name == hostname


@pytest.mark.parametrize(
    "hostname", ["", "-a", "a-", "A", "a.b", "a_b", "a b", "a\n", "ä", "a" * 64, None, 1, True, ["a"], {"a": 1}]
)
def test_anything_else_is_no_host_name(hostname: object) -> None:
    assert blamed({"hostname": hostname}) == {"hostname"}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *[(field, value) for field in ("cpu_cores", "memory_mb", "disk_gb") for value in
          (0, -1, "1", 1.0, True, None, [1], 2**31, 10**400)],
        ("memory_mb", 31),
        ("image", ""), ("image", "a b"), ("image", "../etc"), ("image", "a//b"), ("image", "A"), ("image", "a:b:c"),
        ("image", "a@sha256:12"), ("image", "a" * 256), ("image", 1),
        ("command", []), ("command", "ls"), ("command", [1]), ("command", [""]), ("command", ["a"] * 1025),
        ("command", ["a" * (128 * 1024 + 1)]), ("command", {}),
        ("env", []), ("env", {"0": ""}), ("env", {"A": 1}), ("env", {"A": None}),
        ("env", {f"A{index}": "" for index in range(129)}), ("env", {"A": "x" * (64 * 1024)}), ("env", {"A=B": ""}),
        ("labels", {"": "x"}), ("labels", {"a" * 64: "x"}), ("labels", {"a b": "x"}), ("labels", {"a": "x" * 256}),
        ("labels", {f"a{index}": "" for index in range(65)}), ("labels", {"a": 1}), ("labels", {"-a": "x"}),
        ("runtime", "kata"), ("runtime", 1), ("restart_policy", None),
        ("restart_policy", "never"), ("restart_policy", "always:3"), ("restart_policy", "on-failure:"),
        ("restart_policy", "on-failure:0"), ("restart_policy", "no\n"), ("restart_policy", "on-failure:1000000"),
        ("auto_stop_s", 0), ("ttl_s", "1"),
        ("networks", "x"), ("unknown", 1), ("ctid", 1),
    ],
)  # fmt: skip
def test_a_bad_value_is_blamed_on_its_field(field: str, value: object) -> None:
    found = blamed({"hostname": "a", field: value})
    assert {name.partition(".")[0] for name in found} == {field}


@pytest.mark.parametrize(
    "image",
    [
        "debian", "hzel/debian:12", "hzel/busybox:latest", "localhost:5000/a/b-c:v1.2_3", "registry.example/a/b",
        "a/b@sha256:" + "0" * 64, "registry.example:443/a__b/c.d:T@sha256:" + "f" * 64,
    ],
)  # fmt: skip
def test_references_are_images(image: str) -> None:
    assert CreateContainer.model_validate({"hostname": "a", "image": image}).wanted().image == image


def test_null_means_the_default_where_there_is_one_to_be_chosen() -> None:
    order = CreateContainer.model_validate({"hostname": "a", "image": None, "command": None, "runtime": None})
    assert (order.wanted().image, list(order.wanted().command), order.wanted().runtime) == ("", [], "")


def test_sizes_are_counted_in_bytes_at_their_limits() -> None:
    CreateContainer.model_validate({"hostname": "a", "env": {"A": "x" * (64 * 1024 - 1)}})
    CreateContainer.model_validate({"hostname": "a", "command": ["a" * (128 * 1024)]})
    assert blamed({"hostname": "a", "env": {"A": "ü" * (32 * 1024)}}) == {"env"}


def test_fields_of_later_versions_are_told_apart_from_unknown_ones() -> None:
    assert CreateContainer.model_validate({"hostname": "a", "restart_policy": "no"}).unbuilt_fields() == []
    asked = {"networks": ["n"]}
    assert CreateContainer.model_validate({"hostname": "a", **asked}).unbuilt_fields() == list(asked)


def test_a_body_with_a_thousand_faults_gets_a_short_answer() -> None:
    body = {"hostname": "a", **{"x" * 1000 + str(index): 1 for index in range(1000)}}
    with pytest.raises(ValidationError) as refusal:
        CreateContainer.model_validate(body)
    error = validation_failed([{**one, "loc": ("body", *one["loc"])} for one in refusal.value.errors()])
    assert len(error.details) == MAX_DETAILS
    assert all(len(detail.field) <= 128 for detail in error.details)


def test_the_node_sets_the_upper_limits() -> None:
    check_limits(CreateContainer(hostname="a", cpu_cores=2, memory_mb=4096, disk_gb=256, runtime="crun"), NODE)
    too_much = CreateContainer(hostname="a", cpu_cores=3, memory_mb=4097, disk_gb=257, runtime="runsc")
    with pytest.raises(ValidationFailed) as refusal:
        check_limits(too_much, NODE)
    assert [detail.field for detail in refusal.value.details] == ["cpu_cores", "memory_mb", "disk_gb", "runtime"]


def test_a_stop_waits_ten_seconds_unless_told_otherwise() -> None:
    assert StopContainer().timeout_s == 10
    assert StopContainer.model_validate({"timeout_s": 0}).timeout_s == 0
    for value in (-1, 301, "1", 1.5, True, None):
        with pytest.raises(ValidationError):
            StopContainer.model_validate({"timeout_s": value})


def test_a_token_expires_at_a_time_with_a_zone_in_the_future() -> None:
    future = datetime.now(UTC).replace(microsecond=0) + timedelta(days=1)
    for text in (future.isoformat(), future.strftime("%Y-%m-%dt%H:%M:%Sz")):
        assert CreateToken.model_validate({"name": "a", "expires_at": text}).expires_at == future
    assert CreateToken.model_validate({"name": "a"}).expires_at is None


@pytest.mark.parametrize(
    "value",
    ["2020-01-01T00:00:00Z", "2999-01-01T00:00:00", "2999-01-01", "2999-13-01T00:00:00Z", "2999-01-01T00:00:60Z",
     "0001-01-01T00:00:00+23:59", "tomorrow", "", 32503680000, 1.5, True],
)  # fmt: skip
def test_anything_else_is_no_time_to_expire(value: object) -> None:
    with pytest.raises(ValidationError):
        CreateToken.model_validate({"name": "a", "expires_at": value})


def blamed_update(body: Any) -> set[str]:
    with pytest.raises(ValidationError) as refusal:
        UpdateContainer.model_validate(body)
    located = [{**one, "loc": ("body", *one["loc"])} for one in refusal.value.errors()]
    return {detail.field.partition(".")[0] for detail in validation_failed(located).details}


def test_a_change_leaves_what_it_does_not_mention() -> None:
    assert UpdateContainer.model_validate({}).update() == Update()
    assert UpdateContainer.model_validate({"name": "a"}).update() == Update(name="a")
    assert UpdateContainer.model_validate({"labels": {}}).update() == Update(labels={})
    assert UpdateContainer.model_validate({"ttl_s": 5, "auto_stop_s": None}).update() == Update(auto_stop_s=0, ttl_s=5)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("name", ""), ("name", None), ("name", "A"), ("name", "a.b"), ("labels", None), ("labels", {"a b": ""}),
        ("labels", {f"a{index}": "" for index in range(65)}), ("cpu_cores", 2), ("memory_mb", 64), ("disk_gb", 2),
        ("hostname", "a"), ("state", "running"), ("restart_policy", "always"),
        ("auto_stop_s", 0), ("auto_stop_s", "1"), ("ttl_s", -1), ("ttl_s", 2**31), ("expires_at", None),
    ],
)  # fmt: skip
def test_a_change_of_anything_else_is_refused(field: str, value: object) -> None:
    assert blamed_update({field: value}) == {field}
