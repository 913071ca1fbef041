"""/proc/net/dev, and the way out."""

from services.metrics.links import LinkBytes, parse
from services.metrics.node import outward_links

RECORDED = b"""\
Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed
    lo: 613484855  345315    0    0    0     0          0         0 613484855  345315    0    0    0     0       0          0
  eth0: 2206266163   73911    0    0    0     0          0         0  4272867   38673    0    0    0     0       0          0
tm4f31ea3d8b9c:     936      12    0    0    0     0          0         0        0       0    0    0    0     0       0          0
"""  # noqa: E501

ROUTES = """\
Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT
eth0\t00000000\t0101A8C0\t0003\t0\t0\t0\t00000000\t0\t0\t0
eth0\t0001A8C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0
hzel0\t0010560A\t00000000\t0001\t0\t0\t0\t00F0FFFF\t0\t0\t0
wg0\t00000000\t00000000\t0001\t0\t0\t0\t00000080\t0\t0\t0
"""


def test_every_link_has_its_bytes() -> None:
    assert parse(RECORDED) == {
        b"lo": LinkBytes(613484855, 613484855),
        b"eth0": LinkBytes(2206266163, 4272867),
        b"tm4f31ea3d8b9c": LinkBytes(936, 0),
    }


def test_no_links_are_no_error() -> None:
    assert parse(b"") == {}
    assert parse(RECORDED.splitlines(keepends=True)[0]) == {}


def test_only_a_default_route_leads_elsewhere() -> None:
    assert outward_links(ROUTES) == {"eth0"}
    assert outward_links("") == set()
