"""Small clusters as objects, for tests of explanations."""

from __future__ import annotations

from typing import Any

from control.api import meta
from control.api.meta import Object
from net.explain import parties, way, words
from net.explain.judge import Judge
from net.explain.objects import Objects, by_key
from net.explain.steps import Explanation, NodeSettings, Question, Scene
from net.proxy.config import ProxyConfig
from net.routes.config import RoutesConfig

SETTINGS = NodeSettings(
    ProxyConfig(cluster_cidr="10.244.0.0/16", proxy_mode="iptables"),
    RoutesConfig(service_cluster_ip_range="10.96.0.0/16"),
)


def node(name: str, number: int, ready: bool = True, message: str = "", **spec: Any) -> Object:
    """Return a Node at 192.168.77.1N with the pod CIDR 10.244.N.0/24."""
    condition = {"type": "Ready", "status": "True" if ready else "Unknown", "message": message}
    return {
        "metadata": {"name": name},
        "spec": {"podCIDR": f"10.244.{number}.0/24", "podCIDRs": [f"10.244.{number}.0/24"], **spec},
        "status": {
            "addresses": [{"type": "InternalIP", "address": f"192.168.77.{10 + number}"}],
            "conditions": [condition],
        },
    }


def pod(
    name: str, address: str, node_name: str, ready: bool = True, namespace: str = "default", **labels: Any
) -> Object:
    """Return a running pod that listens at the port named "http", 8080."""
    ready_text = "True" if ready else "False"
    return {
        "metadata": {"name": name, "namespace": namespace, "labels": labels, "uid": f"uid-{name}"},
        "spec": {
            "nodeName": node_name,
            "containers": [{"name": "c", "ports": [{"name": "http", "containerPort": 8080}]}],
        },
        "status": {
            "phase": "Running",
            "podIP": address,
            "podIPs": [{"ip": address}] if address else [],
            "conditions": [{"type": "Ready", "status": ready_text}],
            "containerStatuses": [{"name": "c", "ready": ready, "state": {"running": {}}}],
        },
    }


def service(name: str, cluster_ip: str, namespace: str = "default", **spec: Any) -> Object:
    """Return a Service with one port, http: 80 → http, for app=NAME."""
    ports = spec.pop("ports", [{"name": "http", "port": 80, "protocol": "TCP", "targetPort": "http"}])
    return {
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "type": "ClusterIP",
            "clusterIP": cluster_ip,
            "clusterIPs": [cluster_ip],
            "selector": {"app": name},
            "ports": ports,
            **spec,
        },
        "status": spec.pop("status", {}),
    }


def slice_of(service_object: Object, pods: list[Object], port: int = 8080) -> Object:
    """Return the EndpointSlice that the controller would make."""
    entry = service_object["spec"]["ports"][0]
    endpoints = [
        {
            "addresses": [found["status"]["podIP"]],
            "nodeName": found["spec"]["nodeName"],
            "conditions": {"ready": meta.condition_is_true(found, "Ready")},
            "targetRef": {"kind": "Pod", "name": meta.name(found), "namespace": meta.namespace(found)},
        }
        for found in pods
    ]
    return {
        "metadata": {
            "name": f"{meta.name(service_object)}-abc",
            "namespace": meta.namespace(service_object),
            "labels": {"kubernetes.io/service-name": meta.name(service_object)},
        },
        "addressType": "IPv4",
        "ports": [{"name": entry.get("name") or "", "port": port, "protocol": entry.get("protocol") or "TCP"}],
        "endpoints": endpoints,
    }


def nodes() -> list[Object]:
    """Return three Nodes that are ready."""
    return [node("n1", 1), node("n2", 2), node("n3", 3)]


def client(node_name: str = "n1", **labels: Any) -> Object:
    """Return the pod that asks, 10.244.1.2."""
    return pod("client", "10.244.1.2", node_name, **labels)


def web_pods() -> list[Object]:
    """Return two pods of web, on n1 and n2."""
    return [pod("web-1", "10.244.1.7", "n1", app="web"), pod("web-2", "10.244.2.7", "n2", app="web")]


def cluster(*objects: Object, without_nodes: bool = False) -> Objects:
    """Sort objects into a cluster by what they look like; three ready nodes are added."""
    found: dict[str, list[Object]] = {name: [] for name in ("services", "slices", "pods", "nodes", "policies")}
    for obj in objects:
        found[_kind(obj)].append(obj)
    if not found["nodes"] and not without_nodes:
        found["nodes"] = nodes()
    return Objects(**{name: by_key(listed) for name, listed in found.items()})


def _kind(obj: Object) -> str:
    spec = obj.get("spec") or {}
    if "endpoints" in obj:
        return "slices"
    if "podSelector" in spec:
        return "policies"
    if "containers" in spec:
        return "pods"
    return "nodes" if "namespace" not in obj["metadata"] else "services"


def explained(
    hub: Objects,
    source: str,
    target: str,
    settings: NodeSettings = SETTINGS,
    via: str = "",
    ip_version: int = 4,
    judge: Judge | None = None,
) -> Explanation:
    """Ask as the command does."""
    scene = Scene(hub, settings)
    found = parties.find_source(source, hub, "default", ip_version, via)
    home = found.name.partition("/")[0] if found.kind == "pod" else "default"
    question = Question(found, parties.find_target(target, hub, home), ip_version)
    return way.explain(question, scene, words.vocabularies(scene), judge)
