"""Compare a node's routes, tunnels, neighbours and forwarding entries with the plan that its agent follows.

The plan is made here by the very functions of `net.routes`; nothing is written. To be called in the node's namespace.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from net.explain.diff import Difference
from net.explain.objects import Objects
from net.links import MAIN_TABLE, ForwardingEntry, Link, Neighbour, Route, RoutingRule
from net.netlink import RouteSocket
from net.routes import kernel, mtu, peers, plan, tunnels
from net.routes.config import RoutesConfig
from net.routes.mtu import TUNNEL_NAMES
from net.routes.peers import Peer
from net.routes.plan import Changes, State
from net.routes.server import Surroundings
from net.routes.tunnels import Tunnel, TunnelError


def known_peers(hub: Objects) -> dict[str, Peer]:
    """Return the Nodes as the routes see them; one that makes no sense is left out, as the agent does."""
    found = {}
    for name, node in hub.nodes.items():
        try:
            found[name] = peers.peer_of(node)
        except ValueError:
            continue  # the agent tells of it in its log
    return found


def differences(hub: Objects, node: str, config: RoutesConfig) -> list[Difference]:
    """Return what differs in the namespace in which this thread stands."""
    nodes = known_peers(hub)
    own = nodes.get(node)
    if own is None:
        return [Difference("routes", "all", lacks=(f"(there is no Node {node}, so no route is wanted)",))]
    with RouteSocket() as socket:
        return list(_compare(socket, own, nodes, config))


def _compare(socket: RouteSocket, own: Peer, nodes: dict[str, Peer], config: RoutesConfig) -> Iterator[Difference]:
    found = kernel.addresses(socket)
    uplinks = kernel.links(socket, (address.index for address in found if peers.has_neighbours(address)))
    around = Surroundings(found, uplinks)
    down = {link.index for link in uplinks.values() if not link.is_up}
    ways = peers.ways(own, nodes.values(), peers.places(found, uplinks), config.backend, down)
    underlays = {version: around.underlay_mtu(own, version) for version in peers.VERSIONS}
    try:
        wanted = tunnels.wanted(own, peers.tunnel_versions(ways, own, config.backend), underlays, config)
    except TunnelError as error:
        yield Difference("routes", "tunnels", lacks=(str(error),))
        return
    for name, reason in plan.unreachable(ways).items():
        yield Difference("routes", f"pods of node {name}", lacks=(f"(no way: {reason})",))
    standing = {tunnel.name: socket.link(tunnel.name) for tunnel in wanted}
    for tunnel in wanted:
        yield from _of_tunnel(tunnel, standing[tunnel.name])
    for name in sorted(set(TUNNEL_NAMES.values()) - standing.keys()):
        if (link := socket.link(name)) is not None and link.kind == "vxlan":
            yield Difference("routes", f"tunnel {name}", extra=("(the link itself)",))
    links = {tunnel.underlay_version: link.index for tunnel in wanted if (link := standing[tunnel.name]) is not None}
    if len(links) < len(wanted):
        return  # routes through a tunnel that is not there cannot be named
    pods = mtu.pod_mtu(min(underlays.values()), links)
    planned = plan.wanted(own, nodes, ways, links, pods if pods < min(underlays.values()) else 0)
    stands = kernel.standing(socket, found, links.values())
    cidrs = [cidr for cidr in config.service_cluster_ip_range.split(",") if cidr]
    planned = plan.with_routes(planned, plan.service_routes(own, cidrs, found, stands.routes))
    yield from describe(plan.changes(stands, planned), {link.index: link.name for link in socket.links()})


def _of_tunnel(tunnel: Tunnel, standing: Link | None) -> Iterable[Difference]:
    what = f"tunnel {tunnel.name}"
    if standing is None:
        yield Difference("routes", what, lacks=(f"(the link itself, local {tunnel.local}, mtu {tunnel.mtu})",))
        return
    try:
        todo = tunnels.making(standing, tunnel) or tunnels.adjustment(standing, tunnel)
    except TunnelError as error:
        yield Difference("routes", what, lacks=(str(error),))
        return
    if todo:
        yield Difference("routes", what, lacks=tuple(message.about for message in todo))


def describe(changes: Changes, links: dict[int, str]) -> Iterator[Difference]:
    """Return what the plan would change, in words."""
    put, delete = _lines(changes.put, links), _lines(changes.delete, links)
    for what in sorted({*put, *delete}):
        yield Difference("routes", what, tuple(put.get(what, ())), tuple(delete.get(what, ())))
    for route in changes.blocked:
        told = f"{_route(route, links)} (somebody else's route to {route.network} stands in the way)"
        yield Difference("routes", f"route {route.network}", lacks=(told,))


def _lines(state: State, links: dict[int, str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for route in sorted(state.routes):
        found.setdefault(f"route {route.network}", []).append(_route(route, links))
    for address in sorted(state.addresses):
        name = links.get(address.index, str(address.index))
        found.setdefault(f"link {name}", []).append(f"address {address.address}/{address.prefix_length}")
    for neighbour in sorted(state.neighbours):
        found.setdefault(f"neighbour {neighbour.address}", []).append(_neighbour(neighbour, links))
    for entry in sorted(state.forwarding):
        found.setdefault(f"forwarding {entry.mac}", []).append(_forwarding(entry, links))
    for rule in sorted(state.rules):
        found.setdefault(f"rule from {rule.source}", []).append(_rule(rule))
    return found


def _route(route: Route, links: dict[int, str]) -> str:
    via = f" via {route.gateway}" if route.gateway else ""
    table = f" table {route.table}" if route.table != MAIN_TABLE else ""
    onlink = " onlink" if route.is_onlink else ""
    limit = f" mtu {route.mtu}" if route.mtu else ""
    return f"{route.network}{via} dev {links.get(route.index, str(route.index))}{onlink}{limit}{table}"


def _neighbour(neighbour: Neighbour, links: dict[int, str]) -> str:
    return f"{neighbour.address} at {neighbour.mac} dev {links.get(neighbour.index, str(neighbour.index))}"


def _forwarding(entry: ForwardingEntry, links: dict[int, str]) -> str:
    return f"{entry.mac} to {entry.destination} dev {links.get(entry.index, str(entry.index))}"


def _rule(rule: RoutingRule) -> str:
    return f"from {rule.source} lookup {rule.table} priority {rule.priority}"
