"""What a container reaches: the world through its node's address, and neither the node nor its neighbours."""

import contextlib
import socket
import subprocess
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.stack import Client, Stack, eventually

PORT = 8099
SECONDS = 2


@pytest.fixture(scope="module")
def owner(stack: Stack) -> Client:
    return stack.new_user()


@pytest.fixture(scope="module")
def world() -> Iterator[tuple[str, str]]:
    """A host of its own beyond the node: its address, and the node's address towards it. Answers with the caller's."""
    name, third = f"w{uuid.uuid4().hex[:8]}", uuid.uuid4().int % 250
    node_side, far_side = f"10.213.{third}.1", f"10.213.{third}.2"

    def run(*command: str) -> None:
        subprocess.run(command, check=True, capture_output=True, timeout=30)

    # The namespace lives as long as this process.
    holder = subprocess.Popen(["unshare", "--net", "cat"], stdin=subprocess.PIPE)
    inside = ("nsenter", "--net", "--target", str(holder.pid))
    server = None
    try:
        eventually(lambda: Path(f"/proc/{holder.pid}/ns/net").readlink() != Path("/proc/self/ns/net").readlink())
        run("ip", "link", "add", name, "type", "veth", "peer", "name", "far", "netns", str(holder.pid))
        run("ip", "address", "add", f"{node_side}/30", "dev", name)
        run("ip", "link", "set", name, "up")
        run(*inside, "ip", "address", "add", f"{far_side}/30", "dev", "far")
        run(*inside, "ip", "link", "set", "far", "up")
        # Without a route back to any container: only what comes from the node's own address is answered.
        script = f"exec busybox nc -ll -p {PORT} -e busybox netstat -tn"
        server = subprocess.Popen([*inside, "sh", "-c", script])
        eventually(lambda: _answers(far_side))
        yield far_side, node_side
    finally:
        for process in (server, holder):
            if process is not None:
                process.kill()
                process.communicate()
        with contextlib.suppress(subprocess.CalledProcessError):
            run("ip", "link", "delete", name)


def _answers(address: str) -> bool:
    try:
        with socket.create_connection((address, PORT), timeout=SECONDS):
            return True
    except OSError:
        return False


def test_it_reaches_the_world_as_its_node(owner: Client, world: tuple[str, str]) -> None:
    far, node = world
    with owner.container() as record:
        seen = owner.run(record["id"], f"nc -w {SECONDS} {far} {PORT} </dev/null")
    assert seen["status"] == "succeeded", seen
    assert f"{node}:" in seen["stdout"], "the far side sees the node's address"
    assert record["ip_address"] not in seen["stdout"]


def test_it_does_not_reach_another_container(owner: Client, stack: Stack) -> None:
    server = ["sh", "-c", f"while :; do echo hello | nc -l -p {PORT}; done"]
    with stack.new_user().container(command=server) as other, owner.container() as mine:
        assert other["ip_address"] != mine["ip_address"]
        tried = owner.run(mine["id"], f"nc -w {SECONDS} {other['ip_address']} {PORT} </dev/null")
        pinged = owner.run(mine["id"], f"ping -c 1 -W {SECONDS} {other['ip_address']}")
    assert (tried["status"], tried["stdout"]) == ("failed", "")
    assert pinged["status"] == "failed"


def test_it_does_not_reach_the_services_of_its_node(owner: Client, world: tuple[str, str]) -> None:
    _, node = world
    reached = threading.Event()
    with socket.create_server(("0.0.0.0", 0)) as listener, owner.container() as record:
        port = listener.getsockname()[1]
        listener.settimeout(0.2)
        routes = owner.run(record["id"], "ip route")["stdout"]
        gateway = routes.split("default via ")[1].split()[0]
        results = [
            owner.run(record["id"], f"nc -w {SECONDS} {address} {port} </dev/null") for address in (gateway, node)
        ]
        with contextlib.suppress(TimeoutError):
            listener.accept()
            reached.set()
    assert [result["status"] for result in results] == ["failed", "failed"]
    assert not reached.is_set()


def test_its_own_address_name_and_resolvers(owner: Client) -> None:
    with owner.container() as record:
        box = record["id"]
        assert f"inet {record['ip_address']}/" in owner.run(box, "ip address show eth0")["stdout"]
        assert owner.run(box, "hostname")["stdout"] == f"{record['name']}\n"
        assert f"{record['ip_address']} {record['name']}" in owner.run(box, "cat /etc/hosts")["stdout"]
        resolvers = owner.run(box, "cat /etc/resolv.conf")["stdout"]
        assert "127.0.0." not in resolvers
        assert owner.run(box, "echo '192.0.2.1 added' >> /etc/hosts && cat /etc/hosts")["stdout"].endswith("added\n")
