"""The default network of a node: a bridge behind masquerading, and one isolated port of it per container.

       container                           host
    eth0 ---- veth ---- port (isolated) -- <instance>0 -- routing, masquerade -- outside
                          bridge table:      inet table:
                          no false source    neither the host nor another container

What a container sends is trusted in nothing: it may hold CAP_NET_RAW, or CAP_NET_ADMIN over its own namespace.
"""

import asyncio
import os
import re
import threading
import time
import zlib
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, ip_address
from pathlib import Path
from typing import ParamSpec, TypeVar

from services.common import layout
from services.lifecycle import netlink
from services.lifecycle.netlink import RouteSocket
from services.lifecycle.nftables import Filter, Nftables, NftablesError, accept_in_iptables, forget_in_iptables

P = ParamSpec("P")
T = TypeVar("T")

SUBNETS = [IPv4Network((f"10.86.{16 * index}.0", 20)) for index in range(14)]
NO_RESOLVER = "# The host names no resolver that a container could reach.\n"

_INSTANCE = re.compile(r"[a-z][a-z0-9]{1,7}")
_INSIDE = "eth0"
_LOOPBACK_INDEX = 1
_CARRIER_WITHIN_S, _CARRIER_POLL_S = 5.0, 0.0005
_SYSCTL = Path("/proc/sys/net")


class NetworkError(Exception):
    """The kernel refused, or the host's networks leave no room."""


@dataclass(frozen=True)
class Link:
    """What connects a container: `name` is the host's end, `ip` and `mac` are those of eth0 inside."""

    name: str
    ip: IPv4Address

    @property
    def mac(self) -> str:
        return mac_address(self.ip)


class Network:
    """The kernel's objects of one instance: its bridge, its links, its rules.

    Methods may run at the same time. Work that was begun is ended before a cancellation goes on, so that the
    canceller can undo it. All raise NetworkError.
    """

    def __init__(self, instance: str, subnet: IPv4Network, mtu: int = 1500) -> None:
        if not _INSTANCE.fullmatch(instance):
            raise NetworkError(f"{instance!r} can't name an instance")
        self._instance = instance
        self._bridge = f"{instance}0"
        self._subnet = subnet
        self._gateway = IPv4Interface((subnet.network_address + 1, subnet.prefixlen))
        self._mtu = mtu
        # Names can't tell instances apart that begin with the same letters. The group is what the kernel
        # knows a link of ours by from the moment it exists.
        self._group = zlib.crc32(instance.encode()) & 0x7FFFFFFF | 1
        bridge_mac = mac_address(self._gateway.ip)
        self._filter = Filter(instance, self._bridge, bridge_mac, subnet, self._gateway.ip, self._group)
        with _network_errors("nftables"):
            self._nftables = Nftables()
        # Links that this process has attached, so that one that is attached while others are swept survives.
        self._attached: dict[str, Link] = {}
        # Names that it has detached while their rows may still say that they run.
        self._detached: set[str] = set()
        self._elements = threading.Lock()

    @property
    def gateway(self) -> IPv4Address:
        return self._gateway.ip

    def link(self, container_id: str, ip: IPv4Address | str) -> Link:
        return Link(layout.link_name(self._instance, container_id), IPv4Address(ip))

    async def ensure(self, links: Iterable[Link] = ()) -> None:
        """Makes the bridge and the rules what they should be, whatever they are, and mends the given links
        where they exist. Only links that are given and that this object has not detached, or that it has attached,
        may send anything afterwards."""
        await _finished(self._ensure, list(links))

    async def attach(self, link: Link, pid: int) -> None:
        """Gives the network namespace of process `pid` its eth0, up and routed; undoes all of it on failure.

        A link of the same name, of a container that ended before, is replaced.
        """
        await _finished(self._attach, link, pid)

    async def detach(self, link: Link) -> None:
        """Takes away all that attach made, or what is left of it."""
        await _finished(self._detach, link)

    async def links(self) -> set[str]:
        """The names of the instance's links that exist."""
        return await _finished(self._links)

    async def sweep(self, keep: Collection[Link]) -> None:
        """Takes away every link that is neither kept nor attached by this object, and makes the permitted source
        addresses exactly those of the rest."""
        await _finished(self._sweep, list(keep))

    async def destroy(self) -> None:
        """Takes away everything; containers that are still attached lose their eth0. Forwarding stays on."""
        await _finished(self._destroy)

    def _ensure(self, links: list[Link]) -> None:
        with _network_errors(f"bridge {self._bridge}"), RouteSocket() as route:
            route.apply(netlink.create_bridge(self._bridge, mac_address(self.gateway), self._mtu))
            _disable_ipv6(self._bridge)
            bridge = route.index(self._bridge)
            stale = [a for index, a in route.addresses() if index == bridge and a != self._gateway]
            route.apply(
                *(netlink.delete_address(bridge, address) for address in stale),
                netlink.add_address(bridge, self._gateway),
                netlink.bring_up(bridge),
            )
            _write_sysctl(_SYSCTL / "ipv4/ip_forward", "1")
            self._load_rules(route, links)
            present = self._links()
            for link in links:
                if link.name in present:
                    self._connect(route, link)

    def _load_rules(self, route: RouteSocket, links: list[Link]) -> None:
        uplinks = {r.interface for r in route.routes() if r.destination.prefixlen == 0 and r.interface is not None}
        with self._elements:
            self._detached.intersection_update(link.name for link in links)
            ports = {link.name: link for link in links if link.name not in self._detached} | self._attached
            self._nftables.run(self._filter.load(ports.values(), uplinks))
        accept_in_iptables(self._nftables, self._bridge)

    def _attach(self, link: Link, pid: int) -> None:
        with _network_errors(f"attach {link.name}"), ExitStack() as undo:
            with _netns(pid) as netns, RouteSocket() as route:
                undo.callback(self._detach, link)
                with self._elements:
                    self._attached[link.name] = link
                    self._detached.discard(link.name)
                    self._nftables.run(self._filter.permit([link]))
                self._create(route, link, netns)
                self._connect(route, link)
                with netlink.in_netns(netns, RouteSocket) as inside:
                    eth0 = inside.index(_INSIDE)
                    inside.apply(
                        netlink.bring_up(_LOOPBACK_INDEX),
                        netlink.add_address(eth0, IPv4Interface((link.ip, self._subnet.prefixlen))),
                        netlink.bring_up(eth0),
                        netlink.default_route(eth0, self.gateway),
                    )
                self._await_carrier(route, link)
            undo.pop_all()

    def _create(self, route: RouteSocket, link: Link, netns: int) -> None:
        create = netlink.create_veth(link.name, self._group, self._mtu, netns, _INSIDE, link.mac)
        try:
            route.apply(create)
        except FileExistsError:
            # The kernel takes its time to clear away the namespace of a container that ended.
            route.apply(netlink.delete_interface(link.name))
            route.apply(create)

    def _connect(self, route: RouteSocket, link: Link) -> None:
        """Makes the host's end a port of the bridge; also of one that was made anew."""
        port, bridge = route.index(link.name), route.index(self._bridge)
        _disable_ipv6(link.name)
        route.apply(
            netlink.enslave(port, bridge),
            netlink.isolate(port),
            netlink.forwarding_entry(port, link.mac),
            netlink.neighbour(bridge, link.ip, link.mac),
            # A container could fill the host's neighbour table through frames that go round the bridge.
            netlink.bring_up(port, arp=False),
        )

    def _await_carrier(self, route: RouteSocket, link: Link) -> None:
        """Until the kernel has noticed in its own time that both ends are up, and that the bridge has a port again,
        these drop whatever they get. Kernels since 6.8 notice when they are asked."""
        deadline = time.monotonic() + _CARRIER_WITHIN_S
        for name in (link.name, self._bridge):
            while not (interface := route.find(name)) or not interface.operational:
                if time.monotonic() > deadline:
                    raise NetworkError(f"attach {link.name}: {name} has no carrier after {_CARRIER_WITHIN_S} s")
                time.sleep(_CARRIER_POLL_S)

    def _detach(self, link: Link) -> None:
        with _network_errors(f"detach {link.name}"), RouteSocket() as route:
            with self._elements:
                self._attached.pop(link.name, None)
                self._detached.add(link.name)
                with _absence_tolerated():
                    self._nftables.run(self._filter.forbid(link))
            route.apply(netlink.delete_interface(link.name))
            self._forget_neighbours(route, {link.ip})

    def _forget_neighbours(self, route: RouteSocket, ips: Iterable[IPv4Address]) -> None:
        bridge = route.find(self._bridge)
        if bridge is not None:
            route.apply(*(netlink.delete_neighbour(bridge.index, ip) for ip in ips))

    def _links(self) -> set[str]:
        with _network_errors("list links"), RouteSocket() as route:
            return {interface.name for interface in route.interfaces() if interface.group == self._group}

    def _sweep(self, keep: list[Link]) -> None:
        present = self._links()
        with _network_errors("sweep"), RouteSocket() as route:
            with self._elements:
                kept = {link.name: link for link in keep} | self._attached
                self._nftables.run(self._filter.permit_only(kept.values()))
            route.apply(*(netlink.delete_interface(name) for name in sorted(present - kept.keys())))
            ips = {link.ip for link in kept.values()}
            known = route.permanent_neighbours(route.index(self._bridge))
            self._forget_neighbours(route, (ip for ip in known if ip not in ips))

    def _destroy(self) -> None:
        with _network_errors(f"destroy {self._bridge}"), RouteSocket() as route:
            route.apply(netlink.delete_group(self._group), netlink.delete_interface(self._bridge))
            with self._elements:
                self._attached.clear()
                self._nftables.run(self._filter.unload())
            forget_in_iptables(self._nftables, self._bridge)


def mac_address(ip: IPv4Address) -> str:
    """The locally administered MAC that goes with an address of ours."""
    return ":".join(f"{byte:02x}" for byte in b"\x02\x42" + ip.packed)


def pick_subnet(instance: str, used: Iterable[IPv4Network]) -> tuple[int, IPv4Network]:
    """The first of SUBNETS, and its index, that overlaps nothing used (pure).

    Each instance begins to look at a place of its own, `hzel` at the first. Raises NetworkError when none is free.
    """
    taken = list(used)
    start = 0 if instance == "hzel" else zlib.crc32(instance.encode()) % len(SUBNETS)
    for step in range(len(SUBNETS)):
        index = (start + step) % len(SUBNETS)
        if not any(SUBNETS[index].overlaps(network) for network in taken):
            return index, SUBNETS[index]
    raise NetworkError(f"the host's networks leave none of {SUBNETS[0]} to {SUBNETS[-1]} free")


async def used_networks(ignored_interface: str = "") -> list[IPv4Network]:
    """What the host has addresses in or routes to, but for default routes and what leads to the ignored interface."""
    return await _finished(_used_networks, ignored_interface)


def _used_networks(ignored_interface: str) -> list[IPv4Network]:
    with _network_errors("list networks"), RouteSocket() as route:
        ignored = route.find(ignored_interface) if ignored_interface else None
        index = ignored.index if ignored else None
        networks = {address.network for interface, address in route.addresses() if interface != index}
        networks |= {r.destination for r in route.routes() if index is None or r.interface != index}
        return sorted(network for network in networks if network.prefixlen > 0)


def resolv_conf(host_text: str, systemd_text: str | None, override: Sequence[str]) -> str:
    """resolv.conf(5) for containers (pure): the resolvers that can be reached from there, with the host's search
    list and options.

    `systemd_text` is the file in which systemd-resolved names the resolvers behind its own; it is used where
    `host_text` names none that can be reached. `override` stands in place of all of them.
    """
    text = host_text
    if not override and systemd_text and not _reachable(host_text) and _reachable(systemd_text):
        text = systemd_text
    resolvers = list(override) or _reachable(text)
    others = [" ".join(words) for words in _directives(text) if words[0] in ("search", "domain", "options")]
    lines = [f"nameserver {resolver}" for resolver in resolvers] + others
    return "".join(f"{line}\n" for line in lines) if resolvers else NO_RESOLVER


def _reachable(text: str) -> list[str]:
    """The nameservers beyond the host; the network is one of IPv4."""
    servers = []
    for words in _directives(text):
        if words[0] != "nameserver" or len(words) < 2:
            continue
        try:
            address = ip_address(words[1])
        except ValueError:
            continue  # resolvers ignore such a line as well
        if address.version == 4 and not address.is_loopback and not address.is_unspecified:
            servers.append(words[1])
    return servers


def _directives(text: str) -> Iterator[list[str]]:
    for line in text.splitlines():
        words = line.split()
        if words and words[0][0] not in "#;":
            yield words


async def _finished(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Runs it in a thread. A cancelled caller goes on only when the work, some milliseconds, is over."""
    task = asyncio.create_task(asyncio.to_thread(work, *args, **kwargs))
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.gather(task, return_exceptions=True)
        raise


@contextmanager
def _network_errors(what: str) -> Iterator[None]:
    try:
        yield
    except (OSError, NftablesError) as error:
        raise NetworkError(f"{what}: {error}") from error


@contextmanager
def _absence_tolerated() -> Iterator[None]:
    """For what is to be taken from tables that somebody else may have flushed."""
    try:
        yield
    except NftablesError as error:
        if not error.missing:
            raise


@contextmanager
def _netns(pid: int) -> Iterator[int]:
    """A descriptor of the network namespace of the process, which must not be the host's."""
    netns = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        if os.path.samestat(os.fstat(netns), Path("/proc/self/ns/net").stat()):
            raise NetworkError(f"process {pid} has no network namespace of its own")
        yield netns
    finally:
        os.close(netns)


def _disable_ipv6(interface: str) -> None:
    try:
        _write_sysctl(_SYSCTL / "ipv6/conf" / interface / "disable_ipv6", "1")
    except FileNotFoundError:
        return  # a kernel without IPv6


def _write_sysctl(path: Path, value: str) -> None:
    """Writes only what differs: some hosts mount /proc/sys read-only, with all of it set."""
    if path.read_text().strip() != value:
        path.write_text(value)
