"""The controller manager as a process, under RBAC, against our API server on a real etcd, by hub and by REST."""

from __future__ import annotations

import asyncio
import base64
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from control.api import meta
from control.api.meta import Object
from control.api.resources import (
    CERTIFICATE_SIGNING_REQUESTS,
    CONFIG_MAPS,
    DEPLOYMENTS,
    DISRUPTION_BUDGETS,
    ENDPOINT_SLICES,
    NAMESPACES,
    NODES,
    PERSISTENT_VOLUME_CLAIMS,
    PODS,
    REPLICA_SETS,
    RESOURCE_QUOTAS,
    SERVICE_ACCOUNTS,
    SERVICES,
)
from control.api.status import ApiError
from control.client.certificates import make_key, make_request
from control.client.client import Client, DeleteOptions
from control.client.kubeconfig import Kubeconfig, Material, write
from tests.control.apiserver.processes import Server, api_server, etcd_server, make_pki, process

pytestmark = pytest.mark.root

DEADLINE_S = 60.0


async def until(condition: Callable[[], Awaitable[Any]]) -> Any:
    """Poll until a condition holds; what is not there yet does not hold."""
    async with asyncio.timeout(DEADLINE_S):
        while True:
            try:
                if found := await condition():
                    return found
            except ApiError as error:
                if error.code != 404:
                    raise
            await asyncio.sleep(0.05)


def config_of(server: Server, user: str, *, hub: bool) -> Kubeconfig:
    folder = server.directory / "pki"
    return Kubeconfig(
        server.url,
        (f"127.0.0.1:{server.hub_port}",) if hub else (),
        Material(path=folder / "ca.crt"),
        Material(path=folder / f"{user}.crt"),
        Material(path=folder / f"{user}.key"),
    )


@pytest.fixture(scope="module", params=["grpc", "rest"])
def server(request: pytest.FixtureRequest, etcd: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """An API server with controllers that reach it by one of the transports."""
    directory = tmp_path_factory.mktemp(f"controllers-{request.param}")
    folder = directory / "pki"
    make_pki(folder)
    with etcd_server(etcd, directory) as store, api_server(store.url, directory) as started:
        kubeconfig = directory / "controller-manager.kubeconfig"
        write(kubeconfig, config_of(started, "controllers", hub=request.param == "grpc"))
        command = [
            sys.executable, "-m", "control.controllers", "--kubeconfig", str(kubeconfig),
            "--allocate-node-cidrs", "--cluster-cidr", "10.244.0.0/16", "--root-ca-file", str(folder / "ca.crt"),
            "--cluster-signing-cert-file", str(folder / "ca.crt"),
            "--cluster-signing-key-file", str(folder / "ca.key"),
            "--node-monitor-period", "200ms", "--node-monitor-grace-period", "2s", "--node-startup-grace-period", "2s",
        ]  # fmt: skip
        with process(command, directory / "controllers.log"):
            yield started


@asynccontextmanager
async def admin(server: Server) -> AsyncIterator[Client]:
    """A client that may do everything."""
    client = config_of(server, "admin", hub=True).client()
    try:
        yield client
    finally:
        await client.close()


def workload(name: str, image: str = "a", replicas: int = 3) -> Object:
    labels = {"app": name}
    template = {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "c", "image": image}]}}
    spec = {"replicas": replicas, "selector": {"matchLabels": labels}, "template": template}
    return {"metadata": {"name": name, "namespace": "default"}, "spec": spec}


async def make_ready(client: Client, app: str) -> None:
    """Do what kubelets do for the pods of an app."""
    for pod in (await client.list(PODS, "default")).items:
        if meta.labels(pod).get("app") != app or meta.condition(pod, "Ready"):
            continue
        ready = {"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}
        status = {"phase": "Running", "conditions": [ready], "podIP": "10.244.0.9", "podIPs": [{"ip": "10.244.0.9"}]}
        try:
            await client.patch(PODS, meta.name(pod), {"status": status}, "default", subresource="status")
        except ApiError as error:
            if error.code not in (404, 409):
                raise


async def test_a_deployment_from_its_creation_to_its_end(server: Server) -> None:
    async with admin(server) as client:
        await client.create(DEPLOYMENTS, workload("web"), "default")
        ports = [{"port": 80, "targetPort": 8080}]
        service = {
            "metadata": {"name": "web", "namespace": "default"},
            "spec": {"selector": {"app": "web"}, "ports": ports},
        }
        await client.create(SERVICES, service, "default")

        async def rolled_out() -> bool:
            await make_ready(client, "web")
            stored = await client.get(DEPLOYMENTS, "web", "default")
            status = stored.get("status") or {}
            progress = meta.condition(stored, "Progressing") or {}
            seen = status.get("observedGeneration") == stored["metadata"]["generation"]
            numbers = (status.get("updatedReplicas"), status.get("availableReplicas"), status.get("replicas"))
            return bool(seen and numbers == (3, 3, 3) and progress.get("reason") == "NewReplicaSetAvailable")

        async def ready_endpoints() -> bool:
            slices = (await client.list(ENDPOINT_SLICES, "default")).items
            ours = [found for found in slices if meta.labels(found).get("kubernetes.io/service-name") == "web"]
            return bool(sum(entry["conditions"]["ready"] for found in ours for entry in found["endpoints"]) == 3)

        await until(rolled_out)
        await until(ready_endpoints)
        change = {"spec": {"template": {"spec": {"containers": [{"name": "c", "image": "b"}]}}}}
        await client.patch(DEPLOYMENTS, "web", change, "default")
        await until(rolled_out)
        sets = [
            found
            for found in (await client.list(REPLICA_SETS, "default")).items
            if found["metadata"].get("ownerReferences")
        ]
        assert sorted(found["spec"]["replicas"] for found in sets) == [0, 3]
        await until(ready_endpoints)
        await client.delete(DEPLOYMENTS, "web", "default")

        async def nothing_left() -> bool:
            left = [*(await client.list(REPLICA_SETS, "default")).items, *(await client.list(PODS, "default")).items]
            return not left

        await until(nothing_left)
        await client.delete(SERVICES, "web", "default")


async def test_a_namespace_from_its_creation_to_its_end(server: Server) -> None:
    async with admin(server) as client:
        await client.create(NAMESPACES, {"metadata": {"name": "short"}})
        await until(lambda: client.get(SERVICE_ACCOUNTS, "default", "short"))
        bundle = await until(lambda: client.get(CONFIG_MAPS, "kube-root-ca.crt", "short"))
        assert bundle["data"]["ca.crt"].startswith("-----BEGIN CERTIFICATE-----")
        body = workload("held")
        body["metadata"]["namespace"] = "short"
        await client.create(DEPLOYMENTS, body, "short")
        await client.delete(NAMESPACES, "short")

        async def gone() -> bool:
            return all(meta.name(found) != "short" for found in (await client.list(NAMESPACES)).items)

        await until(gone)


async def test_a_node_gets_its_range_and_loses_its_good_name(server: Server) -> None:
    async with admin(server) as client:
        await client.create(NODES, {"metadata": {"name": "n1"}})
        ready = {
            "type": "Ready",
            "status": "True",
            "reason": "KubeletReady",
            "lastHeartbeatTime": "2026-01-01T00:00:00Z",
        }
        await client.patch(NODES, "n1", {"status": {"conditions": [ready]}}, subresource="status")

        async def named() -> bool:
            return bool((await client.get(NODES, "n1"))["spec"].get("podCIDR"))

        async def silent() -> bool:
            node = await client.get(NODES, "n1")
            keys = {taint["key"] for taint in node["spec"].get("taints") or []}
            unknown = (meta.condition(node, "Ready") or {}).get("reason") == "NodeStatusUnknown"
            return unknown and "node.kubernetes.io/unreachable" in keys

        await until(named)
        await until(silent)
        await client.delete(NODES, "n1")


async def test_an_approved_request_is_signed_and_another_waits(server: Server) -> None:
    pem = make_request(make_key(), "system:node:n7", ["system:nodes"])
    spec = {
        "request": base64.b64encode(pem).decode(),
        "signerName": "kubernetes.io/kube-apiserver-client-kubelet",
        "usages": ["digital signature", "client auth"],
    }
    async with admin(server) as client:
        made = await client.create(CERTIFICATE_SIGNING_REQUESTS, {"metadata": {"generateName": "csr-"}, "spec": spec})
        name = meta.name(made)
        made = await client.get(CERTIFICATE_SIGNING_REQUESTS, name)
        assert not (made.get("status") or {}).get("conditions"), "an admin is neither a node nor about to be one"
        approved = {"type": "Approved", "status": "True", "reason": "Test", "message": "by hand"}
        await client.update(
            CERTIFICATE_SIGNING_REQUESTS, {**made, "status": {"conditions": [approved]}}, subresource="approval"
        )

        async def signed() -> bool:
            status = (await client.get(CERTIFICATE_SIGNING_REQUESTS, name)).get("status") or {}
            return bool(status.get("certificate"))

        await until(signed)


async def test_a_quota_holds_a_deployment_and_a_budget_its_evictions(server: Server) -> None:
    space = "bounded"
    async with admin(server) as client:
        await client.create(NAMESPACES, {"metadata": {"name": space}})
        quota = {"metadata": {"name": "q", "namespace": space}, "spec": {"hard": {"pods": "2", "count/secrets": "9"}}}
        await client.create(RESOURCE_QUOTAS, quota, space)

        async def used() -> Object:
            found: Object = ((await client.get(RESOURCE_QUOTAS, "q", space)).get("status") or {}).get("used") or {}
            return found

        await until(lambda: is_equal(used(), {"pods": "0", "count/secrets": "0"}))
        made = workload("web")
        made["metadata"]["namespace"] = space
        await client.create(DEPLOYMENTS, made, space)
        await until(lambda: is_equal(used(), {"pods": "2", "count/secrets": "0"}))

        async def refused() -> bool:
            replica_sets = (await client.list(REPLICA_SETS, space)).items
            failure = meta.condition(replica_sets[0], "ReplicaFailure") if replica_sets else None
            return failure is not None and "exceeded quota: q, requested: pods=1" in failure["message"]

        await until(refused)
        await client.patch(RESOURCE_QUOTAS, "q", {"spec": {"hard": {"pods": "3"}}}, space)
        # The ReplicaSet tries again after a growing while; a change of it makes it look at once.
        replica_set = (await client.list(REPLICA_SETS, space)).items[0]
        await client.patch(REPLICA_SETS, meta.name(replica_set), {"metadata": {"annotations": {"look": "now"}}}, space)
        await until(lambda: is_equal(used(), {"pods": "3", "count/secrets": "0"}))
        budget = {
            "metadata": {"name": "b", "namespace": space},
            "spec": {"minAvailable": "60%", "selector": {"matchLabels": {"app": "web"}}},
        }
        await client.create(DISRUPTION_BUDGETS, budget, space)
        pods = (await client.list(PODS, space)).items
        ready = {"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}
        for pod in pods:
            status = {"status": {"phase": "Running", "conditions": [ready]}}
            await client.patch(PODS, meta.name(pod), status, space, subresource="status")

        async def room() -> bool:
            found = (await client.get(DISRUPTION_BUDGETS, "b", space)).get("status") or {}
            return (found.get("expectedPods"), found.get("disruptionsAllowed")) == (3, 1)

        await until(room)
        told = []
        for pod in pods[:2]:
            eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": meta.name(pod)}}
            try:
                await client.create(PODS, eviction, space, name=meta.name(pod), subresource="eviction")
                told.append(201)
            except ApiError as error:
                told.append(error.code)
        assert told == [201, 429]


async def test_a_claim_stays_while_a_pod_has_it(server: Server) -> None:
    async with admin(server) as client:
        spec = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}
        claim = {"metadata": {"name": "data", "namespace": "default"}, "spec": spec}
        await client.create(PERSISTENT_VOLUME_CLAIMS, claim, "default")
        volume = {"name": "d", "persistentVolumeClaim": {"claimName": "data"}}
        user = {
            "metadata": {"name": "user", "namespace": "default"},
            "spec": {"nodeName": "nowhere", "containers": [{"name": "c", "image": "i"}], "volumes": [volume]},
        }
        await client.create(PODS, user, "default")
        await client.delete(PERSISTENT_VOLUME_CLAIMS, "data", "default")
        found = await client.get(PERSISTENT_VOLUME_CLAIMS, "data", "default")
        assert meta.is_being_deleted(found)
        await client.delete(PODS, "user", "default", DeleteOptions(grace_period_seconds=0))

        async def gone() -> bool:
            names = [meta.name(each) for each in (await client.list(PERSISTENT_VOLUME_CLAIMS, "default")).items]
            return "data" not in names

        await until(gone)


async def is_equal(found: Awaitable[Object], wanted: Object) -> bool:
    return await found == wanted
