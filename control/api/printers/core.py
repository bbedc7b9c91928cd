"""Rows of the core kinds and of the network's: services, nodes, events, volumes, slices, leases."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any

from control.api import times
from control.api.meta import Object
from control.api.printers.column import (
    AGE,
    NONE,
    UNKNOWN,
    UNSET,
    Column,
    Printer,
    access_modes,
    age,
    columns,
    field,
    labels_text,
    limited,
    name,
    selector_text,
)

_ROLE_PREFIX = "node-role.kubernetes.io/"
_BETA_CLASS = "volume.beta.kubernetes.io/storage-class"
_SHOWN_MAX = 3


def _load_balancer(status: dict[str, Any] | None) -> list[str]:
    entries = (status or {}).get("ingress") or []
    return sorted({entry.get("ip") or entry.get("hostname") or "" for entry in entries} - {""})


def _external_address(service: Object) -> str:
    spec = service.get("spec") or {}
    external = spec.get("externalIPs") or []
    kind = spec.get("type")
    if kind in ("ClusterIP", "NodePort"):
        return ",".join(external) or NONE
    if kind == "LoadBalancer":
        return ",".join(_load_balancer(field(service, "status", "loadBalancer")) + external) or "<pending>"
    return str(spec.get("externalName") or "") if kind == "ExternalName" else UNKNOWN


def _service_port(port: dict[str, Any]) -> str:
    node = f":{port['nodePort']}" if port.get("nodePort") else ""
    return f"{port.get('port')}{node}/{port.get('protocol')}"


def _service(obj: Object, now: datetime) -> list[Any]:
    spec = obj.get("spec") or {}
    addresses = spec.get("clusterIPs") or [spec.get("clusterIP")]
    return [
        name(obj),
        spec.get("type") or "",
        addresses[0] or NONE,
        _external_address(obj),
        ",".join(_service_port(port) for port in spec.get("ports") or []) or NONE,
        age(obj, now),
        labels_text(spec.get("selector")),
    ]


def _join(address: str, port: int) -> str:
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def _endpoints(obj: Object, now: datetime) -> list[Any]:
    found: list[str] = []
    for subset in obj.get("subsets") or []:
        addresses = subset.get("addresses") or []
        if not subset.get("ports"):
            found.extend(address.get("ip") or "" for address in addresses)
        for port in subset.get("ports") or []:
            found.extend(_join(address.get("ip") or "", port.get("port") or 0) for address in addresses)
    return [name(obj), limited(found, _SHOWN_MAX, "" if obj.get("subsets") else NONE), age(obj, now)]


def _endpoint_slice(obj: Object, now: datetime) -> list[Any]:
    ports = [str(port.get("port") or port.get("name") or "*") for port in obj.get("ports") or []]
    addresses = [address for endpoint in obj.get("endpoints") or [] for address in endpoint.get("addresses") or []]
    shown = [limited(ports, _SHOWN_MAX), limited(addresses, _SHOWN_MAX)]
    return [name(obj), obj.get("addressType") or "", *shown, age(obj, now)]


def _node_status(node: Object) -> str:
    ready = [c for c in field(node, "status", "conditions") or [] if c.get("type") == "Ready"]
    text = "Unknown" if not ready else ("Ready" if ready[-1].get("status") == "True" else "NotReady")
    return text + (",SchedulingDisabled" if field(node, "spec", "unschedulable") else "")


def _node_roles(node: Object) -> str:
    roles = set()
    for key, value in (field(node, "metadata", "labels") or {}).items():
        if key.startswith(_ROLE_PREFIX):
            roles.add(key.removeprefix(_ROLE_PREFIX))
        elif key == "kubernetes.io/role":
            roles.add(value)
    return ",".join(sorted(roles - {""})) or NONE


def _node_address(node: Object, kind: str) -> str:
    addresses = field(node, "status", "addresses") or []
    return next((str(entry.get("address")) for entry in addresses if entry.get("type") == kind), NONE)


def _node(obj: Object, now: datetime) -> list[Any]:
    info = field(obj, "status", "nodeInfo") or {}
    return [
        name(obj),
        _node_status(obj),
        _node_roles(obj),
        age(obj, now),
        info.get("kubeletVersion") or "",
        _node_address(obj, "InternalIP"),
        _node_address(obj, "ExternalIP"),
        info.get("osImage") or UNKNOWN,
        info.get("kernelVersion") or UNKNOWN,
        info.get("containerRuntimeVersion") or UNKNOWN,
    ]


def _event_source(event: Object) -> str:
    source = event.get("source") or event.get("deprecatedSource") or {}
    component = source.get("component") or event.get("reportingComponent") or event.get("reportingController") or ""
    host = source.get("host") or event.get("reportingInstance") or ""
    return f"{component}, {host}" if host else str(component)


def _event(obj: Object, now: datetime) -> list[Any]:
    first = obj.get("firstTimestamp") or obj.get("deprecatedFirstTimestamp") or obj.get("eventTime")
    last = obj.get("lastTimestamp") or obj.get("deprecatedLastTimestamp") or first
    count = obj.get("count") or obj.get("deprecatedCount") or 1
    if series := obj.get("series"):
        last, count = series.get("lastObservedTime") or last, series.get("count") or count
    about = obj.get("involvedObject") or obj.get("regarding") or {}
    named = str(about.get("kind") or "").lower() + (f"/{about['name']}" if about.get("name") else "")
    message = str(obj.get("message") or obj.get("note") or "").strip()
    facts = [obj.get("type") or "", obj.get("reason") or "", named, about.get("fieldPath") or ""]
    return [times.age(last, now), *facts, _event_source(obj), message, times.age(first, now), count, name(obj)]


def _namespace(obj: Object, now: datetime) -> list[Any]:
    return [name(obj), field(obj, "status", "phase") or "", age(obj, now)]


def _secret(obj: Object, now: datetime) -> list[Any]:
    return [name(obj), obj.get("type") or "", len(obj.get("data") or {}), age(obj, now)]


def _config_map(obj: Object, now: datetime) -> list[Any]:
    return [name(obj), len(obj.get("data") or {}) + len(obj.get("binaryData") or {}), age(obj, now)]


def _service_account(obj: Object, now: datetime) -> list[Any]:
    return [name(obj), len(obj.get("secrets") or []), age(obj, now)]


def _phase(obj: Object) -> str:
    return "Terminating" if field(obj, "metadata", "deletionTimestamp") else str(field(obj, "status", "phase") or "")


def _class(obj: Object) -> str:
    annotated = (field(obj, "metadata", "annotations") or {}).get(_BETA_CLASS)
    return str(field(obj, "spec", "storageClassName") or "") if annotated is None else str(annotated)


def _volume(obj: Object, now: datetime) -> list[Any]:
    spec = obj.get("spec") or {}
    claim = spec.get("claimRef")
    return [
        name(obj),
        field(spec, "capacity", "storage") or "0",
        access_modes(spec.get("accessModes")),
        spec.get("persistentVolumeReclaimPolicy") or "",
        _phase(obj),
        f"{claim.get('namespace', '')}/{claim.get('name', '')}" if claim else "",
        _class(obj),
        spec.get("volumeAttributesClassName") or UNSET,
        field(obj, "status", "reason") or "",
        age(obj, now),
        spec.get("volumeMode") or UNSET,
    ]


def _claim(obj: Object, now: datetime) -> list[Any]:
    spec, status = obj.get("spec") or {}, obj.get("status") or {}
    bound = bool(spec.get("volumeName"))
    return [
        name(obj),
        _phase(obj),
        spec.get("volumeName") or "",
        (field(status, "capacity", "storage") or "0") if bound else "",
        access_modes(status.get("accessModes")) if bound else "",
        _class(obj),
        spec.get("volumeAttributesClassName") or UNSET,
        age(obj, now),
        spec.get("volumeMode") or UNSET,
    ]


def _component_status(obj: Object, now: datetime) -> list[Any]:
    healthy = next((c for c in obj.get("conditions") or [] if c.get("type") == "Healthy"), None)
    if healthy is None:
        return [name(obj), "Unknown", "", ""]
    status = "Healthy" if healthy.get("status") == "True" else "Unhealthy"
    return [name(obj), status, healthy.get("message") or "", healthy.get("error") or ""]


def _quota(obj: Object, now: datetime) -> list[Any]:
    hard, used = field(obj, "status", "hard") or {}, field(obj, "status", "used") or {}
    requests: list[str] = []
    limits: list[str] = []
    for resource in sorted(hard):
        (limits if resource.startswith("limits.") else requests).append(
            f"{resource}: {used.get(resource, '0')}/{hard[resource]}"
        )
    return [name(obj), ", ".join(requests), ", ".join(limits), age(obj, now)]


def _hosts(rules: list[dict[str, Any]]) -> str:
    """Return the first hosts; rules without one count among those that are not shown."""
    shown: list[str] = []
    for rule in rules:
        if len(shown) == _SHOWN_MAX:
            return f"{','.join(shown)} + {len(rules) - _SHOWN_MAX} more..."
        if rule.get("host"):
            shown.append(rule["host"])
    return ",".join(shown) or "*"


def _ingress(obj: Object, now: datetime) -> list[Any]:
    spec = obj.get("spec") or {}
    address = ",".join(_load_balancer(field(obj, "status", "loadBalancer")))
    ports = "80, 443" if spec.get("tls") else "80"
    kind = spec.get("ingressClassName") or NONE
    return [name(obj), kind, _hosts(spec.get("rules") or []), address, ports, age(obj, now)]


def _ingress_class(obj: Object, now: datetime) -> list[Any]:
    parameters = field(obj, "spec", "parameters")
    text = NONE
    if parameters:
        kind = ".".join(part for part in (parameters.get("kind"), parameters.get("apiGroup")) if part)
        text = f"{kind}/{parameters.get('name')}"
    return [name(obj), field(obj, "spec", "controller") or "", text, age(obj, now)]


def _network_policy(obj: Object, now: datetime) -> list[Any]:
    return [name(obj), selector_text(field(obj, "spec", "podSelector") or {}), age(obj, now)]


def _address(obj: Object, now: datetime) -> list[Any]:
    text = NONE
    if parent := field(obj, "spec", "parentRef"):
        resource = ".".join(part for part in (parent.get("resource"), parent.get("group")) if part)
        text = "/".join(part for part in (resource.lower(), parent.get("namespace"), parent.get("name")) if part)
    return [name(obj), text]


def _service_cidr(obj: Object, now: datetime) -> list[Any]:
    return [name(obj), ",".join(field(obj, "spec", "cidrs") or []), age(obj, now)]


def _lease(obj: Object, now: datetime) -> list[Any]:
    return [name(obj), field(obj, "spec", "holderIdentity") or "", age(obj, now)]


def plain(*paths: str) -> Callable[[Object, datetime], list[Any]]:
    """Return a cell function: the name, the values under dotted paths (empty where absent), the age."""

    def cells(obj: Object, now: datetime) -> list[Any]:
        found = [field(obj, *path.split(".")) for path in paths]
        return [name(obj), *("" if value is None else value for value in found), age(obj, now)]

    return cells


_EVENT = (
    Column("Last Seen"),
    Column("Type"),
    Column("Reason"),
    Column("Object"),
    Column("Subobject", priority=1),
    Column("Source", priority=1),
    Column("Message"),
    Column("First Seen", priority=1),
    Column("Count", priority=1),
    Column("Name", priority=1, format="name"),
)
_NODE_WIDE = ("wide:Internal-IP", "wide:External-IP", "wide:OS-Image", "wide:Kernel-Version", "wide:Container-Runtime")
PRINTERS: dict[tuple[str, str], Printer] = {
    ("", "services"): Printer(
        columns("Type", "Cluster-IP", "External-IP", "Port(s)", "Age", "wide:Selector"), _service
    ),
    ("", "endpoints"): Printer(columns("Endpoints", "Age"), _endpoints),
    ("", "nodes"): Printer(columns("Status", "Roles", "Age", "Version", *_NODE_WIDE), _node),
    ("", "events"): Printer(_EVENT, _event),
    ("events.k8s.io", "events"): Printer(_EVENT, _event),
    ("", "namespaces"): Printer(columns("Status", "Age"), _namespace),
    ("", "secrets"): Printer(columns("Type", "Data", "Age"), _secret),
    ("", "configmaps"): Printer(columns("Data", "Age"), _config_map),
    ("", "serviceaccounts"): Printer(columns("Secrets", "Age"), _service_account),
    ("", "persistentvolumes"): Printer(
        columns(
            "Capacity",
            "Access Modes",
            "Reclaim Policy",
            "Status",
            "Claim",
            "StorageClass",
            "VolumeAttributesClass",
            "Reason",
            "Age",
            "wide:VolumeMode",
        ),
        _volume,
    ),
    ("", "persistentvolumeclaims"): Printer(
        columns(
            "Status",
            "Volume",
            "Capacity",
            "Access Modes",
            "StorageClass",
            "VolumeAttributesClass",
            "Age",
            "wide:VolumeMode",
        ),
        _claim,
    ),
    ("", "componentstatuses"): Printer(columns("Status", "Message", "Error"), _component_status),
    ("", "resourcequotas"): Printer(columns("Request", "Limit", "Age"), _quota),
    ("discovery.k8s.io", "endpointslices"): Printer(
        columns("AddressType", "Ports", "Endpoints", "Age"), _endpoint_slice
    ),
    ("networking.k8s.io", "ingresses"): Printer(columns("Class", "Hosts", "Address", "Ports", "Age"), _ingress),
    ("networking.k8s.io", "ingressclasses"): Printer(columns("Controller", "Parameters", "Age"), _ingress_class),
    ("networking.k8s.io", "networkpolicies"): Printer(columns("Pod-Selector", AGE), _network_policy),
    ("networking.k8s.io", "ipaddresses"): Printer(columns("ParentRef"), _address),
    ("networking.k8s.io", "servicecidrs"): Printer(columns("CIDRs", "Age"), _service_cidr),
    ("coordination.k8s.io", "leases"): Printer(columns("Holder", "Age"), _lease),
}
