"""A container's disk: a sparse ext4 file whose size is the limit, mounted through a loop device."""

import asyncio
import errno
import os
from pathlib import Path

from services.common import layout
from services.lifecycle import loop
from services.lifecycle.mounts import MS_NOATIME, MS_NODEV, mount

GIB = 1024**3
BLOCK_DEVICES = Path("/sys/class/block")
MKFS_TIMEOUT_S = 60.0
PIECE_BYTES = 1 << 20
# No inode tables are written when it is made nor later by the kernel, so that an empty disk costs 0.3 MB.
_MKFS = (
    "mkfs.ext4 -q -F -m 0 -O ^resize_inode -J size=16 -i 16384 -G 64 "
    "-E lazy_itable_init=1,lazy_journal_init=1,nodiscard"
).split()
_MOUNT_OPTIONS = "noinit_itable,errors=remount-ro"


class Disks:
    """Disk files under one folder, each a copy of the template of its size."""

    def __init__(self, folder: Path, templates: Path) -> None:
        self._folder = folder
        self._templates = templates
        self._making = asyncio.Lock()

    def path(self, container_id: str) -> Path:
        return self._folder / f"{container_id}.img"

    async def create(self, container_id: str, size_gb: int) -> None:
        """Makes an empty disk with the folders `upper` and `work`, over one that may be there."""
        template = await self._template(size_gb)
        await asyncio.to_thread(copy_sparse, template, self.path(container_id))

    async def mount(self, container_id: str, target: Path) -> None:
        await asyncio.to_thread(self._mount, container_id, target)

    def exists(self, container_id: str) -> bool:
        return self.path(container_id).exists()

    def remove(self, container_id: str) -> None:
        self.path(container_id).unlink(missing_ok=True)

    def container_ids(self) -> set[str]:
        """Of every disk there is."""
        return {file.stem for file in self._folder.glob("*.img")}

    def _mount(self, container_id: str, target: Path) -> None:
        with loop.attached(self.path(container_id)) as device:
            # For metrics, which tells what passes through the device since it is this container's.
            counted = (BLOCK_DEVICES / Path(device).name / "stat").read_bytes()
            layout.disk_io_before(target).write_bytes(counted)
            mount(device, target, "ext4", MS_NODEV | MS_NOATIME, _MOUNT_OPTIONS)

    async def _template(self, size_gb: int) -> Path:
        path = self._templates / f"ext4-{size_gb}.img"
        async with self._making:
            if not path.exists():
                await self._make_template(path, size_gb)
        return path

    async def _make_template(self, path: Path, size_gb: int) -> None:
        for folder in (self._folder, self._templates / "content/upper", self._templates / "content/work"):
            folder.mkdir(parents=True, exist_ok=True)
        self._folder.chmod(0o700)
        draft = path.with_suffix(".draft")
        draft.unlink(missing_ok=True)
        with draft.open("xb") as file:
            file.truncate(size_gb * GIB)
        command = (*_MKFS, "-d", str(self._templates / "content"), str(draft))
        process = await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.PIPE)
        async with asyncio.timeout(MKFS_TIMEOUT_S):
            _, complaint = await process.communicate()
        if process.returncode != 0:
            draft.unlink()
            raise OSError(f"mkfs.ext4 failed: {complaint.decode(errors='replace').strip()}")
        draft.rename(path)


def copy_sparse(source: Path, target: Path) -> None:
    """Copies the parts of a file that hold data; the holes stay holes."""
    with source.open("rb") as reading, target.open("wb") as writing:
        os.fchmod(writing.fileno(), 0o600)
        size = os.fstat(reading.fileno()).st_size
        writing.truncate(size)
        offset = 0
        while offset < size:
            try:
                start = os.lseek(reading.fileno(), offset, os.SEEK_DATA)
            except OSError:  # ENXIO: only a hole follows
                break
            offset = os.lseek(reading.fileno(), start, os.SEEK_HOLE)
            _copy_range(reading.fileno(), writing.fileno(), start, offset)


def _copy_range(source: int, target: int, start: int, end: int) -> None:
    while start < end:
        try:
            copied = os.copy_file_range(source, target, end - start, start, start)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            # The two folders lie on different file systems.
            copied = os.pwrite(target, os.pread(source, min(end - start, PIECE_BYTES), start), start)
        if copied == 0:
            raise OSError("the disk template became shorter while it was copied")
        start += copied
