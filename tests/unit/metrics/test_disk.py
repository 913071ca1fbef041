"""A disk's counters, and a disk that is not there."""

from pathlib import Path

from services.metrics.disk import Disk, parse
from services.metrics.sample import DiskIo


def test_sectors_are_bytes() -> None:
    recorded = (
        b"    1131        0     8588      435     3725     2296  4023824   310774        0    13552   312553        0\n"
    )
    assert parse(recorded) == DiskIo(8588 * 512, 4023824 * 512)


def test_a_disk_that_is_not_mounted_has_no_figures(tmp_path: Path) -> None:
    (tmp_path / "containers/c/disk").mkdir(parents=True)
    for container_id in ("c", "nobody"):
        disk = Disk(tmp_path, container_id)
        assert disk.use() is None, "nor those of the file system it would be mounted on"
        assert disk.io() is None
        disk.close()
