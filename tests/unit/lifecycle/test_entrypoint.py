"""What a container runs, and whether it is there."""

import dataclasses
import os
from pathlib import Path

import pytest

from services.common.containerd.images import Image
from services.lifecycle.entrypoint import EntrypointMissing, arguments, check_executable
from services.lifecycle.runner import ImageUnsupported, _numeric_user

IMAGE = Image("a:1", "sha256:0", "sha256:0", ("/init", "--"), ("serve", "-p"), (), "/", "")
NO_ENTRYPOINT = dataclasses.replace(IMAGE, entrypoint=())


def test_the_images_entrypoint_runs_its_command() -> None:
    assert arguments(IMAGE, []) == ("/init", "--", "serve", "-p")


def test_the_owners_command_takes_the_place_of_the_images() -> None:
    assert arguments(IMAGE, ["sleep", "1"]) == ("/init", "--", "sleep", "1")
    assert arguments(NO_ENTRYPOINT, ["sleep", "1"]) == ("sleep", "1")


def test_an_entrypoint_alone_is_enough() -> None:
    assert arguments(dataclasses.replace(IMAGE, command=()), []) == ("/init", "--")


def test_nothing_to_run_is_an_error() -> None:
    with pytest.raises(EntrypointMissing, match="names no command"):
        arguments(dataclasses.replace(IMAGE, entrypoint=(), command=()), [])


def test_a_program_that_is_there_is_fine_and_one_outside_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "root/bin").mkdir(parents=True)
    for program in (tmp_path / "root/bin/sh", tmp_path / "outside"):
        program.touch(0o755)
    (tmp_path / "root/bin/out").symlink_to("../../outside")
    os.mkfifo(tmp_path / "root/bin/fifo", 0o755)
    check_executable(tmp_path / "root", "sh", "/bin", "/")
    check_executable(tmp_path / "root", "bin/sh", "/nowhere", "/")
    for program in ("out", "fifo", "/bin/out", "../outside", "gone"):
        with pytest.raises(EntrypointMissing, match="no executable"):
            check_executable(tmp_path / "root", str(program), "/bin", "/")


@pytest.mark.parametrize(
    ("user", "ids"),
    [
        ("", (0, 0)),
        ("root", (0, 0)),
        ("1000", (1000, 0)),
        ("1000:50", (1000, 50)),
        ("root:root", (0, 0)),
        ("7:", (7, 0)),
    ],
)
def test_an_image_may_run_as_a_number(user: str, ids: tuple[int, int]) -> None:
    assert _numeric_user(user) == ids


@pytest.mark.parametrize("user", ["www-data", "65536", "0:65536", "-1", "1:2:3", "1.5", " 1"])
def test_any_other_user_is_not_supported(user: str) -> None:
    with pytest.raises(ImageUnsupported, match="only numeric users"):
        _numeric_user(user)
