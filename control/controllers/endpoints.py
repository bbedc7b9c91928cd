"""Endpoints (v1): the older, unsliced form of a Service's endpoints, which `kubectl describe` and old clients read."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from control.api import meta
from control.api.meta import Object
from control.api.resources import ENDPOINTS, PODS, SERVICES
from control.client.actions import Action, Create, Delete, Update
from control.client.informer import BY_NAMESPACE, by_namespace
from control.client.runner import Context, enqueue
from control.client.workqueue import WorkQueue
from control.controllers.endpointslice import (
    HEADLESS,
    Ports,
    queue_services_of_pod,
    wants_slices,
    wished_endpoints,
)

ADDRESSES_MAX = 1000
OVER_CAPACITY = "endpoints.kubernetes.io/over-capacity"
MANAGED_BY = "endpoints.kubernetes.io/managed-by"
CONTROLLER = "endpoint-controller"


def subsets(service: Object, pods: Iterable[Object]) -> tuple[list[Object], bool]:
    """Return the subsets of a Service's pods, and whether some were left out for being too many."""
    by_ports: dict[Ports, dict[str, list[Object]]] = {}
    count = 0
    for group, endpoints in wished_endpoints(service, pods, {}).items():
        for endpoint in endpoints.values():
            if endpoint["conditions"]["terminating"]:
                continue  # this form has no way to say it
            count += 1
            if count > ADDRESSES_MAX:
                continue
            address = {"ip": endpoint["addresses"][0], "targetRef": endpoint["targetRef"]}
            address |= {key: endpoint[key] for key in ("nodeName", "hostname") if key in endpoint}
            where = "addresses" if endpoint["conditions"]["ready"] else "notReadyAddresses"
            by_ports.setdefault(group.ports, {}).setdefault(where, []).append(address)
    result = []
    for ports, addresses in sorted(by_ports.items()):
        subset: Object = {name: sorted(found, key=lambda entry: entry["ip"]) for name, found in addresses.items()}
        if ports:
            subset["ports"] = [_port(*port) for port in ports]
        result.append(subset)
    return result, count > ADDRESSES_MAX


def _port(name: str, protocol: str, port: int, application: str) -> dict[str, Any]:
    found: dict[str, Any] = {"port": port, "protocol": protocol}
    if name:
        found["name"] = name
    if application:
        found["appProtocol"] = application
    return found


def reconcile(service: Object, pods: Iterable[Object], stored: Object | None) -> list[Action]:
    """Return what makes the Endpoints of a Service say where its pods are."""
    wished, over = subsets(service, pods)
    labels = {**meta.labels(service), MANAGED_BY: CONTROLLER}
    if (service.get("spec") or {}).get("clusterIP") == "None":
        labels[HEADLESS] = ""
    annotations = dict(meta.annotations(stored)) if stored is not None else {}
    annotations.pop(OVER_CAPACITY, None)
    if over:
        annotations[OVER_CAPACITY] = "truncated"
    if stored is None:
        metadata: dict[str, Any] = {
            "name": meta.name(service), "namespace": meta.namespace(service), "labels": labels,
            **({"annotations": annotations} if annotations else {}),
        }  # fmt: skip
        body = {"apiVersion": ENDPOINTS.api_version, "kind": ENDPOINTS.kind, "metadata": metadata, "subsets": wished}
        return [Create(ENDPOINTS, body)]
    same = (stored.get("subsets") or []) == wished and dict(meta.labels(stored)) == labels
    if same and dict(meta.annotations(stored)) == annotations:
        return []
    metadata = {**stored["metadata"], "labels": labels, "annotations": annotations}
    return [Update(ENDPOINTS, {**stored, "metadata": metadata, "subsets": wished})]


class EndpointsController:
    """Keeps the Endpoints object of each Service with a selector."""

    name = "endpoints"
    workers = 3

    def __init__(self, context: Context) -> None:
        self.queue: WorkQueue[str] = WorkQueue()
        self._context = context
        self._services = context.informer(SERVICES)
        self._pods = context.informer(PODS)
        self._endpoints = context.informer(ENDPOINTS)
        self._services.add_indexer(BY_NAMESPACE, by_namespace)
        self._pods.add_indexer(BY_NAMESPACE, by_namespace)
        self._services.add_handler(enqueue(self.queue))
        self._pods.add_handler(self._pod_changed)

    def _pod_changed(self, old: Object | None, new: Object | None) -> None:
        queue_services_of_pod(self.queue, self._services.by_index, old, new)

    async def background(self) -> None:
        """Nothing goes by time alone."""

    async def sync(self, key: str) -> float | None:
        """Bring one Service's Endpoints up to date."""
        service, stored = self._services.get(key), self._endpoints.get(key)
        if service is None:
            if stored is not None and meta.labels(stored).get(MANAGED_BY) == CONTROLLER:
                await self._context.write(Delete(ENDPOINTS, meta.namespace(stored), meta.name(stored)))
            return None
        if not wants_slices(service):
            return None
        pods = self._pods.by_index(BY_NAMESPACE, meta.namespace(service))
        for action in reconcile(service, pods, stored):
            await self._context.write(action)
        return None
