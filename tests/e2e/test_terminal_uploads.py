"""Files put into a container over a terminal: as its user, whole or not at all, and nowhere else."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.stack import Client, Stack
from tests.terminal import Terminal, terminal

MIB = 1024**2


@pytest.fixture(scope="module")
def container(stack: Stack) -> Iterator[dict[str, Any]]:
    with stack.client().container(memory_mb=256) as record:
        yield record


@pytest.fixture
async def opened(stack: Stack, admin: Client, container: dict[str, Any]) -> AsyncIterator[Terminal]:
    async with terminal(stack, admin, container["id"]) as connected:
        yield connected


async def test_a_file_arrives_whole_with_its_owner(opened: Terminal) -> None:
    data = bytes(range(256)) * 4 * 1024 * 10
    assert await opened.upload("/root/data.bin", data) == {"type": "file_uploaded", "path": "/root/data.bin"}
    assert await opened.runs("stat -c '%s %u %g %a' /root/data.bin; ls -A /root | grep part") == (
        f"{len(data)} 0 0 644"
    )
    assert (await opened.upload("relative.txt", b"in the home"))["type"] == "file_uploaded"
    assert await opened.runs("cat /root/relative.txt") == "in the home"
    await opened.runs("chmod 755 relative.txt")
    assert (await opened.upload("/root/../root/./relative.txt", b"again"))["type"] == "file_uploaded"
    assert await opened.runs("cat relative.txt; stat -c ' %a' relative.txt") == "again 755"
    assert (await opened.upload("/empty", b""))["type"] == "file_uploaded"
    assert await opened.runs("stat -c %s /empty") == "0"


async def test_the_sessions_user_writes_only_where_it_may(
    stack: Stack, admin: Client, container: dict[str, Any], opened: Terminal
) -> None:
    await opened.runs("mkdir -p /home/bea /shared; chown 1001:1001 /home/bea; chgrp 2002 /shared; chmod 770 /shared")
    await opened.runs("echo 'bea:x:1001:1001::/home/bea:/bin/sh' >> /etc/passwd")
    await opened.runs("echo 'team:x:2002:bea' >> /etc/group")
    async with terminal(stack, admin, container["id"], user="bea") as bea:
        assert (await bea.upload("note", b"hers"))["type"] == "file_uploaded"
        assert await bea.runs("stat -c '%u %g' /home/bea/note") == "1001 1001"
        assert (await bea.upload("/shared/note", b"theirs"))["type"] == "file_uploaded"
        for place in ("/root/note", "/etc/passwd", "/note"):
            answer = await bea.upload(place, b"no")
            assert answer["type"] == "file_upload_error", place
            assert "ermission denied" in answer["message"]
    assert await opened.runs("ls /note /root/note 2>/dev/null; grep -c bea /etc/passwd") == "1"


async def test_no_path_leads_out_of_the_container(opened: Terminal, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "victim").write_text("untouched")
    victim = str(outside / "victim")
    await opened.runs(
        f"cd /root; ln -s {outside} out; ln -s {victim} victim; ln -s ../../../../../../..{outside} up; "
        "ln -s /proc/1/root proc; ln -s / all; ln -s /etc etc; ln -s nowhere/file dangling; ln -s loop loop"
    )
    ups = "../" * 30
    for path in (
        f"/{ups}{victim}", f"{ups}{victim}", "/root/out/victim", "/root/victim", "/root/up/victim",
        f"/proc/1/root{victim}", f"/proc/self/root{victim}", f"/root/proc{victim}", "/proc/1/cwd/x", "/proc/1/fd/0",
        "/proc/1/exe", "/proc/self/mem", "/proc/sys/kernel/core_pattern", "/proc/sysrq-trigger", "/sys/power/state",
        "/sys/fs/cgroup/pids/cgroup.procs", "/dev/null", "/dev/.init", "/root/loop", "/root/dangling", "/root", "/",
        ".", "..", "", "/root/none/file", "/root/\x00", "/dev/pts/0", f"/root/all/{'x' * 300}", "/dev/kmsg",
    ):  # fmt: skip
        answer = await opened.upload(path, b"evil")
        assert answer == answer | {"type": "file_upload_error", "path": path}, answer
        assert answer["message"]
    assert (outside / "victim").read_text() == "untouched"
    assert sorted(entry.name for entry in outside.iterdir()) == ["victim"]
    # Links that stay inside are followed inside.
    assert (await opened.upload("/root/etc/motd", b"hello"))["type"] == "file_uploaded"
    assert await opened.runs("cat /etc/motd; ls -l /root/etc | grep -c ^l; test -c /dev/null && echo null") == (
        "hello1\nnull"
    )
    await opened.runs(f"mkdir -p {outside}; ln -sf {outside}/inside /root/inside")
    assert (await opened.upload("/root/inside", b"within"))["type"] == "file_uploaded"
    assert await opened.runs(f"cat {outside}/inside") == "within"
    assert not (outside / "inside").exists()


async def test_links_that_change_under_an_upload_do_not_lead_out(opened: Terminal, tmp_path: Path) -> None:
    outside = tmp_path / "race"
    outside.mkdir()
    await opened.runs("mkdir -p /root/real; cd /root; (while :; do ln -sfn /root/real link; "
                      f"ln -sfn {outside} link; done) & true")  # fmt: skip
    for number in range(60):
        await opened.upload(f"/root/link/f{number}", b"x")
    assert not list(outside.iterdir())


async def test_too_large_and_malformed_ones_are_refused_and_the_session_goes_on(opened: Terminal) -> None:
    answer = await opened.upload("/root/large", b"x" * (32 * MIB))
    assert answer["type"] == "file_uploaded"
    answer = await opened.upload("/root/larger", b"x" * (32 * MIB + 1))
    assert answer["type"] == "file_upload_error"
    assert "33554432" in answer["message"]
    await opened.send(type="file_upload", path="/root/x", data="not base64!")
    assert "base64" in (await opened.frame("file_upload_error"))["message"]
    assert await opened.runs("ls /root/larger /root/x 2>/dev/null; ls -A /root | grep part; stat -c %s large") == (
        f"{32 * MIB}"
    )


async def test_a_full_disk_leaves_what_was_there(opened: Terminal) -> None:
    await opened.upload("/root/precious", b"old")
    await opened.runs("dd if=/dev/zero of=/filler bs=1M 2>/dev/null", within_s=120)
    answer = await opened.upload("/root/precious", b"y" * (24 * MIB))
    if answer["type"] == "file_upload_error":
        assert "space" in answer["message"]
        assert await opened.runs("cat /root/precious; ls -A /root | grep part") == "old"
    await opened.runs("rm /filler")


async def test_uploads_at_the_same_time_do_not_mix(
    stack: Stack, admin: Client, container: dict[str, Any], opened: Terminal
) -> None:
    async def one(letter: str) -> None:
        async with terminal(stack, admin, container["id"]) as mine:
            for _ in range(5):
                assert (await mine.upload("/root/contended", letter.encode() * MIB))["type"] == "file_uploaded"

    async with asyncio.TaskGroup() as group:
        for letter in "abcd":
            group.create_task(one(letter))
    assert await opened.runs("fold -w 1 /root/contended | sort -u | wc -l") == "1"
