"""Which schema a request belongs to, with the schemas that every cluster has; and how wide it is."""

from __future__ import annotations

import pytest

from control.api import flowcontrol
from control.apiserver.flow import matching
from control.apiserver.flow.fairness import Work
from control.apiserver.flow.matching import Classifier, Schema
from control.apiserver.flow.work import Estimator, Watches
from control.apiserver.request import RequestInfo, UserInfo

ALL = Classifier(Schema(obj) for obj in flowcontrol.flow_schemas())
AUTHENTICATED = "system:authenticated"
ADMIN = UserInfo("admin", groups=("system:masters", AUTHENTICATED))
NODE = UserInfo("system:node:n1", groups=("system:nodes", AUTHENTICATED))
SCHEDULER = UserInfo("system:kube-scheduler", groups=(AUTHENTICATED,))
MANAGER = UserInfo("system:kube-controller-manager", groups=(AUTHENTICATED,))
ALICE = UserInfo("alice", groups=(AUTHENTICATED,))
NOBODY = UserInfo("system:anonymous", groups=("system:unauthenticated",))
GROUPLESS = UserInfo("ghost")


def account(namespace: str, name: str) -> UserInfo:
    groups = ("system:serviceaccounts", f"system:serviceaccounts:{namespace}", AUTHENTICATED)
    return UserInfo(f"system:serviceaccount:{namespace}:{name}", groups=groups)


def asks(verb: str, resource: str, namespace: str = "default", group: str = "", sub: str = "") -> RequestInfo:
    return RequestInfo(verb, "", True, group, "v1", resource, sub, namespace, "x")


def path(text: str, verb: str = "get") -> RequestInfo:
    return RequestInfo(verb, text)


LEASES = asks("update", "leases", "kube-node-lease", "coordination.k8s.io")


@pytest.mark.parametrize(
    ("user", "info", "expected"),
    [
        (ADMIN, asks("delete", "nodes"), "exempt"),
        (ADMIN, path("/healthz"), "exempt"),
        (NOBODY, path("/livez"), "probes"),
        (NOBODY, path("/livez/etcd"), "global-default"),
        (NOBODY, path("/livez", "post"), "global-default"),
        (SCHEDULER, asks("update", "leases", "kube-system", "coordination.k8s.io"), "system-leader-election"),
        (SCHEDULER, asks("list", "leases", "", "coordination.k8s.io"), "kube-scheduler"),
        (MANAGER, asks("update", "endpoints"), "endpoint-controller"),
        (MANAGER, asks("patch", "endpoints"), "kube-controller-manager"),
        (account("kube-system", "endpoint-controller"), asks("create", "endpoints"), "endpoint-controller"),
        (account("kube-system", "dns"), asks("update", "configmaps"), "workload-leader-election"),
        (account("kube-system", "dns"), asks("get", "pods"), "kube-system-service-accounts"),
        (account("default", "dns"), asks("get", "pods"), "service-accounts"),
        (NODE, LEASES, "system-node-high"),
        (NODE, asks("patch", "nodes", "", sub="status"), "system-node-high"),
        (NODE, asks("get", "nodes", "", sub="proxy"), "system-nodes"),
        (NODE, asks("get", "secrets"), "system-nodes"),
        (NODE, path("/apis"), "system-nodes"),
        (ALICE, asks("create", "configmaps"), "global-default"),
        (ALICE, LEASES, "global-default"),
        (NOBODY, asks("list", "pods", ""), "global-default"),
        (GROUPLESS, asks("get", "pods"), "catch-all"),
        (GROUPLESS, path("/api"), "catch-all"),
    ],
    ids=lambda value: (
        value if isinstance(value, str) else getattr(value, "name", None) or getattr(value, "resource", "")
    ),
)
def test_requests_find_their_schema(user: UserInfo, info: RequestInfo, expected: str) -> None:
    assert ALL.classify(user, info).name == expected


def schema(**rule: object) -> Schema:
    spec = {"matchingPrecedence": 500, "priorityLevelConfiguration": {"name": "x"}, "rules": [rule]}
    return Schema({"metadata": {"name": "mine"}, "spec": spec})


EVERYONE = [{"kind": "User", "user": {"name": "*"}}]
PODS = {"verbs": ["get"], "apiGroups": [""], "resources": ["pods", "pods/log"]}
CATCH_ALL = Schema(flowcontrol.flow_schemas()[-1])


@pytest.mark.parametrize(
    ("rule", "info", "matches"),
    [
        ({**PODS, "namespaces": ["a"]}, asks("get", "pods", "a"), True),
        ({**PODS, "namespaces": ["a"]}, asks("get", "pods", "b"), False),
        ({**PODS, "namespaces": ["a"]}, asks("get", "pods", ""), False),
        ({**PODS, "namespaces": ["a"], "clusterScope": True}, asks("get", "pods", ""), True),
        ({**PODS, "clusterScope": True}, asks("get", "pods", "a"), False),
        ({**PODS, "namespaces": ["*"]}, asks("get", "pods", "a", sub="log"), True),
        ({**PODS, "namespaces": ["*"]}, asks("get", "pods", "a", sub="status"), False),
        ({**PODS, "namespaces": ["*"]}, asks("get", "pods", "a", "other"), False),
        ({**PODS, "namespaces": ["*"]}, asks("list", "pods", "a"), False),
    ],
)
def test_resource_rules(rule: dict[str, object], info: RequestInfo, matches: bool) -> None:
    asked = Classifier([schema(subjects=EVERYONE, resourceRules=[rule]), CATCH_ALL])
    assert (asked.classify(ALICE, info).name == "mine") == matches


@pytest.mark.parametrize(
    ("url", "asked", "matches"),
    [("*", "/x", True), ("/a/*", "/a/b", True), ("/a/*", "/a", False), ("/a", "/a", True), ("/a", "/a/b", False)],
)
def test_path_rules(url: str, asked: str, matches: bool) -> None:
    rule = {"verbs": ["*"], "nonResourceURLs": [url]}
    found = Classifier([schema(subjects=EVERYONE, nonResourceRules=[rule]), CATCH_ALL])
    assert (found.classify(ALICE, path(asked)).name == "mine") == matches


def test_the_lower_precedence_wins_and_then_the_name() -> None:
    everything = {"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"], "namespaces": ["*"]}
    made = []
    for name, precedence in (("late", 600), ("b", 500), ("a", 500)):
        one = schema(subjects=EVERYONE, resourceRules=[everything])
        one.name, one.precedence = name, precedence
        made.append(one)
    assert Classifier([*made, CATCH_ALL]).classify(ALICE, asks("get", "pods")).name == "a"


def test_not_every_user_ever_seen_is_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matching, "USERS_MAX", 3)
    found = Classifier(Schema(obj) for obj in flowcontrol.flow_schemas())
    for number in range(10):
        user = UserInfo(f"u{number}", groups=(AUTHENTICATED,))
        assert found.classify(user, asks("get", "pods")).name == "global-default"
        assert len(found._resources) <= 3


def test_flows_are_told_apart_as_the_schema_says() -> None:
    by_name = {one.name: one for one in ALL.schemas}
    info = asks("get", "pods", "space")
    assert by_name["global-default"].distinguisher(ALICE, info) == "alice"
    assert by_name["kube-scheduler"].distinguisher(SCHEDULER, info) == "space"
    assert by_name["exempt"].distinguisher(ADMIN, info) == ""


def lists(**query: str) -> tuple[RequestInfo, dict[str, tuple[str, ...]]]:
    info = RequestInfo("list", "", True, "", "v1", "pods", "", "default")
    return info, {name: (value,) for name, value in query.items()}


@pytest.mark.parametrize(
    ("query", "stored", "seats"),
    [
        ({}, 0, 1),
        ({}, 100, 1),
        ({}, 101, 2),
        ({}, 5000, 10),
        ({"limit": "1"}, 450, 5),
        ({"limit": "100", "continue": "abc"}, 5000, 2),
        ({"limit": "100", "continue": "abc", "labelSelector": "a=b"}, 700, 8),
        ({"limit": "50", "resourceVersion": "7"}, 5000, 1),
        ({"resourceVersion": "7", "resourceVersionMatch": "Exact"}, 300, 6),
        ({"limit": "no number", "continue": "x"}, 200, 4),
    ],
)
def test_lists_are_as_wide_as_what_they_look_through(query: dict[str, str], stored: int, seats: int) -> None:
    info, asked = lists(**query)
    assert Estimator(lambda _: stored, Watches()).estimate(info, asked, 10) == Work(seats)


def test_a_list_is_never_wider_than_its_level_allows() -> None:
    info, asked = lists()
    assert Estimator(lambda _: 5000, Watches()).estimate(info, asked, 3) == Work(3)


@pytest.mark.parametrize(
    ("query", "seats"),
    [
        ({"sendInitialEvents": "true"}, 10),
        ({"sendInitialEvents": "false"}, 1),
        ({"resourceVersion": "5"}, 1),
        ({"resourceVersion": "0"}, 10),
        ({}, 10),
    ],
)
def test_watches_cost_what_they_begin_with(query: dict[str, str], seats: int) -> None:
    info = RequestInfo("watch", "", True, "", "v1", "pods")
    asked = {name: (value,) for name, value in query.items()}
    assert Estimator(lambda _: 5000, Watches()).estimate(info, asked, 10) == Work(seats)


def test_writes_cost_more_the_more_watch_them() -> None:
    watches = Watches()
    estimator = Estimator(lambda _: 0, watches)
    write = asks("update", "pods", "a")
    everywhere = RequestInfo("watch", "", True, "", "v1", "pods")
    for _ in range(9):
        watches.add(everywhere)
    assert estimator.estimate(write, {}, 10) == Work()
    watches.add(RequestInfo("watch", "", True, "", "v1", "pods", "", "a", "x"))
    assert estimator.estimate(write, {}, 10) == Work(1, 1, 0.005)
    for _ in range(190):
        watches.add(RequestInfo("watch", "", True, "", "v1", "pods", "", "a"))
    assert estimator.estimate(write, {}, 10) == Work(1, 10, 0.01)
    assert estimator.estimate(asks("update", "pods", "b"), {}, 10) == Work()
    watches.remove(everywhere)
    assert watches.interested(write) == 199
