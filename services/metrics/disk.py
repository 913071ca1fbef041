"""A container's own disk: how full it is, and what has passed to and from it since it was mounted.

The disk is a block device of the container's alone, so the device's counters are the container's. Control groups
would tell less: they count what passes through several devices more than once, and on version 1 often nothing.
"""

import os
from contextlib import suppress
from pathlib import Path

from services.common import layout
from services.metrics.sample import DiskIo, DiskUse

DEVICES = Path("/sys/dev/block")
SECTOR_BYTES = 512
MOST_BYTES = 4096


class Disk:
    """Holds only its counters open: nothing keeps the disk from being unmounted."""

    def __init__(self, run_dir: Path, container_id: str) -> None:
        mounted = layout.disk_folder(run_dir, container_id)
        # A folder that only the disk has: where that is not mounted, another file system would answer.
        self._folder = mounted / "upper"
        self._counters: int | None = None
        self._before = DiskIo(0, 0)
        with suppress(OSError):
            self._open(layout.disk_io_before(mounted))

    def use(self) -> DiskUse | None:
        """None where it can't be looked at: not mounted here, or broken."""
        try:
            found = os.statvfs(self._folder)
        except OSError:
            return None
        total = found.f_blocks * found.f_frsize
        return DiskUse(used=total - found.f_bfree * found.f_frsize, limit=total)

    def io(self) -> DiskIo | None:
        """None where it can't be looked at."""
        if self._counters is None:
            return None
        try:
            now = parse(os.pread(self._counters, MOST_BYTES, 0))
        except OSError:
            return None
        return DiskIo(now.read - self._before.read, now.written - self._before.written)

    def close(self) -> None:
        if self._counters is not None:
            os.close(self._counters)
            self._counters = None

    def _open(self, before: Path) -> None:
        device = self._folder.stat().st_dev
        # What the device counted for others that had it before.
        self._before = parse(before.read_bytes())
        path = DEVICES / f"{os.major(device)}:{os.minor(device)}/stat"
        self._counters = os.open(path, os.O_RDONLY | os.O_CLOEXEC)


def parse(text: bytes) -> DiskIo:
    """A block device's `stat` in sysfs: the third and the seventh figure are sectors read and written."""
    figures = text.split()
    return DiskIo(read=int(figures[2]) * SECTOR_BYTES, written=int(figures[6]) * SECTOR_BYTES)
