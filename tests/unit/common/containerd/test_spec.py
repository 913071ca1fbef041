"""The runtime specification of a container and of a process in it."""

from pathlib import Path
from typing import Any

import pytest

from services.common.containerd.spec import (
    CAPABILITIES,
    CPU_PERIOD_US,
    INIT_IN_CONTAINER,
    SpecInput,
    User,
    container_spec,
    environment,
    process_spec,
)

MIB = 1024**2


def spec(**changes: Any) -> dict[str, Any]:
    given: dict[str, Any] = {
        "root": Path("/run/x/rootfs"),
        "files": {"/etc/hosts": Path("/run/x/files/hosts")},
        "init": Path("/usr/bin/tini-static"),
        "hostname": "box",
        "arguments": ("sleep", "infinity"),
        "env": ["PATH=/bin"],
        "working_dir": "/",
        "uid": 0,
        "gid": 0,
        "id_base": 1 << 28,
        "cpu_cores": 2,
        "memory_bytes": 64 * MIB,
        "pids_limit": 100,
        "open_files_limit": 524288,
        "cgroup": "/hzel/x",
        "seccomp": {"defaultAction": "SCMP_ACT_ERRNO"},
        "annotations": {},
    }
    return container_spec(SpecInput(**given | changes))


def test_the_init_is_pid_1_and_runs_what_was_asked_for() -> None:
    assert spec()["process"]["args"] == [INIT_IN_CONTAINER, "--", "sleep", "infinity"]


def test_an_argument_that_looks_like_an_option_is_none_of_the_inits() -> None:
    assert spec(arguments=("-s", "x"))["process"]["args"] == [INIT_IN_CONTAINER, "--", "-s", "x"]


def test_both_kinds_of_ids_are_mapped_to_the_containers_own_range() -> None:
    linux = spec()["linux"]
    assert linux["uidMappings"] == [{"containerID": 0, "hostID": 1 << 28, "size": 65536}]
    assert linux["gidMappings"] == linux["uidMappings"]


def test_it_has_namespaces_of_its_own_of_every_kind() -> None:
    namespaces = spec()["linux"]["namespaces"]
    assert {one["type"] for one in namespaces} == {"pid", "ipc", "uts", "mount", "network", "user", "cgroup"}
    assert all("path" not in one for one in namespaces)


def test_the_limits_are_those_asked_for_and_there_is_no_swap() -> None:
    resources = spec()["linux"]["resources"]
    assert resources["memory"] == {"limit": 64 * MIB, "swap": 64 * MIB}
    assert resources["cpu"] == {"quota": 2 * CPU_PERIOD_US, "period": CPU_PERIOD_US}
    assert resources["pids"] == {"limit": 100}


def test_devices_are_denied_but_for_the_harmless_ones() -> None:
    devices = spec()["linux"]["resources"]["devices"]
    assert devices[0] == {"allow": False, "access": "rwm"}
    used = {(rule["major"], rule.get("minor")) for rule in devices if rule["allow"] and "r" in rule["access"]}
    assert used == {(1, 3), (1, 5), (1, 7), (1, 8), (1, 9), (5, 0), (5, 2), (136, None)}
    # Making the node of any device is allowed (mknod in a package's script), using it is not.
    assert all(rule["access"] == "m" for rule in devices if rule["allow"] and "major" not in rule)


@pytest.mark.parametrize("dangerous", ["SYS_ADMIN", "SYS_PTRACE", "SYS_MODULE", "NET_ADMIN", "SYS_BOOT", "BPF"])
def test_no_dangerous_capability_is_held(dangerous: str) -> None:
    held = spec()["process"]["capabilities"]
    assert all(f"CAP_{dangerous}" not in kind for kind in held.values())


def test_another_user_than_root_holds_no_capability_but_can_gain_the_default_ones() -> None:
    held = spec(uid=1000, gid=1000)["process"]["capabilities"]
    assert held == {"bounding": list(CAPABILITIES), "permitted": [], "effective": []}


def test_what_tells_of_the_host_is_masked_or_read_only() -> None:
    linux = spec()["linux"]
    assert {"/proc/kcore", "/proc/keys", "/sys/firmware"} <= set(linux["maskedPaths"])
    assert {"/proc/sys", "/proc/sysrq-trigger"} <= set(linux["readonlyPaths"])
    mounts = {mount["destination"]: mount for mount in spec()["mounts"]}
    assert "ro" in mounts["/sys"]["options"]
    assert "ro" in mounts["/sys/fs/cgroup"]["options"]


def test_nothing_of_the_host_is_mounted_but_its_own_files_and_the_init() -> None:
    binds = {mount["destination"]: mount for mount in spec()["mounts"] if mount["type"] == "bind"}
    assert {target: bind["source"] for target, bind in binds.items()} == {
        "/etc/hosts": "/run/x/files/hosts",
        INIT_IN_CONTAINER: "/usr/bin/tini-static",
    }
    assert {"ro", "nosuid", "nodev"} <= set(binds[INIT_IN_CONTAINER]["options"])


def test_its_processes_die_before_the_hosts_when_memory_is_short() -> None:
    assert spec()["process"]["oomScoreAdj"] > 0


def test_a_low_limit_of_open_files_is_no_soft_limit_above_it() -> None:
    assert spec(open_files_limit=512)["process"]["rlimits"] == [{"type": "RLIMIT_NOFILE", "soft": 512, "hard": 512}]


def test_a_process_added_later_is_confined_like_the_first() -> None:
    first, added = spec()["process"], process_spec(["ls"], ["A=1"], "/tmp", User(0, 0), 524288, False)
    for same in ("capabilities", "rlimits", "noNewPrivileges", "oomScoreAdj"):
        assert added[same] == first[same]


def test_a_process_has_its_users_groups() -> None:
    process: dict[str, Any] = process_spec(["ls"], [], "/", User(7, 8, (9, 10)), 1024, True)
    assert process["user"] == {"uid": 7, "gid": 8, "additionalGids": [9, 10], "umask": 0o022}
    assert process["capabilities"]["effective"] == []
    assert process["terminal"] is True


def test_the_owners_variables_go_before_the_images_and_those_before_ours() -> None:
    made = environment(["PATH=/image", "A=image", "B=x=y", "broken"], {"A": "owner", "C": ""}, "box")
    assert dict(entry.split("=", 1) for entry in made) == {
        "PATH": "/image",
        "HOME": "/root",
        "HOSTNAME": "box",
        "A": "owner",
        "B": "x=y",
        "C": "",
    }
