"""Track Services and EndpointSlices and tell which service ports a change touches: pure.

Theory of operation
-------------------
Both kinds are parsed once, on arrival, into small frozen values; the objects themselves are not
kept. A Service becomes one `ServicePort` a port; a slice becomes the endpoints it holds by
(port name, protocol). `take_changes` returns the names of the services touched since the last
call, so that the shell renders those alone:

    service_changed(default/web, ports http:80)      slice_changed(default/web-x1: 10.244.1.2)
    take_changes() → {"default/web"}                 endpoints_of(default/web:http) → (10.244.1.2,)
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from dataclasses import dataclass, field

from control.api import meta
from control.api.meta import Object

SERVICE_NAME_LABEL = "kubernetes.io/service-name"
SERVICE_PROXY_NAME_LABEL = "service.kubernetes.io/service-proxy-name"
AFFINITY_TIMEOUT_DEFAULT_S = 10800
_OCTET = r"(?:25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])"
_IPV4 = re.compile(rf"{_OCTET}(?:\.{_OCTET}){{3}}")


@dataclass(frozen=True, slots=True, order=True)
class PortName:
    """Name one port of one Service, as upstream's ServicePortName."""

    service: str
    """namespace/name of the Service."""
    port: str
    protocol: str
    """TCP, UDP or SCTP."""

    def __str__(self) -> str:
        """Return the form that comments and chain hashes hold."""
        return f"{self.service}:{self.port}" if self.port else self.service


@dataclass(frozen=True, slots=True)
class ServicePort:
    """Hold what the rules need to know of one port of one Service."""

    name: PortName
    cluster_ip: str
    port: int
    node_port: int = 0
    external_ips: tuple[str, ...] = ()
    load_balancer_ips: tuple[str, ...] = ()
    source_ranges: tuple[str, ...] = ()
    affinity_timeout_s: int = 0
    """Seconds of ClientIP affinity; 0 is none."""
    internal_local: bool = False
    external_local: bool = False
    health_check_node_port: int = 0
    """Where load balancers ask whether this node has endpoints; 0 for Services that need no such port."""

    @property
    def protocol(self) -> str:
        """The protocol as iptables and nft write it."""
        return self.name.protocol.lower()

    @property
    def externally_accessible(self) -> bool:
        """Whether anything but the cluster IP leads here."""
        return bool(self.node_port or self.external_ips or self.load_balancer_ips)

    @property
    def uses_cluster_endpoints(self) -> bool:
        """Whether some traffic may go to endpoints of all nodes.

        With a Local external policy it may, too: what comes from the cluster itself takes the short way.
        """
        return not self.internal_local or self.externally_accessible

    @property
    def uses_local_endpoints(self) -> bool:
        """Whether some traffic may go to this node's endpoints alone."""
        return self.internal_local or (self.external_local and self.externally_accessible)


@dataclass(frozen=True, slots=True, order=True)
class Endpoint:
    """Hold one address that a Service port leads to, with its state."""

    ip: str
    port: int
    node: str = ""
    ready: bool = True
    serving: bool = True
    terminating: bool = False
    zone_hints: tuple[str, ...] = ()
    node_hints: tuple[str, ...] = ()

    def __str__(self) -> str:
        """Return ip:port."""
        return f"[{self.ip}]:{self.port}" if ":" in self.ip else f"{self.ip}:{self.port}"


SliceEndpoints = dict[tuple[str, str], tuple[Endpoint, ...]]


@dataclass(slots=True)
class ChangeTracker:
    """Own the parsed state of one address family."""

    ip_version: int = 4
    ports: dict[str, tuple[ServicePort, ...]] = field(default_factory=dict)
    """The ports of each Service, by namespace/name."""
    slices: dict[str, dict[str, SliceEndpoints]] = field(default_factory=dict)
    """What each slice of each Service holds: Service, then slice, both namespace/name."""
    _owner_of_slice: dict[str, str] = field(default_factory=dict)
    _changed: set[str] = field(default_factory=set)

    def service_changed(self, key: str, service: Object | None) -> bool:
        """Note a Service as it is now, None when it is gone; tell whether the rules may change."""
        ports = parse_service(service, self.ip_version) if service is not None else ()
        if ports == self.ports.get(key, ()):
            return False
        if ports:
            self.ports[key] = ports
        else:
            del self.ports[key]
        self._changed.add(key)
        return True

    def slice_changed(self, key: str, slice_object: Object | None) -> bool:
        """Note an EndpointSlice as it is now, None when it is gone; tell whether the rules may change."""
        before = self._owner_of_slice.get(key, "")
        owner, endpoints = "", {}
        if slice_object is not None and slice_object.get("addressType") == f"IPv{self.ip_version}":
            name = meta.labels(slice_object).get(SERVICE_NAME_LABEL, "")
            owner = f"{meta.namespace(slice_object)}/{name}" if name else ""
            endpoints = parse_slice(slice_object)
        if owner == before and endpoints == self.slices.get(owner, {}).get(key, {}):
            return False
        if before:
            self._forget_slice(before, key)
        if owner:
            self.slices.setdefault(owner, {})[key] = endpoints
            self._owner_of_slice[key] = owner
            self._changed.add(owner)
        return True

    def _forget_slice(self, owner: str, key: str) -> None:
        held = self.slices[owner]
        held.pop(key, None)
        if not held:
            del self.slices[owner]
        del self._owner_of_slice[key]
        self._changed.add(owner)

    def take_changes(self) -> set[str]:
        """Return the Services touched since the last call."""
        changed, self._changed = self._changed, set()
        return changed

    def endpoints_of(self, name: PortName) -> tuple[Endpoint, ...]:
        """Merge a port's endpoints over its slices: sorted, each ip:port once, the readiest kept."""
        best: dict[tuple[str, int], Endpoint] = {}
        for held in self.slices.get(name.service, {}).values():
            for endpoint in held.get((name.port, name.protocol), ()):
                where = (endpoint.ip, endpoint.port)
                known = best.get(where)
                if known is None or (endpoint.ready, endpoint.serving) > (known.ready, known.serving):
                    best[where] = endpoint
        return tuple(best[where] for where in sorted(best))


def parse_service(service: Object, ip_version: int) -> tuple[ServicePort, ...]:
    """Return the ports of a Service that this proxy serves; none where another proxy or DNS does."""
    spec = service.get("spec") or {}
    if spec.get("type") == "ExternalName" or SERVICE_PROXY_NAME_LABEL in meta.labels(service):
        return ()
    addresses = spec.get("clusterIPs") or [spec.get("clusterIP") or ""]
    cluster_ip = next(iter(of_version(addresses, ip_version)), "")
    if not cluster_ip:
        return ()
    affinity_timeout_s = 0
    if spec.get("sessionAffinity") == "ClientIP":
        client_ip = (spec.get("sessionAffinityConfig") or {}).get("clientIP") or {}
        affinity_timeout_s = client_ip.get("timeoutSeconds") or AFFINITY_TIMEOUT_DEFAULT_S
    ingress = ((service.get("status") or {}).get("loadBalancer") or {}).get("ingress") or []
    vips = [entry.get("ip") or "" for entry in ingress if (entry.get("ipMode") or "VIP") == "VIP"]
    external_ips = of_version(spec.get("externalIPs") or (), ip_version)
    is_balanced = spec.get("type") == "LoadBalancer"
    external_local = spec.get("externalTrafficPolicy") == "Local"
    return tuple(
        ServicePort(
            name=PortName(meta.key(service), port.get("name") or "", port.get("protocol") or "TCP"),
            cluster_ip=cluster_ip,
            port=int(port["port"]),
            node_port=int(port.get("nodePort") or 0),
            external_ips=external_ips,
            load_balancer_ips=of_version(vips, ip_version),
            source_ranges=of_version(spec.get("loadBalancerSourceRanges") or (), ip_version),
            affinity_timeout_s=affinity_timeout_s,
            internal_local=spec.get("internalTrafficPolicy") == "Local",
            external_local=external_local,
            health_check_node_port=int(spec.get("healthCheckNodePort") or 0) if is_balanced and external_local else 0,
        )
        for port in spec.get("ports") or ()
    )


def of_version(texts: Iterable[str], ip_version: int) -> tuple[str, ...]:
    """Keep the addresses and networks of one IP version, as the kernel writes them; what is neither is dropped."""
    kept = []
    for text in texts:
        # "None" of a headless Service, or a value that validation should have refused, is no address.
        found = _address(text.strip(), ip_version) if "/" not in text else _network(text.strip(), ip_version)
        if found:
            kept.append(found)
    return tuple(kept)


def _address(text: str, ip_version: int) -> str:
    """Return an address in the kernel's spelling; empty where it is not of this version."""
    if ip_version == 4:
        return text if _IPV4.fullmatch(text) else ""
    if ":" not in text:
        return ""
    try:
        return str(ipaddress.IPv6Address(text))
    except ValueError:
        return ""


def _network(text: str, ip_version: int) -> str:
    try:
        network = ipaddress.ip_network(text, strict=False)
    except ValueError:
        return ""
    return str(network) if network.version == ip_version else ""


def parse_slice(slice_object: Object) -> SliceEndpoints:
    """Return the endpoints of a slice by (port name, protocol)."""
    found: SliceEndpoints = {}
    ip_version = 6 if slice_object.get("addressType") == "IPv6" else 4
    for port in slice_object.get("ports") or ():
        if not port.get("port"):
            continue
        entries = slice_object.get("endpoints") or ()
        parsed = [_parse_endpoint(entry, int(port["port"]), ip_version) for entry in entries]
        usable = tuple(endpoint for endpoint in parsed if endpoint is not None)
        found[(port.get("name") or "", port.get("protocol") or "TCP")] = usable
    return found


def _parse_endpoint(entry: Object, port: int, ip_version: int) -> Endpoint | None:
    addresses = entry.get("addresses") or ()
    if len(addresses) == 1 and "/" not in addresses[0]:  # all of them, if it were not for old slices
        address = _address(addresses[0], ip_version)
    else:
        address = next(iter(of_version(addresses, ip_version)), "")
    if not address:
        return None
    conditions = entry.get("conditions") or {}
    ready = conditions.get("ready") is not False
    serving = conditions.get("serving")
    hints = entry.get("hints") or {}
    return Endpoint(
        ip=address,
        port=port,
        node=entry.get("nodeName") or "",
        ready=ready,
        serving=ready if serving is None else bool(serving),
        terminating=bool(conditions.get("terminating")),
        zone_hints=tuple(hint["name"] for hint in hints.get("forZones") or ()),
        node_hints=tuple(hint["name"] for hint in hints.get("forNodes") or ()),
    )
