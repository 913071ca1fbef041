"""Where a container's parts are on its node (pure): names that lifecycle gives and others find them by."""

import uuid
from pathlib import Path


def cgroup_parent(instance: str) -> str:
    """The control group above those of the containers, as a path below the root of each tree."""
    return f"/{instance}"


def cgroup(instance: str, container_id: str) -> str:
    """The group of a container, as the runtime specification names it."""
    return f"{cgroup_parent(instance)}/{container_id}"


def link_name(instance: str, container_id: str) -> str:
    """The host's end of the link of the container with this id, a UUID of version 7 (its last 48 bits are random)."""
    return f"{instance[:2]}{uuid.UUID(container_id).hex[-12:]}"


def containers_folder(run_dir: Path) -> Path:
    """A folder for each container that runs, with its mounts: its disk, and the root filesystem over it."""
    return run_dir / "containers"


def disk_folder(run_dir: Path, container_id: str) -> Path:
    """Where a container's disk is mounted; what the container wrote is below `upper`."""
    return containers_folder(run_dir) / container_id / "disk"


def disk_io_before(disk: Path) -> Path:
    """A file beside a mounted disk: what its block device had counted when it became the container's."""
    return disk.with_name("disk-io-before")
