"""A host name changed from outside: in the files of /etc, and in a real UTS namespace."""

import os
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from services.lifecycle.hostname import (
    MAX_HOSTS_BYTES,
    host_name,
    rename_files,
    renamed_hosts,
    set_host_name,
    uts_namespace,
)

HOSTS = "127.0.0.1 localhost\n10.0.0.2 old\n10.9.9.9 old-friend\n"


def test_only_the_line_that_was_ours_is_changed() -> None:
    assert renamed_hosts(HOSTS, "10.0.0.2", "old", "new") == HOSTS.replace("10.0.0.2 old\n", "10.0.0.2 new\n")
    edited = HOSTS.replace("10.0.0.2 old", "10.0.0.2 old other")
    assert renamed_hosts(edited, "10.0.0.2", "old", "new") == edited
    assert renamed_hosts("", "10.0.0.2", "old", "new") == ""


def test_files_are_changed_in_place_whatever_root_inside_has_made_of_them(tmp_path: Path) -> None:
    hostname, hosts = tmp_path / "hostname", tmp_path / "hosts"
    hostname.write_text("something much longer than it was\n")
    hosts.write_text(HOSTS)
    before = [file.stat().st_ino for file in (hostname, hosts)]
    rename_files(tmp_path, "10.0.0.2", "old", "new")
    assert hostname.read_text() == "new\n"
    assert "10.0.0.2 new\n" in hosts.read_text()
    assert [file.stat().st_ino for file in (hostname, hosts)] == before
    for content in (b"\xff\xfe10.0.0.2 old\n", b"10.0.0.2 old\n" * MAX_HOSTS_BYTES):
        hosts.write_bytes(content)
        rename_files(tmp_path, "10.0.0.2", "old", "new")
        assert hosts.read_bytes() == content


@pytest.fixture
def apart() -> Iterator[int]:
    """The pid of a process in a UTS namespace of its own."""
    command = ["unshare", "--uts", "sh", "-c", "hostname before; echo; exec sleep 60"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield process.pid
        process.kill()


@pytest.mark.skipif(os.getuid() != 0, reason="needs root")
def test_the_name_is_changed_there_and_nowhere_else(apart: int) -> None:
    own = socket.gethostname()
    with uts_namespace(apart) as namespace:
        assert host_name(namespace) == "before"
        set_host_name(namespace, "after")
        assert host_name(namespace) == "after"
    assert socket.gethostname() == own


@pytest.mark.skipif(os.getuid() != 0, reason="needs root")
def test_the_hosts_own_name_is_out_of_reach() -> None:
    with pytest.raises(OSError, match="own UTS namespace"), uts_namespace(os.getpid()):
        pytest.fail("it was opened")
    with pytest.raises(OSError, match="No such"), uts_namespace(2**22 - 1):
        pytest.fail("it was opened")
