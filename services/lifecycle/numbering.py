"""From a container's number on the node to its address and its range of user ids (pure)."""

from collections.abc import Collection
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network

from services.common.containerd.spec import IDS_PER_CONTAINER

FIRST_CTID = 100
# 2^28 host ids for each of the windows a node chooses from; a /20 has as many addresses as a window has ranges.
IDS_PER_NODE = 1 << 28
# Two addresses at the front (the network's own, the bridge) and one at the end are not for containers.
_RESERVED_FRONT, _RESERVED_END = 2, 1


@dataclass
class Numbering:
    """`subnet` is the node's, `first_id` the first of its host ids.

    Numbers go round, so that an address is used again as late as possible: old connections of its former
    owner are long dead then.
    """

    subnet: IPv4Network
    first_id: int
    last_given: int = FIRST_CTID - 1

    @property
    def capacity(self) -> int:
        ranges = IDS_PER_NODE // IDS_PER_CONTAINER
        return min(self.subnet.num_addresses - _RESERVED_FRONT - _RESERVED_END, ranges)

    def next_free(self, taken: Collection[int]) -> int | None:
        """The next number behind the one given last, None when all are taken."""
        for step in range(self.capacity):
            ctid = FIRST_CTID + (self.last_given - FIRST_CTID + 1 + step) % self.capacity
            if ctid not in taken:
                self.last_given = ctid
                return ctid
        return None

    def address(self, ctid: int) -> IPv4Address:
        return self.subnet.network_address + _RESERVED_FRONT + (ctid - FIRST_CTID)

    def id_base(self, ctid: int) -> int:
        return self.first_id + (ctid - FIRST_CTID) * IDS_PER_CONTAINER
