"""What an encoder of Kubernetes writes even of what is empty: programs with strict types rely on finding it."""

from __future__ import annotations

from typing import Any

import pytest

from control.api import schema
from control.api.resources import catalog
from control.apiserver.kinds import Kind
from control.apiserver.request import UserInfo
from control.apiserver.strategy import prepare_create

NEW: dict[tuple[str, str, str], dict[str, Any]] = {
    ("apps", "v1", "daemonsets"): {
        "currentNumberScheduled": 0, "desiredNumberScheduled": 0, "numberMisscheduled": 0, "numberReady": 0,
    },
    ("apps", "v1", "statefulsets"): {"replicas": 0, "availableReplicas": 0},
    ("apps", "v1", "replicasets"): {"replicas": 0},
    ("apps", "v1", "deployments"): {},
    ("autoscaling", "v2", "horizontalpodautoscalers"): {"desiredReplicas": 0},
    ("autoscaling", "v1", "horizontalpodautoscalers"): {"currentReplicas": 0, "desiredReplicas": 0},
    ("batch", "v1", "jobs"): {},
    ("networking.k8s.io", "v1", "ingresses"): {"loadBalancer": {}},
    ("policy", "v1", "poddisruptionbudgets"): {
        "currentHealthy": 0, "desiredHealthy": 0, "disruptionsAllowed": 0, "expectedPods": 0,
    },
}  # fmt: skip


@pytest.mark.parametrize("name", NEW, ids=lambda name: f"{name[2]}-{name[1]}")
def test_a_new_object_has_the_status_that_clients_expect(name: tuple[str, str, str]) -> None:
    served = next(
        entry for entry in catalog() if (entry.resource.group, entry.resource.version, entry.resource.plural) == name
    )
    wished = {"metadata": {"name": "x", "uid": "u"}, "status": {"desiredReplicas": 7}}
    prepare_create(Kind(served), wished, UserInfo("me", "", (), {}))
    assert wished["status"] == NEW[name]


def test_structures_are_written_and_lists_are_not() -> None:
    assert schema.always_written("core.v1.Container") == {"name": "", "resources": {}}
    assert schema.always_written("rbac.v1.RoleRef") == {"apiGroup": "", "kind": "", "name": ""}
    assert schema.always_written("rbac.v1.Role") == {"metadata": {}}
