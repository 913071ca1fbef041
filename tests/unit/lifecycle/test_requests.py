"""Requests over gRPC: what is refused before anything is done."""

from pathlib import Path
from typing import Any

import pytest
from hzel.lifecycle.v1 import lifecycle_pb2 as pb

from services.common.errors import ContainerNotFound, ValidationFailed
from services.common.settings import Settings
from services.lifecycle import requests
from services.lifecycle.container import Update
from services.lifecycle.runtimes import installed_runtimes
from services.lifecycle.state import State

ID = "0190a6b0-0000-7000-8000-00000000000a"

pytestmark = pytest.mark.skipif(not installed_runtimes(), reason="no container runtime is installed")


@pytest.fixture
def settings() -> Settings:
    return Settings(
        max_cpu_cores=4,
        max_memory_mb=1024,
        max_disk_gb=20,
        default_image="hzel/debian:12",
        runtime=installed_runtimes()[0],
        state_dir=Path("/nowhere"),
    )


def spec(**changes: Any) -> pb.ContainerSpec:
    return pb.ContainerSpec(**({"name": "box", "cpu_cores": 1, "memory_mb": 64, "disk_gb": 1} | changes))


def refused(settings: Settings, **changes: Any) -> str:
    with pytest.raises(ValidationFailed) as caught:
        requests.wanted(spec(**changes), settings)
    (detail,) = caught.value.details
    return detail.field


def test_the_nodes_defaults_are_filled_in(settings: Settings) -> None:
    wanted = requests.wanted(spec(), settings)
    assert (wanted.image, wanted.runtime) == ("hzel/debian:12", settings.runtime)
    assert (wanted.command, wanted.env, wanted.labels) == ((), {}, {})
    assert str(wanted.restart_policy) == "no"
    assert wanted.auto_stop_s is None
    assert requests.ttl(pb.CreateContainerRequest()) is None


def test_what_is_asked_for_is_kept(settings: Settings) -> None:
    wanted = requests.wanted(spec(image="a/b:1", command=["x", ""], env={"A": "é"}, labels={"k": ""}), settings)
    assert (wanted.image, wanted.command, wanted.env, wanted.labels) == ("a/b:1", ("x", ""), {"A": "é"}, {"k": ""})


@pytest.mark.parametrize("name", ["", "-a", "a-", "A", "a.b", "a_b", "ä", "a" * 64, "a\n", "a b", "../a"])
def test_a_name_is_a_label_of_rfc_1123(settings: Settings, name: str) -> None:
    assert refused(settings, name=name) == "name"


@pytest.mark.parametrize("name", ["a", "0", "a-b", "a" * 63, "0-0"])
def test_such_a_label_is_a_name(settings: Settings, name: str) -> None:
    assert requests.wanted(spec(name=name), settings).name == name


@pytest.mark.parametrize(
    ("field", "outside", "inside"),
    [
        ("cpu_cores", [0, -1, 5, 2**31 - 1], [1, 4]),
        ("memory_mb", [0, 31, 1025, -(2**31)], [32, 1024]),
        ("disk_gb", [0, -1, 21], [1, 20]),
    ],
)
def test_limits_are_the_nodes(settings: Settings, field: str, outside: list[int], inside: list[int]) -> None:
    assert [refused(settings, **{field: value}) for value in outside] == [field] * len(outside)
    for value in inside:
        assert getattr(requests.wanted(spec(**{field: value}), settings), field) == value


@pytest.mark.parametrize("image", ["../a", " a", "a b", "-a", "a" * 256, "a\n", "a;b", "a$b"])
def test_an_image_is_a_reference(settings: Settings, image: str) -> None:
    assert refused(settings, image=image) == "image"


def test_a_runtime_must_be_installed(settings: Settings) -> None:
    assert refused(settings, runtime="runsc-of-mine") == "runtime"
    assert refused(settings, runtime="../crun") == "runtime"


@pytest.mark.parametrize(
    "changes",
    [
        {"command": ["a\0b"]},
        {"env": {"A": "\0"}},
        {"labels": {"\0": ""}},
        {"command": ["x" * (128 * 1024 + 1)]},
        {"env": {f"A{number}": "x" * 1024 for number in range(129)}},
    ],
)
def test_texts_have_no_nul_and_a_bound(settings: Settings, changes: dict[str, Any]) -> None:
    assert refused(settings, **changes) == "command"


@pytest.mark.parametrize("name", ["", "1A", "A-B", "A B", "A=B", "Ä"])
def test_a_variables_name_is_one(settings: Settings, name: str) -> None:
    assert refused(settings, env={name: "x"}) == "env"


def test_a_restart_policy_is_one(settings: Settings) -> None:
    assert str(requests.wanted(spec(restart_policy="on-failure:3"), settings).restart_policy) == "on-failure:3"
    assert refused(settings, restart_policy="sometimes") == "restart_policy"


def test_an_update_changes_what_it_mentions() -> None:
    assert requests.update(pb.UpdateContainerRequest(id=ID)) == Update()
    given = pb.UpdateContainerRequest(id=ID, name="a", labels=pb.Labels(labels={"k": "v"}))
    assert requests.update(given) == Update(name="a", labels={"k": "v"})
    assert requests.update(pb.UpdateContainerRequest(id=ID, labels=pb.Labels())) == Update(labels={})
    assert requests.update(pb.UpdateContainerRequest(id=ID, auto_stop_s=0, ttl_s=9)) == Update(auto_stop_s=0, ttl_s=9)
    for changes in (
        {"ttl_s": -1},
        {"auto_stop_s": -1},
        {"name": "A"},
        {"name": ""},
        {"labels": pb.Labels(labels={"a": "\0"})},
    ):
        with pytest.raises(ValidationFailed):
            requests.update(pb.UpdateContainerRequest(id=ID, **changes))  # type: ignore[arg-type]


@pytest.mark.parametrize("text", ["", "x", "../../etc", ID.upper(), f"{ID}\n"])
def test_what_is_no_id_names_no_container_and_makes_none(text: str) -> None:
    with pytest.raises(ContainerNotFound):
        requests.container_id(text)
    with pytest.raises(ValidationFailed):
        requests.new_container_id(text)


def test_a_stop_without_a_timeout_has_the_default() -> None:
    assert requests.stop_timeout(pb.StopContainerRequest()) == 10
    assert requests.stop_timeout(pb.StopContainerRequest(timeout_s=0)) == 0
    assert requests.stop_timeout(pb.RestartContainerRequest(timeout_s=300)) == 300


@pytest.mark.parametrize("seconds", [-1, 301])
def test_a_timeout_has_bounds(seconds: int) -> None:
    with pytest.raises(ValidationFailed):
        requests.stop_timeout(pb.StopContainerRequest(timeout_s=seconds))


@pytest.mark.parametrize("limit", [-1, 0, 501])
def test_a_page_has_bounds(limit: int) -> None:
    with pytest.raises(ValidationFailed):
        requests.page_limit(pb.ListContainersRequest(limit=limit))


def test_every_state_has_a_number_and_unknown_numbers_are_refused() -> None:
    assert set(requests.STATES) == set(State)
    for state, number in requests.STATES.items():
        assert requests.states(pb.ListContainersRequest(states=[number])) == [state]
    for unknown in (0, 99):
        with pytest.raises(ValidationFailed):
            requests.states(pb.ListContainersRequest(states=[unknown]))  # type: ignore[list-item]
