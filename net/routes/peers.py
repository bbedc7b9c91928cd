"""Say how each peer's pods are reached: pure.

    peer's InternalIP on a network of one of our links   → directly: its address is the gateway
    elsewhere, behind a router                           → by VXLAN to its address

The choice is made for each peer and each of its pod CIDRs, so that a cluster across two networks tunnels only what
crosses the router. A CIDR of the IP version that a peer has no address of goes by VXLAN as well: a tunnel
carries both versions, whatever the one that it runs over.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from functools import lru_cache

from control.api import meta
from control.api.meta import Object
from net.links import Address
from net.routes.mtu import Backend

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
VERSIONS = (4, 6)
PARSED_MAX = 1 << 15


@lru_cache(PARSED_MAX)
def parsed(address: str) -> IPAddress:
    """Return an address; each change asks for those of all peers again."""
    return ipaddress.ip_address(address)


@dataclass(frozen=True, slots=True, order=True)
class Peer:
    """Hold what a Node says of its place in the network."""

    name: str
    addresses: tuple[str, ...]
    """Its InternalIPs: the first of each IP version counts."""
    pod_cidrs: tuple[str, ...]

    def address(self, version: int) -> str:
        """Return its address of one IP version; empty where it has none."""
        return next((address for address in self.addresses if version_of(address) == version), "")


@dataclass(frozen=True, slots=True)
class Direct:
    """Lead to a peer by its own address on one of our links."""

    index: int
    gateway: str


@dataclass(frozen=True, slots=True)
class Tunnelled:
    """Lead to a peer by VXLAN over one IP version."""

    underlay_version: int
    remote: str


@dataclass(frozen=True, slots=True)
class Unreachable:
    """Hold why a peer cannot be led to."""

    reason: str


Way = Direct | Tunnelled | Unreachable


def version_of(text: str) -> int:
    """Return the IP version of an address or network."""
    return 6 if ":" in text else 4


def peer_of(node: Object) -> Peer:
    """Read a Node."""
    addresses = (node.get("status") or {}).get("addresses") or ()
    internal = (entry.get("address") or "" for entry in addresses if entry.get("type") == "InternalIP")
    spec = node.get("spec") or {}
    cidrs = spec.get("podCIDRs") or [spec.get("podCIDR") or ""]
    return Peer(
        name=meta.name(node),
        addresses=tuple(str(ipaddress.ip_address(address)) for address in internal if address),
        pod_cidrs=tuple(str(ipaddress.ip_network(cidr)) for cidr in cidrs if cidr),
    )


@dataclass(frozen=True, slots=True)
class Place:
    """Hold a network that one of our links is on."""

    network: Network
    index: int


def places(addresses: Iterable[Address], shared: Iterable[int]) -> list[Place]:
    """Return the networks of the links that others may be on too, the narrowest first."""
    allowed = set(shared)
    found = {
        Place(ipaddress.ip_network(f"{own.address}/{own.prefix_length}", strict=False), own.index)
        for own in addresses
        if own.index in allowed
    }
    return sorted(found, key=lambda place: (-place.network.prefixlen, place.index))


def has_neighbours(address: Address) -> bool:
    """Tell whether an address is on a network that others may be on too: no pod's, no tunnel's, no loopback's."""
    host_length = 128 if version_of(address.address) == 6 else 32
    network = parsed(address.address)
    return address.prefix_length < host_length and not network.is_loopback and not network.is_link_local


def ways(
    own: Peer, peers: Iterable[Peer], where: list[Place], backend: Backend, down: AbstractSet[int] = frozenset()
) -> dict[tuple[str, str], Way]:
    """Return the way to each CIDR of each peer, by the peer's name and the CIDR.

    A peer behind a link that is down is not tunnelled to meanwhile: pods' MTU would change with every flap.
    """
    found: dict[tuple[str, str], Way] = {}
    for peer in peers:
        if peer.name == own.name or not peer.addresses:
            continue  # a Node that has just joined; its next change brings its address
        for cidr in peer.pod_cidrs:
            way = _way(own, peer, version_of(cidr), where, backend)
            if isinstance(way, Direct) and way.index in down:
                way = Unreachable(f"the link towards {way.gateway} is down")
            found[peer.name, cidr] = way
    return found


def _way(own: Peer, peer: Peer, version: int, where: list[Place], backend: Backend) -> Way:
    gateway = peer.address(version)
    if backend != "vxlan":
        index = _link_towards(gateway, where) if gateway else None
        if index is not None:
            return Direct(index, gateway)
        if backend == "host-gw":
            if not gateway:
                return Unreachable(f"it has no IPv{version} address, and --backend host-gw makes no tunnels")
            return Unreachable(f"{gateway} is on no network of this node, and --backend host-gw makes no tunnels")
    for underlay in VERSIONS:
        remote = peer.address(underlay)
        if remote and own.address(underlay):
            return Tunnelled(underlay, remote)
    return Unreachable(f"this node ({', '.join(own.addresses) or 'no address'}) has no address of its IP version")


def _link_towards(address: str, where: list[Place]) -> int | None:
    """Return the link that shares a network with an address; the narrowest network wins."""
    target = parsed(address)
    return next((place.index for place in where if target in place.network), None)


def tunnel_versions(found: Mapping[tuple[str, str], Way], own: Peer, backend: Backend) -> tuple[int, ...]:
    """Return the underlay IP versions of the tunnels that this node needs."""
    needed = {way.underlay_version for way in found.values() if isinstance(way, Tunnelled)}
    if backend == "vxlan" and not needed:
        # Every peer to come will be tunnelled to: the first pods get the right MTU already.
        needed |= {version for version in VERSIONS[:1] if own.address(version)} or {
            version for version in VERSIONS if own.address(version)
        }
    return tuple(sorted(needed))
