"""Prometheus' service discovery, unmodified, as a ServiceAccount that may read what it discovers and no more."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from lab import peers
from tests.conftest import CACHE
from tests.control.apiserver.clients.space import Space
from tests.control.apiserver.processes import Server

pytestmark = pytest.mark.root

LOOKS_FOR_S = (3, 10, 30)
"""It looks for so long, whatever it finds; longer where the machine is busy."""
FOUND_IN = {
    "pod": ("__meta_kubernetes_pod_name", "web", "__meta_kubernetes_pod_phase", "Running"),
    "service": ("__meta_kubernetes_service_name", "web", "__meta_kubernetes_service_type", "ClusterIP"),
    "endpoints": ("__meta_kubernetes_endpoints_name", "web", "__meta_kubernetes_pod_name", "web"),
    "endpointslice": ("__meta_kubernetes_endpointslice_name", "web-1", "__meta_kubernetes_pod_name", "web"),
    "ingress": ("__meta_kubernetes_ingress_name", "web", "__meta_kubernetes_ingress_path", "/"),
    "node": ("__meta_kubernetes_node_name", "fake", "__meta_kubernetes_node_address_InternalIP", "127.0.0.1"),
}
"""Role → label and value of the target that is meant, and a label that it must have then."""


@pytest.fixture(scope="session")
def promtool() -> Path:
    """Prometheus' tool, which runs the same service discovery as Prometheus."""
    return peers.fetch(CACHE, "promtool", "sid", "promtool")


def discovered_things(namespace: str) -> Iterator[dict[str, Any]]:
    target = {"kind": "Pod", "namespace": namespace, "name": "web"}
    port = {"name": "http", "port": 80}
    backend = {"service": {"name": "web", "port": {"number": 80}}}
    rule = {"host": "web.test", "http": {"paths": [{"path": "/", "pathType": "Prefix", "backend": backend}]}}
    slice_labels = {"kubernetes.io/service-name": "web"}
    yield {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"}, "spec": {"ports": [port]}}
    yield {
        "apiVersion": "v1",
        "kind": "Endpoints",
        "metadata": {"name": "web"},
        "subsets": [{"addresses": [{"ip": "10.1.2.3", "targetRef": target}], "ports": [port]}],
    }
    yield {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"name": "web-1", "labels": slice_labels},
        "addressType": "IPv4",
        "endpoints": [{"addresses": ["10.1.2.3"], "targetRef": target}],
        "ports": [port],
    }
    yield {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "Ingress",
        "metadata": {"name": "web"},
        "spec": {"rules": [rule]},
    }


def allow(space: Space) -> None:
    """Let the namespace's default account read what is discovered: nodes everywhere, the rest at home."""
    rbac = "rbac.authorization.k8s.io"
    resources = [
        (["nodes"], ""), (["pods", "services", "endpoints"], ""), (["endpointslices"], "discovery.k8s.io"),
        (["ingresses"], "networking.k8s.io"),
    ]  # fmt: skip
    rules = [
        {"apiGroups": [group], "resources": names, "verbs": ["get", "list", "watch"]} for names, group in resources
    ]
    subjects = [{"kind": "ServiceAccount", "name": "default", "namespace": space.name}]
    for prefix, scope, kept in (("Cluster", f"{space.name}-nodes", rules[:1]), ("", "discovery", rules[1:])):
        reference = {"apiGroup": rbac, "kind": f"{prefix}Role", "name": scope}
        metadata = {"name": scope}
        space.create(
            {"apiVersion": f"{rbac}/v1", "kind": f"{prefix}Role", "metadata": metadata, "rules": kept},
            {
                "apiVersion": f"{rbac}/v1", "kind": f"{prefix}RoleBinding", "metadata": metadata,
                "roleRef": reference, "subjects": subjects,
            },
        )  # fmt: skip


def scrape(server: Server, space: Space, role: str, token: Path) -> dict[str, Any]:
    discovery: dict[str, Any] = {
        "role": role,
        "api_server": server.url,
        "tls_config": {"ca_file": str(server.directory / "pki" / "ca.crt")},
        "authorization": {"credentials_file": str(token)},
    }
    if role != "node":
        discovery["namespaces"] = {"names": [space.name]}
    return {"job_name": role, "kubernetes_sd_configs": [discovery]}


def test_every_role_discovers_its_targets(server: Server, space: Space, promtool: Path, tmp_path: Path) -> None:
    space.run_pod("web")
    space.kubectl(
        "patch", "pod", "web", "--subresource=status", "--type=merge", "-p", '{"status":{"podIP":"10.1.2.3"}}'
    )
    space.create(*discovered_things(space.name))
    allow(space)
    token, config = tmp_path / "token", tmp_path / "prometheus.yml"
    token.write_text(space.kubectl("create", "token", "default").strip())
    config.write_text(yaml.safe_dump({"scrape_configs": [scrape(server, space, role, token) for role in FOUND_IN]}))
    for looks_for_s in LOOKS_FOR_S:
        found = discover(promtool, config, looks_for_s)
        if not any(missing(found).values()):
            return
    pytest.fail(f"not discovered: {missing(found)} of {found}")


def discover(promtool: Path, config: Path, looks_for_s: int) -> dict[str, list[dict[str, str]]]:
    """Return the targets of each role; all look at once."""
    command = [str(promtool), "check", "service-discovery", f"--timeout={looks_for_s}s", str(config)]
    looking = {
        role: subprocess.Popen([*command, role], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for role in FOUND_IN
    }
    found = {}
    for role, process in looking.items():
        out, errors = process.communicate(timeout=60 + looks_for_s)
        assert process.returncode == 0, f"{role}: {errors}"
        found[role] = [entry["discoveredLabels"] for entry in json.loads(out) or ()]
    return found


def missing(found: dict[str, list[dict[str, str]]]) -> dict[str, dict[str, str]]:
    """Return which labels no target of a role has."""
    wanted = {role: {label: value, other: expected} for role, (label, value, other, expected) in FOUND_IN.items()}
    return {
        role: {} if any(labels.items() <= target.items() for target in found[role]) else labels
        for role, labels in wanted.items()
    }
