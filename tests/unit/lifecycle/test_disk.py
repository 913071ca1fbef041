"""Sparse files copied, and disks made from their template."""

import asyncio
import os
import subprocess
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services.lifecycle.disk import GIB, Disks, _copy_range, copy_sparse

BLOCK = 4096
SHARED = Path("/dev/shm")


def allocated(path: Path) -> int:
    return path.stat().st_blocks * 512


def written(path: Path, size: int, parts: dict[int, bytes]) -> Path:
    with path.open("wb") as file:
        file.truncate(size)
        for offset, data in parts.items():
            file.seek(offset)
            file.write(data)
    return path


@given(
    blocks=st.integers(0, 200),
    parts=st.dictionaries(st.integers(0, 199), st.integers(1, 3 * BLOCK), max_size=6),
    rest=st.integers(0, BLOCK - 1),
)
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_a_copy_has_every_byte(tmp_path: Path, blocks: int, parts: dict[int, int], rest: int) -> None:
    size = blocks * BLOCK + rest
    data = {block * BLOCK: os.urandom(length) for block, length in parts.items() if block * BLOCK + length <= size}
    source = written(tmp_path / "source", size, data)
    copy_sparse(source, tmp_path / "target")
    assert (tmp_path / "target").read_bytes() == source.read_bytes()


def test_holes_stay_holes(tmp_path: Path) -> None:
    source = written(tmp_path / "source", GIB, {0: b"a" * BLOCK, 500 * BLOCK: b"b" * BLOCK, GIB - BLOCK: b"c" * BLOCK})
    copy_sparse(source, tmp_path / "target")
    assert (tmp_path / "target").stat().st_size == GIB
    assert allocated(tmp_path / "target") <= allocated(source) + 64 * 1024


def test_a_file_that_is_one_hole_is_copied_as_one(tmp_path: Path) -> None:
    copy_sparse(written(tmp_path / "source", GIB, {}), tmp_path / "target")
    assert (tmp_path / "target").stat().st_size == GIB
    assert allocated(tmp_path / "target") == 0


def test_what_was_there_is_gone_and_only_its_owner_reads_it(tmp_path: Path) -> None:
    (tmp_path / "target").write_bytes(b"of the one before" * 100)
    (tmp_path / "target").chmod(0o644)
    copy_sparse(written(tmp_path / "source", 10, {0: b"new"}), tmp_path / "target")
    assert (tmp_path / "target").read_bytes() == b"new" + bytes(7)
    assert (tmp_path / "target").stat().st_mode & 0o777 == 0o600


@pytest.mark.skipif(not SHARED.is_dir(), reason="there is no other file system")
def test_a_copy_to_another_file_system_has_every_byte(tmp_path: Path) -> None:
    source = written(tmp_path / "source", 5 * 1024**2, {BLOCK: os.urandom(3 * 1024**2)})
    target = SHARED / f"hzel-test-{os.getpid()}"
    try:
        copy_sparse(source, target)
        assert target.read_bytes() == source.read_bytes()
    finally:
        target.unlink()


def test_a_source_that_becomes_shorter_is_an_error_and_no_endless_loop(tmp_path: Path) -> None:
    source = written(tmp_path / "source", BLOCK, {0: b"x" * BLOCK})
    with (
        source.open("rb") as reading,
        (tmp_path / "target").open("wb") as writing,
        pytest.raises(OSError, match="shorter"),
    ):
        _copy_range(reading.fileno(), writing.fileno(), 0, 2 * BLOCK)


def printed(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@pytest.fixture
def disks(tmp_path: Path) -> Disks:
    return Disks(tmp_path / "disks", tmp_path / "templates")


async def test_a_disk_is_a_file_system_of_its_size_that_costs_little(disks: Disks) -> None:
    await disks.create("c1", 2)
    path = disks.path("c1")
    assert path.stat().st_size == 2 * GIB
    assert allocated(path) < 2 * 1024**2
    await asyncio.to_thread(printed, "e2fsck", "-fn", str(path))
    listing = await asyncio.to_thread(printed, "debugfs", "-R", "ls -p /", str(path))
    assert {"upper", "work"} <= set(listing.split("/"))


async def test_disks_that_are_made_at_the_same_time_share_one_template(disks: Disks, tmp_path: Path) -> None:
    await asyncio.gather(*(disks.create(f"c{number}", 1) for number in range(4)))
    assert disks.container_ids() == {"c0", "c1", "c2", "c3"}
    assert [file.name for file in (tmp_path / "templates").glob("*.img")] == ["ext4-1.img"]
    assert not list((tmp_path / "templates").glob("*.draft"))


async def test_a_draft_that_was_left_is_no_template(disks: Disks, tmp_path: Path) -> None:
    (tmp_path / "templates").mkdir()
    (tmp_path / "templates/ext4-1.draft").write_bytes(b"half")
    await disks.create("c1", 1)
    assert disks.path("c1").stat().st_size == GIB


async def test_nobody_but_root_lists_the_disks(disks: Disks, tmp_path: Path) -> None:
    await disks.create("c1", 1)
    assert (tmp_path / "disks").stat().st_mode & 0o777 == 0o700


async def test_a_disk_that_is_removed_is_gone_and_removing_it_again_is_no_error(disks: Disks) -> None:
    await disks.create("c1", 1)
    assert disks.exists("c1")
    for _ in range(2):
        disks.remove("c1")
        assert not disks.exists("c1")
