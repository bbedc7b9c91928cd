"""Say which routes, neighbours and rules this node needs, and what to do about those that stand: pure.

    Node n2: podCIDR 10.244.2.0/24, InternalIP 192.168.77.12, on our link eth0
    → 10.244.2.0/24 via 192.168.77.12 dev eth0 proto 82
    Node n3: podCIDR 10.244.3.0/24, InternalIP 172.16.2.13, behind a router
    → 10.244.3.0/24 via 10.244.3.0 dev raftsman-vx4 onlink proto 82, a neighbour, a forwarding entry
    → in table 82, asked only for our pods' packets: 172.16.2.13 via 10.244.3.0 dev raftsman-vx4

The last one is why a pod reaches a node behind a router under its own address: no router has to know pods'
addresses, and none sees them. Only routes and rules of our protocol number are ever removed, and what stands on our own
interfaces; a route that somebody else made for the same network is left where it is.
"""

from __future__ import annotations

import errno
import ipaddress
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from net import messages
from net.links import MAIN_TABLE, Address, Event, ForwardingEntry, Neighbour, Route, RoutingRule
from net.messages import ROUTE_PROTOCOL_NODE, ROUTE_TABLE_NODE, Message
from net.routes.peers import Direct, Peer, Tunnelled, Unreachable, Way, parsed, version_of
from net.routes.tunnels import gateway_of, mac_of, own_address

DEFAULT_NETWORKS = {4: "0.0.0.0/0", 6: "::/0"}
RULE_PRIORITY = 32700
"""Shortly before the main table's, 32766."""
GONE = (errno.ESRCH, errno.ENODEV, errno.ENOENT, errno.EADDRNOTAVAIL)
STANDS = (errno.EEXIST,)


@dataclass(frozen=True, slots=True)
class State:
    """Hold what stands, or what shall stand: for our own interfaces all of it, for the rest the routes and rules."""

    routes: frozenset[Route] = frozenset()
    rules: frozenset[RoutingRule] = frozenset()
    addresses: frozenset[Address] = frozenset()
    neighbours: frozenset[Neighbour] = frozenset()
    forwarding: frozenset[ForwardingEntry] = frozenset()


@dataclass(slots=True)
class _Draft:
    """Gather what shall stand; where two Nodes claim one network or address, the first by name keeps it."""

    routes: dict[tuple[str, int], Route] = field(default_factory=dict)
    neighbours: dict[tuple[int, str], Neighbour] = field(default_factory=dict)
    forwarding: dict[tuple[int, str], ForwardingEntry] = field(default_factory=dict)

    def lead(self, route: Route) -> bool:
        return self.routes.setdefault((route.network, route.table), route) is route

    def lead_through(self, peer: Peer, cidr: str, index: int, remote: str) -> None:
        """Add all that one CIDR behind a tunnel needs."""
        gateway, mac = gateway_of(peer.name, cidr), mac_of(peer.name)
        is_onlink = version_of(gateway) == 4  # link-local IPv6 needs no such word
        if not self.lead(Route(cidr, index, gateway, ROUTE_PROTOCOL_NODE, is_onlink=is_onlink)):
            return
        self.neighbours.setdefault((index, gateway), Neighbour(index, gateway, mac))
        self.forwarding.setdefault((index, mac), ForwardingEntry(index, mac, remote))
        address = peer.address(version_of(cidr))
        if address:
            host = f"{address}/{parsed(address).max_prefixlen}"
            self.lead(Route(host, index, gateway, ROUTE_PROTOCOL_NODE, table=ROUTE_TABLE_NODE, is_onlink=is_onlink))


def unreachable(ways: Mapping[tuple[str, str], Way]) -> dict[str, str]:
    """Return the reasons by Node name for those that no route can be made for."""
    return {name: way.reason for (name, _), way in sorted(ways.items()) if isinstance(way, Unreachable)}


def wanted(
    own: Peer,
    peers: Mapping[str, Peer],
    ways: Mapping[tuple[str, str], Way],
    tunnels: Mapping[int, int],
    direct_mtu: int = 0,
) -> State:
    """Return what shall stand, given the tunnels' links by the IP version that they run over.

    ``direct_mtu`` is the pods' MTU where it is smaller than the uplink's: a node's own packets to pods start with it.
    """
    draft = _Draft()
    for (name, cidr), way in sorted(ways.items(), key=lambda item: item[0]):
        match way:
            case Direct(index, gateway):
                draft.lead(Route(cidr, index, gateway, ROUTE_PROTOCOL_NODE, mtu=direct_mtu))
            case Tunnelled(version, remote):
                draft.lead_through(peers[name], cidr, tunnels[version], remote)
    tabled = {version_of(network) for network, table in draft.routes if table == ROUTE_TABLE_NODE}
    return State(
        routes=frozenset(draft.routes.values()),
        rules=frozenset(
            RoutingRule(cidr, ROUTE_TABLE_NODE, RULE_PRIORITY, ROUTE_PROTOCOL_NODE)
            for cidr in own.pod_cidrs
            if version_of(cidr) in tabled
        ),
        addresses=frozenset(Address(i, *own_address(cidr)) for i in tunnels.values() for cidr in own.pod_cidrs),
        neighbours=frozenset(draft.neighbours.values()),
        forwarding=frozenset(draft.forwarding.values()),
    )


def service_routes(
    own: Peer, service_cidrs: Iterable[str], addresses: Iterable[Address], standing: Iterable[Route]
) -> frozenset[Route]:
    """Return a route for each Services' range whose IP version has no default route.

    Without any route for a cluster IP the kernel refuses before the Service rules are asked.
    """
    networks = {route.network for route in standing if route.table == MAIN_TABLE}
    uplinks = {found.address: found.index for found in addresses}
    found = set()
    for cidr in service_cidrs:
        version = version_of(cidr)
        index = uplinks.get(own.address(version))
        if DEFAULT_NETWORKS[version] not in networks and index is not None:
            found.add(Route(str(ipaddress.ip_network(cidr)), index, "", ROUTE_PROTOCOL_NODE))
    return frozenset(found)


def agrees(event: Event, wanted: State) -> bool:
    """Tell whether an event says only that something is as wanted: most are echoes of our own writing."""
    match event.what:
        case Route() as route:
            return (route in wanted.routes) != event.is_gone if route.protocol == ROUTE_PROTOCOL_NODE else False
        case Neighbour() as neighbour:
            return (neighbour in wanted.neighbours) != event.is_gone
        case ForwardingEntry() as entry:
            return (entry in wanted.forwarding) != event.is_gone
        case Address() as address:
            return address in wanted.addresses and not event.is_gone
    return False


def with_routes(state: State, more: frozenset[Route]) -> State:
    """Return a state with further routes."""
    return replace(state, routes=state.routes | more)


@dataclass(frozen=True, slots=True)
class Changes:
    """Hold what is to be done, in the order in which it is done."""

    put: State
    delete: State
    blocked: tuple[Route, ...] = ()
    """Wanted routes for whose network a foreign route stands."""

    def messages(self) -> list[Message]:
        """Return the requests: what a route needs is there before it, and goes after it."""
        return [*self._puts(), *self._deletions()]

    def _puts(self) -> list[Message]:
        put = self.put
        todo = [messages.put_address(a.index, a.address, a.prefix_length) for a in sorted(put.addresses)]
        todo += [messages.put_forwarding_entry(f.index, f.mac, f.destination) for f in sorted(put.forwarding)]
        todo += [messages.put_neighbour(n.index, n.address, n.mac) for n in sorted(put.neighbours)]
        todo += [_put_route(route) for route in sorted(put.routes)]
        todo += [messages.put_rule(r.source, r.table, r.priority, r.protocol, ignore=STANDS) for r in sorted(put.rules)]
        return todo

    def _deletions(self) -> list[Message]:
        gone = self.delete
        todo = [
            messages.delete_rule(r.source, r.table, r.priority, r.protocol, ignore=GONE) for r in sorted(gone.rules)
        ]
        todo += [
            messages.delete_route(
                r.network, r.index, r.gateway, protocol=r.protocol, metric=r.metric, table=r.table, ignore=GONE
            )
            for r in sorted(gone.routes)
        ]
        todo += [messages.delete_neighbour(n.index, n.address, ignore=GONE) for n in sorted(gone.neighbours)]
        todo += [
            messages.delete_forwarding_entry(f.index, f.mac, f.destination, ignore=GONE)
            for f in sorted(gone.forwarding)
        ]
        todo += [
            messages.delete_address(a.index, a.address, a.prefix_length, ignore=GONE) for a in sorted(gone.addresses)
        ]
        return todo


def _put_route(route: Route) -> Message:
    return messages.put_route(
        route.network, route.index, route.gateway,
        protocol=route.protocol, onlink=route.is_onlink, mtu=route.mtu, table=route.table,
    )  # fmt: skip


def changes(standing: State, plan: State) -> Changes:
    """Compare what stands with what is wanted."""
    ours = {route for route in standing.routes if route.protocol == ROUTE_PROTOCOL_NODE}
    foreign = {(r.network, r.table) for r in standing.routes if r.protocol != ROUTE_PROTOCOL_NODE}
    # Where a packet's source is left open, the kernel or a person may have named one.
    bare = {replace(route, source="") if route.source else route for route in ours}
    blocked = tuple(sorted(route for route in plan.routes if (route.network, route.table) in foreign))
    put_routes = frozenset(plan.routes - bare - set(blocked))
    replaced = {(route.network, route.table) for route in put_routes}
    # A route that is replaced in place needs no deletion, and so no moment without one.
    stale = frozenset(
        route for route in bare if route not in plan.routes and (route.network, route.table) not in replaced
    )
    our_rules = frozenset(rule for rule in standing.rules if rule.protocol == ROUTE_PROTOCOL_NODE)
    pinned = {(entry.index, entry.address) for entry in plan.neighbours}
    return Changes(
        put=State(
            put_routes,
            plan.rules - our_rules,
            plan.addresses - standing.addresses,
            plan.neighbours - standing.neighbours,
            plan.forwarding - standing.forwarding,
        ),
        delete=State(
            stale,
            our_rules - plan.rules,
            standing.addresses - plan.addresses,
            frozenset(entry for entry in standing.neighbours if (entry.index, entry.address) not in pinned),
            standing.forwarding - plan.forwarding,
        ),
        blocked=blocked,
    )


def after(standing: State, todo: Changes) -> State:
    """Return what stands once changes are carried out."""
    replaced = {(route.network, route.table) for route in todo.put.routes}
    kept = frozenset(
        route
        for route in standing.routes - todo.delete.routes
        if route.protocol != ROUTE_PROTOCOL_NODE or (route.network, route.table) not in replaced
    )
    pinned = {(entry.index, entry.address) for entry in todo.put.neighbours}
    neighbours = frozenset(
        entry for entry in standing.neighbours - todo.delete.neighbours if (entry.index, entry.address) not in pinned
    )
    return State(
        kept | todo.put.routes,
        standing.rules - todo.delete.rules | todo.put.rules,
        standing.addresses - todo.delete.addresses | todo.put.addresses,
        neighbours | todo.put.neighbours,
        standing.forwarding - todo.delete.forwarding | todo.put.forwarding,
    )
