"""Run the proxy: watch, and have each address family keep its rules; answer for health and metrics.

    Service or EndpointSlice → tracker (parsed) → due → rule book (decided) → applier (written) → conntrack

Nothing is written before both first lists are complete: a proxy that knows half of the Services
would take the other half's rules away. IPv4 and IPv6 go this way beside each other (`family`).
"""

from __future__ import annotations

import asyncio
import gc
import logging
import socket as sockets
import time
from collections.abc import Iterator, Mapping
from functools import partial

from control.api import meta
from control.api.meta import Object
from control.api.resources import ENDPOINT_SLICES, NODES, SERVICES
from control.client import kubeconfig
from control.client.client import Client
from control.client.informer import Informer
from net.netlink import NetlinkError, RouteEvents, RouteSocket, read_sysctl
from net.proxy import modes
from net.proxy.applier import APPLY_ERRORS, Services
from net.proxy.config import ProxyConfig
from net.proxy.family import FamilyLoop
from net.proxy.health import Answer, Health, HealthServer, proxy_answer, service_answer
from net.proxy.metrics import FrontCount, ProxyMetrics
from net.proxy.modes import Makers
from net.proxy.nftables import place
from net.proxy.pressure import watch_conntrack
from net.proxy.rules import NodeFacts, RuleSettings, node_port_addresses

log = logging.getLogger(__name__)

SERVICE_SELECTOR = "!service.kubernetes.io/headless,!service.kubernetes.io/service-proxy-name"
ZONE_LABEL = "topology.kubernetes.io/zone"
GOING_TAINT = "ToBeDeletedByClusterAutoscaler"
ADDRESS_FAMILIES = {4: sockets.AF_INET, 6: sockets.AF_INET6}


def _empty(obj: Object | None) -> None:
    """Leave of an object what the informer needs: the trackers have read the rest, and it would fill the memory."""
    if obj is None:
        return
    metadata = obj["metadata"]
    kept = {name: metadata[name] for name in ("name", "namespace", "uid", "resourceVersion") if name in metadata}
    obj.clear()
    obj["metadata"] = kept


def keep_node_facts(node: Object) -> Object:
    """Keep of the own Node what rules and health checks depend on."""
    spec = node.get("spec") or {}
    metadata = node.get("metadata") or {}
    kept = ("name", "uid", "resourceVersion", "labels", "deletionTimestamp")
    slim: Object = {"metadata": {name: metadata[name] for name in kept if name in metadata}}
    slim["spec"] = {name: spec[name] for name in ("podCIDR", "podCIDRs", "taints") if name in spec}
    slim["status"] = {"addresses": (node.get("status") or {}).get("addresses") or []}
    return slim


class ProxyServer:
    """Compose the loops; made in the network namespace that it works in."""

    def __init__(self, config: ProxyConfig, client: Client, makers: Makers) -> None:
        self._config = config
        self._name = config.hostname_override or sockets.gethostname().lower()
        self._node = NodeFacts(self._name)
        self._node_cidrs: tuple[str, ...] = ()
        self._addresses: dict[int, tuple[str, ...]] = {}
        self._health = Health(patience_s=2 * config.sync_period_s)
        self._health_server = HealthServer()
        self._check_ports: dict[int, str] = {}
        self._checks_due = asyncio.Event()
        self.metrics = ProxyMetrics()
        self.families = {
            version: FamilyLoop(config, self._node, make(self._settings(version)), self.metrics, self._told)
            for version, make in makers.items()
        }
        services = Informer(client, SERVICES, label_selector=SERVICE_SELECTOR, transform=dict)
        slices = Informer(client, ENDPOINT_SLICES, label_selector=SERVICE_SELECTOR, transform=dict)
        node = Informer(client, NODES, field_selector=f"metadata.name={self._name}", transform=keep_node_facts)
        services.add_handler(self._service_changed)
        slices.add_handler(self._slice_changed)
        node.add_handler(self._node_changed)
        self._informers = [services, slices, node]

    def _service_changed(self, old: Object | None, new: Object | None) -> None:
        key = meta.key(new or old or {})
        for family in self.families.values():
            family.service_changed(new, key)
        _empty(new)

    def _slice_changed(self, old: Object | None, new: Object | None) -> None:
        key = meta.key(new or old or {})
        for family in self.families.values():
            family.slice_changed(new, key)
        _empty(new)

    def _node_changed(self, _old: Object | None, node: Object | None) -> None:
        if node is None:
            return
        spec = node.get("spec") or {}
        taints = {taint.get("key") for taint in spec.get("taints") or ()}
        self._health.node_eligible = not meta.is_being_deleted(node) and GOING_TAINT not in taints
        self._node_cidrs = tuple(cidr for cidr in spec.get("podCIDRs") or [spec.get("podCIDR") or ""] if cidr)
        own = (node.get("status") or {}).get("addresses") or ()
        internal = tuple(entry["address"] for entry in own if entry.get("type") == "InternalIP")
        self._node = NodeFacts(self._name, meta.labels(node).get(ZONE_LABEL, ""), internal)
        for version, family in self.families.items():
            family.node_changed(self._node)
            family.use(self._settings(version))

    def _told(self, _ip_version: int) -> None:
        """Note that a family fell behind, or caught up."""
        if any(family.is_behind for family in self.families.values()):
            self._health.want(time.time())
            return
        self._health.synced(time.time())
        self._checks_due.set()

    def _settings(self, ip_version: int) -> RuleSettings:
        wanted = self._config.cluster_cidr.split(",") if self._config.cluster_cidr else self._node_cidrs
        cidrs = [cidr.strip() for cidr in wanted if cidr.strip() and (":" in cidr) is (ip_version == 6)]
        networks, serving = node_port_addresses(
            self._config.nodeport_addresses, self._addresses.get(ip_version, ()), self._node, ip_version
        )
        return RuleSettings(
            ip_version=ip_version,
            cluster_cidrs=tuple(cidrs),
            masquerade_all=self._config.masquerade_all,
            masquerade_bit=self._config.masquerade_bit,
            node_port_cidrs=networks,
            node_addresses=serving,
            conntrack_be_liberal=read_sysctl("net/netfilter/nf_conntrack_tcp_be_liberal") == "1",
            node_name=self._name,
            own_pod_cidrs=tuple(cidr for cidr in self._node_cidrs if (":" in cidr) is (ip_version == 6)),
        )

    async def serve(self) -> None:
        """Keep the rules until cancelled."""
        try:
            async with asyncio.TaskGroup() as group:
                await self._listen()
                # Events first: what changes while the addresses are read is an event.
                events = RouteEvents()
                self._read_addresses()
                group.create_task(self._follow_addresses(events))
                for informer in self._informers:
                    group.create_task(informer.run())
                for informer in self._informers:
                    await informer.wait_synced()
                # What was read stays: the collector need not walk through a million objects again and again.
                gc.freeze()
                for version, family in self.families.items():
                    group.create_task(family.run(group, partial(self._ready, group, version)))
                group.create_task(self._keep_checks())
                group.create_task(watch_conntrack(self._config, self.metrics))
        finally:
            self._health_server.close_all()
            for family in self.families.values():
                family.applier.close()

    def _ready(self, group: asyncio.TaskGroup, ip_version: int) -> None:
        """Take another mode's rules away once ours stand, so that there is no time without any."""
        gc.freeze()
        if self._config.remove_other_modes:
            group.create_task(modes.remove_other_modes(self.families[ip_version].applier.mode, ip_version))

    def _read_addresses(self) -> None:
        with RouteSocket() as socket:
            for version, family in self.families.items():
                found = tuple(address.address for address in socket.addresses(ADDRESS_FAMILIES[version]))
                self._addresses[version], family.local_addresses = found, frozenset(found)
                family.use(self._settings(version))

    async def _follow_addresses(self, events: RouteEvents) -> None:
        try:
            while True:
                if any(event.kind in ("address", "overrun") for event in await events.next()):
                    try:
                        self._read_addresses()
                    except NetlinkError as error:
                        log.warning("node's addresses cannot be read error=%s", error)
        finally:
            events.close()

    async def _listen(self) -> None:
        if self._config.healthz_bind_address:
            host, port = _bind_address(self._config.healthz_bind_address)
            await self._health_server.listen(host, port, self._answer_health)
        if self._config.metrics_bind_address:
            host, port = _bind_address(self._config.metrics_bind_address)
            try:
                await self._health_server.listen(host, port, self._answer_metrics)
            except OSError as error:
                log.warning("metrics are not served address=%s error=%s", self._config.metrics_bind_address, error)

    async def _answer_health(self, path: str) -> Answer:
        return proxy_answer(self._health, path, time.time())

    async def _answer_metrics(self, path: str) -> Answer:
        if path == "/metrics":
            body, content_type = self.metrics.text(await self.connections())
            return 200, body, {"Content-Type": content_type}
        if path == "/proxyMode":
            mode = next(iter(self.families.values())).applier.mode
            return 200, mode, {"Content-Type": "text/plain; charset=utf-8"}
        return proxy_answer(self._health, path, time.time())

    async def connections(self) -> list[FrontCount]:
        """Return what the kernel has counted; ways in that saw nothing are left out."""
        found: list[FrontCount] = []
        for family in self.families.values():
            try:
                counts = await family.applier.connections()
            except APPLY_ERRORS as error:
                log.warning("connections cannot be counted family=%d error=%s", family.ip_version, error)
                continue
            if counts:
                found += _by_front(family.book.decided, counts)
        return found

    async def _keep_checks(self) -> None:
        while True:
            await self._checks_due.wait()
            self._checks_due.clear()
            wanted: dict[int, str] = {}
            for family in self.families.values():
                wanted |= family.book.health_checks()
            await self._serve_checks(wanted)

    async def _serve_checks(self, wanted: dict[int, str]) -> None:
        """Open and close the ports on which Services with a Local policy answer health checks."""
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

    async def _check(self, service: str, _path: str) -> Answer:
        count = max(family.book.ready_here(service) for family in self.families.values())
        return service_answer(service, count, self._health.is_healthy(time.time()))


def _by_front(services: Services, counts: Mapping[bytes, int]) -> Iterator[FrontCount]:
    for service, ports in services.items():
        for rules in ports:
            name = rules.port.name
            for front in rules.fronts:
                count = counts.get(place(front.address, rules.port.protocol, front.port))
                if count:
                    where = f"[{front.address}]" if ":" in front.address else front.address
                    yield FrontCount(service, name.port, name.protocol, f"{where}:{front.port}", count)


def _bind_address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    return host.strip("[]"), int(port)


async def run(config: ProxyConfig, client: Client | None = None) -> None:
    """Keep this node's Service rules until cancelled."""
    if client is None:
        assert config.kubeconfig is not None, "a kubeconfig or a client is needed"
        client = kubeconfig.load(config.kubeconfig).client("raftsman-proxy")
    await ProxyServer(config, client, await modes.appliers(config.proxy_mode, config.iptables_backend)).serve()
