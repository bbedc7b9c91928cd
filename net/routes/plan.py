"""Say which routes this node needs, and what to do about those that stand: pure.

    Node n2: podCIDR 10.244.2.0/24, InternalIP 192.168.77.12, on our link eth0
    → 10.244.2.0/24 via 192.168.77.12 dev eth0 proto 82

Only routes of our protocol number are ever removed, and one that somebody else made for the same
network is left where it is.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass, field

from control.api import meta
from control.api.meta import Object
from net.links import Address, Route
from net.messages import ROUTE_PROTOCOL_NODE

DEFAULT_NETWORK = "0.0.0.0/0"


@dataclass(frozen=True, slots=True, order=True)
class Peer:
    """Hold what a Node says of its place in the network."""

    name: str
    address: str
    pod_cidrs: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class RoutePlan:
    """Hold the routes that shall stand, and the Nodes that no route can be made for."""

    routes: tuple[Route, ...]
    unreachable: dict[str, str] = field(default_factory=dict)
    """Reasons by Node name."""


def peer_of(node: Object) -> Peer:
    """Read a Node."""
    addresses = (node.get("status") or {}).get("addresses") or ()
    internal = [entry.get("address") or "" for entry in addresses if entry.get("type") == "InternalIP"]
    spec = node.get("spec") or {}
    cidrs = spec.get("podCIDRs") or [spec.get("podCIDR") or ""]
    return Peer(
        name=meta.name(node),
        address=next((address for address in internal if address and ":" not in address), ""),
        pod_cidrs=tuple(str(ipaddress.ip_network(cidr)) for cidr in cidrs if cidr and ":" not in cidr),
    )


def wanted(
    own_name: str,
    peers: Iterable[Peer],
    addresses: Iterable[Address],
    standing: Iterable[Route],
    service_cidr: str = "",
) -> RoutePlan:
    """Return the routes that this node needs."""
    known = {peer.name: peer for peer in peers}
    places = [(ipaddress.ip_interface(f"{found.address}/{found.prefix_length}").network, found) for found in addresses]
    routes: list[Route] = []
    unreachable: dict[str, str] = {}
    for peer in sorted(known.values()):
        if peer.name == own_name:
            continue
        if not peer.address or not peer.pod_cidrs:
            continue  # a Node that has just joined; its next change brings both
        index = _link_towards(peer.address, places)
        if index is None:
            unreachable[peer.name] = f"{peer.address} is on no network of this node"
            continue
        routes += [Route(cidr, index, peer.address, ROUTE_PROTOCOL_NODE) for cidr in peer.pod_cidrs]
    own = known.get(own_name)
    if service_cidr and own is not None and not any(route.network == DEFAULT_NETWORK for route in standing):
        # Without any route for a cluster IP the kernel refuses before the Service rules are asked.
        uplink = next((found.index for _, found in places if found.address == own.address), None)
        if uplink is not None:
            routes.append(Route(str(ipaddress.ip_network(service_cidr)), uplink, "", ROUTE_PROTOCOL_NODE))
    return RoutePlan(tuple(routes), unreachable)


def _link_towards(
    address: str, places: Iterable[tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, Address]]
) -> int | None:
    """Return the link that shares a network with an address; the narrowest network wins."""
    target = ipaddress.ip_address(address)
    reached = [(network.prefixlen, found.index) for network, found in places if target in network]
    return max(reached)[1] if reached else None


@dataclass(frozen=True, slots=True)
class RouteChanges:
    """Hold what is to be done."""

    put: tuple[Route, ...]
    delete: tuple[Route, ...]
    blocked: tuple[Route, ...]
    """Wanted routes for whose network a foreign route stands."""


def changes(standing: Iterable[Route], plan: RoutePlan) -> RouteChanges:
    """Compare what stands with what is wanted."""
    listed = list(standing)
    ours = {route for route in listed if route.protocol == ROUTE_PROTOCOL_NODE}
    foreign = {route.network for route in listed if route.protocol != ROUTE_PROTOCOL_NODE}
    bare = {Route(r.network, r.index, r.gateway, r.protocol, r.metric) for r in ours}
    put = tuple(route for route in plan.routes if route not in bare and route.network not in foreign)
    networks = {route.network for route in put}
    # A route that is replaced in place needs no deletion, and so no moment without one.
    delete = tuple(sorted(route for route in bare if route not in plan.routes and route.network not in networks))
    return RouteChanges(put, delete, tuple(route for route in plan.routes if route.network in foreign))
