"""The node authorizer and its graph."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from control.apiserver.authz.attributes import Attributes
from control.apiserver.authz.node import NodeAuthorizer, NodeGraph, pod_references
from control.apiserver.request import UserInfo

N1 = UserInfo("system:node:n1", groups=("system:nodes", "system:authenticated"))
LEASES = "coordination.k8s.io"
POD: dict[str, Any] = {
    "metadata": {"name": "p", "namespace": "a"},
    "spec": {
        "nodeName": "n1",
        "serviceAccountName": "robot",
        "imagePullSecrets": [{"name": "pull"}],
        "volumes": [
            {"name": "v1", "secret": {"secretName": "s-volume"}},
            {"name": "v2", "configMap": {"name": "c-volume"}},
            {"name": "v3", "projected": {"sources": [{"configMap": {"name": "c-projected"}},
                                                     {"secret": {"name": "s-projected"}}]}},
            {"name": "v4", "persistentVolumeClaim": {"claimName": "claim"}},
            {"name": "v5", "ephemeral": {}},
        ],
        "initContainers": [{"name": "i", "envFrom": [{"secretRef": {"name": "s-from"}}]}],
        "containers": [
            {
                "name": "c",
                "env": [{"name": "E", "valueFrom": {"secretKeyRef": {"name": "s-env"}}},
                        {"name": "F", "valueFrom": {"configMapKeyRef": {"name": "c-env"}}}],
                "envFrom": [{"configMapRef": {"name": "c-from"}}],
            }
        ],
    },
}  # fmt: skip


def graph() -> NodeGraph:
    made = NodeGraph()
    made.set_pod("a", "p", POD)
    made.set_volume("pv", {"spec": {"claimRef": {"namespace": "a", "name": "claim"}}})
    return made


def ask(verb: str, resource: str, name: str = "", namespace: str = "a", **other: Any) -> Attributes:
    return Attributes(N1, verb, version="v1", resource=resource, namespace=namespace, name=name, **other)


NO_RELATION = "no relationship found between node 'n1' and this object"


@pytest.mark.parametrize(
    ("question", "why_not"),
    [
        (ask("get", "secrets", "s-volume"), None),
        (ask("watch", "secrets", "s-env"), None),
        (ask("get", "secrets", "pull"), None),
        (ask("get", "configmaps", "c-projected"), None),
        (ask("get", "secrets", "other"), NO_RELATION),
        (ask("get", "secrets", "s-volume", "b"), NO_RELATION),
        (ask("list", "secrets"), NO_RELATION),
        (ask("delete", "secrets", "s-volume"), "can only read resources of this type"),
        (ask("list", "secrets", namespace=""), "can only read namespaced object of this type"),
        (ask("get", "persistentvolumeclaims", "claim"), None),
        (ask("get", "persistentvolumeclaims", "p-v5"), None),
        (ask("list", "persistentvolumeclaims"), "can only get individual resources of this type"),
        (ask("get", "persistentvolumes", "pv", ""), None),
        (ask("get", "persistentvolumes", "other", ""), NO_RELATION),
        (ask("create", "serviceaccounts", "robot", subresource="token"), None),
        (ask("create", "serviceaccounts", "other", subresource="token"), NO_RELATION),
        (ask("create", "serviceaccounts"), "can only create tokens for individual service accounts"),
        (ask("get", "nodes", "n1", ""), None),
        (ask("get", "nodes", "n2", ""), "node 'n1' cannot read 'n2', only its own Node object"),
        (ask("watch", "nodes", "n1", ""), None),
        (ask("create", "nodes", "", ""), None),
        (ask("patch", "nodes", "n1", "", subresource="status"), None),
        (ask("delete", "nodes", "n1", ""), ""),
        (ask("get", "pods", "p"), None),
        (ask("get", "pods", "other"), NO_RELATION),
        (ask("list", "pods", namespace="", field_selector="spec.nodeName=n1"), None),
        (ask("list", "pods", namespace=""), "can only list/watch pods with spec.nodeName field selector"),
        (ask("watch", "pods", namespace="", field_selector="spec.nodeName=n2"),
         "can only list/watch pods with spec.nodeName field selector"),
        (ask("patch", "pods", "p", subresource="status"), None),
        (ask("patch", "pods", "p"), ""),
        (ask("update", "leases", "n1", "kube-node-lease", group=LEASES), None),
        (ask("update", "leases", "n2", "kube-node-lease", group=LEASES),
         "can only access node lease with the same name as the requesting node"),
        (ask("get", "leases", "x", "kube-system", group=LEASES),
         'can only access leases in the "kube-node-lease" system namespace'),
        (ask("create", "certificatesigningrequests", "", "", group="certificates.k8s.io"), None),
        (ask("list", "deployments", group="apps"), ""),
    ],
    ids=lambda value: f"{value.verb} {value.combined_resource} {value.name}" if isinstance(value, Attributes) else "",
)  # fmt: skip
def test_what_a_node_may(question: Attributes, why_not: str | None) -> None:
    verdict = NodeAuthorizer(graph()).authorize(question)
    assert verdict.allowed is (why_not is None)
    assert verdict.reason == (why_not or "")


def test_strangers_are_not_its_business() -> None:
    judge = NodeAuthorizer(graph())
    assert not judge.authorize(Attributes(UserInfo("system:node:n1"), "get", resource="nodes", name="n1")).allowed
    nameless = judge.authorize(Attributes(UserInfo("ann", groups=("system:nodes",)), "get", resource="nodes"))
    assert nameless.reason == 'unknown node for user "ann"'


def test_mirror_pods_refer_to_nothing() -> None:
    mirror = {**POD, "metadata": {**POD["metadata"], "annotations": {"kubernetes.io/config.mirror": "x"}}}
    assert list(pod_references(mirror)) == []


class GraphMachine(RuleBasedStateMachine):
    """The counted graph answers as one that walks all pods."""

    def __init__(self) -> None:
        super().__init__()
        self.graph = NodeGraph()
        self.pods: dict[str, dict[str, Any]] = {}

    @rule(
        name=st.sampled_from(["p", "q", "r"]),
        node=st.sampled_from(["", "n1", "n2"]),
        secrets=st.lists(st.sampled_from(["s", "t"]), max_size=3),
    )
    def put(self, name: str, node: str, secrets: list[str]) -> None:
        spec = {"nodeName": node, "volumes": [{"name": s, "secret": {"secretName": s}} for s in secrets]}
        pod = {"metadata": {"name": name, "namespace": "a"}, "spec": spec}
        self.pods[name] = pod
        self.graph.set_pod("a", name, pod)

    @rule(name=st.sampled_from(["p", "q", "r"]))
    def drop(self, name: str) -> None:
        self.pods.pop(name, None)
        self.graph.set_pod("a", name, None)

    @invariant()
    def agrees(self) -> None:
        for node in ("n1", "n2"):
            held = {r for pod in self.pods.values() if pod["spec"]["nodeName"] == node for r in pod_references(pod)}
            for secret in ("s", "t"):
                reference = ("secrets", "a", secret)
                assert self.graph.refers(node, *reference) is (reference in held)


TestGraph = GraphMachine.TestCase
TestGraph.settings = settings(max_examples=30, stateful_step_count=20, deadline=None)
