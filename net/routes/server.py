"""Keep the node's routes and pods' way to the outside: on each Node, on each change in the kernel, and now and then."""

from __future__ import annotations

import asyncio
import logging
import socket as sockets
from collections.abc import Mapping
from dataclasses import dataclass, field

from control.api import meta
from control.api.meta import Object
from control.api.resources import NODES
from control.client import kubeconfig
from control.client.client import Client
from control.client.informer import Informer
from net import messages
from net.links import Address, Event, Link, Route
from net.netlink import RouteEvents, RouteSocket
from net.nftables.errors import NftablesError
from net.routes import kernel, mtu, outside, peers, plan, tunnels
from net.routes.config import RoutesConfig
from net.routes.outside import Outside
from net.routes.peers import Peer, Way
from net.routes.plan import Changes, State
from net.routes.tunnels import Tunnel, TunnelError
from net.xtables import XtablesError

log = logging.getLogger(__name__)

RETRY_S = 1.0
LOOK_INTERVAL_S = 1.0
"""How often it is looked whether our table of nftables still stands, in seconds."""
FAILURES_MAX = 10
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
        self._around: Surroundings | None = None
        """What was last read of links and addresses; None where it may have changed."""
        self._standing: State | None = None
        """What stands as far as we know; None where it has to be read."""
        self._wanted = State()
        self._tunnels: dict[int, int] = {}
        """Our interfaces by the IP version that they run over."""
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
                    self._forget()

    def _concerns(self, event: Event) -> bool:
        """Tell whether a kernel event may have hurt us; pods' own links and routes come and go all the time."""
        match event.kind:
            case "overrun":
                return True
            case "address":
                return not plan.agrees(event, self._wanted)
            case "route":
                return event.protocol != messages.ROUTE_PROTOCOL_POD and not plan.agrees(event, self._wanted)
            case "neighbour":
                return event.index in self._tunnels.values() and not plan.agrees(event, self._wanted)
            case "rule":
                return event.protocol == messages.ROUTE_PROTOCOL_NODE
            case _:
                # A link that goes down takes its routes along without a word about them.
                known = self._around.uplinks if self._around is not None else {}
                return event.index in known or event.index in self._tunnels.values()

    def _forget(self) -> None:
        """Read links, addresses and all the rest anew."""
        self._around = self._standing = None
        self._due.set()

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(self._config.resync_interval_s)
            self._rules.forget()
            self._forget()

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
        failures = 0
        while True:
            await self._due.wait()
            await asyncio.sleep(self._config.settle_s)
            self._due.clear()
            try:
                await self._sync(dict(self._peers))
                failures = 0
            except (OSError, TunnelError, NftablesError, XtablesError) as error:
                log.warning("routes are not as wanted, trying again error=%s", error)
                self._rules.forget()
                self._forget()
                self._due.clear()
                failures = min(failures + 1, FAILURES_MAX)
                await self._pause(failures)

    async def _sync(self, known: Mapping[str, Peer]) -> None:
        """Bring rules and routes to what these Nodes need; routes do not wait for rules that are refused."""
        refused: NftablesError | XtablesError | None = None
        if (own := known.get(self._name)) is not None:
            # Before there is a way to new pods: a flow's first packet decides who all of it seems to be from.
            try:
                await self._rules.sync(own, known)
            except (NftablesError, XtablesError) as error:
                refused = error
        # In one go and without a thread: a handful of routes, a few milliseconds.
        self._sync_routes(known)
        if refused is not None:
            raise refused

    async def _pause(self, failures: int) -> None:
        """Wait before the next attempt, or until something changes: a link that comes back need not be waited for."""
        try:
            async with asyncio.timeout(min(RETRY_S, self._config.settle_s * 2**failures)):
                await self._due.wait()
        except TimeoutError:
            self._due.set()

    def _sync_routes(self, known: Mapping[str, Peer]) -> None:
        own = known.get(self._name)
        if own is None:
            return  # our Node is being made; its first appearance brings the rest
        with RouteSocket() as socket:
            if self._around is None or self._standing is None:
                self._around, self._standing = _look_around(socket), None
            around = self._around
            down = {link.index for link in around.uplinks.values() if not link.is_up}
            backend = self._config.backend
            ways = peers.ways(own, known.values(), peers.places(around.addresses, around.uplinks), backend, down)
            underlays = {version: around.underlay_mtu(own, version) for version in peers.VERSIONS}
            needed = peers.tunnel_versions(ways, own, backend)
            tunnels_wanted = tunnels.wanted(own, needed, underlays, self._config)
            self._ensure(socket, tunnels_wanted)
            self._wanted = self._plan(own, known, ways, min(underlays.values()))
            todo = self._differences(socket, own)
            socket.batch(todo.messages())
            self._standing = plan.after(self._standing or State(), todo)
            for name in kernel.remove_others(socket, tunnels_wanted):
                log.info("tunnel is removed interface=%s", name)
        self._tell(todo, ways)

    def _ensure(self, socket: RouteSocket, wanted: list[Tunnel]) -> None:
        found = {}
        for tunnel in wanted:
            index, changed = kernel.ensure(socket, tunnel, self._config.vxlan_checksum_offload)
            found[tunnel.underlay_version] = index
            if changed:
                self._standing = None
                log.info("tunnel is set interface=%s local=%s mtu=%d", tunnel.name, tunnel.local, tunnel.mtu)
        if found != self._tunnels:
            self._tunnels, self._standing = found, None

    def _plan(self, own: Peer, known: Mapping[str, Peer], ways: dict[tuple[str, str], Way], underlay_mtu: int) -> State:
        pods = mtu.pod_mtu(underlay_mtu, self._tunnels)
        return plan.wanted(own, known, ways, self._tunnels, pods if pods < underlay_mtu else 0)

    def _differences(self, socket: RouteSocket, own: Peer) -> Changes:
        addresses = self._around.addresses if self._around is not None else []
        if self._standing is None:
            addresses = kernel.addresses(socket)
            self._standing = kernel.standing(socket, addresses, self._tunnels.values())
        cidrs = [cidr for cidr in self._config.service_cluster_ip_range.split(",") if cidr]
        services = plan.service_routes(own, cidrs, addresses, self._standing.routes)
        self._wanted = plan.with_routes(self._wanted, services)
        return plan.changes(self._standing, self._wanted)

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
