"""Which control group is a container's, and ending everything in a session's own."""

import asyncio
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from services.terminal.session_cgroup import CGROUP_ROOT, SessionCgroup, container_folder

VERSION_1 = "9:name=systemd:/\n8:cpu,pids:/tm/abc\n4:memory:/other\n0::/"
VERSION_2 = "0::/tm/abc\n"


@pytest.mark.parametrize(
    ("text", "is_unified", "folder"), [(VERSION_1, False, "/cg/pids/tm/abc"), (VERSION_2, True, "/cg/tm/abc")]
)
def test_the_group_is_found_on_both_versions(text: str, is_unified: bool, folder: str) -> None:
    assert container_folder(text, Path("/cg"), is_unified) == Path(folder)


def test_a_process_without_a_group_that_could_be_used_is_refused() -> None:
    with pytest.raises(OSError, match="no control group"):
        container_folder("1:memory:/x\n", Path("/cg"), is_unified=False)


@pytest.fixture
def group() -> Iterator[SessionCgroup]:
    unified = (CGROUP_ROOT / "cgroup.controllers").exists()
    folder = (CGROUP_ROOT if unified else CGROUP_ROOT / "pids") / f"session-{uuid.uuid4()}"
    try:
        folder.mkdir()
    except OSError:
        pytest.skip("control groups cannot be made here")
    yield SessionCgroup(folder)
    assert not folder.exists()


async def test_everything_in_the_group_is_ended(group: SessionCgroup) -> None:
    script = (
        "import os, signal, sys, time\n"
        "sys.stdin.read(1)\n"
        "for n in range(8):\n"
        "    if os.fork() == 0:\n"
        "        signal.signal(signal.SIGHUP, signal.SIG_IGN)\n"
        "        os.setsid()\n"
        "        while True:\n"
        "            if n == 0 and os.fork() == 0: os._exit(0)\n"
        "            time.sleep(0.01)\n"
        "print('ready', flush=True)\n"
        "time.sleep(1000)\n"
    )
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec("python3", "-c", script, stdin=pipe, stdout=pipe)
    group.add(process.pid)
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(b"x")
    assert await process.stdout.readline() == b"ready\n"
    assert len(group.pids()) >= 9
    await group.end()
    assert group.pids() == []
    await process.communicate()


async def test_a_group_that_is_gone_has_ended(tmp_path: Path) -> None:
    await SessionCgroup(tmp_path / "none").end()
