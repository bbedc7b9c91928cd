"""Find out who is meant by the two ends of a question: a pod, a node, a Service, an address: pure."""

from __future__ import annotations

import difflib
import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from control.api.meta import Object
from net.explain import objects
from net.explain.objects import Objects

Kind = Literal["pod", "node", "service", "outside", "unknown"]
NEAR_ENOUGH = 0.6
"""How alike two names must be for one to be a typing error of the other, from 0 to 1."""
NODES_NAMED_MAX = 8
PROTOCOLS = ("TCP", "UDP", "SCTP")


class UnknownPartyError(Exception):
    """Nobody of that name is there; the text names those that come near."""


@dataclass(frozen=True, slots=True)
class Source:
    """Hold who sends the packet."""

    kind: Kind
    name: str
    """namespace/name of a pod, name of a node, or an address."""
    address: str
    node: str
    """Where the packet meets the first rules; empty where that is not known."""

    def __str__(self) -> str:
        """Return the words for it."""
        return f"address {self.address}" if self.kind == "outside" else f"{self.kind} {self.name}"


@dataclass(frozen=True, slots=True)
class Target:
    """Hold what the packet is sent to, as it was asked for."""

    kind: Kind
    name: str
    address: str = ""
    """Empty where a Service has none."""
    port: str = ""
    """A number or a port's name; empty where the only one is meant."""
    protocol: str = ""
    """Empty where the port says it."""


def split_port(text: str) -> tuple[str, str, str]:
    """Split NAME[:PORT][/PROTOCOL], where NAME may be an IPv6 address, bare or in brackets."""
    protocol = ""
    head, slash, tail = text.rpartition("/")
    if slash and tail.upper() in PROTOCOLS:
        text, protocol = head, tail.upper()
    if text.startswith("["):
        address, _, rest = text[1:].partition("]")
        return address, rest.removeprefix(":"), protocol
    if text.count(":") > 1:
        return text, "", protocol
    name, _, port = text.partition(":")
    return name, port, protocol


def is_address(text: str) -> bool:
    """Tell whether a text is an IP address."""
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _key(text: str, namespace: str) -> str:
    return text if "/" in text else f"{namespace}/{text}"


def _near(wanted: str, known: Iterable[str]) -> str:
    """Return "; did you mean …?" for the same name in another namespace, or names that come near."""
    listed = list(known)
    namespace, _, name = wanted.rpartition("/")
    found = [key for key in listed if key.rpartition("/")[2] == name]
    if not found:
        names = {key.rpartition("/")[2]: key for key in listed if key.rpartition("/")[0] == namespace}
        found = [names[near] for near in difflib.get_close_matches(name, names, 3, NEAR_ENOUGH)]
    return f"; did you mean {' or '.join(found[:3])}?" if found else ""


def find_source(text: str, hub: Objects, namespace: str, ip_version: int = 4, via: str = "") -> Source:
    """Return who sends; UnknownPartyError where nobody is called that."""
    if is_address(text):
        return _source_by_address(objects.normal(text), hub, via)
    kind, _, rest = text.partition("/")
    if kind in ("node", "pod") and rest:
        text = rest
    key = _key(text, namespace)
    if kind != "node" and key in hub.pods:
        return _source_pod(key, hub.pods[key], hub, ip_version)
    if kind != "pod" and text in hub.nodes:
        return Source("node", text, _of(objects.node_addresses(hub.nodes[text]), ip_version, f"node {text}"), text)
    near = _near(key, hub.pods) or f"; the nodes are {', '.join(list(hub.nodes)[:NODES_NAMED_MAX])}"
    raise UnknownPartyError(f"there is no pod {key} and no node {text}{near}")


def _of(addresses: Iterable[str], ip_version: int, who: str) -> str:
    found = next((address for address in addresses if objects.version_of(address) == ip_version), "")
    if not found:
        raise UnknownPartyError(f"{who} has no IPv{ip_version} address")
    return found


def _source_pod(key: str, pod: Object, hub: Objects, ip_version: int) -> Source:
    node = objects.node_of(pod)
    if not node:
        raise UnknownPartyError(f"pod {key} is bound to no node yet, so it sends nothing; see: kubectl describe pod")
    if objects.is_finished(pod):
        raise UnknownPartyError(f"pod {key} has ended ({pod['status']['phase']}), so it sends nothing")
    if objects.on_host_network(pod):
        own = objects.node_addresses(hub.nodes.get(node, {}))
        return Source("node", node, _of(own, ip_version, f"node {node} of pod {key}"), node)
    return Source("pod", key, _of(objects.pod_addresses(pod), ip_version, f"pod {key}"), node)


def _source_by_address(address: str, hub: Objects, via: str) -> Source:
    if pod := hub.pod_with(address):
        return Source("pod", pod, address, objects.node_of(hub.pods[pod]))
    if node := hub.node_with(address):
        return Source("node", node, address, node)
    return Source("outside", address, address, via)


def find_target(text: str, hub: Objects, namespace: str, domain: str = "cluster.local") -> Target:
    """Return what is meant; a name that nobody has is a target of kind "unknown", with the sentence as its name."""
    name, port, protocol = split_port(text)
    if is_address(name):
        return Target("unknown", "", objects.normal(name), port, protocol)
    kind, slash, rest = name.partition("/")
    if slash and kind in ("svc", "service", "pod", "node"):
        name = rest
    else:
        kind = ""
    if kind in ("", "svc", "service"):
        if "." in name:
            return _by_dns_name(name, hub, namespace, domain, port, protocol)
        if _key(name, namespace) in hub.services:
            return Target("service", _key(name, namespace), "", port, protocol)
    if kind in ("", "pod") and _key(name, namespace) in hub.pods:
        return Target("pod", _key(name, namespace), "", port, protocol)
    if kind in ("", "node") and name in hub.nodes:
        return Target("node", name, "", port, protocol)
    key = _key(name, namespace)
    near = _near(key, hub.services) or _near(key, hub.pods)
    return Target("unknown", f"There is no Service {key}{near or ', and no pod or node of that name.'}")


def _by_dns_name(name: str, hub: Objects, namespace: str, domain: str, port: str, protocol: str) -> Target:
    """Read NAME.NAMESPACE[.svc[.DOMAIN]] as a pod's resolver would, search list and all."""
    parts = name.rstrip(".").removesuffix(f".{domain}").split(".")
    if name.rstrip(".").endswith(".svc") or parts[-1:] == ["svc"]:
        parts = parts[:-1]
    if len(parts) == 1:
        parts = [parts[0], namespace]
    if len(parts) == 2 and f"{parts[1]}/{parts[0]}" in hub.services:
        return Target("service", f"{parts[1]}/{parts[0]}", "", port, protocol)
    if len(parts) == 2:
        known = {key.partition("/")[0] for key in hub.services} | set(hub.namespaces)
        where = "" if parts[1] in known else f" (and no namespace {parts[1]})"
        near = _near(f"{parts[1]}/{parts[0]}", hub.services)
        return Target(
            "unknown",
            f"The name {name} does not resolve: there is no Service {parts[1]}/{parts[0]}{where}{near or '.'}",
        )
    return Target(
        "unknown",
        f"The name {name} is none of a Service, which is NAME.NAMESPACE.svc.{domain}; the cluster's DNS asks "
        "its upstream servers for it.",
    )
