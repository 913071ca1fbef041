"""Control groups of both versions, as folders."""

from pathlib import Path

import pytest

from services.lifecycle.cgroups import Cgroups, cpu_usage_ns, memory_kills

V1 = "oom_kill_disable 0\nunder_oom 0\noom_kill 3\n"
V2 = "low 0\nhigh 0\nmax 12\noom 2\noom_kill 2\noom_group_kill 0\n"


@pytest.mark.parametrize(("text", "kills"), [(V1, 3), (V2, 2), ("", 0), ("oom_kill_disable 1\nunder_oom 0\n", 0)])
def test_kills_are_read_from_either_version(text: str, kills: int) -> None:
    assert memory_kills(text) == kills


def test_cpu_time_is_read_from_either_version() -> None:
    assert cpu_usage_ns("123456789\n") == 123456789
    assert cpu_usage_ns("usage_usec 1500\nuser_usec 1000\nsystem_usec 500\n") == 1_500_000


@pytest.fixture
def v2(tmp_path: Path) -> Path:
    (tmp_path / "cgroup.controllers").touch()
    (tmp_path / "cgroup.procs").touch()
    return tmp_path


@pytest.fixture
def v1(tmp_path: Path) -> Path:
    for tree in ("memory", "pids", "cpu,cpuacct"):
        (tmp_path / tree).mkdir()
        (tmp_path / tree / "cgroup.procs").touch()
    (tmp_path / "cpu").symlink_to("cpu,cpuacct")
    # Where version 2 is hidden, crun leaves plain folders in place of its groups.
    (tmp_path / "unified").mkdir()
    return tmp_path


def test_kills_of_a_container_on_version_2(v2: Path) -> None:
    (v2 / "hzel/c1").mkdir(parents=True)
    (v2 / "hzel/c1/memory.events").write_text(V2)
    groups = Cgroups("hzel", v2)
    assert groups.memory_kills("c1") == 2
    (v2 / "hzel/c1/cpu.stat").write_text("usage_usec 7\n")
    assert groups.memory_kills("gone") == 0
    assert groups.cpu_usage_ns("c1") == 7000
    assert groups.cpu_usage_ns("gone") is None


def test_kills_of_a_container_on_version_1(v1: Path) -> None:
    (v1 / "memory/hzel/c1").mkdir(parents=True)
    (v1 / "memory/hzel/c1/memory.oom_control").write_text(V1)
    (v1 / "cpuacct").symlink_to("cpu,cpuacct")
    (v1 / "cpuacct/hzel/c1").mkdir(parents=True)
    (v1 / "cpuacct/hzel/c1/cpuacct.usage").write_text("7\n")
    assert Cgroups("hzel", v1).memory_kills("c1") == 3
    assert Cgroups("hzel", v1).cpu_usage_ns("c1") == 7


@pytest.mark.parametrize(
    ("version", "path", "frozen", "thawed"),
    [("v1", "freezer/hzel/c1/freezer.state", "FREEZING\n", "THAWED"), ("v2", "hzel/c1/cgroup.freeze", "1\n", "0")],
)
def test_what_is_frozen_is_told_to_go_on(
    request: pytest.FixtureRequest, version: str, path: str, frozen: str, thawed: str
) -> None:
    root: Path = request.getfixturevalue(version)
    state = root / path
    state.parent.mkdir(parents=True)
    state.write_text(frozen)
    groups = Cgroups("hzel", root)
    assert groups.is_frozen("c1")
    groups.thaw("c1")
    assert state.read_text() == thawed
    assert not groups.is_frozen("c1")
    assert not groups.is_frozen("gone")
    groups.thaw("gone")


def test_groups_are_found_and_removed_in_every_tree_and_nobody_elses(v1: Path) -> None:
    for tree in ("memory", "pids", "cpu,cpuacct"):
        (v1 / tree / "hzel/c1/inner/most").mkdir(parents=True)
        (v1 / tree / "hzel/c2").mkdir()
        (v1 / tree / "other/c1").mkdir(parents=True)
    (v1 / "unified/hzel/c1").mkdir(parents=True)
    (v1 / "unified/hzel/c1/cgroup.freeze").write_text("0")
    groups = Cgroups("hzel", v1)
    assert groups.container_ids() == {"c1", "c2"}
    groups.remove("c1")
    assert groups.container_ids() == {"c2"}
    assert not list(v1.glob("*/hzel/c1"))
    assert len(list(v1.glob("*/other/c1"))) == 4  # the link counts its tree twice
    groups.remove("c1")


def test_the_parent_goes_when_it_is_empty(v2: Path) -> None:
    (v2 / "hzel/c1").mkdir(parents=True)
    groups = Cgroups("hzel", v2)
    with pytest.raises(OSError, match="not empty"):
        groups.remove_parent()
    groups.remove("c1")
    groups.remove_parent()
    assert not (v2 / "hzel").exists()
    assert groups.container_ids() == set()
