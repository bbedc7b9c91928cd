"""Say in one sentence why a Service leads nowhere: pure.

Each function looks at what people get wrong in the order in which it matters: the Service itself, its
port, its selector, its pods, their readiness, the EndpointSlices, then the policies of traffic.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from control.api import meta
from control.api.meta import Object
from net.explain import objects
from net.explain.objects import Objects
from net.proxy.rules import PortRules, usable
from net.proxy.services import SERVICE_PROXY_NAME_LABEL, Endpoint, PortName

NAMED_MAX = 3
"""How many pods a sentence names before it says "and N more"."""


def listed(names: Iterable[str], most: int = NAMED_MAX) -> str:
    """Return names as people list them: a, b and 7 more."""
    every = list(names)
    shown, left = every[:most], len(every) - most
    if left > 0:
        return f"{', '.join(shown)} and {left} more"
    return " and ".join([", ".join(shown[:-1]), shown[-1]] if len(shown) > 1 else shown)


def port_words(ports: Iterable[Mapping[str, Any]]) -> str:
    """Return a Service's ports in words."""
    told = []
    for port in ports:
        name = f" ({port['name']})" if port.get("name") else ""
        told.append(f"{port.get('port')}/{port.get('protocol') or 'TCP'}{name}")
    return listed(told, 6)


def without_rules(key: str, service: Object) -> str:
    """Say why the proxy makes no rules for a Service; empty where it does."""
    spec = service.get("spec") or {}
    if spec.get("type") == "ExternalName":
        return (
            f"Service {key} is of type ExternalName: no rule and no address stands for it. DNS answers with the name "
            f"{spec.get('externalName')}, and the client talks to that directly."
        )
    if SERVICE_PROXY_NAME_LABEL in meta.labels(service):
        other = meta.labels(service)[SERVICE_PROXY_NAME_LABEL]
        told = f"Service {key} bears the label {SERVICE_PROXY_NAME_LABEL}={other}"
        return f"{told}: that proxy serves it, and ours does not."
    if not spec.get("clusterIP") and not spec.get("clusterIPs"):
        return f"Service {key} has no cluster IP yet: the API server has not given it one."
    return ""


def is_headless(service: Object) -> bool:
    """Tell whether a Service has no cluster IP by wish."""
    return (service.get("spec") or {}).get("clusterIP") == "None"


def wrong_port(key: str, service: Object, port: str, protocol: str) -> str:
    """Say why no port of the Service is meant by this text; empty where one is."""
    ports = (service.get("spec") or {}).get("ports") or []
    if not ports:
        return f"Service {key} has no ports, so nothing can be reached through it."
    same = [entry for entry in ports if port in ("", entry.get("name"), str(entry.get("port")))]
    if not same:
        by_node = next((e for e in ports if str(e.get("nodePort")) == port), None)
        if by_node is not None:
            return (
                f"Service {key} has no port {port}: that is the node port of its port {by_node.get('port')}, "
                "and it answers on the nodes' addresses, not on the Service's."
            )
        by_target = next((e for e in ports if str(e.get("targetPort")) == port), None)
        if by_target is not None:
            return (
                f"Service {key} has no port {port}: that is the targetPort, where its pods listen; "
                f"the Service's own port is {by_target.get('port')}."
            )
        return f"Service {key} has no port {port}; it has {port_words(ports)}."
    if protocol and not any((entry.get("protocol") or "TCP") == protocol for entry in same):
        return f"Service {key} has no port {port or protocol} for {protocol}; it has {port_words(same)}."
    if not port and len({entry.get("port") for entry in same}) > 1:
        return f"Service {key} has several ports: say which, one of {port_words(same)}."
    return ""


def pod_is_not_ready(pod: Object) -> str:
    """Say why a pod is not ready; empty where it is."""
    status = pod.get("status") or {}
    if meta.is_being_deleted(pod):
        return "is being deleted"
    if not objects.node_of(pod):
        scheduled = meta.condition(pod, "PodScheduled") or {}
        told = str(scheduled.get("message") or "").rstrip(".")
        return "is bound to no node" + (f": {told}" if told else "")
    for state in [*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())]:
        waiting = (state.get("state") or {}).get("waiting")
        if waiting and waiting.get("reason") not in (None, "PodInitializing"):
            return f"does not run: container {state.get('name')} waits ({waiting['reason']})"
    if status.get("phase") == "Pending":
        return "is starting (Pending)"
    for state in status.get("containerStatuses") or ():
        ended = (state.get("state") or {}).get("terminated")
        if ended:
            return f"has container {state.get('name')} ended with exit code {ended.get('exitCode')}"
    gates = [gate.get("conditionType") or "" for gate in (pod.get("spec") or {}).get("readinessGates") or ()]
    closed = [gate for gate in gates if not meta.condition_is_true(pod, gate)]
    if not meta.condition_is_true(pod, "Ready"):
        unready = [state.get("name") or "" for state in status.get("containerStatuses") or () if not state.get("ready")]
        if unready:
            return f"is not ready: the readiness probe of container {listed(unready)} has not succeeded"
        if closed:
            return f"is not ready: its readiness gate {listed(closed)} is not True"
        return "is not ready"
    return "" if objects.pod_addresses(pod) else "has no address yet"


def _closest(service: Object, hub: Objects) -> str:
    """Say which pod of the namespace comes nearest to a selector, and in which label it differs."""
    wanted: dict[str, str] = service["spec"]["selector"]
    namespace = meta.namespace(service)
    best: tuple[int, str, list[str]] | None = None
    for key, pod in hub.pods.items():
        if meta.namespace(pod) != namespace or objects.is_finished(pod):
            continue
        labels = meta.labels(pod)
        wrong = [
            f"{name}={labels[name]}" if name in labels else f"no label {name}"
            for name in wanted
            if labels.get(name) != wanted[name]
        ]
        known = [name for name in wanted if name in labels]
        if known and (best is None or len(wrong) < best[0]):
            best = (len(wrong), key, wrong)
    return f"; the nearest is pod {best[1]}, which has {listed(best[2])}" if best is not None else ""


def _target_port(key: str, service: Object, port: PortName) -> tuple[str | int, int]:
    for entry in service["spec"]["ports"]:
        if (entry.get("name") or "") == port.port and (entry.get("protocol") or "TCP") == port.protocol:
            return entry.get("targetPort") or entry["port"], int(entry["port"])
    raise AssertionError(f"{key} has no port {port}")


def _container_ports(pod: Object) -> list[Mapping[str, Any]]:
    spec = pod.get("spec") or {}
    containers = [
        *(spec.get("containers") or ()),
        *(c for c in spec.get("initContainers") or () if c.get("restartPolicy")),
    ]
    return [port for container in containers for port in container.get("ports") or ()]


def no_endpoints(port: PortName, endpoints: tuple[Endpoint, ...], hub: Objects) -> str:
    """Say why a Service's port has no endpoint that could answer; empty where it has one."""
    if any(usable(endpoint) for endpoint in endpoints):
        return ""
    key = port.service
    service = hub.services[key]
    selector = (service.get("spec") or {}).get("selector")
    head = f"Service {key} has no endpoints"
    if not selector:
        if hub.slices_of(key):
            asked = port.port or port.protocol
            return f"{head} that are ready: it has no selector, and its hand-made EndpointSlices hold none for {asked}."
        return f"{head}: it has no selector, so somebody must make its EndpointSlices, and nobody has."
    text = ",".join(f"{name}={value}" for name, value in sorted(selector.items()))
    pods = hub.pods_selected_by(key)
    if not pods:
        where = f"namespace {meta.namespace(service)}"
        return f"{head}: its selector {text} matches no pod in {where}{_closest(service, hub)}."
    target, _ = _target_port(key, service, port)
    if isinstance(target, str) and not target.isdigit():
        named = [name for name, pod in pods.items() if any(p.get("name") == target for p in _container_ports(pod))]
        if not named:
            known = sorted({str(p["name"]) for pod in pods.values() for p in _container_ports(pod) if p.get("name")})
            has = f"they name {listed(known)}" if known else "they name none"
            return f"{head}: its targetPort {target!r} is the name of no container port of {_pods(pods)}; {has}."
    unready = {name: why for name, pod in pods.items() if (why := pod_is_not_ready(pod))}
    if len(unready) == len(pods):
        told = "; ".join(f"{name} {why}" for name, why in list(unready.items())[:NAMED_MAX])
        more = f"; and {len(unready) - NAMED_MAX} more" if len(unready) > NAMED_MAX else ""
        count = "its only pod is not" if len(pods) == 1 else f"none of its {len(pods)} pods is"
        return f"{head} that are ready, as {count}: {told}{more}."
    ready = [name for name in pods if name not in unready]
    lacks = "its EndpointSlices do not hold it yet" if hub.slices_of(key) else "no EndpointSlice stands"
    return f"{head}: pod {listed(ready)} is ready, but {lacks}; does the controller manager run?"


def _pods(pods: Iterable[str]) -> str:
    every = list(pods)
    return f"pod {every[0]}" if len(every) == 1 else f"pods {listed(every)}"


def none_local(rules: PortRules, node: str, policy: str, endpoints: tuple[Endpoint, ...]) -> str:
    """Say that a Local policy drops the packet on this node."""
    elsewhere = sorted({endpoint.node for endpoint in endpoints if usable(endpoint) and endpoint.node})
    where = f"; they are on {listed(elsewhere)}" if elsewhere else ""
    return (
        f"Service {rules.port.name.service} has {policy} Local, and none of its endpoints is on node {node}{where}. "
        "The packet is dropped without a word."
    )


def outside_source_ranges(rules: PortRules, address: str) -> str:
    """Say that a load balancer's address takes no packet from here."""
    ranges = listed(rules.port.source_ranges)
    return (
        f"Service {rules.port.name.service} takes packets to its load balancer's address from {ranges} alone "
        f"(loadBalancerSourceRanges), and {address} is not in it."
    )


def node_is_away(name: str, node: Object | None) -> str:
    """Say why a node cannot take packets; empty where nothing is known against it."""
    if node is None:
        return f"There is no Node {name}: it has been removed, or has never joined."
    if not objects.node_addresses(node, ("InternalIP",)):
        return f"Node {name} has no InternalIP, so no route can be made to its pods."
    ready = meta.condition(node, "Ready") or {}
    if ready.get("status") != "True":
        told = str(ready.get("message") or ready.get("reason") or "it has not reported").rstrip(".")
        return f"Node {name} is not ready ({told}), so its pods may not answer."
    return ""
