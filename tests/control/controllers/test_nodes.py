"""Nodes: signs of life, taints, evictions, address ranges, pods of nodes that are gone."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from control.api import meta
from control.api.meta import Object
from control.api.resources import LEASES, NODES, PODS
from control.api.status import ApiError
from control.controllers import nodehealth as health
from control.controllers.nodeipam import NodeIpamController, RangeAllocator, RangeFullError, node_mask_sizes
from control.controllers.nodelifecycle import LEASE_NAMESPACE, NodeLifecycleConfig, NodeLifecycleController
from control.controllers.podeviction import PodCollector, TaintEvictionController, abandoned, orphaned, surplus_finished
from tests.control.controllers.harness import START, World, until

GRACE = timedelta(seconds=50)
STARTUP = timedelta(seconds=60)


def node(ready: str | None = "True", name: str = "n1", *taints: dict[str, Any], **spec: Any) -> Object:
    conditions = [] if ready is None else [{"type": "Ready", "status": ready, "lastHeartbeatTime": "t"}]
    return {
        "metadata": {"name": name, "uid": name, "creationTimestamp": "2026-01-01T00:00:00Z"},
        "spec": {**spec, **({"taints": list(taints)} if taints else {})},
        "status": {"conditions": conditions},
    }


def lease(renewed: str) -> Object:
    return {"spec": {"renewTime": renewed}}


def test_a_sign_of_life_counts_from_when_it_was_seen() -> None:
    first = health.observe(None, node(), lease("1"), START)
    later = START + timedelta(seconds=30)
    assert health.observe(first, node(), lease("1"), later) is first
    assert health.observe(first, node(), lease("2"), later).seen == later
    # Our own verdict changes the node and is no sign of life.
    assert health.observe(first, node("Unknown"), lease("1"), later).seen == START


@pytest.mark.parametrize(
    ("found", "silent_s", "reason"),
    [
        (node(), 49, None),
        (node(), 51, "NodeStatusUnknown"),
        (node("False"), 51, "NodeStatusUnknown"),
        (node(None), 59, None),
        (node(None), 61, "NodeStatusNeverUpdated"),
    ],
    ids=["in time", "silent", "silent and not ready", "starting", "never started"],
)
def test_silence_makes_conditions_unknown(found: Object, silent_s: int, reason: str | None) -> None:
    sign = health.observe(None, found, None, START)
    status = health.judge(found, sign, START + timedelta(seconds=silent_s), GRACE, STARTUP)
    if reason is None:
        assert status is None
        return
    assert status is not None
    entry = next(condition for condition in status["conditions"] if condition["type"] == "Ready")
    assert (entry["status"], entry["reason"]) == ("Unknown", reason)
    judged = {**found, "status": status}
    assert health.judge(judged, sign, START + timedelta(hours=1), GRACE, STARTUP) is None


def taint(key: str, effect: str, **more: Any) -> dict[str, Any]:
    return {"key": f"node.kubernetes.io/{key}", "effect": effect, **more}


@pytest.mark.parametrize(
    ("found", "may_evict", "expected"),
    [
        (node(), True, []),
        (node("False"), True, [("not-ready", "NoSchedule"), ("not-ready", "NoExecute")]),
        (node("Unknown"), True, [("unreachable", "NoSchedule"), ("unreachable", "NoExecute")]),
        (node("Unknown"), False, [("unreachable", "NoSchedule")]),
        (node("True", "n", unschedulable=True), True, [("unschedulable", "NoSchedule")]),
        (node("True", "n", taint("unreachable", "NoExecute"), taint("unreachable", "NoSchedule")), True, []),
        (node("Unknown", "n", taint("not-ready", "NoExecute")), False,
         [("unreachable", "NoSchedule"), ("unreachable", "NoExecute")]),
        (node(None), True, []),
        (node(None, "n", taint("not-ready", "NoSchedule")), True, [("not-ready", "NoSchedule")]),
    ],
    ids=["well", "not ready", "silent", "rate limited", "cordoned", "returned", "from one to the other", "new", "new and registered so"],
)  # fmt: skip
def test_taints_follow_conditions(found: Object, may_evict: bool, expected: list[tuple[str, str]]) -> None:
    taints = health.wished_taints(found, START, may_evict=may_evict)
    assert [(entry["key"].rpartition("/")[2], entry["effect"]) for entry in taints] == expected


def test_foreign_taints_and_times_stay() -> None:
    mine = {"key": "team", "effect": "NoExecute", "value": "x"}
    old = taint("unreachable", "NoExecute", timeAdded="2025-01-01T00:00:00Z")
    taints = health.wished_taints(node("Unknown", "n", mine, old), START, may_evict=True)
    assert mine in taints
    assert old in taints


def test_a_taint_is_never_younger_than_the_second_it_is_put_in() -> None:
    moment = START + timedelta(milliseconds=300)
    (_, added) = health.wished_taints(node("Unknown"), moment, may_evict=True)
    assert datetime.fromisoformat(added["timeAdded"]) >= moment


def tolerating(*tolerations: dict[str, Any]) -> Object:
    return {"spec": {"nodeName": "n1", "tolerations": list(tolerations)}}


ADDED = "2026-01-01T00:00:00Z"


@pytest.mark.parametrize(
    ("pod", "after_s"),
    [
        (tolerating(), 0),
        (tolerating({"operator": "Exists"}), None),
        (tolerating({"key": "k", "operator": "Exists", "tolerationSeconds": 5}), 5),
        (tolerating({"key": "k", "value": "v", "effect": "NoExecute", "tolerationSeconds": 5}), 5),
        (tolerating({"key": "k", "value": "other", "tolerationSeconds": 5}), 0),
        (tolerating({"key": "k", "operator": "Exists", "effect": "NoSchedule"}), 0),
        (tolerating({"operator": "Exists", "tolerationSeconds": 9}, {"key": "k", "value": "v", "tolerationSeconds": 3}), 3),
        (tolerating({"key": "k", "operator": "Exists", "tolerationSeconds": -1}), 0),
    ],
)  # fmt: skip
def test_when_a_pod_must_leave(pod: Object, after_s: float | None) -> None:
    found = node("True", "n1", {"key": "k", "value": "v", "effect": "NoExecute", "timeAdded": ADDED})
    leave = health.eviction_time(pod, found, START)
    assert (leave - START).total_seconds() == after_s if leave is not None else after_s is None


@pytest.mark.parametrize(
    ("ready", "not_ready", "others", "rate"),
    [
        (2, 1, [], 0.1),
        (0, 3, [], 0.0),
        (0, 3, [(3, 0)], 0.1),
        (4, 6, [(3, 0)], 0.0),
        (40, 60, [(3, 0)], 0.01),
        (1, 2, [], 0.1),
    ],
    ids=["one of three", "all of all", "a whole zone", "much of a small zone", "much of a large zone", "two are few"],
)
def test_how_fast_nodes_are_given_up(ready: int, not_ready: int, others: list[tuple[int, int]], rate: float) -> None:
    zone = health.Zone(ready, not_ready)
    every = {"a": zone, **{str(i): health.Zone(*other) for i, other in enumerate(others)}}
    assert health.eviction_rate(zone, every, 0.1, 0.01, 50, 0.55) == rate


async def test_a_dead_node_loses_its_pods_and_a_returning_one_its_taints() -> None:
    world = World()
    client = world.client
    config = NodeLifecycleConfig(monitor_period_s=0.01, grace_period_s=10)
    for name in ("n1", "n2", "n3"):
        client.put(NODES, node("True", name))
        client.put(LEASES, {"metadata": {"name": name, "namespace": LEASE_NAMESPACE}, **lease("0")})
    pod = {"metadata": {"name": "p", "namespace": "n"}, "spec": {
        "tolerations": [{"key": health.UNREACHABLE, "operator": "Exists", "tolerationSeconds": 5}]}}  # fmt: skip
    world.make_ready(pod, "n1")

    def beat(*names: str) -> None:
        for name in names:
            client.put(LEASES, {"metadata": {"name": name, "namespace": LEASE_NAMESPACE}, **lease(str(world.time))})

    def stored(name: str) -> Object:
        return client.find(NODES, name) or {}

    async with world.running(
        lambda context: [NodeLifecycleController(context, config), TaintEvictionController(context)]
    ) as controllers:
        await world.settle(controllers)
        world.pass_time(8)
        beat("n2", "n3")
        await world.settle(controllers)
        assert health.ready_status(stored("n1")) == "True"
        world.pass_time(4)
        beat("n2", "n3")
        await until(lambda: health.ready_status(stored("n1")) == "Unknown")
        await until(lambda: len(stored("n1")["spec"].get("taints", [])) == 2)
        assert not stored("n2")["spec"].get("taints")
        await until(lambda: not meta.condition_is_true(client.find(PODS, "p", "n") or {}, "Ready"))
        assert not meta.is_being_deleted(client.find(PODS, "p", "n") or {})
        world.pass_time(6)
        beat("n2", "n3")
        for controller in controllers:
            controller.queue.add("n/p" if controller.name.startswith("taint") else "n1")
        await until(lambda: meta.is_being_deleted(client.find(PODS, "p", "n") or {}))
        returned = node("True", "n1", *stored("n1")["spec"]["taints"])
        client.put(NODES, returned)
        beat("n1", "n2", "n3")
        await until(lambda: not stored("n1")["spec"].get("taints"))


def test_pods_of_missing_nodes_go_after_a_quarantine() -> None:
    pods = [{"metadata": {"name": name}, "spec": {"nodeName": on}} for name, on in (("a", "n1"), ("b", "gone"))]
    since: dict[str, datetime] = {}
    assert orphaned(pods, {"n1"}, since, START) == []
    assert orphaned(pods, {"n1"}, since, START + timedelta(seconds=41)) == [pods[1]]
    assert orphaned(pods, {"n1", "gone"}, since, START + timedelta(seconds=50)) == []
    assert since == {}


def test_finished_and_abandoned_pods() -> None:
    done = [
        {"metadata": {"name": f"p{i}", "creationTimestamp": f"2026-01-0{i}T00:00:00Z"}, "status": {"phase": "Failed"}}
        for i in (3, 1, 2)
    ]
    assert [meta.name(pod) for pod in surplus_finished(done, 1)] == ["p1", "p2"]
    assert surplus_finished(done, 0) == []
    dying = {"metadata": {"name": "d", "deletionTimestamp": "x"}, "spec": {}}
    stuck = {"metadata": {"name": "s", "deletionTimestamp": "x"}, "spec": {"nodeName": "n1"}}
    out = node("Unknown", "n1", taint("out-of-service", "NoExecute"))
    assert abandoned([dying, stuck], [out]) == [dying, stuck]
    assert abandoned([dying, stuck], [node()]) == [dying]


async def test_pods_of_a_deleted_node_are_removed() -> None:
    world = World()
    world.client.put(NODES, node("True", "n2"))
    for name, on in (("a", "n1"), ("b", "n2")):
        world.make_ready({"metadata": {"name": name, "namespace": "n"}, "spec": {}}, on)
    async with world.running(lambda context: [PodCollector(context)]) as (collector,):
        await world.settle([collector])
        world.pass_time(41)
        collector.queue.add("round")
        await until(lambda: [meta.name(pod) for pod in world.client.objects(PODS)] == ["b"])


def test_ranges() -> None:
    allocator = RangeAllocator("10.0.0.0/22", 24)
    assert allocator.occupy("10.0.1.0/24", "b")
    assert not allocator.occupy("10.0.1.0/24", "c")
    assert not allocator.occupy("10.9.0.0/24", "c")
    assert [allocator.allocate(name) for name in "acd"] == ["10.0.0.0/24", "10.0.2.0/24", "10.0.3.0/24"]
    with pytest.raises(RangeFullError):
        allocator.allocate("e")
    assert allocator.allocate("c") == "10.0.2.0/24", "asked again, it says the same"
    allocator.release("b")
    assert allocator.allocate("e") == "10.0.1.0/24"
    with pytest.raises(ValueError, match="does not fit"):
        RangeAllocator("10.0.0.0/24", 16)
    assert RangeAllocator("fd00::/56", 64).allocate("a") == "fd00::/64"


V4, V6 = "10.0.0.0/16", "fd00::/56"


@pytest.mark.parametrize(
    ("clusters", "asked", "sizes"),
    [
        pytest.param([V4], (None, None, None), {4: 24, 6: 64}, id="defaults"),
        pytest.param([V4], (26, None, None), {4: 26, 6: 26}, id="one range, one size"),
        pytest.param([V6], (None, None, 60), {4: 24, 6: 60}, id="IPv6 alone"),
        pytest.param([V4, V6], (None, 26, 60), {4: 26, 6: 60}, id="both"),
    ],
)
def test_mask_sizes(clusters: list[str], asked: tuple[int | None, ...], sizes: dict[int, int]) -> None:
    assert node_mask_sizes(clusters, *asked) == sizes


@pytest.mark.parametrize(
    ("clusters", "asked", "told"),
    [
        pytest.param([V4, V6], (24, None, None), "not allowed with dual-stack clusters", id="one size for both"),
        pytest.param([V4], (None, None, 64), "not allowed with single-stack IPv4 clusters", id="the other family's"),
        pytest.param([V4], (12, None, None), "12 does not fit into --cluster-cidr 10.0.0.0/16", id="larger than all"),
        pytest.param(
            ["fd00::/32"], (None, None, None), "choose a range with a prefix length of 48", id="too many nodes"
        ),
        pytest.param([V4, "10.1.0.0/16"], (None, None, None), "two ranges of one IP family", id="one family twice"),
    ],
)
def test_mask_sizes_that_do_not_fit_are_refused(clusters: list[str], asked: tuple[int | None, ...], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        node_mask_sizes(clusters, *asked)


@given(st.lists(st.tuples(st.booleans(), st.sampled_from("abcdefgh")), max_size=60))
def test_no_two_nodes_share_a_range(steps: list[tuple[bool, str]]) -> None:
    allocator = RangeAllocator("10.0.0.0/21", 24)
    held: dict[str, str] = {}
    for give, name in steps:
        if give:
            assert held.get(name) in (None, allocator.allocate(name))
            held[name] = allocator.allocate(name)
        elif not give:
            allocator.release(name)
            held.pop(name, None)
        assert len(set(held.values())) == len(held)


async def test_nodes_get_their_ranges() -> None:
    world = World()
    world.client.put(NODES, node("True", "n1", podCIDR="10.244.0.0/24", podCIDRs=["10.244.0.0/24"]))
    world.client.put(NODES, node("True", "n2"))
    make = NodeIpamController
    async with world.running(lambda context: [make(context, [RangeAllocator("10.244.0.0/16", 24)])]):
        await until(lambda: (world.client.find(NODES, "n2") or {})["spec"].get("podCIDR") == "10.244.1.0/24")
        world.client.put(NODES, node("True", "n3"))
        await until(lambda: (world.client.find(NODES, "n3") or {})["spec"].get("podCIDRs") == ["10.244.2.0/24"])


async def test_a_cache_that_is_behind_gives_no_second_range() -> None:
    world = World()
    stored = world.client.put(NODES, node("True", "n1"))
    allocator = RangeAllocator("10.244.0.0/16", 24)
    controller = NodeIpamController(world.context, [allocator])
    informer = world.context.informer(NODES)
    informer.cache.put(stored)
    await controller.sync("n1")
    world.client.fail_next("patch", NODES)
    with pytest.raises(ApiError):
        await controller.sync("n1")  # the cache still shows no range
    await controller.sync("n1")
    assert (world.client.find(NODES, "n1") or {})["spec"]["podCIDR"] == "10.244.0.0/24"
    assert allocator.allocate("n2") == "10.244.1.0/24"
