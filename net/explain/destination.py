"""Turn the target of a question into an address, a port and the Service's front that leads there: pure."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from control.api import meta
from control.api.meta import Object
from net.explain import objects, reasons
from net.explain.announcing import announcer, service_with
from net.explain.objects import Objects
from net.explain.parties import Target
from net.explain.steps import NodeSettings, Question, Scene
from net.proxy.rules import Front, FrontKind, PortRules


class NoWayError(Exception):
    """No packet can be sent there at all; the text is the sentence that says why."""


@dataclass(frozen=True, slots=True)
class HostPort:
    """Hold where a port of a node leads that one pod asked for."""

    pod: str
    address: str
    port: int
    host_ip: str = ""
    """The one address of the node that serves it; all where empty."""


@dataclass(frozen=True, slots=True)
class Destination:
    """Hold where the packet is sent to."""

    address: str
    port: int
    protocol: str
    rules: PortRules | None = None
    """The Service's port that this leads to, as the node decides that the packet meets first."""
    front: Front | None = None
    entry: str = ""
    """The node that the packet meets first where it comes from outside."""
    notes: tuple[str, ...] = ()
    translates_at: str = ""
    """The one node whose rules know this address and port: that of a node port or host port."""
    host_port: HostPort | None = None


def find(question: Question, scene: Scene) -> Destination:
    """Return where the packet goes; NoWayError with the sentence where nowhere."""
    target = question.target
    match target.kind:
        case "service":
            return _of_service(question, scene)
        case "pod":
            return _of_pod(question, scene.hub)
        case "node":
            addresses = objects.node_addresses(scene.hub.nodes[target.name])
            address = _of_version(addresses, question.ip_version, f"Node {target.name}")
            return _of_address(question, scene, address)
        case _ if target.address:
            return _of_address(question, scene, target.address)
        case _:
            raise NoWayError(target.name)


def _of_version(addresses: tuple[str, ...], ip_version: int, who: str) -> str:
    found = next((address for address in addresses if objects.version_of(address) == ip_version), "")
    if not found:
        raise NoWayError(f"{who} has no IPv{ip_version} address.")
    return found


def _entry(hub: Objects) -> str:
    """Return the node that a packet from outside is thought to come to where nothing names one."""
    ready = [name for name, node in hub.nodes.items() if meta.condition_is_true(node, "Ready")]
    return next(iter([*ready, *hub.nodes]), "")


def _of_service(question: Question, scene: Scene) -> Destination:
    target, hub = question.target, scene.hub
    service = hub.services[target.name]
    if why := reasons.without_rules(target.name, service):
        raise NoWayError(why)
    if reasons.is_headless(service) and target.port.isdigit():
        # Clients reach the pods themselves, at whatever port they like.
        meant = [entry for entry in service["spec"].get("ports") or () if target.port == str(entry.get("port"))]
        return Destination("", int(target.port), target.protocol or (meant or [{}])[0].get("protocol") or "TCP")
    if why := reasons.wrong_port(target.name, service, target.port, target.protocol):
        raise NoWayError(why)
    entry = port_entry(service, target)
    name, protocol = entry.get("name") or "", entry.get("protocol") or "TCP"
    if reasons.is_headless(service):
        return Destination("", 0, protocol)
    holder, told = announcer(hub, target.name) if question.source.kind == "outside" else ("", "")
    node = question.source.node or holder or _entry(hub)
    decided = hub.rules(target.name, node, question.ip_version)
    rules = next((r for r in decided if (r.port.name.port, r.port.name.protocol) == (name, protocol)), None)
    if rules is None:
        families = ", ".join((service.get("spec") or {}).get("ipFamilies") or ()) or "another family"
        raise NoWayError(
            f"Service {target.name} has no IPv{question.ip_version} cluster IP: its ipFamilies are {families}."
        )
    if question.source.kind != "outside":
        front = rules.fronts[0]
        return Destination(front.address, front.port, protocol, rules, front)
    return _from_outside(question, scene, rules, node, told)


def port_entry(service: Object, target: Target) -> dict[str, Any]:
    """Return the Service's port that is meant, once `wrong_port` had nothing to say."""
    ports: list[dict[str, Any]] = service["spec"]["ports"]
    for entry in ports:
        named = target.port in ("", entry.get("name"), str(entry.get("port")))
        if named and target.protocol in ("", entry.get("protocol") or "TCP"):
            return entry
    raise AssertionError("wrong_port has looked")


def _from_outside(question: Question, scene: Scene, rules: PortRules, node: str, told: str) -> Destination:
    """Choose the front that a client outside the cluster would use."""
    name = question.target.name
    fronts = {front.kind: front for front in reversed(rules.fronts)}
    for kind in (FrontKind.LOAD_BALANCER, FrontKind.EXTERNAL_IP):
        if front := fronts.get(kind):
            announced = (told,) if told else ()
            return Destination(front.address, front.port, rules.port.name.protocol, rules, front, node, announced)
    if front := fronts.get(FrontKind.NODE_PORT):
        addresses = objects.node_addresses(scene.hub.nodes.get(node, {}))
        address = _of_version(addresses, question.ip_version, f"Node {node}")
        notes = _pending(scene.hub.services[name])
        return Destination(address, front.port, rules.port.name.protocol, rules, front, node, notes)
    raise NoWayError(
        f"Service {name} is of type ClusterIP: its address {rules.port.cluster_ip} is known within the cluster alone. "
        "From outside use a NodePort, a LoadBalancer, or kubectl port-forward."
    )


def _pending(service: Object) -> tuple[str, ...]:
    if (service.get("spec") or {}).get("type") != "LoadBalancer":
        return ()
    return (
        f"Service {meta.key(service)} is of type LoadBalancer and has no address yet; its node port is taken instead.",
    )


def _of_pod(question: Question, hub: Objects) -> Destination:
    name = question.target.name
    pod = hub.pods[name]
    if objects.is_finished(pod):
        raise NoWayError(f"Pod {name} has ended ({pod['status']['phase']}), so nothing answers there.")
    addresses = objects.pod_addresses(pod)
    if not addresses:
        raise NoWayError(f"Pod {name} has no address: it {reasons.pod_is_not_ready(pod)}.")
    address = _of_version(addresses, question.ip_version, f"Pod {name}")
    port, protocol = _port_of_pod(question.target, name, pod)
    return Destination(address, port, protocol)


def _port_of_pod(target: Target, name: str, pod: Object) -> tuple[int, str]:
    if target.port.isdigit():
        return int(target.port), target.protocol or "TCP"
    known = [
        port for container in (pod.get("spec") or {}).get("containers") or () for port in container.get("ports") or ()
    ]
    found = [port for port in known if target.port in ("", port.get("name"))]
    if len(found) == 1 or (found and target.port):
        return int(found[0]["containerPort"]), target.protocol or found[0].get("protocol") or "TCP"
    if target.port:
        raise NoWayError(f"Pod {name} has no container port named {target.port!r}.")
    raise NoWayError(f"Say which port of pod {name} is meant: {name.partition('/')[2]}:PORT.")


def _of_address(question: Question, scene: Scene, address: str) -> Destination:
    """Look for the Service, pod or node that has an address."""
    target, hub = question.target, scene.hub
    version = objects.version_of(address)
    if objects.version_of(question.source.address) != version:
        raise NoWayError(
            f"{question.source} has the address {question.source.address}, and {address} is of another IP version."
        )
    holder, told = announcer(hub, service_with(hub, address)) if question.source.kind == "outside" else ("", "")
    entry = hub.node_with(address) or question.source.node or holder or _entry(hub)
    at = hub.node_with(address) or question.source.node or entry
    every = [
        (rules, front) for ports in hub.all_rules(at, version).values() for rules in ports for front in rules.fronts
    ]
    here = [(rules, front) for rules, front in every if front.address and objects.normal(front.address) == address]
    if here:
        found = _of_front(target, address, here, entry, scene.settings_of(at))
        return replace(found, notes=(told,)) if told else found
    if not target.port.isdigit():
        raise NoWayError(f"Say which port of {address} is meant: {address}:PORT.")
    port, protocol = int(target.port), target.protocol or "TCP"
    if at_node := hub.node_with(address):
        if host_port := _host_port(hub, at_node, address, port, protocol):
            return Destination(address, port, protocol, entry=entry, translates_at=at_node, host_port=host_port)
        for rules, front in every:
            if front.kind is FrontKind.NODE_PORT and (front.port, rules.port.name.protocol) == (port, protocol):
                return Destination(address, port, protocol, rules, front, entry, translates_at=at_node)
        return Destination(address, port, protocol, entry=entry)
    if hub.pod_with(address):
        return Destination(address, port, protocol, entry=entry)
    settings = scene.settings_of(at)
    if objects.within(address, settings.service_cidrs):
        raise NoWayError(
            f"{address} is one of the Services' addresses ({', '.join(settings.service_cidrs)}), and no Service has it."
        )
    for name, node in hub.nodes.items():
        if objects.within(address, objects.pod_cidrs(node)):
            raise NoWayError(f"{address} is one of the pods' addresses on node {name}, and no pod has it.")
    return Destination(address, port, protocol, entry=entry)


def _host_port(hub: Objects, node: str, address: str, port: int, protocol: str) -> HostPort | None:
    """Return the pod on a node that asked for one of its ports; the first by name where several did."""
    for key, pod in hub.pods.items():
        if objects.node_of(pod) != node or objects.on_host_network(pod) or objects.is_finished(pod):
            continue
        own = next((a for a in objects.pod_addresses(pod) if objects.version_of(a) == objects.version_of(address)), "")
        for container in (pod.get("spec") or {}).get("containers") or ():
            for entry in container.get("ports") or ():
                host_ip = entry.get("hostIP") or ""
                everywhere = host_ip in ("", "0.0.0.0", "::")
                meant = (entry.get("hostPort"), entry.get("protocol") or "TCP") == (port, protocol)
                if own and meant and (everywhere or objects.normal(host_ip) == address):
                    return HostPort(key, own, int(entry["containerPort"]), "" if everywhere else address)
    return None


def _of_front(
    target: Target, address: str, here: list[tuple[PortRules, Front]], entry: str, settings: NodeSettings
) -> Destination:
    for rules, front in here:
        meant = not target.port or target.port in (str(front.port), rules.port.name.port)
        if meant and target.protocol in ("", rules.port.name.protocol):
            return Destination(address, front.port, rules.port.name.protocol, rules, front, entry)
    service = here[0][0].port.name.service
    known = reasons.listed((f"{front.port}/{rules.port.name.protocol}" for rules, front in here), 6)
    fate = "refused" if settings.proxy.proxy_mode == "nftables" else "lost"
    asked = "/".join(part for part in (target.port, target.protocol) if part)
    raise NoWayError(
        f"{address} is an address of Service {service}, which has no port {asked} there; it has {known}. "
        f"The packet is {fate}."
    )
