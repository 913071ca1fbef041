"""The packet filter of the default network: its rules, and libnftables(3) to load them without a process."""

import ctypes
import json
import threading
import weakref
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from typing import Any, Protocol

# One container may hold so many of the host's connection tracking entries: when the table is full,
# nobody on the host can open a connection.
_FLOWS_PER_CONTAINER = 4096
# Where clouds tell a machine its secrets: AWS, GCP, Azure and most others; Azure's host agent; Alibaba.
# Some of these addresses are resolvers, too.
_METADATA = "{ 169.254.0.0/16, 168.63.129.16, 100.100.100.200 }"
# iptables' own marks: the table and the chains in which other tools refuse what they don't know.
_IPTABLES, _IPTABLES_CHAINS = "ip filter", ("DOCKER-USER", "FORWARD")

_OUTPUT_HANDLE, _OUTPUT_JSON = 1 << 3, 1 << 4


class NftablesError(Exception):
    """Carries what libnftables printed."""

    @property
    def missing(self) -> bool:
        """Whether something that the commands name does not exist."""
        return "No such file or directory" in str(self)


class Nftables:
    """libnftables with the network namespace in which it was opened; safe for several threads, one at a time.

    Raises OSError where the library is not installed. Commands are text that nft would run: nothing that a
    client chose may be part of them.
    """

    def __init__(self) -> None:
        library = ctypes.CDLL("libnftables.so.1")
        library.nft_ctx_new.restype = ctypes.c_void_p
        library.nft_ctx_get_output_buffer.restype = ctypes.c_char_p
        library.nft_ctx_get_error_buffer.restype = ctypes.c_char_p
        context = ctypes.c_void_p(library.nft_ctx_new(0))
        library.nft_ctx_buffer_output(context)
        library.nft_ctx_buffer_error(context)
        weakref.finalize(self, library.nft_ctx_free, context)
        self._library, self._context = library, context
        self._lock = threading.Lock()

    def run(self, commands: str) -> None:
        """Runs the commands as one transaction: all of them or, with NftablesError, none."""
        with self._lock:
            self._run(commands)

    def listing(self, command: str) -> list[dict[str, Any]]:
        """What a `list` command finds, as libnftables-json(5) objects."""
        with self._lock:
            self._library.nft_ctx_output_set_flags(self._context, _OUTPUT_JSON | _OUTPUT_HANDLE)
            try:
                self._run(command)
                output = self._library.nft_ctx_get_output_buffer(self._context)
            finally:
                self._library.nft_ctx_output_set_flags(self._context, 0)
        return list(json.loads(output)["nftables"])

    def _run(self, commands: str) -> None:
        if self._library.nft_run_cmd_from_buffer(self._context, commands.encode()) != 0:
            raise NftablesError(self._library.nft_ctx_get_error_buffer(self._context).decode(errors="replace").strip())


class Port(Protocol):
    """A bridge port and the only source addresses that frames from it may have."""

    @property
    def name(self) -> str: ...
    @property
    def mac(self) -> str: ...
    @property
    def ip(self) -> IPv4Address: ...


@dataclass(frozen=True)
class Filter:
    """The two tables of an instance, as commands. `group` is the group of its ports, see ip-link(8).

    No chain has a policy of drop: a new chain is hooked in before its rules are in force, and until then its
    policy would decide about the whole host's traffic.
    """

    instance: str
    bridge: str
    bridge_mac: str
    subnet: IPv4Network
    gateway: IPv4Address
    group: int

    def load(self, ports: Iterable[Port], uplinks: Collection[int]) -> str:
        """Puts both tables in place of whatever they were. `uplinks`: indexes of the host's interfaces with a
        default route, which may be bridges, unlike other ways out."""
        return "\n".join((self.unload(), self._inet(uplinks), self._bridge(), self.permit(ports)))

    def unload(self) -> str:
        """Also when they don't exist."""
        tables = (f"inet {self.instance}", f"bridge {self.instance}")
        return "\n".join(f"add table {table}\ndelete table {table}" for table in tables)

    def permit(self, ports: Iterable[Port]) -> str:
        return "\n".join(f"add element bridge {self.instance} ports {{ {_element(port)} }}" for port in ports)

    def forbid(self, port: Port) -> str:
        """Also when it is not there."""
        element = f"element bridge {self.instance} ports {{ {_element(port)} }}"
        return f"add {element}\ndelete {element}"

    def permit_only(self, ports: Iterable[Port]) -> str:
        return f"flush set bridge {self.instance} ports\n{self.permit(ports)}"

    def _inet(self, uplinks: Collection[int]) -> str:
        """What containers may reach. What seems to come from a port and not from the bridge has gone round the
        bridge table: the bridge hands link-local frames up unfiltered, and once it is deleted, everything."""
        not_uplink = f"oif != {{ {', '.join(map(str, sorted(uplinks)))} }}" if uplinks else ""
        return f"""table inet {self.instance} {{
  set flows {{ type ipv4_addr; size 65536; flags dynamic; }}
  chain input {{
    type filter hook input priority filter; policy accept;
    iifgroup {self.group} drop
    iifname != "{self.bridge}" accept
    ct state established accept
    ip daddr {self.gateway} icmp type echo-request accept
    drop
  }}
  chain forward {{
    type filter hook forward priority filter; policy accept;
    iifgroup {self.group} drop
    iifname "{self.bridge}" oifname "{self.bridge}" drop
    iifname != "{self.bridge}" oifname != "{self.bridge}" accept
    ct state established,related accept
    ct state invalid drop
    oifname "{self.bridge}" drop
    ip daddr {_METADATA} meta l4proto != {{ tcp, udp }} drop
    ip daddr {_METADATA} th dport != 53 drop
    meta oifkind "bridge" {not_uplink} drop comment "containers and machines of others on this host"
    ct state new add @flows {{ ip saddr ct count over {_FLOWS_PER_CONTAINER} }} drop
  }}
  chain postrouting {{
    type nat hook postrouting priority srcnat; policy accept;
    ip saddr {self.subnet} oifname != {{ "{self.bridge}", "lo" }} masquerade
  }}
}}"""

    def _bridge(self) -> str:
        """Which frames a port may send: IPv4 to the bridge itself and ARP for the gateway, from its own addresses."""
        return f"""table bridge {self.instance} {{
  set ports {{ type ifname . ether_addr . ipv4_addr; }}
  chain prerouting {{
    type filter hook prerouting priority dstnat; policy accept;
    iifgroup != {self.group} accept
    ether daddr {self.bridge_mac} ether type ip iifname . ether saddr . ip saddr @ports accept
    ether daddr {{ {self.bridge_mac}, ff:ff:ff:ff:ff:ff }} ether type arp arp daddr ip {self.gateway} \
iifname . ether saddr . arp saddr ip @ports iifname . arp saddr ether . arp saddr ip @ports accept
    drop
  }}
}}"""


def accept_in_iptables(nft: Nftables, bridge: str) -> None:
    """Where iptables refuses to forward what it does not know, has it accept what `inet` has judged already.

    Docker and ufw set FORWARD's policy to drop, and a drop in any table is final. The rules are such as
    iptables would have made (its own tools refuse a table with anything else in it), in the chain that Docker
    leaves to others, or else in FORWARD. Rules of iptables-legacy are out of nftables' sight.
    """
    chain = foreign_chain(nft.listing("list chains ip"))
    if chain is None or _rules_about(nft, chain, bridge):
        return
    ways = (f'iifname "{bridge}"', f'oifname "{bridge}"')
    nft.run("\n".join(f"insert rule {_IPTABLES} {chain} {way} counter accept" for way in ways))


def forget_in_iptables(nft: Nftables, bridge: str) -> None:
    """Undoes accept_in_iptables."""
    present = {chain["name"] for chain in _filter_chains(nft.listing("list chains ip"))}
    for chain in present.intersection(_IPTABLES_CHAINS):
        for handle in _rules_about(nft, chain, bridge):
            nft.run(f"delete rule {_IPTABLES} {chain} handle {handle}")


def foreign_chain(listing: list[dict[str, Any]]) -> str | None:
    """The chain of iptables in which forwarded packets must be accepted, None where nothing refuses them (pure).

    `listing` is that of `list chains ip`.
    """
    chains = {chain["name"]: chain for chain in _filter_chains(listing)}
    if "DOCKER-USER" in chains:
        return "DOCKER-USER"
    return "FORWARD" if chains.get("FORWARD", {}).get("policy") == "drop" else None


def _element(port: Port) -> str:
    return f'"{port.name}" . {port.mac} . {port.ip}'


def _filter_chains(listing: list[dict[str, Any]]) -> list[dict[str, Any]]:
    chains = [entry["chain"] for entry in listing if "chain" in entry]
    return [chain for chain in chains if f"{chain['family']} {chain['table']}" == _IPTABLES]


def _rules_about(nft: Nftables, chain: str, bridge: str) -> list[int]:
    """The handles of the rules that name the bridge."""
    rules = [entry["rule"] for entry in nft.listing(f"list chain {_IPTABLES} {chain}") if "rule" in entry]
    return [rule["handle"] for rule in rules if any(_names(part, bridge) for part in rule["expr"])]


def _names(expression: dict[str, Any], bridge: str) -> bool:
    match = expression.get("match")
    return match is not None and match["right"] == bridge
