"""The hub's objects as of one moment, and the questions that an explanation asks of them: pure."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property

from control.api import meta, selectors
from control.api.meta import Object
from net.proxy.rules import NodeFacts, PortRules, decide
from net.proxy.services import SERVICE_NAME_LABEL, ChangeTracker

ZONE_LABEL = "topology.kubernetes.io/zone"


def by_key(objects: Iterable[Object]) -> dict[str, Object]:
    """Return objects by namespace/name, in the order of names."""
    return dict(sorted((meta.key(obj), obj) for obj in objects))


@dataclass(frozen=True)
class Objects:
    """Hold what the hub says, by namespace/name."""

    services: Mapping[str, Object] = field(default_factory=dict)
    slices: Mapping[str, Object] = field(default_factory=dict)
    pods: Mapping[str, Object] = field(default_factory=dict)
    nodes: Mapping[str, Object] = field(default_factory=dict)
    policies: Mapping[str, Object] = field(default_factory=dict)
    namespaces: Mapping[str, Object] = field(default_factory=dict)
    leases: Mapping[str, Object] = field(default_factory=dict)
    """The Leases by which nodes announce load balancers' addresses."""

    @cached_property
    def trackers(self) -> dict[int, ChangeTracker]:
        """The proxy's own parsed form of Services and slices, by IP version."""
        made = {}
        for version in (4, 6):
            tracker = ChangeTracker(ip_version=version)
            for key, service in self.services.items():
                tracker.service_changed(key, service)
            for key, slice_object in self.slices.items():
                tracker.slice_changed(key, slice_object)
            made[version] = tracker
        return made

    def rules(self, service: str, node: str, ip_version: int = 4) -> tuple[PortRules, ...]:
        """Decide a Service's rules as the named node sees them."""
        tracker = self.trackers[ip_version]
        ports = tracker.ports.get(service, ())
        return tuple(decide(port, tracker.endpoints_of(port.name), self.node_facts(node)) for port in ports)

    def all_rules(self, node: str, ip_version: int = 4) -> dict[str, tuple[PortRules, ...]]:
        """Decide every Service's rules as the named node sees them."""
        return {service: self.rules(service, node, ip_version) for service in sorted(self.trackers[ip_version].ports)}

    def node_facts(self, node: str) -> NodeFacts:
        """Return what the rules depend on of a Node."""
        found = self.nodes.get(node, {})
        return NodeFacts(node, meta.labels(found).get(ZONE_LABEL, ""), node_addresses(found, ("InternalIP",)))

    def pod_with(self, address: str) -> str:
        """Return the pod that has an address of its own; empty where none has."""
        return self._pods_by_address.get(normal(address), "")

    @cached_property
    def _pods_by_address(self) -> dict[str, str]:
        found: dict[str, str] = {}
        for key, pod in self.pods.items():
            if not on_host_network(pod) and not is_finished(pod):
                found |= dict.fromkeys(pod_addresses(pod), key)
        return found

    def node_with(self, address: str) -> str:
        """Return the Node that has an address; empty where none has."""
        wanted = normal(address)
        return next((name for name, node in self.nodes.items() if wanted in node_addresses(node)), "")

    def slice_with(self, service: str, address: str) -> str:
        """Return the EndpointSlice of a Service that holds an address; empty where none does."""
        wanted = normal(address)
        for key, slice_object in self.slices_of(service).items():
            for endpoint in slice_object.get("endpoints") or ():
                if any(normal(text) == wanted for text in endpoint.get("addresses") or ()):
                    return key
        return ""

    def slices_of(self, service: str) -> dict[str, Object]:
        """Return the EndpointSlices of a Service."""
        namespace, _, name = service.partition("/")
        return {
            key: found
            for key, found in self.slices.items()
            if meta.namespace(found) == namespace and meta.labels(found).get(SERVICE_NAME_LABEL) == name
        }

    def pods_selected_by(self, service: str) -> dict[str, Object]:
        """Return the pods that a Service's selector matches; none where it has no selector."""
        found = self.services.get(service) or {}
        selector = (found.get("spec") or {}).get("selector")
        if not selector:
            return {}
        wanted = selectors.from_map(selector)
        namespace = meta.namespace(found)
        return {
            key: pod
            for key, pod in self.pods.items()
            if meta.namespace(pod) == namespace and wanted.matches(meta.labels(pod)) and not is_finished(pod)
        }


def normal(address: str) -> str:
    """Return an address as everybody writes it; what is none stays as it is."""
    try:
        return str(ipaddress.ip_address(address))
    except ValueError:
        return address


def version_of(address: str) -> int:
    """Return an address's IP version."""
    return ipaddress.ip_address(address).version


def within(address: str, networks: Iterable[str]) -> bool:
    """Tell whether an address lies in one of the networks of its version."""
    parsed = ipaddress.ip_address(address)
    made = (ipaddress.ip_network(network, strict=False) for network in networks)
    return any(parsed.version == network.version and parsed in network for network in made)


def pod_addresses(pod: Object) -> tuple[str, ...]:
    """Return a pod's addresses, the first one first."""
    status = pod.get("status") or {}
    listed = [entry.get("ip") or "" for entry in status.get("podIPs") or ()] or [status.get("podIP") or ""]
    return tuple(normal(address) for address in listed if address)


def node_addresses(node: Object, kinds: tuple[str, ...] = ("InternalIP", "ExternalIP")) -> tuple[str, ...]:
    """Return a Node's addresses."""
    listed = (node.get("status") or {}).get("addresses") or ()
    return tuple(normal(entry.get("address") or "") for entry in listed if entry.get("type") in kinds)


def pod_cidrs(node: Object) -> tuple[str, ...]:
    """Return a Node's pod CIDRs."""
    spec = node.get("spec") or {}
    return tuple(cidr for cidr in spec.get("podCIDRs") or [spec.get("podCIDR") or ""] if cidr)


def on_host_network(pod: Object) -> bool:
    """Tell whether a pod lives in its node's own network."""
    return bool((pod.get("spec") or {}).get("hostNetwork"))


def is_finished(pod: Object) -> bool:
    """Tell whether a pod has ended for good; its address may be another's by now."""
    return (pod.get("status") or {}).get("phase") in ("Succeeded", "Failed")


def node_of(pod: Object) -> str:
    """Return the node that a pod is bound to; empty while it waits."""
    return str((pod.get("spec") or {}).get("nodeName") or "")
