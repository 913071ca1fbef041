"""The default network is made, mended and taken away without a trace."""

import asyncio
import contextlib
import json
import os
from collections.abc import AsyncIterator
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import pytest

from services.lifecycle.network import Link, Network, NetworkError, used_networks
from tests.integration.network_namespaces import OUTSIDE, SUBNET, Node, node_apart, run, state_of_host

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="makes network namespaces")


@pytest.fixture
async def node() -> AsyncIterator[Node]:
    async with node_apart() as node:
        yield node


async def test_attaching_and_detaching_leaves_nothing(node: Node) -> None:
    before = state_of_host()
    for _ in range(50):
        guest = await node.guest()
        await node.network.detach(guest.link)
        guest.end()
    assert state_of_host() == before


async def test_detaching_is_no_error_when_the_container_is_gone_or_it_was_done_before(node: Node) -> None:
    before = state_of_host()
    guest = await node.guest()
    guest.end()
    await node.network.detach(guest.link)
    await node.network.detach(guest.link)
    assert state_of_host() == before


async def test_many_attach_and_detach_at_the_same_time(node: Node) -> None:
    before = state_of_host()
    guests = [node.unattached() for _ in range(12)]
    await asyncio.gather(*(node.network.attach(guest.link, guest.process.pid) for guest in guests))
    assert await node.network.links() == {guest.link.name for guest in guests}
    with node.outside.listen():
        assert all(guest.reaches(OUTSIDE) for guest in guests)
    await asyncio.gather(*(node.network.detach(guest.link) for guest in guests), node.network.ensure())
    assert state_of_host() == before


async def test_a_container_that_starts_again_takes_over_its_link(node: Node) -> None:
    guest = await node.guest()
    again = node.start()
    await node.network.attach(guest.link, again.process.pid)
    with node.outside.listen():
        assert again.reaches(OUTSIDE)
    assert await node.network.links() == {guest.link.name}


async def test_an_attach_that_fails_leaves_nothing(node: Node) -> None:
    before = state_of_host()
    guest = node.unattached()
    guest.ip("link", "add", "eth0", "type", "bridge")
    with pytest.raises(NetworkError, match=f"attach {guest.link.name}: .*File exists"):
        await node.network.attach(guest.link, guest.process.pid)
    guest.end()
    with pytest.raises(NetworkError, match="No such file"):
        await node.network.attach(guest.link, guest.process.pid)
    assert state_of_host() == before


async def test_a_process_in_the_hosts_own_namespace_is_refused(node: Node) -> None:
    before = state_of_host()
    with pytest.raises(NetworkError, match="no network namespace of its own"):
        await node.network.attach(node.unattached().link, node.host.process.pid)
    assert state_of_host() == before


async def test_a_cancelled_attach_is_over_when_its_caller_goes_on(node: Node) -> None:
    before = state_of_host()
    guest = node.unattached()
    attaching = asyncio.create_task(node.network.attach(guest.link, guest.process.pid))
    await asyncio.sleep(0)  # it has begun
    attaching.cancel()
    with pytest.raises(asyncio.CancelledError):
        await attaching
    await node.network.detach(guest.link)
    assert state_of_host() == before


async def test_no_thread_is_left_in_the_namespace_of_a_container(node: Node) -> None:
    attached, refused = await node.guest(), node.unattached()
    refused.ip("link", "add", "eth0", "type", "bridge")
    with pytest.raises(NetworkError):
        await node.network.attach(refused.link, refused.process.pid)
    theirs = {os.fstat(guest.descriptor).st_ino for guest in (attached, refused)}
    async with asyncio.timeout(5):
        while theirs & namespaces_of_threads():
            await asyncio.sleep(0.01)  # Python joins a thread a little before the kernel has ended it


def namespaces_of_threads() -> set[int]:
    found = set()
    for task in Path("/proc/self/task").iterdir():
        with contextlib.suppress(OSError):  # it has just ended
            found.add((task / "ns/net").stat().st_ino)
    return found


async def test_ensuring_twice_is_the_same_as_once(node: Node) -> None:
    guest = await node.guest()
    before = state_of_host()
    await node.network.ensure([guest.link])
    assert state_of_host() == before


async def test_ensuring_mends_what_somebody_else_broke(node: Node) -> None:
    guest = await node.guest()
    before = run("nft list ruleset")
    run("ip link delete nta0")
    run("nft flush ruleset")
    await node.network.ensure([guest.link])
    assert run("nft list ruleset") == before
    with node.outside.listen():
        assert guest.reaches(OUTSIDE)


async def test_ensuring_brings_nobody_back_who_has_just_gone(node: Node) -> None:
    """The rows that say who is there were read a moment ago."""
    before = state_of_host()
    guest = await node.guest()
    await node.network.detach(guest.link)
    for _ in range(2):
        await node.network.ensure([guest.link])
        assert state_of_host() == before
    await node.network.attach(guest.link, guest.process.pid)
    await node.network.ensure([guest.link])
    with node.outside.listen():
        assert guest.reaches(OUTSIDE)


async def test_a_bridge_takes_the_subnet_it_is_given_now(node: Node) -> None:
    moved = Network("nta", IPv4Network("10.87.16.0/20"))
    await moved.ensure()
    assert [a["local"] for a in json.loads(run("ip -json -4 address show nta0"))[0]["addr_info"]] == ["10.87.16.1"]


async def test_a_name_that_is_taken_by_something_else_is_an_error(node: Node) -> None:
    run("ip link add ntc0 type veth peer other")
    with pytest.raises(NetworkError, match="bridge ntc0"):
        await Network("ntc", SUBNET).ensure()


async def test_a_sweep_takes_away_what_is_not_kept_and_mends_what_is(node: Node) -> None:
    kept, stale = await node.guest(), await node.guest()
    run("nft flush set bridge nta ports")
    after_a_restart = Network("nta", SUBNET)
    await after_a_restart.sweep([kept.link])
    assert await after_a_restart.links() == {kept.link.name}
    assert stale.address not in state_of_host()
    with node.outside.listen():
        assert kept.reaches(OUTSIDE)


async def test_a_sweep_leaves_alone_what_was_attached_meanwhile(node: Node) -> None:
    guest = await node.guest()
    await node.network.sweep([])
    with node.outside.listen():
        assert guest.reaches(OUTSIDE)


async def test_instances_whose_names_begin_alike_do_not_touch_each_other(node: Node) -> None:
    guest = await node.guest()
    other = Network("ntb", IPv4Network("10.87.16.0/20"))
    await other.ensure()
    await other.sweep([])
    await other.destroy()
    with node.outside.listen():
        assert guest.reaches(OUTSIDE)


async def test_destroying_leaves_nothing_of_the_instance(node: Node) -> None:
    await node.guest()
    await node.network.destroy()
    await node.network.destroy()
    names = [interface["ifname"] for interface in json.loads(run("ip -json link"))]
    assert sorted(names) == ["lo", "up0"]
    assert run("ip neighbour show nud permanent") == run("nft list ruleset") == ""


async def test_the_networks_of_the_host_are_known_by_their_addresses_and_routes(node: Node) -> None:
    run("ip route add 10.99.0.0/16 via 10.88.0.2 table 77")
    run("ip route add default via 10.88.0.2")
    used = await used_networks()
    assert {IPv4Network(text) for text in ("10.99.0.0/16", "10.88.0.0/24", "10.87.0.0/20", "127.0.0.0/8")} <= set(used)
    assert not any(network.overlaps(SUBNET) for network in await used_networks("nta0"))


async def test_a_link_is_named_after_the_random_end_of_the_containers_id(node: Node) -> None:
    link = node.network.link("01890a5d-ac96-774b-bcce-b302099a8057", "10.87.0.9")
    assert link == Link("ntb302099a8057", IPv4Address("10.87.0.9"))
