"""Run the proxy: watch, gather changes, sync the kernel, clean up flows, tell its health.

    Service or EndpointSlice → tracker (parsed) → due → rule book (decided) → applier (written) → conntrack

Nothing is written before both first lists are complete: a proxy that knows half of the Services
would take the other half's rules away.
"""

from __future__ import annotations

import asyncio
import logging
import socket as sockets
import time
from functools import partial

from control.api import meta
from control.api.meta import Object
from control.api.resources import ENDPOINT_SLICES, NODES, SERVICES
from control.client import kubeconfig
from control.client.client import Client
from control.client.informer import Informer
from net import xtables
from net.links import Address
from net.netlink import RouteSocket, read_sysctl
from net.proxy import conntrack
from net.proxy.applier import APPLY_ERRORS, Applier
from net.proxy.apply import IptablesApplier
from net.proxy.config import ProxyConfig
from net.proxy.conntrack import ConntrackSocket, Place
from net.proxy.health import Answer, Health, HealthServer, proxy_answer, service_answer
from net.proxy.rules import NodeFacts, RuleBook, RuleSettings, node_port_addresses
from net.proxy.services import ChangeTracker
from net.xtables import Xtables, XtablesError

log = logging.getLogger(__name__)

SERVICE_SELECTOR = "!service.kubernetes.io/headless,!service.kubernetes.io/service-proxy-name"
ZONE_LABEL = "topology.kubernetes.io/zone"
GOING_TAINT = "ToBeDeletedByClusterAutoscaler"
RETRY_FIRST_S, RETRY_MAX_S = 0.5, 30.0
READING_SHARE_MAX = 0.01
"""The most of the time that reading the kernel's rules back may take."""


def keep_needed(obj: Object) -> Object:
    """Drop what rules are not made of: it would be kept in memory for every Service and slice."""
    metadata = obj.get("metadata") or {}
    kept = ("name", "namespace", "uid", "resourceVersion", "labels", "deletionTimestamp")
    slim = {name: value for name, value in obj.items() if name not in ("kind", "apiVersion")}
    slim["metadata"] = {name: metadata[name] for name in kept if name in metadata}
    return slim


def keep_node_facts(node: Object) -> Object:
    """Keep of the own Node what rules and health checks depend on."""
    spec = node.get("spec") or {}
    slim = keep_needed({"metadata": node.get("metadata")})
    slim["spec"] = {name: spec[name] for name in ("podCIDR", "podCIDRs", "taints") if name in spec}
    slim["status"] = {"addresses": (node.get("status") or {}).get("addresses") or []}
    return slim


class ProxyServer:
    """Compose the loop."""

    def __init__(self, config: ProxyConfig, client: Client, door: Xtables) -> None:
        self._config = config
        self._name = config.hostname_override or sockets.gethostname().lower()
        self._tracker = ChangeTracker()
        self._book = RuleBook(NodeFacts(self._name))
        self._node_cidr = ""
        self._applier: Applier = IptablesApplier(door, self._settings(()))
        self._due = asyncio.Event()
        self._health = Health(patience_s=2 * config.sync_period_s)
        self._health_server = HealthServer()
        self._check_ports: dict[int, str] = {}
        self._udp_fronts: dict[Place, frozenset[Place]] | None = None
        services = Informer(client, SERVICES, label_selector=SERVICE_SELECTOR, transform=keep_needed)
        slices = Informer(client, ENDPOINT_SLICES, label_selector=SERVICE_SELECTOR, transform=keep_needed)
        node = Informer(client, NODES, field_selector=f"metadata.name={self._name}", transform=keep_node_facts)
        services.add_handler(self._service_changed)
        slices.add_handler(self._slice_changed)
        node.add_handler(self._node_changed)
        self._informers = [services, slices, node]

    def _service_changed(self, old: Object | None, new: Object | None) -> None:
        self._note(self._tracker.service_changed(meta.key(new or old or {}), new))

    def _slice_changed(self, old: Object | None, new: Object | None) -> None:
        self._note(self._tracker.slice_changed(meta.key(new or old or {}), new))

    def _node_changed(self, _old: Object | None, node: Object | None) -> None:
        if node is None:
            return
        spec = node.get("spec") or {}
        taints = {taint.get("key") for taint in spec.get("taints") or ()}
        self._health.node_eligible = not meta.is_being_deleted(node) and GOING_TAINT not in taints
        cidrs = spec.get("podCIDRs") or [spec.get("podCIDR") or ""]
        self._node_cidr = next((cidr for cidr in cidrs if cidr and ":" not in cidr), "")
        own = (node.get("status") or {}).get("addresses") or ()
        internal = tuple(entry["address"] for entry in own if entry.get("type") == "InternalIP")
        facts = NodeFacts(self._name, meta.labels(node).get(ZONE_LABEL, ""), internal)
        self._note(self._book.set_node(facts, self._tracker))
        self._note(self._cidrs() != self._applier.settings.cluster_cidrs)

    def _note(self, changed: bool) -> None:
        if changed:
            self._health.want(time.time())
            self._due.set()

    def _cidrs(self) -> tuple[str, ...]:
        wanted = self._config.cluster_cidr.split(",") if self._config.cluster_cidr else [self._node_cidr]
        return tuple(cidr.strip() for cidr in wanted if cidr.strip() and ":" not in cidr)

    def _settings(self, addresses: tuple[Address, ...]) -> RuleSettings:
        networks, serving = node_port_addresses(
            self._config.nodeport_addresses, [found.address for found in addresses], self._book.node, 4
        )
        return RuleSettings(
            cluster_cidrs=self._cidrs(),
            masquerade_all=self._config.masquerade_all,
            masquerade_bit=self._config.masquerade_bit,
            node_port_cidrs=networks,
            node_addresses=serving,
            conntrack_be_liberal=read_sysctl("net/netfilter/nf_conntrack_tcp_be_liberal") == "1",
        )

    async def serve(self) -> None:
        """Keep the rules until cancelled."""
        try:
            async with asyncio.TaskGroup() as group:
                await self._listen()
                for informer in self._informers:
                    group.create_task(informer.run())
                for informer in self._informers:
                    await informer.wait_synced()
                await self._work(group)
        finally:
            self._health_server.close_all()

    async def _listen(self) -> None:
        if self._config.healthz_bind_address:
            address, _, port = self._config.healthz_bind_address.rpartition(":")
            await self._health_server.listen(
                address.strip("[]"), int(port), lambda path: proxy_answer(self._health, path, time.time())
            )

    async def _work(self, group: asyncio.TaskGroup) -> None:
        delay_s = RETRY_FIRST_S
        ready = False
        self._due.set()
        while True:
            await self._due.wait()
            self._due.clear()
            try:
                await self.sync()
            except APPLY_ERRORS as error:
                log.warning("rules are not as wanted, trying again error=%s delay_s=%.1f", error, delay_s)
                await asyncio.sleep(delay_s)
                delay_s = min(2 * delay_s, RETRY_MAX_S)
                self._applier.forget()
                self._due.set()
                continue
            delay_s = RETRY_FIRST_S
            if not ready:
                ready = True
                log.info("ready node=%s services=%d", self._name, len(self._tracker.ports))
                group.create_task(self._watch_canary())
                group.create_task(self._compare_now_and_then())
            # Changes that come while this waits are gathered into the next sync.
            await asyncio.sleep(self._config.min_sync_period_s)

    async def sync(self) -> None:
        """Bring the kernel to what the tracker knows."""
        began = time.perf_counter()
        with RouteSocket() as socket:
            addresses = tuple(socket.addresses())
        self._applier.use(self._settings(addresses))
        self._book.update(self._tracker, self._tracker.take_changes())
        services = self._book.services()
        result = await self._applier.sync(services)
        self._health.synced(time.time())
        if result.written_bytes:
            log.info(
                "rules are written services=%d bytes=%d refused=%d ms=%.0f",
                len(services), result.written_bytes, len(result.refused), (time.perf_counter() - began) * 1000,
            )  # fmt: skip
        await self._drop_stale_flows(frozenset(found.address for found in addresses))
        await self._serve_checks()

    async def _drop_stale_flows(self, local_addresses: frozenset[str]) -> None:
        fronts = conntrack.fronts(self._tracker)
        if fronts == self._udp_fronts:
            return
        gone = {place: frozenset[Place]() for place in self._udp_fronts or () if place not in fronts}

        def work() -> int:
            with ConntrackSocket() as socket:
                return socket.delete(conntrack.stale(socket.udp_flows(), fronts | gone, local_addresses))

        try:
            dropped = await asyncio.to_thread(work) if fronts or gone else 0
        except OSError as error:
            # The rules stand all the same; the flows are looked at again after the next change.
            log.warning("stale UDP flows cannot be looked for error=%s", error)
            return
        if dropped:
            log.info("stale UDP flows are dropped count=%d", dropped)
        self._udp_fronts = fronts

    async def _serve_checks(self) -> None:
        """Open and close the ports on which Services with a Local policy answer health checks."""
        wanted = self._book.health_checks()
        for port in [port for port, service in self._check_ports.items() if wanted.get(port) != service]:
            self._health_server.close(self._config.bind_address, port)
            del self._check_ports[port]
        for port, service in wanted.items():
            if port in self._check_ports:
                continue
            try:
                await self._health_server.listen(self._config.bind_address, port, partial(self._check, service))
            except OSError as error:
                log.warning("health check port cannot be opened service=%s port=%d error=%s", service, port, error)
                continue
            self._check_ports[port] = service

    def _check(self, service: str, _path: str) -> Answer:
        return service_answer(service, self._book.ready_here(service), self._health.is_healthy(time.time()))

    async def _watch_canary(self) -> None:
        while True:
            await asyncio.sleep(self._config.canary_interval_s)
            try:
                if await self._applier.stands():
                    continue
            except XtablesError as error:
                log.warning("canary cannot be seen error=%s", error)
                continue
            log.warning("rules were flushed by somebody, writing them anew")
            self._applier.forget()
            self._note(True)

    async def _compare_now_and_then(self) -> None:
        while True:
            took_s = self._applier.last_read_s
            await asyncio.sleep(max(self._config.sync_period_s, took_s / READING_SHARE_MAX))
            self._applier.forget()
            self._due.set()


async def run(config: ProxyConfig, client: Client | None = None) -> None:
    """Keep this node's Service rules until cancelled."""
    if client is None:
        assert config.kubeconfig is not None, "a kubeconfig or a client is needed"
        client = kubeconfig.load(config.kubeconfig).client("raftsman-proxy")
    door = await xtables.open_door(config.iptables_backend)
    await ProxyServer(config, client, door).serve()


async def clean_up(config: ProxyConfig) -> None:
    """Take all of the proxy's rules away."""
    door = await xtables.open_door(config.iptables_backend)
    await IptablesApplier(door, RuleSettings()).clean_up()
