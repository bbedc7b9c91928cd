"""Say what our VXLAN interfaces are and how they differ from those that stand: pure.

    raftsman-vx4   VXLAN 82, port 4789, local 192.168.77.11, mtu 1450, learns nothing, bound to no link
      peer n2      10.244.2.0/24 via 10.244.2.0 onlink        fd00:2::/64 via fe80::c4:9aff:fe01:2b77
                   10.244.2.0 is 02:c4:9a:01:2b:77            that MAC address is at 172.16.2.12

No frame is ever flooded and nobody is ever asked: all is pinned. A peer's MAC address follows from its Node's name. So
a Node is reachable from the moment on that its object has an address and a pod CIDR: no peer has to wait until it
has written an annotation, no right to write Nodes is needed, and a tunnel that was deleted comes
back with the address that all peers know. Two of 10,000 names meet with a probability of 1 in a million.

An interface is bound to no link: the node's own routes decide by which one a packet leaves, and one that is
replaced takes no tunnel with it.
"""

from __future__ import annotations

import errno
import hashlib
import ipaddress
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache

from net import messages
from net.links import Link, Vxlan
from net.messages import Message
from net.routes.config import RoutesConfig
from net.routes.mtu import IPV6_MTU_MIN, TUNNEL_NAMES, tunnel_mtu
from net.routes.peers import PARSED_MAX, Peer, version_of

GONE = (errno.ENODEV, errno.ENOENT)


class TunnelError(Exception):
    """A tunnel cannot be made; the text says why and what to do."""


@dataclass(frozen=True, slots=True)
class Tunnel:
    """Hold what one of our VXLAN interfaces shall be."""

    underlay_version: int
    local: str
    mac: str
    mtu: int
    identifier: int
    port: int

    @property
    def name(self) -> str:
        """The interface's name."""
        return TUNNEL_NAMES[self.underlay_version]


@lru_cache(PARSED_MAX)
def mac_of(node_name: str) -> str:
    """Return the MAC address of a node's end of every tunnel, locally administered."""
    digest = hashlib.sha256(f"raftsman/tunnel/{node_name}".encode()).digest()
    return bytes([digest[0] & 0xFC | 0x02, *digest[1:6]]).hex(":")


@lru_cache(PARSED_MAX)
def gateway_of(node_name: str, cidr: str) -> str:
    """Return the address inside the tunnel by which a peer's pods are reached.

    For IPv4 it is the first address of the CIDR, which no pod gets; for IPv6 the link-local one of the MAC
    address, for which the kernel asks no other route.
    """
    if version_of(cidr) == 4:
        return str(ipaddress.ip_network(cidr).network_address)
    raw = bytes.fromhex(mac_of(node_name).replace(":", ""))
    identifier = bytes([raw[0] ^ 0x02, *raw[1:3], 0xFF, 0xFE, *raw[3:]])
    return str(ipaddress.IPv6Address(b"\xfe\x80" + bytes(6) + identifier))


def own_address(cidr: str) -> tuple[str, int]:
    """Return the address that this node has inside its tunnels, for what it sends to peers' pods itself."""
    network = ipaddress.ip_network(cidr)
    return str(network.network_address), network.max_prefixlen


def wanted(own: Peer, versions: Iterable[int], underlay_mtus: Mapping[int, int], config: RoutesConfig) -> list[Tunnel]:
    """Return the tunnels that shall stand; raises TunnelError where the underlay's packets are too small."""
    found = []
    for version in versions:
        mtu = tunnel_mtu(underlay_mtus[version], version)
        if mtu < IPV6_MTU_MIN and any(version_of(cidr) == 6 for cidr in own.pod_cidrs):
            raise TunnelError(
                f"the uplink's MTU {underlay_mtus[version]} leaves {mtu} for pods, and IPv6 needs {IPV6_MTU_MIN}; "
                "raise the uplink's MTU"
            )
        found.append(Tunnel(version, own.address(version), mac_of(own.name), mtu, config.vxlan_id, config.vxlan_port))
    return found


def removal(standing: Link) -> list[Message]:
    """Return what removes a tunnel that is no longer wanted; a link that is none of ours stays."""
    return [messages.delete_link(standing.name, ignore=GONE)] if standing.kind == "vxlan" else []


def making(standing: Link | None, tunnel: Tunnel) -> list[Message]:
    """Return what makes a tunnel, still down, where none or a wrong one stands."""
    before: list[Message] = []
    if standing is not None:
        if standing.kind != "vxlan":
            raise TunnelError(
                f"a link {tunnel.name} stands that is no VXLAN ({standing.kind or 'hardware'}); remove or rename it: "
                f"ip link delete {tunnel.name}"
            )
        if standing.vxlan == Vxlan(tunnel.identifier, tunnel.local, tunnel.port, is_learning=False):
            return []
        before = removal(standing)
    made = messages.create_vxlan(
        tunnel.name, tunnel.mac, tunnel.mtu, tunnel.identifier, tunnel.port, tunnel.local
    )  # fmt: skip
    return [*before, made]


def adjustment(standing: Link, tunnel: Tunnel) -> list[Message]:
    """Return what brings MTU, MAC address and state of a standing tunnel to what they shall be."""
    todo: list[Message] = []
    if standing.mac != tunnel.mac:
        todo.append(messages.set_link(standing.index, mac=tunnel.mac))
    if standing.mtu != tunnel.mtu:
        todo.append(messages.set_link(standing.index, mtu=tunnel.mtu))
    if not standing.is_up:
        todo.append(messages.set_up(standing.index))
    return todo
