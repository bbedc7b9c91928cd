"""Tunnels by flag: another port, no checksum offload, always; and what is said where one cannot be made. Needs root."""

from __future__ import annotations

import socket as sockets
from collections.abc import Iterator

import pytest

from net.netlink import ETHTOOL_GTXCSUM, RouteSocket, _ethtool, inside, set_checksum_offload
from net.routes import kernel
from net.routes.tunnels import Tunnel, TunnelError, mac_of
from tests.net.sites import Site, opened_site, pings
from tests.net.topology import Namespace, closing_all, eventually

pytestmark = pytest.mark.root
TIMEOUT_S = 20.0


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with opened_site() as made:
        for name in ("n1", "n2"):
            made.nodes[name].keep_routes(backend="vxlan", vxlan_port=8472, vxlan_id=7, vxlan_checksum_offload=False)
        yield made


def test_tunnels_stand_before_the_first_peer_and_lead_to_neighbours_too(site: Site) -> None:
    n1, n2 = site.nodes["n1"], site.nodes["n2"]
    site.announce(n1)
    eventually(lambda: "mtu 1450" in n1.ip("link show") and "raftsman-vx4" in n1.ip("link show"), TIMEOUT_S)
    site.announce(n2)
    eventually(lambda: all(pings(n1.pod, n2.pod_addresses[version]) for version in (4, 6)), TIMEOUT_S)
    assert "vxlan id 7 local 192.168.77.11" in n1.ip("-d link show raftsman-vx4")
    assert "dstport 8472" in n1.ip("-d link show raftsman-vx4")
    assert "dev raftsman-vx4" in n1.ip("route show 10.244.2.0/24")
    with inside(n1.descriptor), sockets.socket(sockets.AF_INET, sockets.SOCK_DGRAM) as door:
        assert _ethtool(door, "raftsman-vx4", ETHTOOL_GTXCSUM, 0) == 0


def test_pods_mtu_follows_the_uplinks(site: Site) -> None:
    n1 = site.nodes["n1"]
    site.announce(n1)
    eventually(lambda: "mtu 1450" in n1.ip("link show"), TIMEOUT_S)
    n1.ip("link set eth0 mtu 1400")
    eventually(lambda: "mtu 1350" in n1.ip("link show raftsman-vx4"), TIMEOUT_S)
    n1.ip("link set eth0 mtu 1500")
    eventually(lambda: "mtu 1450" in n1.ip("link show raftsman-vx4"), TIMEOUT_S)


@pytest.fixture
def place() -> Iterator[Namespace]:
    with closing_all() as made:
        namespace = Namespace("place")
        made.append(namespace)
        yield namespace


WANTED = Tunnel(4, "127.0.0.1", mac_of("n1"), 1450, 82, 4789)


def test_another_programs_tunnel_is_left_and_named(place: Namespace) -> None:
    place.ip("link add theirs type vxlan id 82 local 127.0.0.1 dstport 4789")
    place.ip("link set theirs up")
    with inside(place.descriptor), RouteSocket() as socket:
        with pytest.raises(TunnelError, match="identifier 82 on port 4789; remove it, or choose another --vxlan-id"):
            kernel.ensure(socket, WANTED, True)
        assert kernel.remove_others(socket, []) == []
    assert "theirs" in place.ip("link")


def test_a_tunnel_that_stands_is_left_alone_and_a_wrong_one_is_made_anew(place: Namespace) -> None:
    with inside(place.descriptor), RouteSocket() as socket:
        first, changed = kernel.ensure(socket, WANTED, True)
        assert changed
        assert kernel.ensure(socket, WANTED, True) == (first, False)
        assert kernel.ensure(socket, WANTED, False) == (first, True)
        assert not set_checksum_offload("raftsman-vx4", False)
        second, changed = kernel.ensure(socket, Tunnel(4, "127.0.0.2", mac_of("n1"), 1450, 82, 4789), True)
        assert changed
        assert second != first
        assert kernel.remove_others(socket, []) == ["raftsman-vx4"]
        assert socket.link("raftsman-vx4") is None
