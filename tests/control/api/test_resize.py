"""What a resize may change of a pod, in Kubernetes' words."""

from __future__ import annotations

from typing import Any

import pytest

from control.api.meta import Object
from control.api.patch import copy_json
from control.api.resources import PODS
from control.api.validation.objects import validate

RESOURCES = {"requests": {"cpu": "100m", "memory": "64Mi"}, "limits": {"cpu": "200m", "memory": "64Mi"}}


def pod(**changes: Any) -> Object:
    """Return a pod with changed resources of its containers, by their names."""
    containers: list[Object] = [{"name": name, "image": "i", "resources": copy_json(RESOURCES)} for name in "ab"]
    inits: list[Object] = [
        {"name": "step", "image": "i", "resources": copy_json(RESOURCES)},
        {"name": "sidecar", "image": "i", "restartPolicy": "Always", "resources": copy_json(RESOURCES)},
    ]
    for container in (*containers, *inits):
        for part, amounts in (changes.get(container["name"]) or {}).items():
            container["resources"][part] = amounts
    return {
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "namespace": "n"},
        "spec": {"containers": containers, "initContainers": inits}, "status": {"qosClass": "Burstable"},
    }  # fmt: skip


def renamed() -> Object:
    made = pod()
    made["spec"]["containers"].reverse()
    return made


def with_image(kind: str = "containers") -> Object:
    made = pod()
    made["spec"][kind][0]["image"] = "other"
    return made


def whole(**resources: Any) -> Object:
    """Return a pod with resources of its own."""
    made = pod()
    made["spec"]["resources"] = resources
    return made


LESS = {"cpu": "100m", "memory": "64Mi"}
CASES: list[tuple[str, Object, list[str]]] = [
    ("more", pod(a={"requests": {"cpu": "150m", "memory": "64Mi"}}), []),
    ("a sidecar", pod(sidecar={"limits": {"cpu": "1", "memory": "64Mi"}}), []),
    ("an init step", pod(step={"limits": {"cpu": "1", "memory": "64Mi"}}),
     []),
    ("a limit less", pod(a={"limits": {"cpu": "200m"}}),
     ["spec.containers[0].resources.limits: Forbidden: resource limits cannot be removed"]),
    ("a request less", pod(b={"requests": {"cpu": "100m"}}),
     ["spec.containers[1].resources.requests: Forbidden: resource requests cannot be removed"]),
    ("above its limit", pod(a={"requests": {"cpu": "1", "memory": "64Mi"}}),
     ['spec.containers[0].resources.requests: Invalid value: "1": must be less than or equal to cpu limit of 200m']),
    ("guaranteed at last", pod(**{name: {"limits": LESS} for name in ("a", "b", "step", "sidecar")}),
     ['spec: Invalid value: "Burstable": Pod QOS Class may not change as a result of resizing']),
    ("other resources", pod(a={"limits": {"cpu": "200m", "memory": "64Mi", "ephemeral-storage": "1Gi"}}),
     ["spec: Forbidden: only cpu and memory resources are mutable"]),
    ("turned round", renamed(), [
        f"spec.containers[{index}].name: Forbidden: containers may not be renamed or reordered on resize" for index in (0, 1)]),
    ("an image of an init step", with_image("initContainers"),
     ["spec.initContainers[0]: Forbidden: only cpu and memory resources for init or sidecar containers are mutable"]),
    ("an image", with_image(), ["spec: Forbidden: only cpu and memory resources are mutable"]),
]  # fmt: skip


@pytest.mark.parametrize(("new", "told"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_a_resize(new: Object, told: list[str]) -> None:
    causes = validate(PODS, new, pod(), "resize")
    assert [f"{cause.field}: {cause.message}" for cause in causes] == told


OWN = {"requests": {"cpu": "1", "memory": "1Gi"}}


@pytest.mark.parametrize(
    ("new", "told"),
    [
        (whole(requests={"cpu": "2", "memory": "1Gi"}), []),
        (pod(), ["spec.resources: Forbidden: pod-level resources cannot be removed"]),
        (whole(requests={"cpu": "1"}),
         ["spec.resources.requests: Forbidden: pod-level resource requests cannot be removed"]),
        (whole(requests={**OWN["requests"], "hugepages-2Mi": "2Mi"}, limits={"hugepages-2Mi": "2Mi"}),
         ["spec: Forbidden: only cpu and memory resources are mutable at pod-level"]),
    ],
    ids=["more", "none", "less", "pages"],
)  # fmt: skip
def test_a_resize_of_the_pod_itself(new: Object, told: list[str]) -> None:
    causes = validate(PODS, new, whole(**OWN), "resize")
    assert [f"{cause.field}: {cause.message}" for cause in causes][: len(told) or None] == told


def test_a_node_that_cannot_resize() -> None:
    old = pod()
    old["status"]["containerStatuses"] = [{"name": "a", "state": {"running": {}}}]
    found = [f"{cause.field}: {cause.message}" for cause in validate(PODS, copy_json(old), old, "resize")]
    assert found == ["spec: Forbidden: Pod running on node without support for resize"]


def test_an_init_step_that_wants_a_restart() -> None:
    old, new = pod(), pod(step={"limits": {"cpu": "1", "memory": "64Mi"}})
    for made in (old, new):
        made["spec"]["initContainers"][0]["resizePolicy"] = [
            {"resourceName": "cpu", "restartPolicy": "RestartContainer"}
        ]
    found = [f"{cause.field}: {cause.message}" for cause in validate(PODS, new, old, "resize")]
    assert found[-1] == (
        "spec.initContainers[0]: Forbidden: non-sidecar init containers with a resize policy of RestartContainer "
        "cannot be resized"
    )


def test_a_static_pod_stays_as_it_is() -> None:
    old = pod()
    old["metadata"]["annotations"] = {"kubernetes.io/config.mirror": "x"}
    found = [cause.message for cause in validate(PODS, copy_json(old), old, "resize")]
    assert found == ["Forbidden: static pods cannot be resized"]
