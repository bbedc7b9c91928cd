"""Say how a node's packets reach another node's pods: directly or by a tunnel, and how large they may be: pure."""

from __future__ import annotations

from dataclasses import dataclass

from net.explain import objects, reasons
from net.explain.steps import Scene
from net.explain.things import Forwarding, Place, Standing, Thing, WantedNeighbour, WantedRoute
from net.links import Link
from net.routes import peers
from net.routes.mtu import TUNNEL_NAMES
from net.routes.peers import Direct, Peer, Tunnelled, Unreachable, Way
from net.routes.tunnels import gateway_of, mac_of


@dataclass(frozen=True, slots=True)
class Path:
    """Hold the way to another node."""

    words: str
    things: tuple[Thing, ...] = ()
    stops: str = ""
    mtu: int = 0
    """The largest packet that it takes; 0 where that is not known."""


def _peer(scene: Scene, node: str) -> Peer | None:
    found = scene.hub.nodes.get(node)
    try:
        return peers.peer_of(found) if found is not None else None
    except ValueError:
        return None


def _link(standing: Standing | None, index: int = 0, name: str = "") -> Link | None:
    links = standing.links if standing is not None else ()
    return next((link for link in links if link.index == index or (name and link.name == name)), None)


def to_node(scene: Scene, node: str, far: str, address: str, is_node: bool) -> Path:
    """Return the way from a node to an address behind another one, or to that one itself."""
    if away := reasons.node_is_away(far, scene.hub.nodes.get(far)):
        return Path(f"{address} is behind node {far}", stops=away)
    own, peer = _peer(scene, node), _peer(scene, far)
    assert peer is not None, "node_is_away has looked"
    cidr = next((c for c in peer.pod_cidrs if objects.within(address, (c,))), "")
    if is_node:
        return Path(f"{address} is node {far} itself", (WantedRoute(address, None),))
    if not cidr:
        told = (
            f"{address} is in none of the pod CIDRs of node {far} ({reasons.listed(peer.pod_cidrs) or 'it has none'})"
        )
        return Path(told, stops=f"{told}, so no route leads there.")
    standing = scene.standings.get(Place(node))
    way = _way(scene, node, own, peer, cidr, standing)
    if isinstance(way, Unreachable):
        return Path(f"{address} is behind node {far}", stops=f"Node {node} has no way to node {far}: {way.reason}.")
    if isinstance(way, Tunnelled):
        name = TUNNEL_NAMES[way.underlay_version]
        gateway, mac = gateway_of(far, cidr), mac_of(far)
        link = _link(standing, name=name)
        words = f"{address} is behind node {far}, reached by VXLAN {name} to {way.remote}"
        things = (WantedRoute(address, gateway, name), WantedNeighbour(gateway, mac), Forwarding(mac, way.remote))
        return _sized(words, things, link)
    if isinstance(way, Direct) and way.index:
        link = _link(standing, way.index)
        name = link.name if link is not None else ""
        words = f"{address} is behind node {far} at {way.gateway}, on the network of {name or 'this node'} (host-gw)"
        return _sized(words, (WantedRoute(address, way.gateway, name),), link)
    return Path(f"{address} is behind node {far} at {way.gateway}")


def _sized(words: str, things: tuple[Thing, ...], link: Link | None) -> Path:
    mtu = link.mtu if link is not None else 0
    return Path(f"{words}, MTU {mtu}" if mtu else words, things, mtu=mtu)


def _way(scene: Scene, node: str, own: Peer | None, peer: Peer, cidr: str, standing: Standing | None) -> Way:
    """Ask the routes' own plan where the node's links are known."""
    version = peers.version_of(cidr)
    if own is None or standing is None:
        return Direct(0, peer.address(version))
    uplinks = {found.index for found in standing.addresses if peers.has_neighbours(found)}
    down = {link.index for link in standing.links if not link.is_up}
    places = peers.places(standing.addresses, uplinks)
    found = peers.ways(own, [peer], places, scene.settings_of(node).routes.backend, down)
    return found.get((peer.name, cidr), Unreachable("its address and pod CIDRs do not go together"))
