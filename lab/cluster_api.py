"""What the lab asks of a running cluster through its API."""

from __future__ import annotations

import asyncio
import ipaddress
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import yaml

from control.api import bootstraptokens, meta, resources
from control.api.meta import Object
from control.api.resources import Resource
from control.api.status import ApiError
from control.client import kubeconfig
from control.client.client import Client
from control.client.connect import connect
from lab.state import Cluster, LabError

T = TypeVar("T")
POLL_S = 0.05
DEMO_RESOURCES = {entry.kind: entry for entry in (resources.CONFIG_MAPS, resources.SERVICES, resources.DEPLOYMENTS)}


def client(cluster: Cluster) -> Client:
    """Return a client with the administrator's rights, through the forwarder."""
    return connect(kubeconfig.load(cluster.kubeconfig), transport="rest")


async def wait_for(what: str, timeout_s: float, attempt: Callable[[], Awaitable[T | None]]) -> T:
    """Repeat ``attempt`` until it returns a value; raises LabError with the last refusal."""
    deadline, said = time.monotonic() + timeout_s, "no answer"
    while time.monotonic() < deadline:
        try:
            found = await attempt()
        except ApiError as error:
            said = error.message
        else:
            if found is not None:
                return found
            said = "not yet"
        await asyncio.sleep(POLL_S)
    raise LabError(f"{what} did not come within {timeout_s:.0f} s ({said}); look at: raftsman status, raftsman logs")


async def wait_ready(api: Client, timeout_s: float) -> None:
    """Wait until the API server says that it is ready."""

    async def attempt() -> bool | None:
        return (await api.request("GET", "/readyz")).strip() == b"ok" or None

    await wait_for("the API server", timeout_s, attempt)


async def ensure(api: Client, resource: Resource, obj: Object) -> bool:
    """Create an object unless it exists; tell whether it was created."""
    try:
        await api.create(resource, obj, meta.namespace(obj))
    except ApiError as error:
        if error.reason != "AlreadyExists":
            raise
        return False
    return True


async def allow_joining(api: Client, token: str, timeout_s: float) -> None:
    """Store the bootstrap token."""

    async def attempt() -> bool | None:
        await ensure(api, resources.SECRETS, bootstraptokens.secret_object(token))
        return True

    await wait_for("the bootstrap token", timeout_s, attempt)


def dns_service(service_range: str) -> Object:
    """Return the Service under whose address and name programs look for the cluster's DNS.

    Each node's agent answers at its address itself, so the proxy is told to leave it alone, and it has no endpoints.
    """
    ports = [("dns", "UDP", 53), ("dns-tcp", "TCP", 53)]
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {
            "name": "kube-dns",
            "namespace": "kube-system",
            "labels": {
                "k8s-app": "kube-dns",
                "kubernetes.io/name": "CoreDNS",
                "service.kubernetes.io/service-proxy-name": "raftsman-dns",
            },
        },
        "spec": {
            "clusterIP": str(ipaddress.ip_network(service_range)[10]),
            "ports": [{"name": name, "protocol": protocol, "port": port} for name, protocol, port in ports],
        },
    }


async def name_dns(api: Client, service_range: str, timeout_s: float) -> None:
    """Create the Service of the cluster's DNS; one that somebody made is left alone."""

    async def attempt() -> bool | None:
        await ensure(api, resources.SERVICES, dns_service(service_range))
        return True

    await wait_for("the Service kube-system/kube-dns", timeout_s, attempt)


async def ready_nodes(api: Client) -> dict[str, bool]:
    """Return each node's readiness by name."""
    listed = await api.list(resources.NODES)
    return {meta.name(node): meta.condition_is_true(node, "Ready") for node in listed.items}


async def is_ready(api: Client, name: str) -> bool:
    """Tell whether one node is Ready; one that is not there is not."""
    try:
        return meta.condition_is_true(await api.get(resources.NODES, name), "Ready")
    except ApiError as error:
        if error.code != 404:
            raise
        return False


async def wait_nodes(api: Client, names: set[str], timeout_s: float) -> None:
    """Wait until all named nodes are Ready."""

    async def attempt() -> bool | None:
        nodes = await ready_nodes(api)
        return all(nodes.get(name, False) for name in names) or None

    await wait_for(f"readiness of the nodes {', '.join(sorted(names))}", timeout_s, attempt)


async def label_control_planes(api: Client, names: set[str]) -> None:
    """Give nodes the role that `kubectl get nodes` shows; a node may not give it to itself (NodeRestriction)."""
    for name in names:
        patch = {"metadata": {"labels": {"node-role.kubernetes.io/control-plane": ""}}}
        await api.patch(resources.NODES, name, patch)


def read_manifest(path: Path) -> list[Object]:
    """Return the objects of a YAML file."""
    return [document for document in yaml.safe_load_all(path.read_text()) if document]


async def deploy(api: Client, manifest: Path, timeout_s: float) -> None:
    """Create a manifest's objects in the default namespace."""
    for obj in read_manifest(manifest):
        obj["metadata"].setdefault("namespace", "default")

        async def attempt(obj: Object = obj) -> bool | None:
            await ensure(api, DEMO_RESOURCES[obj["kind"]], obj)
            return True

        await wait_for(f"{obj['kind']} {meta.name(obj)}", timeout_s, attempt)


async def wait_available(api: Client, names: set[str], timeout_s: float) -> None:
    """Wait until all named Deployments of the default namespace have all their replicas available."""

    async def attempt() -> bool | None:
        listed = await api.list(resources.DEPLOYMENTS, "default")
        states = {meta.name(found): _is_available(found) for found in listed.items}
        return all(states.get(name, False) for name in names) or None

    await wait_for(f"the Deployments {', '.join(sorted(names))}", timeout_s, attempt)


def _is_available(deployment: Object) -> bool:
    status: dict[str, Any] = deployment.get("status") or {}
    return bool(status.get("availableReplicas", 0) >= deployment["spec"]["replicas"])


async def first_answer(port: int, timeout_s: float) -> str:
    """Return what the demo says on a loopback port of this machine."""

    async def attempt() -> str | None:
        try:
            return await _fetch(port)
        except (OSError, TimeoutError, asyncio.IncompleteReadError):
            return None

    return await wait_for("the demo's answer", timeout_s, attempt)


async def _fetch(port: int) -> str | None:
    async with asyncio.timeout(3):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            writer.write(b"GET / HTTP/1.0\r\nHost: demo\r\n\r\n")
            head, _, body = (await reader.read()).replace(b"\r\n", b"\n").partition(b"\n\n")
        finally:
            writer.close()
    lines = body.decode(errors="replace").strip().splitlines()
    return lines[0] if b" 200 " in head.split(b"\n")[0] and lines else None
