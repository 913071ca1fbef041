"""What containers reach and what they don't, whatever they send."""

import contextlib
import json
import os
import subprocess
from collections.abc import AsyncIterator, Callable

import pytest

from tests.integration.network_namespaces import (
    BROADCAST,
    BROADCAST_MAC,
    GATEWAY,
    GATEWAY_MAC,
    HOST_OUTSIDE,
    LLDP_MAC,
    OUTSIDE,
    PORT,
    SUBNET,
    Guest,
    Namespace,
    Node,
    arp,
    frame,
    frames_before,
    node_apart,
    run,
)

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="makes network namespaces")


@pytest.fixture
async def node() -> AsyncIterator[Node]:
    async with node_apart() as node:
        yield node


async def test_a_container_reaches_the_outside_with_the_address_of_the_host(node: Node) -> None:
    guest = await node.guest()
    with node.outside.listen() as server:
        assert guest.reaches(OUTSIDE)
        connection, (peer, _) = server.accept()
        connection.close()
    assert peer == HOST_OUTSIDE


async def test_a_container_gets_its_address_its_mac_and_its_way_out(node: Node) -> None:
    guest = await node.guest()
    address = guest.run(lambda: run("ip -oneline address show eth0"))
    assert f"inet {guest.address}/20" in address
    assert guest.link.mac in guest.run(lambda: run("ip -oneline link show eth0"))
    assert f"default via {GATEWAY} dev eth0" in guest.run(lambda: run("ip route"))
    assert "LOOPBACK,UP" in guest.run(lambda: run("ip -oneline link show lo"))


async def test_the_outside_does_not_reach_a_container(node: Node) -> None:
    guest = await node.guest()
    node.outside.ip("route", "add", str(SUBNET), "via", HOST_OUTSIDE)
    with guest.listen():
        assert node.outside.is_cut_off_from(guest.address)


async def test_the_host_reaches_a_container(node: Node) -> None:
    guest = await node.guest()
    with guest.listen():
        assert node.host.reaches(guest.address)


async def test_a_container_does_not_reach_another(node: Node) -> None:
    one, other = await node.guest(), await node.guest()
    with other.listen():
        assert one.is_cut_off_from(other.address)


async def test_a_container_does_not_reach_another_through_the_gateway(node: Node) -> None:
    one, other = await node.guest(), await node.guest()
    one.ip("route", "add", other.address, "via", GATEWAY)
    with other.listen():
        assert one.is_cut_off_from(other.address)


async def test_no_frame_of_a_container_arrives_at_another(node: Node) -> None:
    one, other = await node.guest(), await node.guest()
    with one.packet_socket() as sender, other.packet_socket() as receiver, node.host.datagrams() as host:
        for target_mac in (other.link.mac, GATEWAY_MAC, BROADCAST_MAC, "01:00:5e:00:00:01", LLDP_MAC):
            sender.send(frame(one.address, other.address, one.link.mac, target_mac))
            sender.send(frame(GATEWAY, other.address, GATEWAY_MAC, target_mac))
            sender.send(arp(one.link.mac, GATEWAY, one.link.mac, other.address, target_mac))
        host.sendto(b"marker", (other.address, PORT))
        assert not [data for data in frames_before(receiver, b"marker") if b"bad" in data]


@pytest.mark.parametrize("address", [GATEWAY, HOST_OUTSIDE])
async def test_a_container_does_not_reach_a_service_on_any_address_of_the_host(node: Node, address: str) -> None:
    guest = await node.guest()
    with node.host.listen():
        assert node.host.reaches(address)
        assert guest.is_cut_off_from(address)


async def test_a_container_may_ping_its_gateway_and_nothing_else_of_the_host(node: Node) -> None:
    guest = await node.guest()

    def ping(address: str, within_s: int) -> bool:
        command = ["busybox", "ping", "-c", "1", "-W", str(within_s), address]
        return guest.run(lambda: subprocess.run(command, capture_output=True)).returncode == 0

    assert ping(GATEWAY, 5)
    assert not ping(HOST_OUTSIDE, 1)


async def test_frames_that_go_round_the_bridges_filter_do_not_reach_the_host(node: Node) -> None:
    guest = await node.guest()
    with guest.packet_socket() as sender, node.host.datagrams() as host:
        for address in (GATEWAY, HOST_OUTSIDE):
            sender.send(frame(guest.address, address, guest.link.mac, LLDP_MAC))
            sender.send(arp(guest.link.mac, "10.87.9.9", guest.link.mac, address, LLDP_MAC))
        host.sendto(b"marker", (GATEWAY, PORT))
        assert frames_before(host, b"marker") == []
    assert "10.87.9.9" not in run("ip neighbour")


async def test_a_container_whose_bridge_was_deleted_reaches_nothing(node: Node) -> None:
    guest = await node.guest()
    port_mac = json.loads(run(f"ip -json link show {guest.link.name}"))[0]["address"]
    run("ip link delete nta0")
    with guest.packet_socket() as sender, node.host.datagrams() as host, node.outside.datagrams() as outside:
        sender.send(frame(guest.address, HOST_OUTSIDE, guest.link.mac, port_mac))
        sender.send(frame(guest.address, OUTSIDE, guest.link.mac, port_mac))
        host.sendto(b"marker", (HOST_OUTSIDE, PORT))
        assert frames_before(host, b"marker") == []
        host.sendto(b"marker", (OUTSIDE, PORT))
        assert frames_before(outside, b"marker") == []


def outward(me: Guest, protocol: bytes) -> bytes:
    return frame(me.address, OUTSIDE, me.link.mac, GATEWAY_MAC, protocol=protocol)


FALSE_FRAMES: dict[str, Callable[[Guest, Guest], bytes]] = {
    "another's IP address": lambda me, you: frame(you.address, OUTSIDE, me.link.mac, GATEWAY_MAC),
    "another's IP and MAC address": lambda me, you: frame(you.address, OUTSIDE, you.link.mac, GATEWAY_MAC),
    "another's MAC address": lambda me, you: frame(me.address, OUTSIDE, you.link.mac, GATEWAY_MAC),
    "the gateway's IP address": lambda me, you: frame(GATEWAY, OUTSIDE, me.link.mac, GATEWAY_MAC),
    "no IP address": lambda me, you: frame("0.0.0.0", BROADCAST, me.link.mac, BROADCAST_MAC),
    "a broadcast": lambda me, you: frame(me.address, BROADCAST, me.link.mac, BROADCAST_MAC),
    "ARP from another's IP address": lambda me, you: arp(me.link.mac, you.address, me.link.mac),
    "ARP about another's MAC address": lambda me, you: arp(you.link.mac, me.address, me.link.mac),
    "ARP for another": lambda me, you: arp(me.link.mac, me.address, me.link.mac, target=you.address),
    "IPv6": lambda me, you: outward(me, b"\x86\xdd"),
    "an unknown protocol": lambda me, you: outward(me, b"\x88\xb5"),
    "VLAN 0": lambda me, you: outward(me, b"\x81\0\0\0\x08\0"),
    "VLAN 5": lambda me, you: outward(me, b"\x81\0\0\5\x08\0"),
    "a provider's VLAN": lambda me, you: outward(me, b"\x88\xa8\0\5\x08\0"),
}


@pytest.mark.parametrize("what", FALSE_FRAMES)
async def test_a_frame_that_is_not_plain_ipv4_from_its_own_addresses_ends_at_the_bridge(node: Node, what: str) -> None:
    one, other = await node.guest(), await node.guest()
    with one.packet_socket() as sender, node.host.packet_socket("nta0") as bridge:
        sender.send(FALSE_FRAMES[what](one, other))
        sender.send(frame(one.address, OUTSIDE, one.link.mac, GATEWAY_MAC, b"marker"))
        assert not [data for data in frames_before(bridge, b"marker") if b"bad" in data]


async def test_the_secrets_of_the_cloud_are_out_of_reach_but_not_its_resolver(node: Node) -> None:
    guest = await node.guest()
    node.outside.ip("address", "add", "169.254.169.254/32", "dev", "eth0")
    node.host.ip("route", "add", "169.254.169.254", "via", OUTSIDE)
    with node.outside.listen(80), node.outside.listen(53):
        assert node.host.reaches("169.254.169.254", 80)
        assert guest.is_cut_off_from("169.254.169.254", 80)
        assert guest.reaches("169.254.169.254", 53)


async def test_a_container_does_not_reach_another_bridge_of_the_host(node: Node) -> None:
    guest, neighbour = await node.guest(), node.start()
    put_on_bridge("docker0", neighbour, "172.30.0.1/24", "172.30.0.2/24")
    with neighbour.listen():
        assert node.host.reaches("172.30.0.2")
        assert guest.is_cut_off_from("172.30.0.2")


async def test_a_host_whose_way_out_is_a_bridge_is_no_obstacle(node: Node) -> None:
    guest, router = await node.guest(), node.start()
    put_on_bridge("br0", router, "172.30.0.1/24", "172.30.0.2/24")
    run("ip route add default via 172.30.0.2")
    await node.network.ensure([guest.link])
    with router.listen():
        assert guest.reaches("172.30.0.2")


def put_on_bridge(name: str, namespace: Namespace, host_address: str, address: str) -> None:
    for command in (
        f"ip link add {name} type bridge",
        f"ip link add port0 type veth peer eth0 netns {namespace.process.pid}",
        f"ip link set port0 master {name}",
        "ip link set port0 up",
        f"ip link set {name} up",
        f"ip address add {host_address} dev {name}",
    ):
        run(command)
    namespace.ip("address", "add", address, "dev", "eth0")
    namespace.ip("link", "set", "eth0", "up")


DOCKER = "table ip filter { chain DOCKER-USER { return; }; chain FORWARD { %s; jump DOCKER-USER; }; }"
UFW = "table ip filter { chain FORWARD { %s; }; }"


@pytest.mark.parametrize("tables", [DOCKER, UFW], ids=["Docker", "ufw"])
async def test_where_iptables_forwards_nothing_containers_get_out_and_destroy_undoes_it(
    node: Node, tables: str
) -> None:
    load(tables % "type filter hook forward priority filter; policy drop")
    before = run("nft list table ip filter")
    guest = await node.guest()
    with node.outside.listen():
        assert guest.is_cut_off_from(OUTSIDE)
        await node.network.ensure([guest.link])
        await node.network.ensure([guest.link])
        assert guest.reaches(OUTSIDE)
    assert run("nft list table ip filter").count('"nta0"') == 2
    assert "-i nta0 -j ACCEPT" in run("iptables-nft --list-rules")
    await node.network.destroy()
    assert run("nft list table ip filter") == before


def load(tables: str) -> None:
    subprocess.run(["nft", tables], check=True)


async def test_one_container_cannot_fill_the_hosts_table_of_connections(node: Node) -> None:
    greedy, modest = await node.guest(), await node.guest()
    with node.outside.datagrams() as receiver:
        receiver.settimeout(1)
        passed = 0
        with contextlib.suppress(TimeoutError):
            for port in range(20000, 25000):
                with greedy.datagrams(port) as sender:
                    sender.sendto(b"flow", (OUTSIDE, PORT))
                receiver.recv(16)
                passed += 1
        assert passed == 4096
        with modest.datagrams() as sender:
            sender.sendto(b"modest", (OUTSIDE, PORT))
        assert receiver.recv(16) == b"modest"
