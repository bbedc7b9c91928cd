"""LimitRanger and the plugins of classes, each on the objects that it knows."""

from __future__ import annotations

from typing import Any

import pytest

from control.api.meta import Object
from control.api.resources import (
    INGRESS_CLASSES,
    INGRESSES,
    LIMIT_RANGES,
    PERSISTENT_VOLUME_CLAIMS,
    PODS,
    RUNTIME_CLASSES,
    STORAGE_CLASSES,
    Resource,
)
from control.apiserver.admission.classes import (
    DefaultIngressClass,
    DefaultStorageClass,
    PersistentVolumeClaimResize,
    RuntimeClass,
)
from control.apiserver.admission.limit_ranger import ANNOTATION, LimitRanger
from tests.control.apiserver.admission.test_plugins import Cache, pod, refusal, request


def limits(*items: Object) -> tuple[Resource, Object]:
    return LIMIT_RANGES, {"metadata": {"name": "l", "namespace": "a"}, "spec": {"limits": list(items)}}


def using(**resources: Any) -> Object:
    return pod(containers=[{"name": "c", "resources": resources}])


async def test_containers_get_defaults_and_the_pod_tells_which() -> None:
    held = limits({"type": "Container", "default": {"cpu": "1", "memory": "1Gi"}, "defaultRequest": {"cpu": "500m"}})
    made = pod(containers=[{"name": "c"}, {"name": "d", "resources": {"limits": {"cpu": "2"}}}])
    asked = request("CREATE", PODS, made, namespace="a")
    assert await refusal(LimitRanger(Cache(held)), asked) is None  # type: ignore[arg-type]
    assert [container["resources"] for container in made["spec"]["containers"]] == [
        {"requests": {"cpu": "500m"}, "limits": {"cpu": "1", "memory": "1Gi"}},
        {"requests": {"cpu": "500m"}, "limits": {"memory": "1Gi", "cpu": "2"}},
    ]
    assert made["metadata"]["annotations"][ANNOTATION] == (
        "LimitRanger plugin set: cpu request for container c; cpu, memory limit for container c; "
        "cpu request for container d; memory limit for container d"
    )


CASES: list[tuple[str, Object, Object, str | None]] = [
    ("within", {"type": "Container", "min": {"cpu": "1"}, "max": {"cpu": "2"}},
     using(requests={"cpu": "1"}, limits={"cpu": "2000m"}), None),
    ("too little", {"type": "Container", "min": {"cpu": "1"}}, using(requests={"cpu": "999m"}),
     "minimum cpu usage per Container is 1, but request is 999m"),
    ("nothing asked", {"type": "Container", "min": {"cpu": "1"}}, using(),
     "minimum cpu usage per Container is 1.  No request is specified"),
    ("too much", {"type": "Container", "max": {"memory": "1Gi"}}, using(limits={"memory": "2Gi"}),
     "maximum memory usage per Container is 1Gi, but limit is 2Gi"),
    ("no limit", {"type": "Container", "max": {"memory": "1Gi"}}, using(requests={"memory": "1Gi"}),
     "maximum memory usage per Container is 1Gi.  No limit is specified"),
    ("ratio", {"type": "Container", "maxLimitRequestRatio": {"cpu": "2"}},
     using(requests={"cpu": "1"}, limits={"cpu": "3"}),
     "cpu max limit to request ratio per Container is 2, but provided ratio is 3.000000"),
    ("sum of the pod", {"type": "Pod", "max": {"cpu": "2"}},
     pod(containers=[{"name": n, "resources": {"limits": {"cpu": "1500m"}}} for n in "cd"]),
     "maximum cpu usage per Pod is 2, but limit is 3"),
    ("init containers run one by one", {"type": "Pod", "max": {"cpu": "2"}},
     pod(initContainers=[{"name": n, "resources": {"limits": {"cpu": "2"}}} for n in "ab"],
         containers=[{"name": "c", "resources": {"limits": {"cpu": "1"}}}]), None),
    ("several", {"type": "Container", "min": {"cpu": "1"}, "max": {"memory": "1"}}, using(),
     "[minimum cpu usage per Container is 1.  No request is specified, "
     "maximum memory usage per Container is 1.  No limit is specified]"),
]  # fmt: skip


@pytest.mark.parametrize(("item", "made", "told"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
async def test_bounds(item: Object, made: Object, told: str | None) -> None:
    found = await refusal(LimitRanger(Cache(limits(item))), request("CREATE", PODS, made, namespace="a"))  # type: ignore[arg-type]
    assert found == (None if told is None else f'403 pods "p" is forbidden: {told}')


def claim(size: str, **fields: Any) -> Object:
    spec = {"resources": {"requests": {"storage": size}}, **fields.pop("spec", {})}
    return {"metadata": {"name": "v", "namespace": "a"}, "spec": spec, **fields}


@pytest.mark.parametrize(
    ("size", "told"),
    [
        ("1Gi", None),
        ("100Mi", "minimum storage usage per PersistentVolumeClaim is 500Mi, but request is 100Mi"),
        ("3Gi", "maximum storage usage per PersistentVolumeClaim is 2Gi, but limit is 3Gi"),
    ],
)
async def test_claims_are_bounded(size: str, told: str | None) -> None:
    item = {"type": "PersistentVolumeClaim", "min": {"storage": "500Mi"}, "max": {"storage": "2Gi"}}
    asked = request("CREATE", PERSISTENT_VOLUME_CLAIMS, claim(size), namespace="a")
    found = await refusal(LimitRanger(Cache(limits(item))), asked)  # type: ignore[arg-type]
    assert found == (None if told is None else f'403 persistentvolumeclaims "v" is forbidden: {told}')


def marked(resource: Resource, name: str, since: str, mark: str, **fields: Any) -> tuple[Resource, Object]:
    return resource, {"metadata": {"name": name, "creationTimestamp": since, "annotations": {mark: "true"}}, **fields}


STORAGE_MARK = "storageclass.kubernetes.io/is-default-class"


@pytest.mark.parametrize(
    ("named", "found"), [(None, "new"), ("", ""), ("own", "own")], ids=["no class", "none wanted", "a class"]
)
async def test_claims_get_the_newest_default_class(named: str | None, found: str) -> None:
    classes = [marked(STORAGE_CLASSES, name, since, STORAGE_MARK) for name, since in (("old", "1"), ("new", "2"))]
    made = claim("1Gi", spec={} if named is None else {"storageClassName": named})
    asked = request("CREATE", PERSISTENT_VOLUME_CLAIMS, made, namespace="a")
    assert await refusal(DefaultStorageClass(Cache(*classes)), asked) is None  # type: ignore[arg-type]
    assert made["spec"]["storageClassName"] == found


@pytest.mark.parametrize(
    ("expandable", "phase", "told"),
    [
        (True, "Bound", None),
        (True, "Pending", "Only bound persistent volume claims can be expanded"),
        (False, "Bound", "only dynamically provisioned pvc can be resized and the storageclass that provisions the pvc"
                         " must support resize"),
    ],
)  # fmt: skip
async def test_claims_grow_where_their_class_lets_them(expandable: bool, phase: str, told: str | None) -> None:
    held = STORAGE_CLASSES, {"metadata": {"name": "s"}, "allowVolumeExpansion": expandable}
    old = claim("1Gi", spec={"storageClassName": "s"}, status={"phase": phase})
    new = claim("2Gi", spec={"storageClassName": "s"})
    asked = request("UPDATE", PERSISTENT_VOLUME_CLAIMS, new, old=old, namespace="a")
    found = await refusal(PersistentVolumeClaimResize(Cache(held)), asked)  # type: ignore[arg-type]
    assert found == (None if told is None else f'403 persistentvolumeclaims "v" is forbidden: {told}')


async def test_an_ingress_gets_the_default_class() -> None:
    mark = "ingressclass.kubernetes.io/is-default-class"
    made: Object = {"metadata": {"name": "i", "namespace": "a"}}
    held = marked(INGRESS_CLASSES, "door", "1", mark)
    asked = request("CREATE", INGRESSES, made, namespace="a")
    assert await refusal(DefaultIngressClass(Cache(held)), asked) is None  # type: ignore[arg-type]
    assert made["spec"]["ingressClassName"] == "door"


KATA = (
    RUNTIME_CLASSES,
    {
        "metadata": {"name": "kata"},
        "overhead": {"podFixed": {"cpu": "250m"}},
        "scheduling": {"nodeSelector": {"kata": "yes"}, "tolerations": [{"key": "kata", "operator": "Exists"}]},
    },
)


async def test_a_runtime_class_completes_its_pods() -> None:
    made = pod(runtimeClassName="kata", nodeSelector={"disk": "ssd"})
    assert await refusal(RuntimeClass(Cache(KATA)), request("CREATE", PODS, made, namespace="a")) is None  # type: ignore[arg-type]
    assert made["spec"]["overhead"] == {"cpu": "250m"}
    assert made["spec"]["nodeSelector"] == {"disk": "ssd", "kata": "yes"}
    assert made["spec"]["tolerations"] == [{"key": "kata", "operator": "Exists"}]


@pytest.mark.parametrize(
    ("made", "told"),
    [
        (pod(runtimeClassName="x"), 'pod rejected: RuntimeClass "x" not found'),
        (pod(runtimeClassName="kata", overhead={"cpu": "1"}),
         "pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead"),
        (pod(overhead={"cpu": "1"}),
         "pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead"),
        (pod(runtimeClassName="kata", nodeSelector={"kata": "no"}),
         "conflict: runtimeClass.scheduling.nodeSelector[kata] = yes; pod.spec.nodeSelector[kata] = no"),
    ],
    ids=["unknown", "other overhead", "overhead of nobody", "other node"],
)  # fmt: skip
async def test_what_contradicts_a_runtime_class_is_refused(made: Object, told: str) -> None:
    found = await refusal(RuntimeClass(Cache(KATA)), request("CREATE", PODS, made, namespace="a"))  # type: ignore[arg-type]
    assert found == f'403 pods "p" is forbidden: {told}'
