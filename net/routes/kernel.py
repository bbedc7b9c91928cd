"""Read what stands of routes and tunnels, and carry out what is to be done about them."""

from __future__ import annotations

import errno
import socket as sockets
from collections.abc import Iterable

from net.links import Address, ForwardingEntry, Link, Neighbour, Route, RoutingRule
from net.messages import ROUTE_TABLE_NODE, RT_TABLE_MAIN
from net.netlink import NetlinkError, RouteSocket, set_checksum_offload, write_sysctl
from net.routes import tunnels
from net.routes.mtu import TUNNEL_NAMES
from net.routes.plan import State
from net.routes.tunnels import Tunnel, TunnelError

FAMILIES = (sockets.AF_INET, sockets.AF_INET6)
TABLES = frozenset({RT_TABLE_MAIN, ROUTE_TABLE_NODE})


def addresses(socket: RouteSocket) -> list[Address]:
    """Return all addresses of both IP versions."""
    return [found for family in FAMILIES for found in socket.addresses(family)]


def links(socket: RouteSocket, indexes: Iterable[int]) -> dict[int, Link]:
    """Return some links, those that exist."""
    found = (socket.link(index=index) for index in sorted(set(indexes)))
    return {link.index: link for link in found if link is not None}


def routes(socket: RouteSocket) -> frozenset[Route]:
    """Return the routes of both IP versions."""
    return frozenset(found for family in FAMILIES for found in socket.routes(family, TABLES))


def standing(socket: RouteSocket, known: Iterable[Address], own: Iterable[int]) -> State:
    """Return what stands; of addresses, neighbours and forwarding only what is on our own interfaces."""
    indexes = sorted(own)
    rules: set[RoutingRule] = set()
    neighbours: set[Neighbour] = set()
    forwarding: set[ForwardingEntry] = set()
    for family in FAMILIES:
        rules.update(socket.rules(family))
        for index in indexes:
            neighbours.update(socket.neighbours(family, index))
    for index in indexes:
        forwarding.update(socket.forwarding(index))
    on_ours = frozenset(found for found in known if found.index in indexes)
    return State(routes(socket), frozenset(rules), on_ours, frozenset(neighbours), frozenset(forwarding))


def ensure(socket: RouteSocket, tunnel: Tunnel, checksum_offload: bool) -> tuple[int, bool]:
    """Bring one tunnel's interface to what it shall be; return its index, and whether anything was done."""
    before = socket.link(tunnel.name)
    todo = tunnels.making(before, tunnel)
    try:
        socket.batch(todo)
    except NetlinkError as error:
        if error.errno == errno.EEXIST:
            raise TunnelError(
                f"{tunnel.name} cannot be made: another VXLAN interface has identifier {tunnel.identifier} on "
                f"port {tunnel.port}; remove it, or choose another --vxlan-id or --vxlan-port on all nodes"
            ) from error
        if error.errno == errno.EOPNOTSUPP:
            raise TunnelError("this kernel makes no VXLAN interfaces; load the module with: modprobe vxlan") from error
        raise
    if todo:
        _prepare(tunnel.name)
    link = socket.link(tunnel.name)
    if link is None:
        raise NetlinkError(errno.ENODEV, f"{tunnel.name} vanished while it was made")
    adjusting = tunnels.adjustment(link, tunnel)
    socket.batch(adjusting)
    switched = set_checksum_offload(tunnel.name, checksum_offload)
    return link.index, bool(todo or adjusting or switched)


def _prepare(name: str) -> None:
    """Set what must stand before the interface is up: no address of its own, no strict check of sources."""
    write_sysctl(f"net/ipv6/conf/{name}/addr_gen_mode", "1")
    write_sysctl(f"net/ipv6/conf/{name}/accept_dad", "0")
    write_sysctl(f"net/ipv6/conf/{name}/accept_ra", "0")
    # A peer may see us on its link while we see it behind a router: then its packets come by another way than ours go.
    write_sysctl(f"net/ipv4/conf/{name}/rp_filter", "2")


def remove_others(socket: RouteSocket, wanted: Iterable[Tunnel]) -> list[str]:
    """Remove our tunnels that are not wanted; return their names."""
    kept = {tunnel.name for tunnel in wanted}
    removed = []
    for name in TUNNEL_NAMES.values():
        link = socket.link(name) if name not in kept else None
        todo = tunnels.removal(link) if link is not None else []
        if todo:
            socket.batch(todo)
            removed.append(name)
    return removed
