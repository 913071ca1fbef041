"""Users and groups from files that an attacker has written."""

import os
from pathlib import Path

import pytest

from services.common import inside
from services.common.containerd.accounts import NoSuchUser, account, find_account
from services.common.containerd.spec import User

PASSWD = """root:x:0:0:root:/root:/bin/bash
daemon:x:1:1:daemon:/usr/sbin:/usr/sbin/nologin
ada:x:1000:1000:Ada,,,:/home/ada:/bin/zsh
nohome:x:1001:1001:::
"""
GROUP = """root:x:0:
daemon:x:1:
sudo:x:27:ada
docker:x:999:nobody,ada
ada:x:1000:
"""


def test_no_user_is_root() -> None:
    found = account(PASSWD, GROUP, "")
    assert (found.name, found.user, found.home, found.shell) == ("root", User(0, 0), "/root", "/bin/bash")


@pytest.mark.parametrize("wanted", ["ada", "1000"])
def test_a_user_by_name_or_number_with_all_his_groups(wanted: str) -> None:
    found = account(PASSWD, GROUP, wanted)
    assert (found.name, found.user, found.home) == ("ada", User(1000, 1000, (27, 999)), "/home/ada")


@pytest.mark.parametrize("wanted", ["ada:daemon", "1000:1", "ada:1"])
def test_a_group_that_is_named_is_the_only_one(wanted: str) -> None:
    assert account(PASSWD, GROUP, wanted).user == User(1000, 1, ())


def test_a_number_without_a_name_is_a_user_without_groups() -> None:
    found = account(PASSWD, GROUP, "4242")
    assert (found.name, found.user, found.home, found.shell) == ("", User(4242, 0), "/", "")


def test_without_files_root_is_there_all_the_same() -> None:
    found = account("", "", "")
    assert (found.name, found.user, found.home) == ("root", User(0, 0), "/root")


def test_no_home_is_the_root_folder() -> None:
    assert account(PASSWD, GROUP, "nohome").home == "/"


@pytest.mark.parametrize("wanted", ["nobody", "root:nogroup", "-1", "65536", "99999999999999999999", "²", "0x0", " 0"])
def test_who_is_not_there_is_an_error_for_the_owner(wanted: str) -> None:
    with pytest.raises(NoSuchUser, match="in the container"):
        account(PASSWD, GROUP, wanted)


@pytest.mark.parametrize(
    "line",
    [
        "evil:x:0",
        "evil:x:0:0:::/bin/sh:more",
        "evil:x:-1:0::/:/bin/sh",
        "evil:x:65536:0::/:/bin/sh",
        "evil:x:4294967295:0::/:/bin/sh",
        "evil:x:0:70000::/:/bin/sh",
        "evil:x: 0:0::/:/bin/sh",
        "evil:x:\u0660:0::/:/bin/sh",
        "evil:x:1e1:0::/:/bin/sh",
        "\x00\x01\x02",
    ],
)
def test_a_line_that_is_none_is_passed_over(line: str) -> None:
    with pytest.raises(NoSuchUser):
        account(f"{line}\n{PASSWD}", GROUP, "evil")
    assert account(f"{line}\n{PASSWD}", GROUP, "ada").user.uid == 1000


def test_the_first_line_of_a_name_counts() -> None:
    assert account(f"ada:x:5:5::/:/bin/sh\n{PASSWD}", GROUP, "ada").user.uid == 5


def test_a_user_has_no_more_groups_than_the_kernel_is_asked_to_take() -> None:
    many = "".join(f"g{number}:x:{number}:ada\n" for number in range(2000, 9000))
    assert len(account(PASSWD, many, "ada").user.groups) <= 64


@pytest.mark.parametrize("line", ["bad:x:x:ada", "bad:x:70000:ada", "bad:x:5:ada:more", "bad", "bad:x:5:adam,da"])
def test_a_group_line_that_is_none_is_passed_over(line: str) -> None:
    assert account(PASSWD, f"{line}\n{GROUP}", "ada").user.groups == (27, 999)


def find(root: Path, wanted: str) -> User:
    with inside.opened_root(root) as descriptor:
        return find_account(descriptor, wanted).user


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "root/etc").mkdir(parents=True)
    (tmp_path / "root/etc/group").write_text(GROUP)
    return tmp_path / "root"


def test_the_files_of_the_container_are_read(root: Path) -> None:
    (root / "etc/passwd").write_text(PASSWD)
    assert find(root, "ada") == User(1000, 1000, (27, 999))


def test_a_link_out_of_the_container_leads_into_it(root: Path, tmp_path: Path) -> None:
    (tmp_path / "passwd").write_text("evil:x:7:7::/:/bin/sh\n")
    (root / "etc/passwd").symlink_to("../../passwd")
    with pytest.raises(NoSuchUser):
        find(root, "evil")
    (root / "passwd").write_text("good:x:8:8::/:/bin/sh\n")
    assert find(root, "good") == User(8, 8)


def test_a_fifo_or_a_device_or_a_folder_counts_as_no_file(root: Path) -> None:
    os.mkfifo(root / "etc/passwd")
    assert find(root, "") == User(0, 0)
    (root / "etc/passwd").unlink()
    (root / "etc/passwd").mkdir()
    assert find(root, "") == User(0, 0)


def test_of_a_huge_file_only_the_beginning_is_read(root: Path) -> None:
    with (root / "etc/passwd").open("wb") as file:
        file.write(PASSWD.encode())
        file.truncate(10 * 1024**3)
    assert find(root, "ada").uid == 1000


def test_bytes_that_are_no_text_do_no_harm(root: Path) -> None:
    (root / "etc/passwd").write_bytes(b"\xff\xfe:x:3:3::/:/bin/sh\n" + PASSWD.encode())
    assert find(root, "ada").uid == 1000
