"""The seccomp profile: what of Docker's format applies, and what is taken away from it."""

import json
from pathlib import Path
from typing import Any

import pytest

from services.common.containerd.seccomp import NAMESPACE_FLAGS, REFUSED, oci_seccomp
from services.common.containerd.spec import CAPABILITIES

PROFILE = Path("/usr/share/containers/seccomp.json")
ALLOW, ERRNO = "SCMP_ACT_ALLOW", "SCMP_ACT_ERRNO"


def profile(*entries: dict[str, Any]) -> dict[str, Any]:
    families = [
        {"architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86", "SCMP_ARCH_X32"]},
        {"architecture": "SCMP_ARCH_AARCH64", "subArchitectures": ["SCMP_ARCH_ARM"]},
    ]
    return {"defaultAction": ERRNO, "defaultErrnoRet": 38, "archMap": families, "syscalls": list(entries)}


def entry(*names: str, **more: Any) -> dict[str, Any]:
    return {"names": list(names), "action": ALLOW, **more}


def allowed(section: dict[str, Any]) -> set[str]:
    return {name for one in section["syscalls"] if one["action"] == ALLOW for name in one["names"]}


def narrowed(*entries: dict[str, Any], machine: str = "x86_64", kernel: tuple[int, int] = (6, 1)) -> dict[str, Any]:
    return oci_seccomp(profile(*entries), machine, CAPABILITIES, kernel)


def test_the_default_and_the_machines_architectures_are_kept() -> None:
    section = narrowed(entry("read"))
    assert (section["defaultAction"], section["defaultErrnoRet"]) == (ERRNO, 38)
    assert section["architectures"] == ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"]
    assert narrowed(machine="aarch64")["architectures"] == ["SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"]


@pytest.mark.parametrize(
    ("condition", "applies"),
    [
        ({}, True),
        ({"includes": {"arches": ["amd64"]}}, True),
        ({"includes": {"arches": ["arm64"]}}, False),
        ({"includes": {"caps": ["CAP_CHOWN"]}}, True),
        ({"includes": {"caps": ["CAP_SYS_ADMIN"]}}, False),
        ({"includes": {"caps": ["CAP_CHOWN", "CAP_SYS_ADMIN"]}}, False),
        ({"includes": {"minKernel": "4.8"}}, True),
        ({"includes": {"minKernel": "6.1"}}, True),
        ({"includes": {"minKernel": "6.10"}}, False),
        ({"excludes": {"arches": ["amd64"]}}, False),
        ({"excludes": {"arches": ["s390x"]}}, True),
        ({"excludes": {"caps": ["CAP_SYS_ADMIN"]}}, True),
        ({"excludes": {"caps": ["CAP_CHOWN"]}}, False),
        ({"excludes": {"minKernel": "5.0"}}, False),
        ({"includes": None, "excludes": {}}, True),
    ],
)
def test_an_entry_applies_where_its_conditions_hold(condition: dict[str, Any], applies: bool) -> None:
    assert ("gettid" in allowed(narrowed(entry("gettid", **condition)))) is applies


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_what_is_for_privileged_containers_is_refused_whatever_the_profile_says(name: str) -> None:
    section = narrowed(entry(name, "read"))
    assert name not in allowed(section)
    assert "read" in allowed(section)
    refusing = [one for one in section["syscalls"] if name in one["names"]]
    assert [(one["action"], one["errnoRet"]) for one in refusing] == [(ERRNO, 1)]


def test_clone_makes_no_namespace_whatever_the_profile_says() -> None:
    clones = [one for one in narrowed(entry("clone", "clone3"))["syscalls"] if "clone" in one["names"]]
    assert clones == [
        {
            "names": ["clone"],
            "action": ALLOW,
            "args": [{"index": 0, "value": NAMESPACE_FLAGS, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ"}],
        }
    ]


def test_clone3_looks_missing() -> None:
    section = narrowed(entry("clone3", "read"))
    assert all("clone3" not in one["names"] for one in section["syscalls"])
    assert section["defaultErrnoRet"] == 38


def test_an_entry_of_which_nothing_is_left_is_left_out() -> None:
    assert all(one["names"] for one in narrowed(entry("mount", "setns"))["syscalls"])


def test_arguments_and_errors_of_an_entry_are_kept() -> None:
    args = [{"index": 0, "value": 40, "op": "SCMP_CMP_NE"}]
    kept = narrowed(entry("socket", args=args), {"names": ["ptrace"], "action": ERRNO, "errnoRet": 1, "args": []})
    assert {"names": ["socket"], "action": ALLOW, "args": args} in kept["syscalls"]
    assert {"names": ["ptrace"], "action": ERRNO, "errnoRet": 1} in kept["syscalls"]


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_the_distributions_profile_is_understood(machine: str) -> None:
    section = oci_seccomp(json.loads(PROFILE.read_text()), machine, CAPABILITIES, (6, 1))
    permitted = allowed(section)
    assert {"read", "execve", "clone", "chown", "mknodat", "chroot"} <= permitted
    assert not permitted & REFUSED
    assert not permitted & {"kexec_load", "init_module", "delete_module", "iopl", "clone3", "acct"}
