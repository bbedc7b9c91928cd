"""How large pods' packets may be."""

from __future__ import annotations

import pytest

from net.links import Link
from net.routes import mtu

UPLINK = Link(2, "eth0", "", 1500, "02:00:00:00:00:01", True)
OVER_IPV4 = Link(7, "raftsman-vx4", "vxlan", 1450, "02:00:00:00:00:02", True)
OVER_IPV6 = Link(8, "raftsman-vx6", "vxlan", 1430, "02:00:00:00:00:03", True)
FOREIGN = Link(9, "flannel.1", "vxlan", 1300, "02:00:00:00:00:04", True)


@pytest.mark.parametrize(
    ("tunnels", "wanted"),
    [
        pytest.param((), 1500, id="all peers on our links"),
        pytest.param((4,), 1450, id="over IPv4"),
        pytest.param((6,), 1430, id="over IPv6"),
        pytest.param((4, 6), 1430, id="over both"),
    ],
)
def test_pods_mtu_by_tunnels(tunnels: tuple[int, ...], wanted: int) -> None:
    assert mtu.pod_mtu(1500, tunnels) == wanted


@pytest.mark.parametrize(
    ("links", "underlay", "wanted"),
    [
        pytest.param([UPLINK], 1500, 1500, id="no tunnel"),
        pytest.param([UPLINK, OVER_IPV4], 1500, 1450, id="over IPv4"),
        pytest.param([UPLINK, OVER_IPV4, OVER_IPV6], 1500, 1430, id="over both"),
        pytest.param([UPLINK, FOREIGN], 1500, 1500, id="a stranger's tunnel"),
        pytest.param([UPLINK, OVER_IPV4], 1400, 1400, id="a tunnel that is still too large"),
    ],
)
def test_pods_mtu_by_links(links: list[Link], underlay: int, wanted: int) -> None:
    assert mtu.of_links(links, underlay) == wanted
