"""The pure parts of the default network."""

import re
from ipaddress import IPv4Address, IPv4Network

import pytest

from services.lifecycle.network import (
    NO_RESOLVER,
    SUBNETS,
    NetworkError,
    mac_address,
    pick_subnet,
    resolv_conf,
)
from services.lifecycle.nftables import Filter, foreign_chain

STUB = "# stub\nnameserver 127.0.0.53\noptions edns0 trust-ad\nsearch corp.example\n"
UPSTREAM = "nameserver 192.0.2.53\nnameserver 2001:db8::53\nsearch corp.example lab.example\n"


def test_hzel_takes_the_first_subnet_of_a_host_that_uses_none() -> None:
    assert pick_subnet("hzel", []) == (0, IPv4Network("10.86.0.0/20"))


def test_an_instance_always_begins_at_the_same_subnet() -> None:
    assert pick_subnet("blue", []) == pick_subnet("blue", [IPv4Network("192.168.0.0/16")])


def test_a_subnet_that_overlaps_a_route_is_passed_over() -> None:
    used = [IPv4Network("10.86.0.0/24"), IPv4Network("10.86.31.255/32")]
    assert pick_subnet("hzel", used) == (2, IPv4Network("10.86.32.0/20"))


def test_the_search_goes_round_past_the_last_subnet() -> None:
    index, _ = pick_subnet("blue", [])
    free = (index - 1) % len(SUBNETS)
    used = [subnet for place, subnet in enumerate(SUBNETS) if place != free]
    assert pick_subnet("blue", used) == (free, SUBNETS[free])


def test_a_host_whose_networks_cover_every_subnet_is_an_error() -> None:
    with pytest.raises(NetworkError, match=re.escape("10.86.0.0/20 to 10.86.208.0/20")):
        pick_subnet("hzel", [IPv4Network("10.0.0.0/8")])


def test_a_mac_address_is_local_and_tells_its_ip_address() -> None:
    assert mac_address(IPv4Address("10.86.1.255")) == "02:42:0a:56:01:ff"


def test_the_hosts_resolvers_search_list_and_options_are_kept() -> None:
    text = "; comment\nnameserver 192.0.2.1\nnameserver 192.0.2.2\nsearch a.example b.example\noptions ndots:2\n"
    assert resolv_conf(text, None, []) == (
        "nameserver 192.0.2.1\nnameserver 192.0.2.2\nsearch a.example b.example\noptions ndots:2\n"
    )


def test_a_loopback_resolver_is_replaced_by_those_behind_it() -> None:
    assert resolv_conf(STUB, UPSTREAM, []) == "nameserver 192.0.2.53\nsearch corp.example lab.example\n"


def test_a_resolver_beside_a_loopback_one_is_enough() -> None:
    text = "nameserver 127.0.0.1\nnameserver 192.0.2.7\n"
    assert resolv_conf(text, UPSTREAM, []) == "nameserver 192.0.2.7\n"


@pytest.mark.parametrize("server", ["127.0.0.1", "::1", "0.0.0.0", "2001:db8::1", "fe80::1%eth0", "nonsense", ""])
def test_without_a_resolver_that_can_be_reached_only_a_comment_is_left(server: str) -> None:
    assert resolv_conf(f"nameserver {server}\nsearch corp.example\n", STUB, []) == NO_RESOLVER


def test_an_override_wins_over_every_resolver_of_the_host() -> None:
    assert resolv_conf(STUB, UPSTREAM, ["198.51.100.1", "198.51.100.2"]) == (
        "nameserver 198.51.100.1\nnameserver 198.51.100.2\noptions edns0 trust-ad\nsearch corp.example\n"
    )


def chain(name: str, table: str = "filter", **more: str) -> dict[str, object]:
    return {"chain": {"family": "ip", "table": table, "name": name, **more}}


def test_dockers_chain_for_the_user_comes_before_a_forward_chain_that_drops() -> None:
    assert foreign_chain([chain("FORWARD", policy="drop"), chain("DOCKER-USER")]) == "DOCKER-USER"
    assert foreign_chain([chain("FORWARD", policy="drop")]) == "FORWARD"


def test_a_host_that_forwards_everything_is_left_alone() -> None:
    assert foreign_chain([{"metainfo": {}}, chain("FORWARD", policy="accept")]) is None
    assert foreign_chain([chain("FORWARD", table="other", policy="drop")]) is None


def test_no_chain_of_ours_can_drop_the_hosts_traffic_by_its_policy() -> None:
    rules = Filter("hzel", "hzel0", "02:42:0a:56:00:01", SUBNETS[0], IPv4Address("10.86.0.1"), 7).load([], [2])
    assert rules.count("policy accept") == rules.count(" hook ") == 4
