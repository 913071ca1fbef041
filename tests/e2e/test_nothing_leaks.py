"""After any sequence of operations the node holds exactly what the database says."""

import contextlib
import os
import signal
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tests.leaks import difference
from tests.stack import Client, Stack, eventually, new_name

CONTAINERS = 200
AT_A_TIME = 8


def holdings(stack: Stack) -> dict[str, list[str]]:
    """What there is of this stack's containers on the node."""
    ctr = ("ctr", "--address", str(stack.run_dir / "containerd/containerd.sock"), "--namespace", stack.instance)
    mounts = [line.split()[4] for line in stack.on_node("cat", "/proc/self/mountinfo").splitlines()]
    loops = stack.on_node("losetup", "--list", "--noheadings", "--output", "BACK-FILE").split()
    links = [line.split()[0] for line in stack.on_node("ip", "-brief", "link").splitlines()]
    rules = stack.on_node("nft", "list", "ruleset").splitlines()
    cgroups = [str(path) for tree in Path("/sys/fs/cgroup").iterdir() for path in (tree / stack.instance).glob("*")]
    files = [
        path for folder in ("containers", "exec", "terminal", "runtime") for path in (stack.run_dir / folder).glob("*")
    ]
    own_address = str(stack.run_dir / "containerd/containerd.sock")
    return {
        "mounts": [point for point in mounts if str(stack.run_dir) in point],
        "loop devices": [file for file in loops if str(stack.state_dir) in file],
        "links": [link for link in links if link.startswith(stack.instance[:2])],
        "nft elements": [line.strip() for line in rules if stack.instance[:2] in line and ":" in line],
        "cgroups": cgroups,
        "disks": [str(path) for path in (stack.state_dir / "disks").glob("*")],
        "files": [str(path) for path in files],
        "records": stack.on_node(*ctr, "containers", "ls", "-q").split(),
        "tasks": stack.on_node(*ctr, "tasks", "ls", "-q").split(),
        "snapshots": stack.on_node(*ctr, "snapshots", "ls").splitlines(),
        "leases": stack.on_node(*ctr, "leases", "ls", "-q").split(),
        "shims": [line for line in _commands() if own_address in line and "shim" in line],
    }


def mentions(stack: Stack, container_id: str) -> list[str]:
    """The kinds of things on the node that bear a container's id, or its tail where names are short."""
    tail = container_id.replace("-", "")[-12:]
    return [kind for kind, names in holdings(stack).items() if any(container_id in n or tail in n for n in names)]


def _commands() -> list[str]:
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found.append(file.read_text().replace("\0", " "))
        except OSError:
            continue
    return found


def test_200_containers_8_at_a_time_leave_the_node_as_it_was(own_stack: Stack) -> None:
    admin = own_stack.client()
    with admin.container():
        pass  # what the first one makes for all is there now
    eventually(lambda: not holdings(own_stack)["shims"])
    before = holdings(own_stack)

    def one(_: int) -> str:
        record = admin.create()
        admin.delete(record["id"])
        return str(record["state"])

    with ThreadPoolExecutor(AT_A_TIME) as pool:
        states = list(pool.map(one, range(CONTAINERS)))
    assert states == ["running"] * CONTAINERS
    eventually(lambda: not difference(before, holdings(own_stack)), within_s=60)


def test_what_nobody_owns_is_swept_at_the_next_start(own_stack: Stack) -> None:
    admin = own_stack.client()
    kept, lost = admin.create(), admin.create()
    # As if the database were older than the node: the row is gone, its container runs.
    own_stack.supervise("stop", "lifecycle")
    with contextlib.closing(sqlite3.connect(own_stack.state_dir / "lifecycle/lifecycle.db")) as database, database:
        database.execute("DELETE FROM containers WHERE id = ?", (lost["id"],))
    own_stack.supervise("start", "lifecycle")
    own_stack.comes_back()
    eventually(lambda: not mentions(own_stack, lost["id"]))
    assert admin.get(kept["id"])["state"] == "running"
    assert admin.run(kept["id"], "echo alive")["stdout"] == "alive\n"


def test_a_full_disk_fails_a_create_and_leaves_nothing(own_stack: Stack) -> None:
    admin = own_stack.client()
    with admin.container():
        pass
    disks = str(own_stack.state_dir / "disks")
    own_stack.on_node("mount", "-t", "tmpfs", "-o", "size=64k", "full", disks)
    try:
        record = admin.create()
        assert record["state"] == "failed"
        assert record["state_reason"].startswith("disk_full: ")
        admin.delete(record["id"])
        assert list(own_stack.on_node("ls", disks).split()) == []
    finally:
        own_stack.on_node("umount", disks)
    with admin.container() as again:
        assert again["state"] == "running"


def test_a_killed_shim_is_an_end_like_any_other(own_stack: Stack) -> None:
    admin = own_stack.client()
    record = admin.create(name=new_name())
    shim = next(pid for pid, line in _by_pid() if "shim" in line and record["id"] in line)
    os.kill(shim, signal.SIGKILL)
    ended: dict[str, Any] = admin.wait_for(record["id"], "stopped")
    assert ended["state_reason"]
    assert restarted(admin, record["id"])["state"] == "running"
    admin.delete(record["id"])
    eventually(lambda: not mentions(own_stack, record["id"]))


def restarted(admin: Client, container_id: str) -> dict[str, Any]:
    return eventually(lambda: r if (r := admin.act(container_id, "start"))["state"] == "running" else None)


def _by_pid() -> list[tuple[int, str]]:
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            found.append((int(folder.name), (folder / "cmdline").read_text().replace("\0", " ")))
        except OSError:
            continue
    return found
