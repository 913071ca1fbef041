"""Puts the node's parts together, and chooses once what the node keeps: its subnet and its host ids."""

import base64
import json
import os
import platform
import resource
from collections.abc import Mapping
from ipaddress import IPv4Network
from pathlib import Path

import structlog

from services.common import layout
from services.common.containerd.connection import Connection
from services.common.containerd.containers import Containers
from services.common.containerd.images import Images
from services.common.containerd.seccomp import oci_seccomp
from services.common.containerd.seccomp_bpf import SeccompError, compile_filter
from services.common.containerd.spec import CAPABILITIES
from services.common.containerd.tasks import Tasks
from services.common.settings import Settings
from services.lifecycle.cgroups import Cgroups
from services.lifecycle.disk import Disks
from services.lifecycle.logs.logs import Logs
from services.lifecycle.logs.writer import Limits
from services.lifecycle.network import Network, pick_subnet, used_networks
from services.lifecycle.numbering import IDS_PER_NODE, Numbering
from services.lifecycle.rootfs import RootFilesystems
from services.lifecycle.runner import MIB, Node, NodeFiles
from services.lifecycle.store import Store

log = structlog.get_logger(__name__)

OPEN_FILES_LIMIT = 524288
CRUN_SECCOMP_PROGRAM = "run.oci.seccomp_bpf_data"


async def choose_numbering(store: Store, settings: Settings) -> Numbering:
    """What was chosen at the first start; an explicit HZEL_SUBNET goes before it."""
    chosen = await store.choices()
    if chosen is None:
        index, subnet = pick_subnet(settings.instance, await used_networks())
        chosen = (IPv4Network(settings.subnet) if settings.subnet else subnet, (index + 1) * IDS_PER_NODE)
        await store.choose(*chosen)
        log.info("node_chose", subnet=str(chosen[0]), first_host_id=chosen[1])
    elif settings.subnet and IPv4Network(settings.subnet) != chosen[0]:
        chosen = (IPv4Network(settings.subnet), chosen[1])
        await store.choose(*chosen)
    return Numbering(*chosen)


def build_node(settings: Settings, connection: Connection, subnet: IPv4Network) -> Node:
    disks = Disks(settings.state_dir / "disks", settings.state_dir / "disk-templates")
    seccomp = _seccomp(settings.seccomp_profile)
    return Node(
        images=Images(connection),
        containers=Containers(connection),
        tasks=Tasks(connection, settings.run_dir / "runtime"),
        disks=disks,
        filesystems=RootFilesystems(layout.containers_folder(settings.run_dir), disks),
        network=Network(settings.instance, subnet),
        cgroups=Cgroups(settings.instance),
        logs=Logs(
            settings.state_dir / "container-logs",
            settings.run_dir / "logs",
            settings.keeper_socket,
            Limits(settings.container_log_file_mb * MIB, settings.container_log_files),
        ),
        files=NodeFiles(
            init=settings.init_path,
            seccomp=seccomp,
            annotations=_compiled(seccomp),
            dns=settings.dns,
            pids_limit=settings.pids_limit,
            # The runtime sets limits inside the user namespace, where none can be raised any more.
            open_files_limit=min(OPEN_FILES_LIMIT, resource.getrlimit(resource.RLIMIT_NOFILE)[1]),
        ),
    )


def _compiled(seccomp: Mapping[str, object]) -> dict[str, str]:
    """What spares crun the compilation. The section itself stays in the specification, for a crun that ignores this."""
    try:
        return {CRUN_SECCOMP_PROGRAM: base64.b64encode(compile_filter(seccomp)).decode()}
    except SeccompError as error:
        log.warning("seccomp_not_compiled", error=str(error))
        return {}


def _seccomp(profile: Path) -> dict[str, object]:
    major, minor = os.uname().release.split(".")[:2]
    return oci_seccomp(json.loads(profile.read_text()), platform.machine(), CAPABILITIES, (int(major), int(minor)))
