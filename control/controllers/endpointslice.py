"""EndpointSlices: for each Service the pods behind it, in slices of at most a hundred."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from control.api import meta, selectors
from control.api.meta import Object
from control.api.resources import ENDPOINT_SLICES, NODES, PODS, SERVICES
from control.client.actions import Action, Create, Delete, Update
from control.client.informer import BY_NAMESPACE, by_namespace
from control.client.runner import Context, enqueue
from control.client.workqueue import WorkQueue
from control.controllers import pods as facts

SERVICE_NAME = "kubernetes.io/service-name"
MANAGED_BY = "endpointslice.kubernetes.io/managed-by"
CONTROLLER = "endpointslice-controller.k8s.io"
HEADLESS = "service.kubernetes.io/headless"
TRIGGER_TIME = "endpoints.kubernetes.io/last-change-trigger-time"
ZONE = "topology.kubernetes.io/zone"
SAME_ZONE, SAME_NODE = ("PreferClose", "PreferSameZone"), "PreferSameNode"
ENDPOINTS_MAX = 100
BY_SERVICE = "service"

Ports = tuple[tuple[str, str, int, str], ...]
"""Name, protocol, port and application protocol of each port: what endpoints of one slice have in common."""


@dataclass(frozen=True)
class Group:
    """What a slice's endpoints share."""

    family: str
    ports: Ports


def by_service(obj: Object) -> Iterable[str]:
    """Index our slices by "namespace/service"."""
    labels = meta.labels(obj)
    if labels.get(MANAGED_BY) != CONTROLLER or not labels.get(SERVICE_NAME):
        return ()
    return (f"{meta.namespace(obj)}/{labels[SERVICE_NAME]}",)


def wants_slices(service: Object) -> bool:
    """Tell whether a Service's endpoints are ours to find: it has a selector and is no alias."""
    spec = service.get("spec") or {}
    return bool(spec.get("selector")) and spec.get("type") != "ExternalName"


def target_port(pod: Object, port: Mapping[str, Any]) -> int | None:
    """Return the pod's port number behind a Service port; a name is looked up among its containers' ports."""
    target = port.get("targetPort") or port["port"]
    if isinstance(target, int):
        return target
    if target.isdigit():
        return int(target)
    spec = pod.get("spec") or {}
    sidecars = [entry for entry in spec.get("initContainers") or [] if entry.get("restartPolicy") == "Always"]
    for container in [*(spec.get("containers") or []), *sidecars]:
        for entry in container.get("ports") or []:
            same_protocol = entry.get("protocol", "TCP") == port.get("protocol", "TCP")
            if entry.get("name") == target and same_protocol:
                return int(entry["containerPort"])
    return None


def ports_of(service: Object, pod: Object) -> Ports:
    """Return the ports that a pod serves for a Service."""
    spec = service.get("spec") or {}
    found = []
    for port in spec.get("ports") or []:
        number = target_port(pod, port)
        if number is not None:
            found.append((port.get("name") or "", port.get("protocol") or "TCP", number, port.get("appProtocol") or ""))
    return tuple(found)


def families_of(service: Object) -> list[str]:
    """Return the address types that a Service has."""
    spec = service.get("spec") or {}
    families = spec.get("ipFamilies") or ["IPv6" if ":" in (spec.get("clusterIP") or "") else "IPv4"]
    return [str(family) for family in families]


def address_of(pod: Object, family: str) -> str | None:
    """Return the pod's address of a family."""
    status = pod.get("status") or {}
    addresses = [entry.get("ip") for entry in status.get("podIPs") or []] or [status.get("podIP")]
    return next((ip for ip in addresses if ip and (":" in ip) == (family == "IPv6")), None)


def endpoint_of(service: Object, pod: Object, address: str, node: Object | None) -> Object:
    """Return a pod's endpoint."""
    spec = pod.get("spec") or {}
    serving, terminating = facts.is_ready(pod), meta.is_being_deleted(pod)
    always = bool((service.get("spec") or {}).get("publishNotReadyAddresses"))
    reference = {"kind": "Pod", "namespace": meta.namespace(pod), "name": meta.name(pod), "uid": meta.uid(pod)}
    endpoint: Object = {
        "addresses": [address],
        "conditions": {
            "ready": always or (serving and not terminating),
            "serving": serving,
            "terminating": terminating,
        },
        "targetRef": reference,
    }
    if spec.get("nodeName"):
        endpoint["nodeName"] = spec["nodeName"]
    zone = meta.labels(node).get(ZONE) if node is not None else None
    if zone:
        endpoint["zone"] = zone
    if spec.get("hostname") and spec.get("subdomain") == meta.name(service):
        endpoint["hostname"] = spec["hostname"]
    if hints := hints_of(service, endpoint):
        endpoint["hints"] = hints
    return endpoint


def hints_of(service: Object, endpoint: Object) -> dict[str, Any]:
    """Return for whom an endpoint is meant: those near it, where the Service's trafficDistribution says so.

    Only ready ones have hints: proxies look at no others', and take one without as a sign that none count.
    """
    wished = (service.get("spec") or {}).get("trafficDistribution")
    if (wished not in SAME_ZONE and wished != SAME_NODE) or not endpoint["conditions"]["ready"]:
        return {}
    hints: dict[str, Any] = {}
    if endpoint.get("zone"):
        hints["forZones"] = [{"name": endpoint["zone"]}]
    if wished == SAME_NODE and endpoint.get("nodeName"):
        hints["forNodes"] = [{"name": endpoint["nodeName"]}]
    return hints


def wished_endpoints(
    service: Object, pods: Iterable[Object], nodes: Mapping[str, Object]
) -> dict[Group, dict[str, Object]]:
    """Return the endpoints that should stand in slices, by group and then by the pod's uid."""
    selector = selectors.from_map((service.get("spec") or {}).get("selector"))
    wished: dict[Group, dict[str, Object]] = {}
    for pod in pods:
        if facts.is_finished(pod) or not selector.matches(meta.labels(pod)):
            continue
        node = nodes.get(facts.node_name(pod))
        for family in families_of(service):
            address = address_of(pod, family)
            if address is not None:
                group = Group(family, ports_of(service, pod))
                endpoint = endpoint_of(service, pod, address, node)
                wished.setdefault(group, {})[meta.uid(pod)] = endpoint
    for family in families_of(service):
        if not any(group.family == family for group in wished):
            wished[Group(family, ())] = {}  # a Service without endpoints has one empty slice, so that watchers know
    return wished


def wished_labels(service: Object) -> dict[str, str]:
    """Return the labels of a Service's slices."""
    spec = service.get("spec") or {}
    labels = {key: value for key, value in meta.labels(service).items() if key not in (SERVICE_NAME, MANAGED_BY)}
    labels |= {SERVICE_NAME: meta.name(service), MANAGED_BY: CONTROLLER}
    if spec.get("clusterIP") == "None":
        labels[HEADLESS] = ""
    return labels


def group_of(endpoint_slice: Object) -> Group:
    """Return the group that a slice's endpoints belong to."""
    ports = tuple(
        (port.get("name") or "", port.get("protocol") or "TCP", port.get("port") or 0, port.get("appProtocol") or "")
        for port in endpoint_slice.get("ports") or []
    )
    return Group(str(endpoint_slice.get("addressType")), ports)


def _uid_of(endpoint: Mapping[str, Any]) -> str:
    return str((endpoint.get("targetRef") or {}).get("uid"))


def reconcile(
    service: Object,
    pods: Iterable[Object],
    nodes: Mapping[str, Object],
    slices: Sequence[Object],
    trigger_time: str = "",
) -> list[Action]:
    """Return what makes the slices say where the Service's pods are, with as few slices touched as possible."""
    wished = wished_endpoints(service, pods, nodes)
    labels = wished_labels(service)
    actions: list[Action] = []
    by_group: dict[Group, list[Object]] = {}
    for found in sorted(slices, key=meta.name):
        if not meta.is_being_deleted(found):
            by_group.setdefault(group_of(found), []).append(found)
    for group in sorted(set(by_group) | set(wished), key=repr):
        existing = by_group.get(group, [])
        if group in wished:
            actions += _fill(service, group, wished[group], existing, labels, trigger_time)
        else:
            actions += [Delete(ENDPOINT_SLICES, meta.namespace(found), meta.name(found)) for found in existing]
    return actions


def _fill(
    service: Object,
    group: Group,
    wished: Mapping[str, Object],
    existing: Sequence[Object],
    labels: Mapping[str, str],
    trigger_time: str,
) -> list[Action]:
    """Keep each endpoint in the slice it is in, put new ones where there is room, drop slices left empty."""
    missing = dict(wished)
    kept: list[tuple[Object, list[Object]]] = []
    for found in existing:
        stay = []
        for endpoint in found.get("endpoints") or []:
            fresh = missing.pop(_uid_of(endpoint), None)
            if fresh is not None:
                stay.append(fresh)
        kept.append((found, stay))
    rest = list(missing.values())
    actions: list[Action] = []
    filled = 0
    for index, (found, stay) in enumerate(kept):
        room = ENDPOINTS_MAX - len(stay)
        endpoints, rest = [*stay, *rest[:room]], rest[room:]
        last_chance = filled == 0 and index == len(kept) - 1 and not rest
        if not endpoints and not last_chance:
            actions.append(Delete(ENDPOINT_SLICES, meta.namespace(found), meta.name(found)))
            continue
        filled += 1
        if endpoints != (found.get("endpoints") or []) or dict(meta.labels(found)) != labels:
            metadata = {**found["metadata"], "labels": dict(labels)}
            if trigger_time:
                metadata["annotations"] = {**meta.annotations(found), TRIGGER_TIME: trigger_time}
            actions.append(Update(ENDPOINT_SLICES, {**found, "metadata": metadata, "endpoints": endpoints}))
    while rest or filled == 0:
        endpoints, rest = rest[:ENDPOINTS_MAX], rest[ENDPOINTS_MAX:]
        actions.append(Create(ENDPOINT_SLICES, _new_slice(service, group, endpoints, labels, trigger_time)))
        filled += 1
    return actions


def _new_slice(
    service: Object, group: Group, endpoints: list[Object], labels: Mapping[str, str], trigger_time: str
) -> Object:
    metadata: dict[str, Any] = {
        "generateName": f"{meta.name(service)}-",
        "namespace": meta.namespace(service),
        "labels": dict(labels),
        "ownerReferences": [meta.controller_reference({"apiVersion": "v1", "kind": "Service", **service})],
    }
    if trigger_time:
        metadata["annotations"] = {TRIGGER_TIME: trigger_time}
    return {
        "apiVersion": ENDPOINT_SLICES.api_version,
        "kind": ENDPOINT_SLICES.kind,
        "metadata": metadata,
        "addressType": group.family,
        "endpoints": endpoints,
        "ports": [
            {"name": name, "protocol": protocol, "port": port, **({"appProtocol": application} if application else {})}
            for name, protocol, port, application in group.ports
        ],
    }


class EndpointSliceController:
    """Keeps the EndpointSlices of each Service with a selector."""

    name = "endpointslice"
    workers = 5

    def __init__(self, context: Context) -> None:
        self.queue: WorkQueue[str] = WorkQueue()
        self._context = context
        self._services = context.informer(SERVICES)
        self._pods = context.informer(PODS)
        self._nodes = context.informer(NODES)
        self._slices = context.informer(ENDPOINT_SLICES)
        for informer in (self._services, self._pods):
            informer.add_indexer(BY_NAMESPACE, by_namespace)
        self._slices.add_indexer(BY_SERVICE, by_service)
        self._unseen: dict[str, dict[str, str]] = {}
        self._services.add_handler(enqueue(self.queue))
        self._pods.add_handler(self._pod_changed)
        self._nodes.add_handler(self._node_changed)
        self._slices.add_handler(self._slice_changed)

    def _pod_changed(self, old: Object | None, new: Object | None) -> None:
        queue_services_of_pod(self.queue, self._services.by_index, old, new)

    def _node_changed(self, old: Object | None, new: Object | None) -> None:
        if old is not None and new is not None and meta.labels(old).get(ZONE) == meta.labels(new).get(ZONE):
            return
        for service in self._services.objects():
            self.queue.add(meta.key(service))

    def _slice_changed(self, old: Object | None, new: Object | None) -> None:
        for found in (old, new):
            for key in by_service(found) if found is not None else ():
                if new is not None:
                    self._seen(key, new)
                self.queue.add(key)

    def _seen(self, key: str, found: Object) -> None:
        unseen = self._unseen.get(key, {})
        if unseen.get(meta.name(found)) == meta.resource_version(found):
            del unseen[meta.name(found)]

    async def background(self) -> None:
        """Nothing goes by time alone."""

    async def sync(self, key: str) -> float | None:
        """Bring one Service's slices up to date."""
        service = self._services.get(key)
        if service is None or not wants_slices(service):
            self._unseen.pop(key, None)
            for found in self._slices.by_index(BY_SERVICE, key):
                await self._context.write(Delete(ENDPOINT_SLICES, meta.namespace(found), meta.name(found)))
            return None
        slices = self._slices.by_index(BY_SERVICE, key)
        known = {meta.name(found): meta.resource_version(found) for found in slices}
        unseen = self._unseen.setdefault(key, {})
        if any(known.get(name) != revision for name, revision in unseen.items()):
            # The cache does not show what the last look wrote: deciding now would write endpoints twice.
            unseen.clear()  # whatever was lost, the next look trusts the cache
            return 0.05
        unseen.clear()
        nodes = {meta.name(node): node for node in self._nodes.objects()}
        pods = self._pods.by_index(BY_NAMESPACE, meta.namespace(service))
        stamp = facts.format_time(self._context.now())
        for action in reconcile(service, pods, nodes, slices, stamp):
            written = await self._context.write(action)
            if written is not None:
                unseen[meta.name(written)] = meta.resource_version(written)
        return None


def queue_services_of_pod(queue: WorkQueue[str], by_index: Any, old: Object | None, new: Object | None) -> None:
    """Queue the Services whose selector matches a pod before or after its change."""
    if old is not None and new is not None and _says_the_same(old, new):
        return
    namespace = meta.namespace(new or old or {})
    for service in by_index(BY_NAMESPACE, namespace):
        selector = selectors.from_map((service.get("spec") or {}).get("selector"))
        if selector.requirements and any(pod is not None and selector.matches(meta.labels(pod)) for pod in (old, new)):
            queue.add(meta.key(service))


def _says_the_same(old: Object, new: Object) -> bool:
    """Tell whether nothing changed that an endpoint shows."""

    def shown(pod: Object) -> tuple[Any, ...]:
        status = pod.get("status") or {}
        labels, ends = meta.labels(pod), (facts.is_finished(pod), meta.is_being_deleted(pod))
        return (labels, status.get("podIP"), status.get("podIPs"), facts.is_ready(pod), ends, facts.node_name(pod))

    return shown(old) == shown(new)
