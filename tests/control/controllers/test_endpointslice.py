"""EndpointSlices and Endpoints: which pods, in which state, on which ports."""

from __future__ import annotations

from typing import Any

import pytest

from control.api import meta
from control.api.meta import Object
from control.api.resources import ENDPOINT_SLICES, ENDPOINTS, PODS, SERVICES
from control.client.actions import Create, Delete, Update
from control.controllers import endpoints
from control.controllers.endpointslice import (
    EndpointSliceController,
    reconcile,
    target_port,
    wants_slices,
)
from tests.control.controllers.harness import World, until


def service(**spec: Any) -> Object:
    ports = [{"name": "http", "port": 80, "targetPort": 8080, "protocol": "TCP"}]
    base = {"selector": {"app": "web"}, "clusterIP": "10.96.0.10", "ipFamilies": ["IPv4"], "ports": ports}
    metadata = {"name": "web", "namespace": "n", "uid": "s", "labels": {"team": "x"}}
    return {"metadata": metadata, "spec": {**base, **spec}}


def pod(name: str, ip: str = "", *, ready: bool = True, deleting: bool = False, phase: str = "Running",
        node: str = "n1", **spec: Any) -> Object:  # fmt: skip
    ip = ip or f"10.244.0.{len(name)}{ord(name[-1]) % 100}"
    metadata: dict[str, Any] = {"name": name, "namespace": "n", "uid": name, "labels": {"app": "web"}}
    if deleting:
        metadata["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    status = {
        "phase": phase,
        "podIP": ip,
        "podIPs": [{"ip": ip}],
        "conditions": [{"type": "Ready", "status": str(ready)}],
    }
    return {"metadata": metadata, "spec": {"nodeName": node, **spec}, "status": status}


def created(service_: Object, pods: list[Object], nodes: dict[str, Object] | None = None) -> list[Object]:
    actions = reconcile(service_, pods, nodes or {}, [])
    assert all(isinstance(action, Create) for action in actions)
    return [action.object for action in actions if isinstance(action, Create)]


@pytest.mark.parametrize(
    ("found", "always", "conditions"),
    [
        (pod("a"), False, (True, True, False)),
        (pod("a", ready=False), False, (False, False, False)),
        (pod("a", deleting=True), False, (False, True, True)),
        (pod("a", ready=False, deleting=True), False, (False, False, True)),
        (pod("a", ready=False), True, (True, False, False)),
    ],
    ids=["ready", "not ready", "ending but serving", "ending", "published although not ready"],
)
def test_conditions(found: Object, always: bool, conditions: tuple[bool, bool, bool]) -> None:
    (made,) = created(service(publishNotReadyAddresses=always), [found])
    (endpoint,) = made["endpoints"]
    state = endpoint["conditions"]
    assert (state["ready"], state["serving"], state["terminating"]) == conditions
    assert endpoint["nodeName"] == "n1"
    assert endpoint["targetRef"]["name"] == "a"


ZONED = {name: {"metadata": {"name": name, "labels": {"topology.kubernetes.io/zone": zone}}}
         for name, zone in (("n1", "east"), ("n2", "west"))}  # fmt: skip
EAST, WEST = {"forZones": [{"name": "east"}]}, {"forZones": [{"name": "west"}]}


@pytest.mark.parametrize(
    ("distribution", "hints"),
    [
        pytest.param(None, [None, None, None], id="nowhere"),
        pytest.param("PreferClose", [EAST, WEST, None], id="zone, by its old name"),
        pytest.param("PreferSameZone", [EAST, WEST, None], id="zone"),
        pytest.param(
            "PreferSameNode",
            [
                EAST | {"forNodes": [{"name": "n1"}]},
                WEST | {"forNodes": [{"name": "n2"}]},
                {"forNodes": [{"name": "n3"}]},
            ],
            id="node, and zone as well",
        ),
    ],
)
def test_behaviour_13_hints_follow_the_traffic_distribution(distribution: str | None, hints: list[Any]) -> None:
    pods = [pod("a"), pod("b", node="n2"), pod("c", node="n3"), pod("d", ready=False), pod("e", deleting=True)]
    (found,) = created(service(trafficDistribution=distribution), pods, ZONED)
    by_pod = {entry["targetRef"]["name"]: entry.get("hints") for entry in found["endpoints"]}
    assert [by_pod[name] for name in "abc"] == hints
    assert by_pod["d"] is None
    assert by_pod["e"] is None


def test_behaviour_16_what_is_not_ready_is_published_and_hinted() -> None:
    wanted = service(publishNotReadyAddresses=True, trafficDistribution="PreferSameZone")
    (found,) = created(wanted, [pod("a", ready=False), pod("b", deleting=True, ready=False)], ZONED)
    assert [entry["conditions"]["ready"] for entry in found["endpoints"]] == [True, True]
    assert [entry["hints"] for entry in found["endpoints"]] == [EAST, EAST]


def test_a_slice_says_whose_it_is() -> None:
    (made,) = created(
        service(clusterIP="None"), [pod("a")], {"n1": {"metadata": {"labels": {"topology.kubernetes.io/zone": "z"}}}}
    )
    assert made["metadata"]["labels"] == {
        "team": "x", "kubernetes.io/service-name": "web",
        "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io", "service.kubernetes.io/headless": "",
    }  # fmt: skip
    assert made["metadata"]["ownerReferences"][0]["uid"] == "s"
    assert made["endpoints"][0]["zone"] == "z"
    assert made["ports"] == [{"name": "http", "protocol": "TCP", "port": 8080}]


def test_who_is_left_out() -> None:
    strange = pod("s")
    strange["metadata"]["labels"] = {"app": "other"}
    homeless = pod("h")
    homeless["status"] = {"phase": "Pending"}
    (made,) = created(service(), [strange, homeless, pod("f", phase="Failed"), pod("v", ip="fd00::1")])
    assert made["endpoints"] == []
    assert made["ports"] == []


def test_two_families_have_a_slice_each() -> None:
    both = pod("a")
    both["status"]["podIPs"] = [{"ip": "10.0.0.1"}, {"ip": "fd00::1"}]
    made = created(service(ipFamilies=["IPv4", "IPv6"]), [both])
    assert sorted((found["addressType"], found["endpoints"][0]["addresses"][0]) for found in made) == [
        ("IPv4", "10.0.0.1"), ("IPv6", "fd00::1"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("port", "expected"),
    [
        ({"port": 80}, 80),
        ({"port": 80, "targetPort": 8080}, 8080),
        ({"port": 80, "targetPort": "web"}, 8000),
        ({"port": 80, "targetPort": "side"}, 9000),
        ({"port": 80, "targetPort": "none"}, None),
        ({"port": 80, "targetPort": "web", "protocol": "UDP"}, None),
    ],
)
def test_target_ports(port: dict[str, Any], expected: int | None) -> None:
    containers = [{"ports": [{"name": "web", "containerPort": 8000}]}]
    sidecars = [
        {"ports": [{"name": "none", "containerPort": 1}]},
        {"restartPolicy": "Always", "ports": [{"name": "side", "containerPort": 9000}]},
    ]
    assert target_port(pod("a", containers=containers, initContainers=sidecars), port) == expected


def test_named_ports_that_differ_split_slices() -> None:
    named = [{"name": "http", "port": 80, "targetPort": "web"}]
    one = pod("a", containers=[{"ports": [{"name": "web", "containerPort": 8000}]}])
    two = pod("b", containers=[{"ports": [{"name": "web", "containerPort": 9000}]}])
    made = created(service(ports=named), [one, two])
    assert sorted(found["ports"][0]["port"] for found in made) == [8000, 9000]


def test_no_slice_is_longer_than_a_hundred() -> None:
    made = created(service(), [pod(f"p{i}", f"10.244.{i // 200}.{i % 200}") for i in range(250)])
    assert [len(found["endpoints"]) for found in made] == [100, 100, 50]


def test_a_change_touches_only_its_own_slice() -> None:
    pods = [pod(f"p{i}", f"10.244.{i // 200}.{i % 200}") for i in range(150)]
    slices = []
    for index, made in enumerate(created(service(), pods)):
        made["metadata"] |= {"name": f"web-{index}", "resourceVersion": "1"}
        slices.append(made)
    assert reconcile(service(), pods, {}, slices) == []
    pods[3]["status"]["conditions"][0]["status"] = "False"
    (update,) = reconcile(service(), pods, {}, slices)
    assert isinstance(update, Update)
    assert meta.name(update.object) == "web-0"
    actions = reconcile(service(), pods[:100], {}, slices)
    assert [type(action) for action in actions] == [Update, Delete]
    fewer = reconcile(service(), [], {}, slices)
    kept = [action.object["endpoints"] for action in fewer if isinstance(action, Update)]
    assert kept in ([], [[]])
    assert len([action for action in fewer if isinstance(action, Delete)]) + len(kept) >= 2


def test_which_services_have_slices_of_ours() -> None:
    assert wants_slices(service())
    assert not wants_slices(service(selector={}))
    assert not wants_slices(service(type="ExternalName"))


def test_endpoints_sort_by_readiness() -> None:
    found, over = endpoints.subsets(service(), [pod("a"), pod("b", ready=False), pod("c", deleting=True)])
    (subset,) = found
    assert not over
    assert [entry["targetRef"]["name"] for entry in subset["addresses"]] == ["a"]
    assert [entry["targetRef"]["name"] for entry in subset["notReadyAddresses"]] == ["b"]
    assert subset["ports"] == [{"port": 8080, "protocol": "TCP", "name": "http"}]


async def test_slices_follow_services_and_pods() -> None:
    world = World()
    client = world.client
    client.put(SERVICES, service())
    client.put(PODS, pod("a"))

    def ready() -> list[str]:
        return sorted(
            endpoint["targetRef"]["name"]
            for found in client.objects(ENDPOINT_SLICES)
            for endpoint in found["endpoints"]
            if endpoint["conditions"]["ready"]
        )

    async with world.running(
        lambda context: [EndpointSliceController(context), endpoints.EndpointsController(context)]
    ) as controllers:
        await until(lambda: ready() == ["a"])
        client.put(PODS, pod("b"))
        await until(lambda: ready() == ["a", "b"])
        client.put(PODS, pod("a", ready=False))
        await until(lambda: ready() == ["b"])
        await until(lambda: (client.find(ENDPOINTS, "web", "n") or {}).get("subsets", [{}])[0].get("notReadyAddresses"))
        await world.settle(controllers)
        assert len(client.objects(ENDPOINT_SLICES)) == 1
        client.remove(SERVICES, "web", "n")
        await until(lambda: not client.objects(ENDPOINT_SLICES))
        await until(lambda: not client.objects(ENDPOINTS))
