"""From a seccomp profile in Docker's format to the OCI form (pure)."""

from collections.abc import Mapping, Sequence
from typing import Any

ARCHITECTURES = {"x86_64": "SCMP_ARCH_X86_64", "aarch64": "SCMP_ARCH_AARCH64"}
GO_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}

# Docker reserves these to privileged containers; profiles made for rootless engines allow some of them.
# clone3 is not among them: it has to look missing (ENOSYS), so that the C library falls back to clone.
REFUSED = frozenset(
    """
    add_key bpf fanotify_init fsconfig fsmount fsopen fspick keyctl lookup_dcookie mount mount_setattr
    move_mount name_to_handle_at open_tree perf_event_open pivot_root quotactl quotactl_fd request_key
    setdomainname sethostname setns swapoff swapon syslog umount umount2 unshare userfaultfd
    """.split()
)
NAMESPACE_FLAGS = 0x7E020000  # the CLONE_NEW… flags that clone() takes
_EPERM = 1


def oci_seccomp(
    profile: Mapping[str, Any], machine: str, capabilities: Sequence[str], kernel: tuple[int, int]
) -> dict[str, object]:
    """Keeps the entries that apply to this machine, kernel and capability set.

    Nobody makes namespaces or mounts inside a container, whatever the profile says. `machine` is as uname says it;
    `capabilities` with their CAP_ prefix; `kernel` is (major, minor).
    """
    native = ARCHITECTURES[machine]
    families = [entry for entry in profile.get("archMap", ()) if entry["architecture"] == native]
    architectures = [native, *(sub for family in families for sub in family.get("subArchitectures") or ())]
    syscalls = [
        _narrowed(entry)
        for entry in profile["syscalls"]
        if _applies(entry, GO_ARCHITECTURES[machine], set(capabilities), kernel)
    ]
    syscalls = [entry for entry in syscalls if entry["names"]]
    syscalls.append({"names": sorted(REFUSED), "action": "SCMP_ACT_ERRNO", "errnoRet": _EPERM})
    no_namespaces = {"index": 0, "value": NAMESPACE_FLAGS, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ"}
    syscalls.append({"names": ["clone"], "action": "SCMP_ACT_ALLOW", "args": [no_namespaces]})
    result: dict[str, object] = {
        "defaultAction": profile["defaultAction"],
        "architectures": architectures,
        "syscalls": syscalls,
    }
    if "defaultErrnoRet" in profile:
        result["defaultErrnoRet"] = profile["defaultErrnoRet"]
    return result


def _narrowed(entry: Mapping[str, Any]) -> dict[str, object]:
    kept = {key: entry[key] for key in ("action", "args", "errnoRet") if entry.get(key) not in (None, [])}
    return kept | {"names": [name for name in entry["names"] if name not in REFUSED | {"clone", "clone3"}]}


def _applies(entry: Mapping[str, Any], architecture: str, capabilities: set[str], kernel: tuple[int, int]) -> bool:
    includes, excludes = entry.get("includes") or {}, entry.get("excludes") or {}
    if includes.get("arches") and architecture not in includes["arches"]:
        return False
    if includes.get("caps") and not set(includes["caps"]) <= capabilities:
        return False
    if includes.get("minKernel") and kernel < _version(includes["minKernel"]):
        return False
    if architecture in (excludes.get("arches") or ()) or capabilities & set(excludes.get("caps") or ()):
        return False
    return not (excludes.get("minKernel") and kernel >= _version(excludes["minKernel"]))


def _version(text: str) -> tuple[int, int]:
    major, minor = text.split(".")[:2]
    return int(major), int(minor)
