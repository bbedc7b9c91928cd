"""A namespace of its own for one test, with a pod that runs on the node whose kubelet answers."""

from __future__ import annotations

import itertools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tests.control.apiserver.processes import Kubectl, Server

_numbers = itertools.count(1)


@dataclass
class Space:
    """A namespace, and the kubeconfig whose context it is."""

    name: str
    kubeconfig: Path
    kubectl: Kubectl

    def create(self, *objects: dict[str, Any]) -> None:
        """Create objects by kubectl."""
        made = {"apiVersion": "v1", "kind": "List", "items": list(objects)}
        self.kubectl("create", "-f", "-", text=json.dumps(made))

    def run_pod(self, name: str) -> None:
        """Create a pod that is already running."""
        self.create(pod(name))
        conditions = [{"type": kind, "status": "True"} for kind in ("Initialized", "ContainersReady", "Ready")]
        running: dict[str, Any] = {"phase": "Running", "conditions": conditions}
        running |= {"containerStatuses": [{"name": "c", "ready": True, "image": "", "imageID": "", "restartCount": 0}]}
        self.kubectl(
            "patch", "pod", name, "--subresource=status", "--type=merge", "-p", json.dumps({"status": running})
        )


def pod(name: str) -> dict[str, Any]:
    """Return a pod that is bound to the node."""
    containers = [{"name": "c", "image": "busybox", "ports": [{"containerPort": 80}]}]
    spec = {"nodeName": "fake", "containers": containers}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": name}}, "spec": spec}


def make_space(server: Server, program: Path, folder: Path) -> Space:
    """Make a namespace with its default service account, and a kubeconfig for it."""
    name = f"space-{next(_numbers)}"
    config = yaml.safe_load(server.kubeconfig().read_text())
    config["contexts"][0]["context"]["namespace"] = name
    path = folder / "kubeconfig"
    path.write_text(yaml.safe_dump(config))
    space = Space(name, path, Kubectl(program, path, server.directory))
    space.create(
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}},
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default", "namespace": name}},
    )
    return space
