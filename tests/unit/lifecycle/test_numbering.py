"""A container's number, address and range of user ids."""

from ipaddress import IPv4Address, IPv4Network

from hypothesis import given
from hypothesis import strategies as st

from services.common.containerd.spec import IDS_PER_CONTAINER
from services.lifecycle.network import SUBNETS
from services.lifecycle.numbering import FIRST_CTID, IDS_PER_NODE, Numbering

NODE = IPv4Network("10.86.0.0/20")
TINY = IPv4Network("10.0.0.0/29")


def test_numbers_begin_at_100_and_go_on() -> None:
    numbering = Numbering(NODE, IDS_PER_NODE)
    assert [numbering.next_free([]) for _ in range(3)] == [100, 101, 102]


def test_a_number_that_is_taken_is_passed_over() -> None:
    assert Numbering(NODE, IDS_PER_NODE).next_free([100, 101, 103]) == 102


def test_a_freed_number_comes_again_only_after_all_others() -> None:
    numbering = Numbering(TINY, IDS_PER_NODE)
    given_out = [numbering.next_free([]) for _ in range(numbering.capacity + 1)]
    assert given_out == [100, 101, 102, 103, 104, 100]


def test_when_all_are_taken_there_is_none() -> None:
    numbering = Numbering(TINY, IDS_PER_NODE)
    assert numbering.next_free(range(100, 105)) is None
    assert numbering.next_free([100, 101, 103, 104]) == 102


def test_the_first_addresses_are_the_networks_and_the_bridges() -> None:
    numbering = Numbering(NODE, IDS_PER_NODE)
    assert numbering.address(FIRST_CTID) == IPv4Address("10.86.0.2")


@given(st.sampled_from([*SUBNETS, TINY, IPv4Network("172.16.0.0/12")]), st.data())
def test_every_number_has_an_address_and_a_range_of_its_own(subnet: IPv4Network, data: st.DataObject) -> None:
    numbering = Numbering(subnet, 3 * IDS_PER_NODE)
    numbers = st.integers(FIRST_CTID, FIRST_CTID + numbering.capacity - 1)
    one, other = data.draw(numbers), data.draw(numbers)
    for ctid in (one, other):
        address = numbering.address(ctid)
        assert address in subnet
        assert address not in (subnet.network_address, subnet.network_address + 1, subnet.broadcast_address)
        first, last = numbering.id_base(ctid), numbering.id_base(ctid) + IDS_PER_CONTAINER - 1
        assert first >= 3 * IDS_PER_NODE
        assert last < 4 * IDS_PER_NODE
    if one != other:
        assert numbering.address(one) != numbering.address(other)
        assert abs(numbering.id_base(one) - numbering.id_base(other)) >= IDS_PER_CONTAINER


def test_the_ids_of_all_windows_fit_what_the_kernel_has_and_leave_the_hosts_alone() -> None:
    assert IDS_PER_NODE >= 2 * 65536
    assert (len(SUBNETS) + 1) * IDS_PER_NODE <= 2**32
