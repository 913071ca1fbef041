"""Route netlink, rtnetlink(7): the few messages that a node's networks are made of.

Plain sockets, because attaching is on the path of every create: pyroute2 takes 0.2 s to import and 0.2 ms to
encode a message, and it forks to reach another network namespace.
"""

import ctypes
import errno
import os
import socket
import struct
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from typing import Self, TypeVar

T = TypeVar("T")

_REPLY_TIMEOUT_S = 10.0
_REPLY_BYTES = 1 << 16
_DUMP_ATTEMPTS = 10
_BATCH = 64  # so many acknowledgements fit a receive buffer for sure

_CLONE_NEWNET = 0x40000000
_NETLINK_ROUTE, _SOL_NETLINK, _NETLINK_CAP_ACK, _NETLINK_EXT_ACK = 0, 270, 10, 11
_HEADER = struct.Struct("=IHHII")  # struct nlmsghdr: length, type, flags, sequence, port
_LINK = struct.Struct("=BxHiII")  # struct ifinfomsg: family, type, index, flags, change
_ADDRESS = struct.Struct("=BBBBI")  # struct ifaddrmsg: family, prefix length, flags, scope, index
_ROUTE = struct.Struct("=BBBBBBBBI")  # struct rtmsg: family, lengths, tos, table, protocol, scope, type, flags
_NEIGHBOUR = struct.Struct("=BxxxiHBB")  # struct ndmsg: family, index, state, flags, type

# linux/netlink.h
_ERROR, _DONE = 2, 3
_REQUEST, _ACK, _DUMP_INTERRUPTED, _REPLACE, _EXCLUSIVE, _DUMP, _CREATE = 0x1, 0x4, 0x10, 0x100, 0x200, 0x300, 0x400
_ACK_HAS_ATTRIBUTES, _ACK_MESSAGE = 0x200, 1
_NESTED = 0x8000
# linux/rtnetlink.h
_NEW_LINK, _DELETE_LINK, _GET_LINK = 16, 17, 18
_NEW_ADDRESS, _DELETE_ADDRESS, _GET_ADDRESS = 20, 21, 22
_NEW_ROUTE, _GET_ROUTE = 24, 26
_NEW_NEIGHBOUR, _DELETE_NEIGHBOUR, _GET_NEIGHBOUR = 28, 29, 30
_ROUTE_DESTINATION, _ROUTE_INTERFACE, _ROUTE_GATEWAY = 1, 4, 5
_TABLE_MAIN, _PROTOCOL_STATIC, _SCOPE_UNIVERSE, _TYPE_UNICAST = 254, 4, 0, 1
_SKIP_STATISTICS = 8
# linux/if_link.h, linux/if_addr.h, linux/neighbour.h, linux/veth.h
_LINK_MAC, _LINK_NAME, _LINK_MTU, _LINK_MASTER, _LINK_INFO = 1, 3, 4, 10, 18
_LINK_STATE, _LINK_GROUP, _LINK_NETNS, _LINK_MASK = 16, 27, 28, 29
_STATE_UP = b"\6"
_INFO_KIND, _INFO_DATA, _INFO_PORT = 1, 2, 5
_VETH_PEER = 1
_BRIDGE_STP, _BRIDGE_MULTICAST_SNOOPING = 5, 23
_PORT_LEARNING, _PORT_UNICAST_FLOOD, _PORT_MULTICAST_FLOOD, _PORT_BROADCAST_FLOOD = 8, 9, 27, 30
_PORT_ISOLATED, _PORT_LOCKED = 33, 39
_UP, _NO_ARP = 0x1, 0x80
_ADDRESS_PEER, _ADDRESS_LOCAL = 1, 2
_NEIGHBOUR_IP, _NEIGHBOUR_MAC = 1, 2
_STATE_STATIC, _STATE_PERMANENT, _FLAG_MASTER = 0x40, 0x80, 0x4

_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True)
class Request:
    """One message; an error number in `tolerated` counts as success."""

    kind: int
    flags: int
    body: bytes
    tolerated: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Interface:
    index: int
    name: str
    group: int
    operational: bool  # up, with a carrier, and the kernel has told all who must know


@dataclass(frozen=True)
class Route:
    destination: IPv4Network
    interface: int | None  # its index, where the route leads to a single one


def in_netns(netns: int, work: Callable[[], T]) -> T:
    """Calls `work` inside the network namespace of the descriptor `netns`; sockets that it opens stay there.

    setns(2) moves the calling thread alone: it is done by a thread that ends with the call, so that nothing
    else ever runs in that namespace.
    """

    def enter() -> T:
        if _libc.setns(netns, _CLONE_NEWNET) != 0:
            code = ctypes.get_errno()
            raise OSError(code, f"setns: {os.strerror(code)}")
        return work()

    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="netns") as thread:
        return thread.submit(enter).result()


class RouteSocket:
    """A conversation with the network namespace in which it was opened; for one thread at a time.

    Every failure is an OSError with the kernel's error number and, where it gave one, its explanation.
    """

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_ROUTE)
        self._socket.settimeout(_REPLY_TIMEOUT_S)
        self._socket.setsockopt(_SOL_NETLINK, _NETLINK_CAP_ACK, 1)
        self._socket.setsockopt(_SOL_NETLINK, _NETLINK_EXT_ACK, 1)
        self._sequence = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def apply(self, *requests: Request) -> None:
        """The kernel does the requests in order and does not stop at a failure: the first is raised at the end."""
        failure: OSError | None = None
        for start in range(0, len(requests), _BATCH):
            error = self._apply(requests[start : start + _BATCH])
            failure = failure or error
        if failure:
            raise failure

    def _apply(self, requests: tuple[Request, ...]) -> OSError | None:
        tolerated: dict[int, frozenset[int]] = {}
        packets = bytearray()
        for request in requests:
            self._sequence += 1
            tolerated[self._sequence] = request.tolerated
            packets += _packet(request, _REQUEST | _ACK | request.flags, self._sequence)
        self._socket.send(packets)
        failure: OSError | None = None
        while tolerated:
            for kind, flags, sequence, body in self._receive():
                if kind != _ERROR or sequence not in tolerated:
                    continue
                error = _error(flags, body)
                if error and error.errno not in tolerated[sequence]:
                    failure = failure or error
                del tolerated[sequence]
        return failure

    def find(self, name: str) -> Interface | None:
        attributes = _attribute(_LINK_NAME, _text(name)) + _attribute(_LINK_MASK, _u32(_SKIP_STATISTICS))
        try:
            return _interface(self._ask(Request(_GET_LINK, _ACK, _LINK.pack(0, 0, 0, 0, 0) + attributes))[0])
        except OSError as error:
            if error.errno != errno.ENODEV:
                raise
            return None

    def index(self, name: str) -> int:
        """The index of the interface with this name. Raises OSError (ENODEV) where there is none."""
        interface = self.find(name)
        if interface is None:
            raise OSError(errno.ENODEV, f"there is no interface {name}")
        return interface.index

    def interfaces(self) -> list[Interface]:
        mask = _attribute(_LINK_MASK, _u32(_SKIP_STATISTICS))
        return [_interface(body) for body in self._dump(_GET_LINK, _LINK.pack(0, 0, 0, 0, 0) + mask)]

    def addresses(self) -> list[tuple[int, IPv4Interface]]:
        """Every IPv4 address, with the index of its interface."""
        found = []
        for body in self._dump(_GET_ADDRESS, _ADDRESS.pack(socket.AF_INET, 0, 0, 0, 0)):
            _, prefix_length, _, _, index = _ADDRESS.unpack_from(body)
            attributes = _attributes(body[_ADDRESS.size :])
            local = attributes.get(_ADDRESS_LOCAL) or attributes[_ADDRESS_PEER]
            found.append((index, IPv4Interface((local, prefix_length))))
        return found

    def routes(self) -> list[Route]:
        """The IPv4 routes of all tables."""
        found = []
        for body in self._dump(_GET_ROUTE, _ROUTE.pack(socket.AF_INET, 0, 0, 0, 0, 0, 0, 0, 0)):
            prefix_length = body[1]
            attributes = _attributes(body[_ROUTE.size :])
            destination = IPv4Network((attributes.get(_ROUTE_DESTINATION, bytes(4)), prefix_length))
            interface = attributes.get(_ROUTE_INTERFACE)
            found.append(Route(destination, int.from_bytes(interface, sys.byteorder) if interface else None))
        return found

    def permanent_neighbours(self, interface: int) -> list[IPv4Address]:
        found = []
        for body in self._dump(_GET_NEIGHBOUR, _NEIGHBOUR.pack(socket.AF_INET, 0, 0, 0, 0)):
            _, index, state, _, _ = _NEIGHBOUR.unpack_from(body)
            if index == interface and state & _STATE_PERMANENT:
                found.append(IPv4Address(_attributes(body[_NEIGHBOUR.size :])[_NEIGHBOUR_IP]))
        return found

    def _dump(self, kind: int, body: bytes) -> list[bytes]:
        for _ in range(_DUMP_ATTEMPTS):
            try:
                return self._ask(Request(kind, _DUMP, body))
            except InterruptedError:
                continue  # the kernel's list changed while it was read
        raise OSError(errno.EAGAIN, "the kernel's list never stood still")

    def _ask(self, request: Request) -> list[bytes]:
        """The bodies of the answers. Raises InterruptedError where they may not fit together."""
        self._sequence += 1
        self._socket.send(_packet(request, _REQUEST | request.flags, self._sequence))
        bodies: list[bytes] = []
        interrupted = False
        while True:
            for kind, flags, sequence, body in self._receive():
                if sequence != self._sequence:
                    continue
                interrupted = interrupted or bool(flags & _DUMP_INTERRUPTED)
                if kind not in (_ERROR, _DONE):
                    bodies.append(body)
                    continue
                error = _error(flags, body) if kind == _ERROR else None
                if error or interrupted:
                    raise error or InterruptedError(errno.EINTR, "the kernel's list changed")
                return bodies

    def _receive(self) -> Iterator[tuple[int, int, int, bytes]]:
        data = self._socket.recv(_REPLY_BYTES)
        while data:
            length, kind, flags, sequence, _ = _HEADER.unpack_from(data)
            yield kind, flags, sequence, data[_HEADER.size : length]
            data = data[_aligned(length) :]


def create_bridge(name: str, mac: str, mtu: int) -> Request:
    """Also sets an existing bridge right; EOPNOTSUPP where the name belongs to something else."""
    data = _attribute(_BRIDGE_STP, _u32(0)) + _attribute(_BRIDGE_MULTICAST_SNOOPING, b"\0")
    attributes = (
        _attribute(_LINK_NAME, _text(name))
        + _attribute(_LINK_MAC, _mac(mac))
        + _attribute(_LINK_MTU, _u32(mtu))
        + _nested(_LINK_INFO, _attribute(_INFO_KIND, b"bridge") + _nested(_INFO_DATA, data))
    )
    return Request(_NEW_LINK, _CREATE, _LINK.pack(0, 0, 0, 0, 0) + attributes)


def create_veth(name: str, group: int, mtu: int, netns: int, peer_name: str, peer_mac: str) -> Request:
    """A pair, both down, the peer in the namespace of the descriptor `netns`; EEXIST where either name is taken."""
    peer = (
        _attribute(_LINK_NAME, _text(peer_name))
        + _attribute(_LINK_MAC, _mac(peer_mac))
        + _attribute(_LINK_MTU, _u32(mtu))
        + _attribute(_LINK_NETNS, _u32(netns))
    )
    data = _nested(_VETH_PEER, _LINK.pack(0, 0, 0, 0, 0) + peer)
    attributes = (
        _attribute(_LINK_NAME, _text(name))
        + _attribute(_LINK_GROUP, _u32(group))
        + _attribute(_LINK_MTU, _u32(mtu))
        + _nested(_LINK_INFO, _attribute(_INFO_KIND, b"veth") + _nested(_INFO_DATA, data))
    )
    return Request(_NEW_LINK, _CREATE | _EXCLUSIVE, _LINK.pack(0, 0, 0, 0, 0) + attributes)


def enslave(index: int, bridge: int) -> Request:
    return Request(_NEW_LINK, 0, _LINK.pack(0, 0, index, 0, 0) + _attribute(_LINK_MASTER, _u32(bridge)))


def isolate(index: int) -> Request:
    """A bridge port that talks to the bridge alone, from known addresses alone; kernels before 5.18 ignore `locked`."""
    on, off = b"\1", b"\0"
    port = (
        _attribute(_PORT_ISOLATED, on)
        + _attribute(_PORT_LOCKED, on)
        + _attribute(_PORT_LEARNING, off)
        + _attribute(_PORT_UNICAST_FLOOD, off)
        + _attribute(_PORT_MULTICAST_FLOOD, off)
        + _attribute(_PORT_BROADCAST_FLOOD, off)
    )
    return Request(_NEW_LINK, 0, _LINK.pack(0, 0, index, 0, 0) + _nested(_LINK_INFO, _nested(_INFO_PORT, port)))


def bring_up(index: int, *, arp: bool = True) -> Request:
    """Without `arp`, the interface's own host neither asks nor answers there; what a bridge passes on is untouched."""
    flags = _UP if arp else _UP | _NO_ARP
    return Request(_NEW_LINK, 0, _LINK.pack(0, 0, index, flags, _UP | _NO_ARP))


def delete_interface(name: str) -> Request:
    """Deletes it if it is there."""
    body = _LINK.pack(0, 0, 0, 0, 0) + _attribute(_LINK_NAME, _text(name))
    return Request(_DELETE_LINK, 0, body, frozenset({errno.ENODEV}))


def delete_group(group: int) -> Request:
    """Deletes every interface of the group."""
    body = _LINK.pack(0, 0, 0, 0, 0) + _attribute(_LINK_GROUP, _u32(group))
    return Request(_DELETE_LINK, 0, body, frozenset({errno.ENODEV}))


def add_address(index: int, address: IPv4Interface) -> Request:
    return Request(_NEW_ADDRESS, _CREATE | _REPLACE, _address(index, address))


def delete_address(index: int, address: IPv4Interface) -> Request:
    return Request(_DELETE_ADDRESS, 0, _address(index, address))


def default_route(index: int, gateway: IPv4Address) -> Request:
    route = _ROUTE.pack(socket.AF_INET, 0, 0, 0, _TABLE_MAIN, _PROTOCOL_STATIC, _SCOPE_UNIVERSE, _TYPE_UNICAST, 0)
    attributes = _attribute(_ROUTE_GATEWAY, gateway.packed) + _attribute(_ROUTE_INTERFACE, _u32(index))
    return Request(_NEW_ROUTE, _CREATE | _REPLACE, route + attributes)


def forwarding_entry(port: int, mac: str) -> Request:
    """The bridge's knowledge, never aged or moved, that `mac` is behind `port`."""
    entry = _NEIGHBOUR.pack(socket.AF_BRIDGE, port, _STATE_STATIC, _FLAG_MASTER, 0)
    return Request(_NEW_NEIGHBOUR, _CREATE | _REPLACE, entry + _attribute(_NEIGHBOUR_MAC, _mac(mac)))


def neighbour(index: int, ip: IPv4Address, mac: str) -> Request:
    entry = _NEIGHBOUR.pack(socket.AF_INET, index, _STATE_PERMANENT, 0, 0)
    attributes = _attribute(_NEIGHBOUR_IP, ip.packed) + _attribute(_NEIGHBOUR_MAC, _mac(mac))
    return Request(_NEW_NEIGHBOUR, _CREATE | _REPLACE, entry + attributes)


def delete_neighbour(index: int, ip: IPv4Address) -> Request:
    """Deletes it if it is there."""
    entry = _NEIGHBOUR.pack(socket.AF_INET, index, 0, 0, 0)
    body = entry + _attribute(_NEIGHBOUR_IP, ip.packed)
    return Request(_DELETE_NEIGHBOUR, 0, body, frozenset({errno.ENOENT}))


def _packet(request: Request, flags: int, sequence: int) -> bytes:
    length = _HEADER.size + len(request.body)
    return _HEADER.pack(length, request.kind, flags, sequence, 0) + request.body + bytes(_aligned(length) - length)


def _error(flags: int, body: bytes) -> OSError | None:
    """None for the plain acknowledgement that an error message without an error is."""
    (code,) = struct.unpack_from("=i", body)
    if code == 0:
        return None
    explanation = b""
    if flags & _ACK_HAS_ATTRIBUTES:
        explanation = _attributes(body[4 + _HEADER.size :]).get(_ACK_MESSAGE, b"")
    return OSError(-code, explanation.rstrip(b"\0").decode() or os.strerror(-code))


def _attributes(data: bytes) -> dict[int, bytes]:
    found = {}
    while len(data) >= 4:
        length, kind = struct.unpack_from("=HH", data)
        found[kind & ~_NESTED] = data[4:length]
        data = data[_aligned(length) :]
    return found


def _interface(body: bytes) -> Interface:
    _, _, index, _, _ = _LINK.unpack_from(body)
    attributes = _attributes(body[_LINK.size :])
    name = attributes[_LINK_NAME].rstrip(b"\0").decode()
    group = int.from_bytes(attributes[_LINK_GROUP], sys.byteorder)
    return Interface(index, name, group, attributes[_LINK_STATE] == _STATE_UP)


def _address(index: int, address: IPv4Interface) -> bytes:
    header = _ADDRESS.pack(socket.AF_INET, address.network.prefixlen, 0, 0, index)
    return header + _attribute(_ADDRESS_LOCAL, address.ip.packed) + _attribute(_ADDRESS_PEER, address.ip.packed)


def _attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)


def _nested(kind: int, attributes: bytes) -> bytes:
    return _attribute(kind | _NESTED, attributes)


def _text(value: str) -> bytes:
    return value.encode() + b"\0"


def _u32(value: int) -> bytes:
    return struct.pack("=I", value)


def _mac(value: str) -> bytes:
    return bytes.fromhex(value.replace(":", ""))


def _aligned(length: int) -> int:
    return (length + 3) & ~3
