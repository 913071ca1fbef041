"""The OCI runtime specification of a container (pure)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

# Docker's default set.
CAPABILITIES = tuple(
    f"CAP_{name}"
    for name in (
        "CHOWN DAC_OVERRIDE FSETID FOWNER MKNOD NET_RAW SETGID SETUID SETFCAP SETPCAP NET_BIND_SERVICE "
        "SYS_CHROOT KILL AUDIT_WRITE"
    ).split()
)
IDS_PER_CONTAINER = 65536
INIT_IN_CONTAINER = "/dev/.init"
# A host without memory ends a container's process before its own; containerd's protection is not inherited.
OOM_SCORE_ADJ = 100
CPU_PERIOD_US = 100_000
DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

_MASKED = (
    "/proc/acpi",
    "/proc/asound",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/interrupts",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
)
_READ_ONLY = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")
# null, zero, full, random, urandom, tty, ptmx and the ptys: what the runtime makes in /dev.
_DEVICES = ((1, 3), (1, 5), (1, 7), (1, 8), (1, 9), (5, 0), (5, 2), (136, None))


@dataclass(frozen=True)
class User:
    """Ids inside the container."""

    uid: int
    gid: int
    groups: tuple[int, ...] = ()


@dataclass(frozen=True)
class SpecInput:
    """What a specification depends on. Paths are on the host; memory is bytes; ids are the host's."""

    root: Path
    files: Mapping[str, Path]  # path inside → file on the host, bind-mounted
    init: Path
    hostname: str
    arguments: Sequence[str]
    env: Sequence[str]
    working_dir: str
    uid: int
    gid: int
    id_base: int
    cpu_cores: int
    memory_bytes: int
    pids_limit: int
    open_files_limit: int
    cgroup: str
    seccomp: Mapping[str, object]
    annotations: Mapping[str, str]


def container_spec(given: SpecInput) -> dict[str, object]:
    """The whole document. PID 1 is the init, which runs `arguments` and reaps what they leave behind."""
    mapping = [{"containerID": 0, "hostID": given.id_base, "size": IDS_PER_CONTAINER}]
    return {
        "ociVersion": "1.0.2",
        "root": {"path": str(given.root), "readonly": False},
        "hostname": given.hostname,
        "annotations": dict(given.annotations),
        "process": {
            "terminal": False,
            "user": {"uid": given.uid, "gid": given.gid, "umask": 0o022},
            "args": [INIT_IN_CONTAINER, "--", *given.arguments],
            "env": list(given.env),
            "cwd": given.working_dir,
            "capabilities": capabilities(given.uid),
            "rlimits": [_open_files(given.open_files_limit)],
            "noNewPrivileges": False,
            "oomScoreAdj": OOM_SCORE_ADJ,
        },
        "mounts": [*_mounts(), *_bind_mounts(given)],
        "linux": {
            "namespaces": [{"type": kind} for kind in ("pid", "ipc", "uts", "mount", "network", "user", "cgroup")],
            "uidMappings": mapping,
            "gidMappings": mapping,
            "cgroupsPath": given.cgroup,
            "resources": _resources(given),
            "seccomp": given.seccomp,
            "maskedPaths": list(_MASKED),
            "readonlyPaths": list(_READ_ONLY),
            "sysctl": {"net.ipv4.ping_group_range": "0 65535"},
        },
    }


def process_spec(
    arguments: Sequence[str], env: Sequence[str], working_dir: str, user: User, open_files_limit: int, terminal: bool
) -> dict[str, object]:
    """The `process` of an exec. The container's seccomp filter applies to it as well."""
    return {
        "terminal": terminal,
        "user": {"uid": user.uid, "gid": user.gid, "additionalGids": list(user.groups), "umask": 0o022},
        "args": list(arguments),
        "env": list(env),
        "cwd": working_dir,
        "capabilities": capabilities(user.uid),
        "rlimits": [_open_files(open_files_limit)],
        "noNewPrivileges": False,
        "oomScoreAdj": OOM_SCORE_ADJ,
    }


def capabilities(uid: int) -> dict[str, list[str]]:
    """Root has the default set; another user only what a set-uid program gains, from the bounding set."""
    held = list(CAPABILITIES) if uid == 0 else []
    return {"bounding": list(CAPABILITIES), "permitted": held, "effective": held}


def environment(image: Sequence[str], asked: Mapping[str, str], hostname: str) -> list[str]:
    """The image's variables under the owner's, with PATH, HOME and HOSTNAME where neither sets them."""
    merged = {"PATH": DEFAULT_PATH, "HOME": "/root", "HOSTNAME": hostname}
    merged |= dict(entry.split("=", 1) for entry in image if "=" in entry)
    merged |= asked
    return [f"{name}={value}" for name, value in merged.items()]


def _open_files(most: int) -> dict[str, object]:
    return {"type": "RLIMIT_NOFILE", "soft": min(1024, most), "hard": most}


def _mounts() -> list[dict[str, object]]:
    def mount(target: str, kind: str, source: str, *options: str) -> dict[str, object]:
        return {"destination": target, "type": kind, "source": source, "options": list(options)}

    return [
        mount("/proc", "proc", "proc", "nosuid", "noexec", "nodev"),
        mount("/dev", "tmpfs", "tmpfs", "nosuid", "strictatime", "mode=755", "size=65536k"),
        mount("/dev/pts", "devpts", "devpts", "nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=620", "gid=5"),
        mount("/dev/shm", "tmpfs", "shm", "nosuid", "noexec", "nodev", "mode=1777", "size=65536k"),
        mount("/dev/mqueue", "mqueue", "mqueue", "nosuid", "noexec", "nodev"),
        mount("/sys", "sysfs", "sysfs", "nosuid", "noexec", "nodev", "ro"),
        mount("/sys/fs/cgroup", "cgroup", "cgroup", "nosuid", "noexec", "nodev", "ro"),
    ]


def _bind_mounts(given: SpecInput) -> list[dict[str, object]]:
    binds: list[dict[str, object]] = [
        {"destination": target, "type": "bind", "source": str(source), "options": ["bind", "rprivate"]}
        for target, source in given.files.items()
    ]
    init: dict[str, object] = {
        "destination": INIT_IN_CONTAINER,
        "type": "bind",
        "source": str(given.init),
        "options": ["bind", "ro", "nosuid", "nodev"],
    }
    return [*binds, init]


def _resources(given: SpecInput) -> dict[str, object]:
    allowed = [
        {"allow": True, "type": "c", "major": major, **({} if minor is None else {"minor": minor}), "access": "rwm"}
        for major, minor in _DEVICES
    ]
    make_any = [{"allow": True, "type": kind, "access": "m"} for kind in ("c", "b")]
    return {
        "devices": [{"allow": False, "access": "rwm"}, *make_any, *allowed],
        "cpu": {"quota": given.cpu_cores * CPU_PERIOD_US, "period": CPU_PERIOD_US},
        # OCI counts memory and swap together: the same number means no swap.
        "memory": {"limit": given.memory_bytes, "swap": given.memory_bytes},
        "pids": {"limit": given.pids_limit},
    }
