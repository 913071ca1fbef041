"""Mount points as the kernel lists them."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from services.lifecycle.mounts import mount, mount_points_below, parse_mount_points, unmount

LINE = "{id} 21 0:{id} / {point} rw,relatime shared:1 - ext4 /dev/loop0 rw\n"


def table(*points: str) -> str:
    return "".join(LINE.format(id=number, point=point) for number, point in enumerate(points, 30))


def test_what_is_at_or_below_a_folder_innermost_first() -> None:
    text = table("/", "/run/a", "/run/a/disk", "/run/a/rootfs", "/run/ab", "/run")
    assert parse_mount_points(text, Path("/run/a")) == [Path("/run/a/rootfs"), Path("/run/a/disk"), Path("/run/a")]


def test_a_mount_over_another_is_listed_twice() -> None:
    assert parse_mount_points(table("/run/a", "/run/a"), Path("/run/a")) == [Path("/run/a")] * 2


def test_spaces_and_backslashes_are_written_as_octal_numbers() -> None:
    text = table(r"/run/a/with\040space", r"/run/a/with\134backslash", r"/run/a/tab\011")
    found = parse_mount_points(text, Path("/run/a"))
    assert found == [Path("/run/a/tab\t"), Path("/run/a/with\\backslash"), Path("/run/a/with space")]


def test_optional_fields_may_be_missing_or_many() -> None:
    text = "30 21 0:5 / /run/a rw - tmpfs tmpfs rw\n31 21 0:6 / /run/a/b rw shared:1 master:2 - tmpfs tmpfs rw\n"
    assert len(parse_mount_points(text, Path("/run/a"))) == 2


def test_nothing_mounted_is_nothing() -> None:
    assert parse_mount_points("", Path("/run/a")) == []


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    made = tmp_path / "with space é"
    made.mkdir()
    yield made
    subprocess.run(["umount", "--recursive", str(made)], capture_output=True, check=False)


@pytest.mark.skipif(os.getuid() != 0, reason="needs root")
def test_real_mounts_are_found_and_taken_away(folder: Path) -> None:
    mount("tmpfs", folder, "tmpfs", 0, "size=64k")
    (folder / "inner").mkdir()
    mount("tmpfs", folder / "inner", "tmpfs", 0, "size=64k")
    found = mount_points_below(folder)
    assert len(found) == 2
    for point in found:
        unmount(point)
    assert mount_points_below(folder) == []


@pytest.mark.skipif(os.getuid() != 0, reason="needs root")
def test_what_is_not_mounted_or_not_there_is_no_error(folder: Path) -> None:
    unmount(folder)
    unmount(folder / "gone")


@pytest.mark.skipif(os.getuid() != 0, reason="needs root")
def test_a_mount_that_is_in_use_goes_all_the_same(folder: Path) -> None:
    mount("tmpfs", folder, "tmpfs", 0, "size=64k")
    with (folder / "open").open("w") as file:
        unmount(folder)
        file.write("still there")
    assert mount_points_below(folder) == []


@pytest.mark.skipif(os.getuid() != 0, reason="needs root")
def test_what_the_kernel_refuses_names_the_target(folder: Path) -> None:
    with pytest.raises(OSError, match="space") as caught:
        mount("none", folder, "nosuchfs", 0, "")
    assert caught.value.filename == str(folder)
