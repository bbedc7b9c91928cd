"""Keep the node's routes and pods' way to the outside: on each Node, on each change in the kernel, and now and then."""

from __future__ import annotations

import asyncio
import logging
import socket as sockets
from dataclasses import dataclass, field

from control.api import meta
from control.api.meta import Object
from control.api.resources import NODES
from control.client import kubeconfig
from control.client.client import Client
from control.client.informer import Informer
from net import messages
from net.links import Address, Event, Link, Route
from net.netlink import NetlinkError, RouteEvents, RouteSocket
from net.nftables.errors import NftablesError
from net.routes import kernel, mtu, outside, peers, plan, tunnels
from net.routes.config import RoutesConfig
from net.routes.outside import Outside
from net.routes.peers import Peer, Way
from net.routes.plan import Changes
from net.routes.tunnels import Tunnel, TunnelError
from net.xtables import XtablesError

log = logging.getLogger(__name__)

RETRY_S = 1.0
LOOK_INTERVAL_S = 1.0
"""How often it is looked whether our table of nftables still stands, in seconds."""
LINES_MAX = 10
"""How many changed routes are told of one by one."""


def keep_place(node: Object) -> Object:
    """Keep of a Node what routes are made of: its status changes all the time, its place hardly ever."""
    metadata = node.get("metadata") or {}
    status = node.get("status") or {}
    return {
        "metadata": {name: metadata[name] for name in ("name", "uid", "resourceVersion") if name in metadata},
        "spec": {name: value for name, value in (node.get("spec") or {}).items() if name in ("podCIDR", "podCIDRs")},
        "status": {"addresses": status.get("addresses") or []},
    }


@dataclass(slots=True)
class Surroundings:
    """Hold what the ways to peers depend on."""

    addresses: list[Address]
    uplinks: dict[int, Link] = field(default_factory=dict)
    """The links that others may be on too."""

    def underlay_mtu(self, own: Peer, version: int) -> int:
        """Return the MTU of the link with our own address, or the smallest of all uplinks'."""
        index = next((found.index for found in self.addresses if found.address == own.address(version)), 0)
        if index in self.uplinks:
            return self.uplinks[index].mtu
        return min((link.mtu for link in self.uplinks.values()), default=1500)


class RoutesServer:
    """Compose the loop."""

    def __init__(self, config: RoutesConfig, client: Client, rules: Outside | None = None) -> None:
        self._config = config
        self._name = config.hostname_override or sockets.gethostname().lower()
        self._rules = rules or Outside(config)
        self._informer = Informer(client, NODES, transform=keep_place)
        self._informer.add_handler(self._node_changed)
        self._peers: dict[str, Peer] = {}
        self._due = asyncio.Event()
        self._links: set[int] = set()
        """The links whose events concern us."""
        self._unreachable: dict[str, str] = {}
        self._blocked: tuple[Route, ...] = ()

    def _node_changed(self, old: Object | None, new: Object | None) -> None:
        if new is None:
            if old is not None and self._peers.pop(meta.name(old), None) is not None:
                self._due.set()
            return
        try:
            peer = peers.peer_of(new)
        except ValueError as error:
            log.warning("node is left out node=%s error=%s", meta.name(new), error)
            return
        if self._peers.get(peer.name) != peer:
            self._peers[peer.name] = peer
            self._due.set()

    async def serve(self) -> None:
        """Keep routes until cancelled."""
        events = RouteEvents()
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._informer.run())
                group.create_task(self._listen(events))
                await self._informer.wait_synced()
                group.create_task(self._tick())
                group.create_task(self._look())
                log.info("ready node=%s nodes=%d", self._name, len(self._peers))
                await self._work()
        finally:
            events.close()

    async def _listen(self, events: RouteEvents) -> None:
        while True:
            for event in await events.next():
                if self._concerns(event):
                    self._due.set()

    def _concerns(self, event: Event) -> bool:
        """Tell whether a kernel event may have hurt us; pods' own links and routes come and go all the time."""
        match event.kind:
            case "overrun" | "address":
                return True
            case "route":
                return event.protocol != messages.ROUTE_PROTOCOL_POD
            case "rule":
                return event.protocol == messages.ROUTE_PROTOCOL_NODE
            case _:
                # A link that goes down takes its routes along without a word about them.
                return event.index in self._links

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(self._config.resync_interval_s)
            self._rules.forget()
            self._due.set()

    async def _look(self) -> None:
        while True:
            await asyncio.sleep(LOOK_INTERVAL_S)
            try:
                if not self._rules.stands():
                    log.info("somebody changed the rules for pods' way to the outside, or made iptables' own")
                    self._rules.forget()
                    self._due.set()
            except (NftablesError, OSError) as error:
                log.warning("cannot look at the rules for pods error=%s", error)

    async def _work(self) -> None:
        self._due.set()
        while True:
            await self._due.wait()
            await asyncio.sleep(self._config.settle_s)
            self._due.clear()
            try:
                # In one go and without a thread: a handful of routes, a few milliseconds.
                self.sync_routes()
                if (own := self._peers.get(self._name)) is not None:
                    await self._rules.sync(own, self._peers)
            except (NetlinkError, TunnelError, NftablesError, XtablesError) as error:
                log.warning("routes are not as wanted, trying again error=%s", error)
                self._rules.forget()
                await self._pause()

    async def _pause(self) -> None:
        """Wait before the next attempt, or until something changes: a link that comes back need not be waited for."""
        try:
            await asyncio.wait_for(self._due.wait(), RETRY_S)
        except TimeoutError:
            self._due.set()

    def sync_routes(self) -> int:
        """Bring the kernel to the plan; return how many requests that took."""
        own = self._peers.get(self._name)
        if own is None:
            return 0  # our Node is being made; its first appearance brings the rest
        with RouteSocket() as socket:
            around = _look_around(socket)
            down = {link.index for link in around.uplinks.values() if not link.is_up}
            backend = self._config.backend
            ways = peers.ways(own, self._peers.values(), peers.places(around.addresses, around.uplinks), backend, down)
            underlays = {version: around.underlay_mtu(own, version) for version in peers.VERSIONS}
            needed = peers.tunnel_versions(ways, own, backend)
            wanted = tunnels.wanted(own, needed, underlays, self._config)
            standing_tunnels = self._ensure(socket, wanted)
            self._links = {*around.uplinks, *standing_tunnels.values()}
            todo = self._differences(socket, own, ways, standing_tunnels, around, min(underlays.values()))
            requests = todo.messages()
            socket.batch(requests)
            for name in kernel.remove_others(socket, wanted):
                log.info("tunnel is removed interface=%s", name)
        self._tell(todo, ways)
        return len(requests)

    def _ensure(self, socket: RouteSocket, wanted: list[Tunnel]) -> dict[int, int]:
        found = {}
        for tunnel in wanted:
            index, changed = kernel.ensure(socket, tunnel, self._config.vxlan_checksum_offload)
            found[tunnel.underlay_version] = index
            if changed:
                log.info("tunnel is set interface=%s local=%s mtu=%d", tunnel.name, tunnel.local, tunnel.mtu)
        return found

    def _differences(
        self,
        socket: RouteSocket,
        own: Peer,
        ways: dict[tuple[str, str], Way],
        tunnel_links: dict[int, int],
        around: Surroundings,
        underlay_mtu: int,
    ) -> Changes:
        known = kernel.addresses(socket) if tunnel_links else around.addresses
        standing = kernel.standing(socket, known, tunnel_links.values())
        pods = mtu.pod_mtu(underlay_mtu, tunnel_links)
        wanted = plan.wanted(own, self._peers, ways, tunnel_links, pods if pods < underlay_mtu else 0)
        cidrs = [cidr for cidr in self._config.service_cluster_ip_range.split(",") if cidr]
        return plan.changes(standing, plan.with_routes(wanted, plan.service_routes(own, cidrs, known, standing.routes)))

    def _tell(self, todo: Changes, ways: dict[tuple[str, str], Way]) -> None:
        for words, routes in (("route is set", todo.put.routes), ("route is removed", todo.delete.routes)):
            for route in sorted(routes)[:LINES_MAX]:
                log.info("%s network=%s gateway=%s", words, route.network, route.gateway or "on link")
            if len(routes) > LINES_MAX:
                log.info("%s, and more like it count=%d", words, len(routes) - LINES_MAX)
        if todo.blocked != self._blocked:
            self._blocked = todo.blocked
            for route in todo.blocked:
                log.warning("a foreign route stands in the way network=%s", route.network)
        unreachable = plan.unreachable(ways)
        if unreachable != self._unreachable:
            self._unreachable = unreachable
            for name, reason in unreachable.items():
                log.warning("node cannot be routed to node=%s reason=%s", name, reason)


def _look_around(socket: RouteSocket) -> Surroundings:
    found = kernel.addresses(socket)
    shared = kernel.links(socket, (address.index for address in found if peers.has_neighbours(address)))
    return Surroundings(found, shared)


async def run(config: RoutesConfig, client: Client | None = None) -> None:
    """Keep this node's routes until cancelled."""
    if client is None:
        assert config.kubeconfig is not None, "a kubeconfig or a client is needed"
        client = kubeconfig.load(config.kubeconfig).client("raftsman-routes")
    await RoutesServer(config, client, await outside.open_doors(config)).serve()
