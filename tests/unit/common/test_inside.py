"""Looking into a container's files from outside: a real tree, full of traps."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from services.common import inside

PATH = "/usr/bin:/bin"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A root filesystem, and beside it things of the host that must not be seen."""
    (tmp_path / "secret").write_text("of the host")
    (tmp_path / "host-bin").mkdir()
    program(tmp_path / "host-bin/tool")
    root = tmp_path / "root"
    for folder in ("bin", "usr/bin", "etc", "place"):
        (root / folder).mkdir(parents=True)
    (root / "etc/plain").write_text("of the container")
    program(root / "bin/sh")
    return root


@pytest.fixture
def root(tree: Path) -> Iterator[int]:
    with inside.opened_root(tree) as descriptor:
        yield descriptor


def program(path: Path) -> None:
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)


def found(root: int, name: str, search: str = PATH, working_dir: str = "/") -> str | None:
    return inside.find_executable(root, name, search, working_dir)


def test_a_regular_file_is_read(root: int) -> None:
    assert inside.read_file(root, "/etc/plain") == b"of the container"
    assert inside.read_file(root, "etc/plain") == b"of the container"


def test_no_more_of_it_is_read_than_asked_for(root: int) -> None:
    assert inside.read_file(root, "/etc/plain", 2) == b"of"


@pytest.mark.parametrize("target", ["../secret", "../../../../../../secret", "/../secret"])
def test_a_link_does_not_lead_out(root: int, tree: Path, target: str) -> None:
    (tree / "etc/link").symlink_to(target)
    with pytest.raises(OSError, match="No such file"):
        inside.read_file(root, "/etc/link")


def test_dots_do_not_lead_out(root: int) -> None:
    with pytest.raises(OSError, match="No such file"):
        inside.read_file(root, "/../secret")


def test_a_link_inside_is_followed_as_the_container_would(root: int, tree: Path) -> None:
    (tree / "etc/absolute").symlink_to("/etc/plain")
    (tree / "place/up").symlink_to("../etc/../../../etc/plain")
    assert inside.read_file(root, "/etc/absolute") == b"of the container"
    assert inside.read_file(root, "/place/up") == b"of the container"


def test_links_that_lead_to_each_other_end(root: int, tree: Path) -> None:
    (tree / "etc/a").symlink_to("b")
    (tree / "etc/b").symlink_to("a")
    with pytest.raises(OSError, match="symbolic links"):
        inside.read_file(root, "/etc/a")


def test_the_links_of_proc_that_lead_elsewhere_are_not_followed() -> None:
    with inside.opened_root(Path("/")) as host, pytest.raises(OSError, match="symbolic links"):
        inside.read_file(host, f"/proc/{os.getpid()}/root/etc/hostname")


def test_a_fifo_is_not_waited_for(root: int, tree: Path) -> None:
    os.mkfifo(tree / "etc/fifo")
    with pytest.raises(OSError, match="no regular file"):
        inside.read_file(root, "/etc/fifo")


def test_a_device_is_not_opened(root: int, tree: Path) -> None:
    os.mknod(tree / "etc/zero", 0o20666, os.makedev(1, 5))
    with pytest.raises(OSError, match="no regular file"):
        inside.read_file(root, "/etc/zero")


def test_a_folder_is_no_file_and_a_file_no_folder(root: int) -> None:
    with pytest.raises(OSError, match="no regular file"):
        inside.read_file(root, "/etc")
    assert inside.is_directory(root, "/etc")
    assert inside.is_directory(root, "/")
    assert not inside.is_directory(root, "/etc/plain")
    assert not inside.is_directory(root, "/nowhere")


def test_a_folder_that_is_a_link_to_one_is_one(root: int, tree: Path) -> None:
    (tree / "usr/sbin").symlink_to("/bin")
    (tree / "usr/out").symlink_to("../../host-bin")
    assert inside.is_directory(root, "/usr/sbin")
    assert not inside.is_directory(root, "/usr/out")


def test_a_program_is_found_along_the_search_path(root: int, tree: Path) -> None:
    assert found(root, "sh") == "/bin/sh"
    program(tree / "usr/bin/sh")
    assert found(root, "sh") == "/usr/bin/sh"
    assert found(root, "absent") is None


def test_a_program_with_a_slash_is_taken_from_the_working_folder(root: int, tree: Path) -> None:
    program(tree / "place/run")
    assert found(root, "./run", working_dir="/place") == "/place/run"
    assert found(root, "/bin/sh", working_dir="/place") == "/bin/sh"
    assert found(root, "run", working_dir="/place") is None


def test_an_empty_part_of_the_search_path_is_the_working_folder(root: int, tree: Path) -> None:
    program(tree / "place/run")
    assert found(root, "run", search="/usr/bin:", working_dir="/place") == "/place/run"


def test_a_program_outside_is_none(root: int, tree: Path) -> None:
    (tree / "bin/tool").symlink_to("../../host-bin/tool")
    assert found(root, "tool") is None
    assert found(root, "../host-bin/tool") is None


def test_what_may_not_be_executed_is_none(root: int, tree: Path) -> None:
    (tree / "bin/text").write_text("")
    (tree / "bin/folder").mkdir()
    os.mkfifo(tree / "bin/fifo", 0o755)
    (tree / "bin/hanging").symlink_to("gone")
    for name in ("text", "folder", "fifo", "hanging"):
        assert found(root, name) is None
    assert found(root, "/etc/plain/x") is None
    assert found(root, "/" + "x" * 5000) is None
