"""Say how large pods' packets may be: pure.

    underlay 1500, peers on our links alone    → 1500
    underlay 1500, a tunnel over IPv4          → 1450   outer Ethernet 14 + IPv4 20 + UDP 8 + VXLAN 8
    underlay 1500, a tunnel over IPv6          → 1430   the same with an IPv6 header of 40

Which tunnels may exist follows from the back end and from where the peers stand: `host-gw` has none, `vxlan`
always has one, `auto` has one from the first peer behind a router on. A tunnel's device is made before any
route leads to it, and its MTU is what pods get: whoever wires a pod reads it from the kernel (`of_links`), so
that both parts agree also when they run in two processes, or one of them starts anew. Pods that are older
than the first tunnel keep the larger MTU and are told by their own node (fragmentation needed), which no
firewall on the way can swallow.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from net.links import Link

Backend = Literal["auto", "host-gw", "vxlan"]
TUNNEL_NAMES = {4: "raftsman-vx4", 6: "raftsman-vx6"}
"""The tunnels' devices by the IP version of their underlay."""
OVERHEAD_BYTES = {4: 50, 6: 70}
"""What VXLAN adds to a packet, by the IP version of the underlay."""
IPV6_MTU_MIN = 1280
"""With less, the kernel switches IPv6 off on a link."""


def tunnel_mtu(underlay_mtu: int, underlay_version: int) -> int:
    """Return the MTU of a tunnel's device."""
    return underlay_mtu - OVERHEAD_BYTES[underlay_version]


def pod_mtu(underlay_mtu: int, tunnel_versions: Iterable[int]) -> int:
    """Return the pods' MTU, given the underlay IP versions of all tunnels that may exist."""
    return min((tunnel_mtu(underlay_mtu, version) for version in tunnel_versions), default=underlay_mtu)


def of_links(links: Iterable[Link], underlay_mtu: int) -> int:
    """Return the pods' MTU on a node with these links: the smallest of the uplink's and the standing tunnels'."""
    tunnels = [link.mtu for link in links if link.kind == "vxlan" and link.name in TUNNEL_NAMES.values() and link.mtu]
    return min([underlay_mtu, *tunnels])
