"""What autoscaling/v1 has no fields for is not lost on the way through it."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import orjson
import pytest

from control.api.resources import Resource
from control.apiserver import autoscalers
from control.apiserver.convert import convert
from tests.control.apiserver.harness import running

REFERENCE = {"kind": "Deployment", "name": "web", "apiVersion": "apps/v1"}
MERGE = "application/merge-patch+json"
SELECTOR = {"matchLabels": {"a": "b"}}
CPU = {"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 60}}}
METRICS: list[dict[str, Any]] = [
    {"type": "Resource", "resource": {"name": "memory", "target": {"type": "AverageValue", "averageValue": "1Gi"}}},
    {"type": "Resource", "resource": {"name": "cpu", "target": {"type": "AverageValue", "averageValue": "2"}}},
    {"type": "Pods", "pods": {"metric": {"name": "rps", "selector": SELECTOR},
                              "target": {"type": "AverageValue", "averageValue": "100"}}},
    {"type": "Object", "object": {"describedObject": {**REFERENCE, "kind": "Ingress"}, "metric": {"name": "hits"},
                                  "target": {"type": "Value", "value": "5k"}}},
    {"type": "Object", "object": {"describedObject": {**REFERENCE, "kind": "Ingress"}, "metric": {"name": "hits"},
                                  "target": {"type": "AverageValue", "averageValue": "5"}}},
    {"type": "External", "external": {"metric": {"name": "queue", "selector": SELECTOR},
                                      "target": {"type": "Value", "value": "30"}}},
    {"type": "ContainerResource", "containerResource": {
        "name": "cpu", "container": "main", "target": {"type": "Utilization", "averageUtilization": 50}}},
]  # fmt: skip
BEHAVIOR = {
    "scaleUp": {
        "selectPolicy": "Max",
        "stabilizationWindowSeconds": 0,
        "policies": [{"type": "Pods", "value": 4, "periodSeconds": 15}],
        "tolerance": "50m",
    },
    "scaleDown": {
        "selectPolicy": "Disabled",
        "policies": [{"type": "Percent", "value": 100, "periodSeconds": 15}],
    },
}
CONDITION = {
    "type": "AbleToScale", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z", "reason": "R", "message": "m",
}  # fmt: skip
V2: dict[str, Any] = {
    "apiVersion": "autoscaling/v2",
    "kind": "HorizontalPodAutoscaler",
    "metadata": {"name": "web", "namespace": "default", "annotations": {"mine": "x"}},
    "spec": {
        "scaleTargetRef": REFERENCE,
        "minReplicas": 1,
        "maxReplicas": 9,
        "metrics": [*METRICS, CPU],
        "behavior": BEHAVIOR,
    },
    "status": {
        "currentReplicas": 1,
        "desiredReplicas": 2,
        "currentMetrics": [
            {"type": "Resource", "resource": {"name": "cpu", "current": {"averageUtilization": 7, "averageValue": "9m"}}},
            {"type": "Object", "object": {"describedObject": REFERENCE, "metric": {"name": "h"},
                                          "current": {"value": "3"}}},
            {"type": "External", "external": {"metric": {"name": "q"}, "current": {"averageValue": "2"}}},
        ],
        "conditions": [CONDITION],
    },
}  # fmt: skip


def resource(version: str) -> Resource:
    return Resource("autoscaling", version, "horizontalpodautoscalers", "HorizontalPodAutoscaler")


def test_a_way_there_and_back_changes_nothing() -> None:
    before = deepcopy(V2)
    made = convert(V2, resource("v1"))
    assert before == V2
    assert made["spec"] == {
        "scaleTargetRef": REFERENCE, "minReplicas": 1, "maxReplicas": 9, "targetCPUUtilizationPercentage": 60,
    }  # fmt: skip
    said = made["metadata"]["annotations"]
    assert orjson.loads(said[autoscalers.METRICS])[0] == {
        "type": "Resource", "resource": {"name": "memory", "targetAverageValue": "1Gi"},
    }  # fmt: skip
    assert orjson.loads(said[autoscalers.BEHAVIOR])["ScaleUp"]["StabilizationWindowSeconds"] == 0
    assert convert(made, resource("v2")) == before


V1_SPEC = {"scaleTargetRef": REFERENCE, "maxReplicas": 9}
UNREADABLE = ["{", "[]", "5", "[5]", '[{"type":"Resource","resource":5}]', '{"ScaleUp":[]}',
              '[{"type":"Resource","resource":{"name":5}}]', '[{"type":"Pods","pods":{"selector":[]}}]']  # fmt: skip


@pytest.mark.parametrize("text", UNREADABLE)
def test_annotations_that_cannot_be_read_are_passed_over(text: str) -> None:
    names = (autoscalers.METRICS, autoscalers.CURRENT_METRICS, autoscalers.BEHAVIOR, autoscalers.CONDITIONS)
    obj = {"metadata": {"annotations": dict.fromkeys(names, text)}, "spec": V1_SPEC}
    made = autoscalers.to_v2(obj)
    assert "annotations" not in made["metadata"]
    assert "behavior" not in made["spec"]
    [metric] = made["spec"]["metrics"]
    assert metric["resource"]["target"] == {"type": "Utilization", "averageUtilization": autoscalers.CPU_PERCENTAGE}


def test_what_the_original_wrote_is_read() -> None:
    metrics = [{"type": "Object", "object": {"target": {"kind": "K", "name": "n"}, "metricName": "m", "targetValue": "0",
                                             "averageValue": "3"}}]  # fmt: skip
    behavior = {"ScaleUp": None, "ScaleDown": {"StabilizationWindowSeconds": 60, "SelectPolicy": None, "Policies": None,
                                               "Tolerance": None}}  # fmt: skip
    said = {autoscalers.METRICS: orjson.dumps(metrics).decode(), autoscalers.BEHAVIOR: orjson.dumps(behavior).decode()}
    made = autoscalers.to_v2({"metadata": {"annotations": said}, "spec": V1_SPEC})
    assert made["spec"]["metrics"][0]["object"]["target"] == {"type": "AverageValue", "averageValue": "3"}
    assert made["spec"]["behavior"] == {"scaleDown": {"stabilizationWindowSeconds": 60}}


async def test_an_object_that_is_put_back_through_v1_is_unchanged() -> None:
    old, new = (f"/apis/autoscaling/{version}/namespaces/default/horizontalpodautoscalers" for version in ("v1", "v2"))
    async with running() as api:
        made = await api.ask("POST", new, {**V2, "status": {}})
        assert made.code == 201, made.json
        await api.ask("PUT", f"{new}/web/status", {**made.json, "status": V2["status"]})
        before = (await api.ask("GET", f"{new}/web")).json
        assert before["spec"]["metrics"] == [*METRICS, CPU]
        read = (await api.ask("GET", f"{old}/web")).json
        assert (await api.ask("PUT", f"{old}/web", read)).code == 200
        patched = await api.ask("PATCH", f"{old}/web", {"spec": {"maxReplicas": 9}}, content_type=MERGE)
        assert patched.code == 200, patched.json
        after = (await api.ask("GET", f"{new}/web")).json
        assert (after["spec"], after["status"]) == (before["spec"], before["status"])
        assert after["metadata"]["annotations"] == {"mine": "x"}
