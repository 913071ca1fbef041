"""One container on this node: everything that has to be there for it to run, made and taken away.

Each step of `take_down` may find its part missing: it is called after every failure, at every point.
"""

import asyncio
import os
import signal
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from services.common.containerd.containers import ContainerRecord, Containers
from services.common.containerd.images import Image, Images, full_name
from services.common.containerd.spec import DEFAULT_PATH, SpecInput, container_spec, environment
from services.common.containerd.tasks import Tasks, TaskStatus
from services.lifecycle import confirmation, entrypoint, hostname
from services.lifecycle.cgroups import Cgroups
from services.lifecycle.container import Container
from services.lifecycle.disk import Disks
from services.lifecycle.logs.logs import Logs
from services.lifecycle.network import Link, Network, resolv_conf
from services.lifecycle.rootfs import RootFilesystems

MIB = 1024**2
LABEL_OWNER = "hzel.user_id"
KILL_CONFIRMED_WITHIN_S = 20.0


class ImageMissing(Exception):
    pass


class ImageUnsupported(Exception):
    pass


@dataclass(frozen=True)
class NodeFiles:
    """What is the same for every container; `dns` overrides the host's resolvers where it is not empty."""

    init: Path
    seccomp: Mapping[str, object]
    annotations: Mapping[str, str]  # for crun alone
    dns: tuple[str, ...]
    pids_limit: int
    open_files_limit: int


@dataclass(frozen=True)
class Node:
    """The parts of the node a runner works with."""

    images: Images
    containers: Containers
    tasks: Tasks
    disks: Disks
    filesystems: RootFilesystems
    network: Network
    cgroups: Cgroups
    logs: Logs
    files: NodeFiles


class Runner:
    def __init__(self, node: Node) -> None:
        self._node = node

    async def find_image(self, reference: str) -> Image | None:
        return await self._node.images.get(full_name(reference))

    async def bring_up(self, container: Container) -> int:
        """Starts it from its row alone; returns PID 1's pid once what it runs has been executed.

        Raises ImageMissing, ImageUnsupported, EntrypointMissing, StartedNothing, OSError, NetworkError or
        ContainerdError; the caller then takes down what was made.
        """
        node = self._node
        image = container.image
        if image is None:
            raise ImageMissing(container.wanted.image)
        if container.started_at is None or not node.disks.exists(container.id):
            await node.disks.create(container.id, container.wanted.disk_gb)
        layers = await node.images.layers(image)
        root = await node.filesystems.mount(container.id, layers, container.id_base)
        spec = await asyncio.to_thread(self._specification, container, image, root)
        await node.containers.put(
            ContainerRecord(
                id=container.id,
                image=image.name,
                snapshot_key=image.chain_id,
                spec=container_spec(spec),
                labels={LABEL_OWNER: container.user_id},
            )
        )
        output = await node.logs.open(container.id)
        uid, gid = _numeric_user(image.user)
        owner = (container.id_base + uid, container.id_base + gid)
        pid = await node.tasks.create(container.id, container.wanted.runtime, output, owner)
        await node.network.attach(self.link(container), pid)
        await node.tasks.start(container.id)
        await confirmation.wait_until_executed(pid)
        return pid

    async def take_down(self, container: Container) -> None:
        """Ends its task and takes away everything but the disk and the record that pins the image."""
        await self.end_task(container.id)
        # Both are waits for the kernel.
        detached = asyncio.create_task(self._node.network.detach(self.link(container)))
        try:
            await self._node.filesystems.unmount(container.id)
        finally:
            await detached
        self._node.cgroups.remove(container.id)

    async def destroy(self, container: Container) -> None:
        """Takes it down and leaves nothing of it on the node."""
        await self.take_down(container)
        await self._node.containers.delete(container.id)
        await self._node.logs.remove(container.id)
        self._node.disks.remove(container.id)

    async def sweep(self, container_id: str) -> None:
        """Removes what the node has of a container that has no row: its address and number are unknown."""
        node = self._node
        await self.end_task(container_id)
        await node.filesystems.unmount(container_id)
        node.cgroups.remove(container_id)
        await node.containers.delete(container_id)
        await node.logs.remove(container_id)
        node.disks.remove(container_id)

    async def end_task(self, container_id: str) -> None:
        """Kills the task if there is one, takes in what it wrote last, and deletes it."""
        # A frozen process does not even die everywhere: on version 1 of control groups it has to go on for that.
        self._node.cgroups.thaw(container_id)
        task = await self._node.tasks.get(container_id)
        if task is None:
            await self._node.logs.finish(container_id)
            return
        if task.status is TaskStatus.PAUSED:
            await self._node.tasks.resume(container_id)
        if task.status is not TaskStatus.STOPPED:
            await self._node.tasks.kill(container_id, signal.SIGKILL, everything=True)
            async with asyncio.timeout(KILL_CONFIRMED_WITHIN_S):
                await self._node.tasks.wait(container_id)
        # The shim drops what it has not passed on.
        await self._node.logs.finish(container_id)
        await self._node.tasks.delete(container_id)

    async def rename(self, container: Container) -> None:
        """Gives one that runs the name in its row, where it has another. Raises ContainerdError or OSError."""
        pid = await self._pid(container.id)
        if pid is None:
            return
        with hostname.uts_namespace(pid) as namespace:
            if await self._pid(container.id) != pid:
                return  # it has ended, and the number may have been somebody else's when it was looked up
            before = await asyncio.to_thread(hostname.host_name, namespace)
            name = container.wanted.name
            if before == name:
                return
            # The namespace at last: as long as it has the old name, there is something left to do.
            files = self._node.filesystems.files(container.id)
            await asyncio.to_thread(hostname.rename_files, files, container.ip_address, before, name)
            await asyncio.to_thread(hostname.set_host_name, namespace, name)

    async def _pid(self, container_id: str) -> int | None:
        task = await self._node.tasks.get(container_id)
        return task.pid if task is not None and task.status is not TaskStatus.STOPPED else None

    def link(self, container: Container) -> Link:
        return self._node.network.link(container.id, container.ip_address)

    def _specification(self, container: Container, image: Image, root: Path) -> SpecInput:
        wanted, files = container.wanted, self._node.files
        run = entrypoint.arguments(image, wanted.command)
        env = environment(image.env, wanted.env, wanted.name)
        search = dict(entry.split("=", 1) for entry in env).get("PATH", DEFAULT_PATH)
        entrypoint.check_executable(root, run[0], search, image.working_dir)
        uid, gid = _numeric_user(image.user)
        return SpecInput(
            root=root,
            files=self._write_files(container),
            init=files.init,
            hostname=wanted.name,
            arguments=run,
            env=env,
            working_dir=image.working_dir,
            uid=uid,
            gid=gid,
            id_base=container.id_base,
            cpu_cores=wanted.cpu_cores,
            memory_bytes=wanted.memory_mb * MIB,
            pids_limit=files.pids_limit,
            open_files_limit=files.open_files_limit,
            cgroup=self._node.cgroups.path(container.id),
            seccomp=files.seccomp,
            annotations=files.annotations if wanted.runtime == "crun" else {},
        )

    def _write_files(self, container: Container) -> dict[str, Path]:
        """The three files of /etc that are the container's own; root inside may edit them.

        They lie on its disk, beside the root filesystem: what is written to them counts there.
        """
        name = container.wanted.name
        texts = {
            "hostname": f"{name}\n",
            "hosts": f"127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n{container.ip_address} {name}\n",
            "resolv.conf": _resolv_conf(self._node.files.dns),
        }
        folder = self._node.filesystems.files(container.id)
        folder.mkdir(mode=0o700, exist_ok=True)
        written = {}
        for file_name, text in texts.items():
            path = folder / file_name
            path.unlink(missing_ok=True)
            path.write_text(text)
            os.chown(path, container.id_base, container.id_base)
            written[f"/etc/{file_name}"] = path
        return written


def _resolv_conf(override: tuple[str, ...]) -> str:
    host, systemd = Path("/etc/resolv.conf"), Path("/run/systemd/resolve/resolv.conf")
    return resolv_conf(
        host.read_text() if host.exists() else "", systemd.read_text() if systemd.exists() else None, override
    )


def _numeric_user(user: str) -> tuple[int, int]:
    """`uid[:gid]` of an image's configuration; empty is root."""
    uid, _, gid = (user or "0").partition(":")
    names = {"root": "0"}
    uid, gid = names.get(uid, uid), names.get(gid, gid or "0")
    if not (uid.isdecimal() and gid.isdecimal() and int(uid) < 65536 and int(gid) < 65536):
        raise ImageUnsupported(f"the image runs as {user!r}, and only numeric users are supported")
    return int(uid), int(gid)
