"""Keep the node's routes and its masquerade rule: on each Node, on each change in the kernel, and now and then."""

from __future__ import annotations

import asyncio
import errno
import logging
import socket as sockets

from control.api import meta
from control.api.meta import Object
from control.api.resources import NODES
from control.client import kubeconfig
from control.client.client import Client
from control.client.informer import Informer
from net import chains, messages, xtables
from net.chains import Tables
from net.links import Event, Route
from net.messages import ROUTE_PROTOCOL_NODE
from net.netlink import NetlinkError, RouteEvents, RouteSocket
from net.routes import masquerade, plan
from net.routes.config import RoutesConfig
from net.routes.plan import Peer
from net.xtables import Xtables, XtablesError

log = logging.getLogger(__name__)

RETRY_S = 1.0


def keep_place(node: Object) -> Object:
    """Keep of a Node what routes are made of: its status changes all the time, its place hardly ever."""
    metadata = node.get("metadata") or {}
    status = node.get("status") or {}
    return {
        "metadata": {name: metadata[name] for name in ("name", "uid", "resourceVersion") if name in metadata},
        "spec": {name: value for name, value in (node.get("spec") or {}).items() if name in ("podCIDR", "podCIDRs")},
        "status": {"addresses": status.get("addresses") or []},
    }


class RoutesServer:
    """Compose the loop."""

    def __init__(self, config: RoutesConfig, client: Client, door: Xtables | None) -> None:
        self._config = config
        self._name = config.hostname_override or sockets.gethostname().lower()
        self._door = door
        self._informer = Informer(client, NODES, transform=keep_place)
        self._informer.add_handler(self._node_changed)
        self._peers: dict[str, Peer] = {}
        self._due = asyncio.Event()
        self._uplinks: set[int] = set()
        self._standing: Tables | None = None
        self._unreachable: dict[str, str] = {}

    def _node_changed(self, old: Object | None, new: Object | None) -> None:
        if new is None:
            if old is not None and self._peers.pop(meta.name(old), None) is not None:
                self._due.set()
            return
        peer = plan.peer_of(new)
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
            case "overrun":
                return True
            case "route":
                return event.protocol != messages.ROUTE_PROTOCOL_POD
            case "address":
                return True
            case _:
                # A link that goes down takes its routes along without a word about them.
                return event.index in self._uplinks

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(self._config.resync_interval_s)
            self._standing = None
            self._due.set()

    async def _work(self) -> None:
        self._due.set()
        while True:
            await self._due.wait()
            await asyncio.sleep(self._config.settle_s)
            self._due.clear()
            try:
                # In one go and without a thread: a handful of routes, a millisecond.
                self.sync_routes()
                await self._sync_masquerade()
            except (NetlinkError, XtablesError) as error:
                log.warning("routes are not as wanted, trying again error=%s", error)
                self._standing = None
                await asyncio.sleep(RETRY_S)
                self._due.set()

    def sync_routes(self) -> int:
        """Bring the kernel's routes to the plan; return how many were written."""
        with RouteSocket() as socket:
            standing, addresses = socket.routes(), socket.addresses()
            planned = plan.wanted(
                self._name, self._peers.values(), addresses, standing, self._config.service_cluster_ip_range
            )
            self._uplinks = {route.index for route in planned.routes}
            todo = plan.changes(standing, planned)
            for route in todo.blocked:
                log.warning("a foreign route stands in the way network=%s", route.network)
            socket.batch([_deletion(route) for route in todo.delete])
            socket.batch(
                [
                    messages.put_route(route.network, route.index, route.gateway, protocol=ROUTE_PROTOCOL_NODE)
                    for route in todo.put
                ]
            )
        for route in todo.put:
            log.info("route is set network=%s gateway=%s", route.network, route.gateway or "on link")
        for route in todo.delete:
            log.info("route is removed network=%s gateway=%s", route.network, route.gateway or "on link")
        if planned.unreachable != self._unreachable:
            self._unreachable = planned.unreachable
            for name, reason in planned.unreachable.items():
                log.warning("node cannot be routed to node=%s reason=%s", name, reason)
        return len(todo.put) + len(todo.delete)

    async def _sync_masquerade(self) -> None:
        own = self._peers.get(self._name)
        if self._door is None or own is None or not own.pod_cidrs:
            return
        if self._standing is None:
            self._standing = {}
            for table in masquerade.JUMPS:
                self._standing |= chains.parse(await self._door.save(table), masquerade.owned)
        cidrs = tuple(cidr for cidr in self._config.cluster_cidr.split(",") if cidr and ":" not in cidr)
        wanted = masquerade.rules(own, self._peers.values(), cidrs)
        text = chains.difference(self._standing, wanted, masquerade.JUMPS, masquerade.owned)
        if text:
            await self._door.restore(text)
            log.info("masquerade rule is set pod_cidrs=%s nodes=%d", ",".join(own.pod_cidrs), len(self._peers))
        self._standing = chains.merged(self._standing, wanted, masquerade.JUMPS, masquerade.owned)


def _deletion(route: Route) -> messages.Message:
    return messages.delete_route(
        route.network,
        route.index,
        route.gateway,
        protocol=route.protocol,
        metric=route.metric,
        ignore=(errno.ESRCH, errno.ENODEV),
    )


async def run(config: RoutesConfig, client: Client | None = None) -> None:
    """Keep this node's routes until cancelled."""
    if client is None:
        assert config.kubeconfig is not None, "a kubeconfig or a client is needed"
        client = kubeconfig.load(config.kubeconfig).client("raftsman-routes")
    door = await xtables.open_door(config.iptables_backend) if config.masquerade else None
    await RoutesServer(config, client, door).serve()
