"""A host, the world outside and containers, each a network namespace of its own; frames to send between them.

Nothing here touches the network of the machine that runs the tests.
"""

import asyncio
import contextlib
import ctypes
import os
import re
import socket
import struct
import subprocess
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from ipaddress import IPv4Network
from typing import TypeVar

from services.lifecycle.netlink import in_netns
from services.lifecycle.network import Link, Network

T = TypeVar("T")

SUBNET = IPv4Network("10.87.0.0/20")
GATEWAY, HOST_OUTSIDE, OUTSIDE = "10.87.0.1", "10.88.0.1", "10.88.0.2"
BROADCAST = "10.87.15.255"
GATEWAY_MAC, BROADCAST_MAC = "02:42:0a:57:00:01", "ff:ff:ff:ff:ff:ff"
LLDP_MAC = "01:80:c2:00:00:0e"  # link-local: a bridge passes such frames up instead of filtering them
ANSWER_S, SILENCE_S = 5.0, 0.3
PORT = 7000


@dataclass
class Namespace:
    """The network namespace of a process that lives as long as this one."""

    process: subprocess.Popen[bytes]
    descriptor: int

    def run(self, work: Callable[[], T]) -> T:
        return in_netns(self.descriptor, work)

    def ip(self, *arguments: str) -> None:
        self.run(lambda: subprocess.run(["ip", *arguments], check=True))

    def listen(self, port: int = PORT, address: str = "") -> socket.socket:
        server = self.run(lambda: socket.create_server((address, port)))
        server.settimeout(ANSWER_S)
        return server

    def reaches(self, address: str, port: int = PORT, within_s: float = ANSWER_S) -> bool:
        """For a listener that is there: whether it can be connected to."""
        try:
            self.run(lambda: socket.create_connection((address, port), timeout=within_s).close())
        except OSError:
            return False
        return True

    def is_cut_off_from(self, address: str, port: int = PORT) -> bool:
        return not self.reaches(address, port, SILENCE_S)

    def datagrams(self, port: int = PORT) -> socket.socket:
        receiver = self.run(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        receiver.bind(("", port))
        receiver.settimeout(ANSWER_S)
        return receiver

    def packet_socket(self, interface: str = "eth0") -> socket.socket:
        """Sends any frame, and receives every one."""
        frames = self.run(lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.ntohs(3)))
        frames.bind((interface, 3))
        frames.settimeout(ANSWER_S)
        return frames


@dataclass
class Guest(Namespace):
    """What stands for a container: a namespace that belongs to a user namespace, with a link."""

    link: Link

    @property
    def address(self) -> str:
        return str(self.link.ip)

    def end(self) -> None:
        self.process.kill()
        self.process.wait()


@dataclass
class Node:
    """A host with its network, and the world outside, which knows no way to the containers."""

    network: Network
    host: Namespace
    outside: Namespace
    start: Callable[[], Namespace]
    made: int = 0

    def unattached(self) -> Guest:
        namespace = self.start()
        link = self.network.link(str(uuid.uuid4()), SUBNET.network_address + 2 + self.made)
        self.made += 1
        return Guest(namespace.process, namespace.descriptor, link)

    async def guest(self) -> Guest:
        guest = self.unattached()
        await self.network.attach(guest.link, guest.process.pid)
        return guest


@contextlib.asynccontextmanager
async def node_apart() -> AsyncIterator[Node]:
    """A node on a host of its own. This thread, and whatever it starts, is on that host inside the block."""
    with contextlib.ExitStack() as stack:
        host = stack.enter_context(own_host())
        # Threads of the loop that were there before are in the namespace that was there before.
        loop = asyncio.get_running_loop()
        threads = ThreadPoolExecutor()
        loop.set_default_executor(threads)
        stack.callback(threads.shutdown)
        stack.callback(loop.set_default_executor, ThreadPoolExecutor())

        outside = stack.enter_context(namespace("--net"))
        run(f"ip link add up0 type veth peer eth0 netns {outside.process.pid}")
        run(f"ip address add {HOST_OUTSIDE}/24 dev up0")
        run("ip link set up0 up")
        run("ip link set lo up")
        outside.ip("address", "add", f"{OUTSIDE}/24", "dev", "eth0")
        outside.ip("link", "set", "eth0", "up")

        network = Network("nta", SUBNET)
        await network.ensure()

        def start() -> Namespace:
            return stack.enter_context(namespace("--net", "--user", "--map-root-user"))

        yield Node(network, host, outside, start)


@contextlib.contextmanager
def own_host() -> Iterator[Namespace]:
    """Moves this thread, and so whatever it starts, to a new network namespace: that of a host of its own."""
    before = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    with namespace("--net") as host:
        enter_netns(host.descriptor)
        try:
            yield host
        finally:
            enter_netns(before)
            os.close(before)


def enter_netns(descriptor: int) -> None:
    if ctypes.CDLL(None, use_errno=True).setns(descriptor, 0x40000000) != 0:
        raise OSError(ctypes.get_errno(), "setns")


@contextlib.contextmanager
def namespace(*kinds: str) -> Iterator[Namespace]:
    process = subprocess.Popen(
        ["unshare", *kinds, "sh", "-c", "echo; exec cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    with process:
        assert process.stdout is not None
        process.stdout.readline()
        descriptor = os.open(f"/proc/{process.pid}/ns/net", os.O_RDONLY)
        try:
            yield Namespace(process, descriptor)
        finally:
            os.close(descriptor)
            process.kill()


def run(command: str) -> str:
    return subprocess.run(command.split(), check=True, capture_output=True, text=True).stdout


def state_of_host() -> str:
    """All that the network has to do with, but for what the kernel settles in its own time: whether a link has a
    carrier, and IPv6 on the one to the outside."""
    commands = ("link", "-4 address", "route", "neighbour show nud permanent")
    links = re.sub(r"<\S+>| qdisc \w+| state \w+| linkdown", "", "".join(run(f"ip -oneline {c}") for c in commands))
    entries = [line for line in run("bridge fdb").splitlines() if "dev up0" not in line]
    return "\n".join([links, *entries, run("nft list ruleset")])


def frame(
    source: str, target: str, source_mac: str, target_mac: str, payload: bytes = b"bad", protocol: bytes = b"\x08\0"
) -> bytes:
    """An Ethernet frame with a UDP datagram in it."""
    datagram = struct.pack("!HHHH", PORT, PORT, 8 + len(payload), 0) + payload
    fields = (0x45, 0, 20 + len(datagram), 0, 0, 64, socket.IPPROTO_UDP)
    addresses = socket.inet_aton(source) + socket.inet_aton(target)
    header = struct.pack("!BBHHHBBH", *fields, checksum(struct.pack("!BBHHHBBH", *fields, 0) + addresses))
    return mac(target_mac) + mac(source_mac) + protocol + header + addresses + datagram


def checksum(header: bytes) -> int:
    total: int = sum(struct.unpack(f"!{len(header) // 2}H", header))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return 0xFFFF - total


def arp(sender_mac: str, sender: str, source_mac: str, target: str = GATEWAY, target_mac: str = BROADCAST_MAC) -> bytes:
    """An ARP request that ends in `bad`, as padding does no harm."""
    body = struct.pack("!HHBBH", 1, 0x0800, 6, 4, 1) + mac(sender_mac) + socket.inet_aton(sender)
    return mac(target_mac) + mac(source_mac) + b"\x08\x06" + body + bytes(6) + socket.inet_aton(target) + b"bad"


def mac(text: str) -> bytes:
    return bytes.fromhex(text.replace(":", ""))


def frames_before(receiver: socket.socket, marker: bytes) -> list[bytes]:
    """What arrives ahead of the frame or datagram that ends with the marker."""
    arrived: list[bytes] = []
    while not (arrived and arrived[-1].endswith(marker)):
        arrived.append(receiver.recv(65536))
    return arrived[:-1]
