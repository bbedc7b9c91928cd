"""ResourceQuota's arithmetic: what objects count for, what fits, and that counting and charging never disagree."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from control.api import amounts
from control.api.meta import Object
from control.api.pod_resources import limits, quality_of_service, requests
from control.api.quota.charges import QuotaExceededError, charge, check, is_in_scope, used_of, write_of
from control.api.quota.ledger import Charge, Ledger
from control.api.quota.recount import PATIENCE_S, SETTLED_S, count, counted_kinds, recount
from control.api.quota.usage import CLAIMS, PODS, RESOURCE_CLAIMS, SERVICES, kinds_of, measure, tracks

NOW = datetime(2026, 1, 1, tzinfo=UTC)
CONFIG_MAPS = ("", "configmaps")


def container(name: str = "c", **resources: Any) -> Object:
    return {"name": name, "resources": resources}


def pod(*containers: Object, status: Object | None = None, metadata: Object | None = None, **spec: Any) -> Object:
    found = {"containers": list(containers) or [container()], **spec}
    state = {"phase": "Running", "qosClass": "Burstable", **(status or {})}
    return {"metadata": {"name": "p", "namespace": "a", **(metadata or {})}, "spec": found, "status": state}


def quota(hard: amounts.Amounts, used: amounts.Amounts | None = None, **spec: Any) -> Object:
    status = {"hard": dict(hard), "used": dict(used if used is not None else dict.fromkeys(hard, "0"))}
    return {
        "metadata": {"name": "q", "namespace": "a", "resourceVersion": "1"},
        "spec": {"hard": hard, **spec},
        "status": status,
    }


SIDECARS: list[tuple[str, Object, dict[str, str]]] = [
    ("containers add up", pod(container("a", requests={"cpu": "1"}), container("b", requests={"cpu": "500m", "memory": "1Gi"})),
     {"cpu": "1500m", "memory": "1Gi"}),
    ("the largest init step", pod(container(requests={"cpu": "1"}), initContainers=[container("i", requests={"cpu": "3"}),
     container("j", requests={"cpu": "2"})]), {"cpu": "3"}),
    ("sidecars run beside all", pod(container(requests={"cpu": "1"}), initContainers=[
        {**container("s", requests={"cpu": "1"}), "restartPolicy": "Always"}, container("i", requests={"cpu": "1500m"})]),
     {"cpu": "2500m"}),
    ("overhead on top", pod(container(requests={"cpu": "1"}), overhead={"cpu": "250m", "memory": "64Mi"}),
     {"cpu": "1250m", "memory": "64Mi"}),
    ("the pod's own resources come first", pod(container(requests={"cpu": "1", "memory": "1Gi"}), resources={"requests": {"cpu": "4"}}),
     {"cpu": "4", "memory": "1Gi"}),
    ("while it shrinks it holds what it has", pod(container(requests={"cpu": "1"}), status={"containerStatuses": [
        {"name": "c", "resources": {"requests": {"cpu": "3"}}, "allocatedResources": {"cpu": "2"}}]}), {"cpu": "3"}),
    ("what can never be is not asked for", pod(container(requests={"cpu": "9"}), status={
        "containerStatuses": [{"name": "c", "allocatedResources": {"cpu": "2"}}],
        "conditions": [{"type": "PodResizePending", "reason": "Infeasible"}]}), {"cpu": "2"}),
]  # fmt: skip


@pytest.mark.parametrize(("made", "expected"), [case[1:] for case in SIDECARS], ids=[case[0] for case in SIDECARS])
def test_what_a_pod_requests(made: Object, expected: dict[str, str]) -> None:
    assert requests(made) == expected


def test_overhead_counts_as_a_limit_only_beside_one() -> None:
    made = pod(container(limits={"cpu": "1"}), overhead={"cpu": "250m", "memory": "64Mi"})
    assert limits(made) == {"cpu": "1250m"}


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        (pod(), "BestEffort"),
        (pod(container(requests={"cpu": "0"})), "BestEffort"),
        (pod(container(requests={"cpu": "1"})), "Burstable"),
        (pod(container(requests={"cpu": "1", "memory": "1Gi"}, limits={"cpu": "1000m", "memory": "1024Mi"})), "Guaranteed"),
        (pod(container(requests={"cpu": "1", "memory": "1Gi"}, limits={"cpu": "2", "memory": "1Gi"})), "Burstable"),
        (pod(container(limits={"cpu": "1", "memory": "1Gi"}, requests={"cpu": "1", "memory": "1Gi"}), container("b")), "Burstable"),
        (pod(container(), resources={"requests": {"cpu": "1", "memory": "1"}, "limits": {"cpu": "1", "memory": "1"}}), "Guaranteed"),
    ],
    ids=["nothing", "zero", "request", "the same in other words", "more", "one without", "of the pod itself"],
)  # fmt: skip
def test_quality_of_service(made: Object, expected: str) -> None:
    assert quality_of_service(made) == expected


def service(kind: str, *ports: Object, **spec: Any) -> Object:
    return {"metadata": {"name": "s"}, "spec": {"type": kind, "ports": list(ports), **spec}}


def claim(size: str, storage_class: str | None = None, **status: Any) -> Object:
    spec: Object = {"resources": {"requests": {"storage": size}}}
    if storage_class:
        spec["storageClassName"] = storage_class
    return {"metadata": {"name": "v"}, "spec": spec, "status": status}


GOLD = "gold.storageclass.storage.k8s.io/"
USAGES: list[tuple[str, tuple[str, str], Object, dict[str, str]]] = [
    ("a pod by all its names", PODS, pod(container(requests={"cpu": "1", "example.com/gpu": "2", "hugepages-2Mi": "4Mi"}, limits={"memory": "1Gi"})),
     {"count/pods": "1", "pods": "1", "cpu": "1", "requests.cpu": "1", "limits.memory": "1Gi",
      "requests.example.com/gpu": "2", "hugepages-2Mi": "4Mi", "requests.hugepages-2Mi": "4Mi"}),
    ("a pod that has ended", PODS, pod(container(requests={"cpu": "1"}), status={"phase": "Succeeded"}), {"count/pods": "1"}),
    ("a pod that outstays its grace", PODS,
     pod(container(requests={"cpu": "1"}), metadata={"deletionTimestamp": "2025-12-31T23:59:00Z", "deletionGracePeriodSeconds": 30}),
     {"count/pods": "1"}),
    ("a pod in its grace", PODS,
     pod(metadata={"deletionTimestamp": "2025-12-31T23:59:50Z", "deletionGracePeriodSeconds": 30}), {"count/pods": "1", "pods": "1"}),
    ("a service", SERVICES, service("ClusterIP", {"port": 80}),
     {"count/services": "1", "services": "1", "services.nodeports": "0", "services.loadbalancers": "0"}),
    ("node ports", SERVICES, service("NodePort", {"port": 80}, {"port": 81}),
     {"count/services": "1", "services": "1", "services.nodeports": "2", "services.loadbalancers": "0"}),
    ("a load balancer without ports of its own", SERVICES,
     service("LoadBalancer", {"port": 80}, {"port": 81, "nodePort": 30001}, allocateLoadBalancerNodePorts=False),
     {"count/services": "1", "services": "1", "services.nodeports": "1", "services.loadbalancers": "1"}),
    ("a claim of a class", CLAIMS, claim("1500m", "gold"),
     {"persistentvolumeclaims": "1", "count/persistentvolumeclaims": "1", "requests.storage": "2",
      f"{GOLD}persistentvolumeclaims": "1", f"{GOLD}requests.storage": "2"}),
    ("a claim that was given more", CLAIMS, claim("1Gi", allocatedResources={"storage": "2Gi"}),
     {"persistentvolumeclaims": "1", "count/persistentvolumeclaims": "1", "requests.storage": "2Gi"}),
    ("devices", RESOURCE_CLAIMS, {"spec": {"devices": {"requests": [
        {"exactly": {"deviceClassName": "gpu", "count": 2}}, {"exactly": {"deviceClassName": "gpu", "allocationMode": "All"}},
        {"firstAvailable": [{"deviceClassName": "gpu", "count": 3}, {"deviceClassName": "nic"}]}]}}},
     {"count/resourceclaims.resource.k8s.io": "1", "gpu.deviceclass.resource.k8s.io/devices": "37",
      "nic.deviceclass.resource.k8s.io/devices": "1"}),
    ("a kind with a name of its own", CONFIG_MAPS, {}, {"count/configmaps": "1", "configmaps": "1"}),
    ("any kind", ("apps", "deployments"), {}, {"count/deployments.apps": "1"}),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "obj", "expected"), [case[1:] for case in USAGES], ids=[case[0] for case in USAGES])
def test_what_objects_count_for(kind: tuple[str, str], obj: Object, expected: dict[str, str]) -> None:
    usage = measure(kind, obj).usage(NOW)
    assert usage == expected
    assert all(tracks(kind, name) and kind in kinds_of(name) for name in usage)


def test_names_that_count_nothing() -> None:
    assert kinds_of("count/events") == kinds_of("bananas") == kinds_of("requests.bananas") == []
    assert kinds_of("count/things.example.com") == [("example.com", "things")]


IMPORTANT = {"scopeName": "PriorityClass", "operator": "In", "values": ["high"]}
SCOPES: list[tuple[str, dict[str, Any], Object, bool]] = [
    ("best effort", {"scopes": ["BestEffort"]}, pod(status={"qosClass": "BestEffort"}), True),
    ("not best effort", {"scopes": ["BestEffort"]}, pod(), False),
    ("terminating", {"scopes": ["Terminating"]}, pod(activeDeadlineSeconds=0), True),
    ("not terminating", {"scopes": ["NotTerminating", "NotBestEffort"]}, pod(), True),
    ("of a class", {"scopeSelector": {"matchExpressions": [IMPORTANT]}}, pod(priorityClassName="high"), True),
    ("of another class", {"scopeSelector": {"matchExpressions": [IMPORTANT]}}, pod(priorityClassName="low"), False),
    ("of no class", {"scopeSelector": {"matchExpressions": [{**IMPORTANT, "operator": "NotIn"}]}}, pod(), True),
    ("any class", {"scopes": ["PriorityClass"]}, pod(), False),
    ("elsewhere", {"scopes": ["CrossNamespacePodAffinity"]}, pod(affinity={"podAntiAffinity": {
        "preferredDuringSchedulingIgnoredDuringExecution": [{"podAffinityTerm": {"namespaceSelector": {}}}]}}), True),
    ("here", {"scopes": ["CrossNamespacePodAffinity"]}, pod(affinity={"podAffinity": {
        "requiredDuringSchedulingIgnoredDuringExecution": [{"topologyKey": "x"}]}}), False),
]  # fmt: skip


@pytest.mark.parametrize(("spec", "made", "expected"), [case[1:] for case in SCOPES], ids=[case[0] for case in SCOPES])
def test_scopes(spec: dict[str, Any], made: Object, expected: bool) -> None:
    assert is_in_scope(quota({"pods": "1"}, **spec), measure(PODS, made)) is expected


def judged(held: Object, kind: tuple[str, str], obj: Object, old: Object | None = None) -> Any:
    try:
        write = write_of(kind, obj, old)
        return charge(held, write, used_of(held), NOW) if check(held, write) else None
    except QuotaExceededError as refusal:
        return str(refusal)


TWO = pod(container("a"), container("b", requests={"cpu": "1"}), initContainers=[container("i")])
JUDGEMENTS: list[tuple[str, Object, tuple[str, str], Object, Object | None, Any]] = [
    ("fits", quota({"pods": "2", "cpu": "2"}, {"pods": "1", "cpu": "1"}), PODS, pod(container(requests={"cpu": "500m"})), None,
     {"pods": "1", "cpu": "500m"}),
    ("to the brim", quota({"memory": "1Gi"}, {"memory": "512Mi"}), PODS, pod(container(requests={"memory": "512Mi"})), None,
     {"memory": "512Mi"}),
    ("too much", quota({"pods": "2", "requests.cpu": "2"}, {"pods": "2", "requests.cpu": "1500m"}), PODS,
     pod(container(requests={"cpu": "1"})), None,
     "exceeded quota: q, requested: pods=1,requests.cpu=1, used: pods=2,requests.cpu=1500m, limited: pods=2,requests.cpu=2"),
    ("does not say", quota({"cpu": "2", "limits.memory": "1Gi"}), PODS, TWO, None,
     "failed quota: q: must specify cpu for: a,i; limits.memory for: a,b,i"),
    ("the pod says it itself", quota({"cpu": "2"}), PODS, pod(container(), resources={"requests": {"cpu": "1"}}), None, {"cpu": "1"}),
    ("not counted yet", quota({"pods": "2", "services": "1"}, {}), PODS, pod(), None, "status unknown for quota: q, resources: pods"),
    ("of no concern", quota({"services": "1"}, {}), PODS, pod(), None, None),
    ("an update takes the difference", quota({"services.nodeports": "2"}, {"services.nodeports": "1"}), SERVICES,
     service("NodePort", {"port": 80}, {"port": 81}), service("NodePort", {"port": 80}), {"services.nodeports": "1"}),
    ("an update that takes less gives nothing back here", quota({"services.nodeports": "2"}, {"services.nodeports": "2"}),
     SERVICES, service("ClusterIP"), service("NodePort", {"port": 80}), {}),
    ("over already, and takes no more of that", quota({"pods": "1", "count/pods": "9"}, {"pods": "5", "count/pods": "5"}),
     PODS, pod(status={"phase": "Succeeded"}), None, {"count/pods": "1"}),
]  # fmt: skip


@pytest.mark.parametrize(
    ("held", "kind", "obj", "old", "expected"), [case[1:] for case in JUDGEMENTS], ids=[case[0] for case in JUDGEMENTS]
)
def test_whether_a_write_fits(
    held: Object, kind: tuple[str, str], obj: Object, old: Object | None, expected: Any
) -> None:
    assert judged(held, kind, obj, old) == expected


def counts(name: str, hard: int, used: int = 0, version: int = 1) -> Object:
    found = quota({"count/configmaps": str(hard)}, {"count/configmaps": str(used)})
    found["metadata"] |= {"name": name, "resourceVersion": str(version)}
    return found


@given(
    st.lists(st.integers(0, 6), min_size=1, max_size=3),
    st.integers(1, 8),
    st.data(),
)
def test_charges_of_many_at_once_never_exceed_any_quota_and_leave_nothing_behind(
    bounds: list[int], writers: int, data: st.DataObject
) -> None:
    """Another server writes in between, at any moment."""
    stored = {f"q{index}": counts(f"q{index}", bound) for index, bound in enumerate(bounds)}
    foreign = dict.fromkeys(stored, 0)
    open_charges = [Charge(write_of(CONFIG_MAPS, {}, None)) for _ in range(writers)]
    ledger = Ledger(dict(stored), open_charges, NOW)
    for _ in range(100):
        plan = ledger.plan()
        if not plan:
            break
        for name, used in plan.items():
            if data.draw(st.booleans(), label="somebody else comes first") and foreign[name] < 2:
                now = int(used_of(stored[name])["count/configmaps"])
                if now < int(stored[name]["spec"]["hard"]["count/configmaps"]):
                    foreign[name] += 1
                    version = int(stored[name]["metadata"]["resourceVersion"]) + 1
                    stored[name] = counts(name, int(stored[name]["spec"]["hard"]["count/configmaps"]), now + 1, version)
            known = ledger.quota(name)["metadata"]["resourceVersion"]
            if known != stored[name]["metadata"]["resourceVersion"]:
                ledger.found(name, stored[name])
                continue
            wanted = int(used["count/configmaps"])
            stored[name] = counts(name, int(stored[name]["spec"]["hard"]["count/configmaps"]), wanted, int(known) + 1)
            ledger.wrote(stored[name])
            assert wanted <= int(stored[name]["spec"]["hard"]["count/configmaps"])
    else:
        pytest.fail("no end")
    admitted = sum(not each.refusal for each in open_charges)
    for name, found in stored.items():
        assert int(used_of(found)["count/configmaps"]) == admitted + foreign[name]


class Counting(RuleBasedStateMachine):
    """Writes that are charged, stored a while later or never, and a controller that counts in between."""

    @initialize()
    def begin(self) -> None:
        self.now = 0.0
        self.used = 0
        self.stored = 0
        self.under_way: list[float] = []
        self.freed = 0
        self.charged_at = -1000.0
        self.surplus_since: float | None = None

    @rule()
    def charge(self) -> None:
        self.used += 1
        self.under_way.append(self.now)
        self.charged_at = self.now

    @precondition(lambda self: self.under_way)
    @rule(stands=st.booleans())
    def end_of_a_write(self, stands: bool) -> None:
        self.under_way.pop(0)
        self.stored += stands

    @precondition(lambda self: self.stored)
    @rule()
    def delete(self) -> None:
        self.stored -= 1
        self.freed += 1

    @rule(seconds=st.sampled_from([0.5, 3.0, 11.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        # Writes end within their time, as requests do.
        while self.under_way and self.now - self.under_way[0] >= SETTLED_S:
            self.under_way.pop(0)

    @rule()
    def look(self) -> None:
        if self.used == self.stored:
            self.surplus_since = None
        elif self.surplus_since is None:
            self.surplus_since = self.now
        held = quota({"count/configmaps": "100"}, {"count/configmaps": str(self.used)})
        since_surplus_s = self.now - (self.now if self.surplus_since is None else self.surplus_since)
        found = recount(
            held, {"count/configmaps": str(self.stored)}, {"count/configmaps": str(self.freed)},
            self.now - self.charged_at, min(since_surplus_s, PATIENCE_S - 1),
        )  # fmt: skip
        self.used, self.freed = int(found.status["used"]["count/configmaps"]), 0
        if self.used != self.stored:
            assert found.again_after_s is not None

    @invariant()
    def nothing_is_given_away_twice(self) -> None:
        if hasattr(self, "now"):
            assert self.used >= self.stored + len(self.under_way)

    def teardown(self) -> None:
        if hasattr(self, "now"):
            self.time_passes(11.0)
            self.look()
            assert self.used == self.stored


TestCounting = Counting.TestCase


def test_a_quota_that_changes_its_mind_is_counted_anew() -> None:
    held = quota({"pods": "5"}, {"pods": "3"})
    held["spec"]["hard"] = {"pods": "4", "count/configmaps": "1"}
    assert counted_kinds(held) == {PODS, CONFIG_MAPS}
    counted = {**count(held, PODS, [measure(PODS, pod())], NOW), **count(held, CONFIG_MAPS, [], NOW)}
    assert recount(held, counted, {}, 0, 0).status == {
        "hard": {"pods": "4", "count/configmaps": "1"}, "used": {"pods": "1", "count/configmaps": "0"}
    }  # fmt: skip


def test_time_ends_what_a_lost_pod_counts_for() -> None:
    lost = measure(PODS, pod(metadata={"deletionTimestamp": "2026-01-01T00:00:00Z", "deletionGracePeriodSeconds": 30}))
    assert lost.lives_until == NOW + timedelta(seconds=30)
    assert lost.usage(NOW) != lost.usage(NOW + timedelta(seconds=31)) == {"count/pods": "1"}
