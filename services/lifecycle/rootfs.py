"""A container's root filesystem: its image's layers with shifted owners below, its own disk on top."""

import asyncio
import errno
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from services.lifecycle.disk import Disks
from services.lifecycle.mounts import bind_idmapped, mount, mount_points_below, unmount
from services.lifecycle.user_namespace import user_namespace


class RootFilesystems:
    """Mounts and unmounts them below one folder, a subfolder for each container."""

    def __init__(self, folder: Path, disks: Disks) -> None:
        self._folder = folder
        self._disks = disks

    def folder(self, container_id: str) -> Path:
        """Where a container's mounts and small files are while it runs."""
        return self._folder / container_id

    def root(self, container_id: str) -> Path:
        return self.folder(container_id) / "rootfs"

    def files(self, container_id: str) -> Path:
        """A folder on the container's disk that is not part of its root filesystem."""
        return self.folder(container_id) / "disk/files"

    async def mount(self, container_id: str, layers: Sequence[Path], id_base: int) -> Path:
        """Mounts the root filesystem over the container's disk, which exists; returns its path.

        Whoever calls this calls `unmount` later, also when it raises.
        """
        folder = self.folder(container_id)
        for name in ("disk", "rootfs", *(f"lower/{number}" for number in range(len(layers)))):
            (folder / name).mkdir(parents=True, exist_ok=True)
        disk = asyncio.create_task(self._disks.mount(container_id, folder / "disk"))
        try:
            async with user_namespace(id_base) as namespace:
                await asyncio.to_thread(_mount_layers, layers, folder, namespace)
        finally:
            await disk
        await asyncio.to_thread(_mount_overlay, len(layers), folder, id_base)
        return folder / "rootfs"

    async def unmount(self, container_id: str) -> None:
        """Takes down all that `mount` made, as far as it came, and the folder."""
        await asyncio.to_thread(_take_down, self.folder(container_id))

    def container_ids(self) -> set[str]:
        """Of every folder there is, mounted or not."""
        return {entry.name for entry in self._folder.iterdir()} if self._folder.exists() else set()


def _mount_layers(layers: Sequence[Path], folder: Path, namespace: int) -> None:
    for number, layer in enumerate(layers):
        bind_idmapped(layer, folder / "lower" / str(number), namespace)


def _mount_overlay(layers: int, folder: Path, id_base: int) -> None:
    upper = folder / "disk/upper"
    os.chown(upper, id_base, id_base)
    os.chown(folder / "disk/work", id_base, id_base)
    lower = ":".join(str(folder / "lower" / str(number)) for number in range(layers))
    options = f"lowerdir={lower},upperdir={upper},workdir={folder / 'disk/work'}"
    mount("overlay", folder / "rootfs", "overlay", 0, options)
    # The overlay holds the layers itself now; two mounts a container are enough to look after.
    for number in range(layers):
        unmount(folder / "lower" / str(number))


def _take_down(folder: Path) -> None:
    for point in mount_points_below(folder):
        unmount(point)
    if mount_points_below(folder):
        # Removing the folder now would remove what is in the container.
        raise OSError(errno.EBUSY, "still mounted", str(folder))
    if folder.exists():
        shutil.rmtree(folder)
