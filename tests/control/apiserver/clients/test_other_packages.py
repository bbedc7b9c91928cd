"""lightkube and kr8s, unmodified: clients that read plain discovery, stream lists and watch."""

from __future__ import annotations

import contextlib
import threading

import kr8s
import lightkube
import pytest
from kr8s.objects import ConfigMap as Kr8sConfigMap
from kr8s.objects import Pod as Kr8sPod
from lightkube.generic_resource import create_namespaced_resource, load_in_cluster_generic_resources
from lightkube.models.apps_v1 import DeploymentSpec
from lightkube.models.core_v1 import Container, PodSpec, PodTemplateSpec
from lightkube.models.meta_v1 import LabelSelector, ObjectMeta
from lightkube.resources.apps_v1 import Deployment
from lightkube.resources.core_v1 import ConfigMap, Pod
from lightkube.types import PatchType

from tests.control.apiserver.clients.space import Space

pytestmark = [
    pytest.mark.root,
    # It names the versions that it was made for, and goes on with others.
    pytest.mark.filterwarnings("ignore:Kubernetes version"),
]


@pytest.fixture
def light(space: Space) -> lightkube.Client:
    config = lightkube.KubeConfig.from_file(space.kubeconfig)
    return lightkube.Client(config=config, namespace=space.name, field_manager="light")


def config_map(name: str, **data: str) -> ConfigMap:
    return ConfigMap(metadata=ObjectMeta(name=name), data=data)


def test_lightkube_changes_objects_in_every_way(light: lightkube.Client) -> None:
    made = light.create(config_map("a", k="v"))
    with pytest.raises(lightkube.ApiError) as caught:
        light.create(config_map("a"))
    assert (caught.value.status.code, caught.value.status.reason) == (409, "AlreadyExists")
    assert light.patch(ConfigMap, "a", {"data": {"l": "w"}}).data == {"k": "v", "l": "w"}
    with pytest.raises(lightkube.ApiError) as caught:
        light.replace(made)
    assert caught.value.status.reason == "Conflict"
    moved = light.patch(
        ConfigMap, "a", [{"op": "move", "from": "/data/l", "path": "/data/m"}], patch_type=PatchType.JSON
    )
    assert moved.data == {"k": "v", "m": "w"}
    applied = light.apply(config_map("b", k="v"))
    assert applied.metadata.managedFields[0].manager == "light"
    with pytest.raises(lightkube.ApiError) as caught:
        light.apply(config_map("b", k="w"), field_manager="other")
    assert caught.value.status.details.causes[0].field == ".data.k"
    assert light.apply(config_map("b", k="w"), field_manager="other", force=True).data == {"k": "w"}
    for number in range(7):
        light.create(config_map(f"page-{number}"))
    assert len(list(light.list(ConfigMap, chunk_size=2))) == 9
    assert [found.metadata.name for found in light.list(ConfigMap, fields={"metadata.name": "b"})] == ["b"]
    light.delete(ConfigMap, "b")
    light.deletecollection(ConfigMap)
    assert list(light.list(ConfigMap)) == []


def test_lightkube_scales_waits_and_reads_logs(light: lightkube.Client, space: Space) -> None:
    labels = {"app": "web"}
    template = PodTemplateSpec(metadata=ObjectMeta(labels=labels), spec=PodSpec([Container("c", image="web")]))
    spec = DeploymentSpec(replicas=1, selector=LabelSelector(matchLabels=labels), template=template)
    light.create(Deployment(metadata=ObjectMeta(name="web"), spec=spec))
    assert light.patch(Deployment.Scale, "web", {"spec": {"replicas": 4}}).spec.replicas == 4
    assert light.get(Deployment, "web").spec.replicas == 4
    assert light.patch(Deployment.Status, "web", {"status": {"replicas": 2}}).status.replicas == 2
    space.run_pod("p")
    light.wait(Pod, "p", for_conditions=["Ready"])
    assert list(light.log("p", tail_lines=2)) == [f"log of {space.name}/p c tailLines=2\n"]


def test_lightkube_watches(light: lightkube.Client) -> None:
    light.create(config_map("before"))
    threading.Timer(0.1, light.create, [config_map("after")]).start()
    seen = []
    for change, found in light.watch(ConfigMap, server_timeout=30):
        seen.append((change, found.metadata.name))
        if found.metadata.name == "after" and change == "ADDED":
            light.delete(ConfigMap, "after")
        elif change == "DELETED":
            break
    assert seen == [("ADDED", "before"), ("ADDED", "after"), ("DELETED", "after")]


def test_lightkube_finds_kinds_of_others(light: lightkube.Client, space: Space) -> None:
    group = f"{space.name}.example"
    schema = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    version = {"name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": schema}}
    names = {"plural": "boats", "singular": "boat", "kind": "Boat"}
    space.create({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": f"boats.{group}"},
        "spec": {"group": group, "names": names, "scope": "Namespaced", "versions": [version]},
    })  # fmt: skip
    space.kubectl("wait", "--for=condition=Established", f"crd/boats.{group}", "--timeout=30s")
    load_in_cluster_generic_resources(light)
    boat = create_namespaced_resource(group, "v1", "Boat", "boats")
    light.create(boat(metadata=ObjectMeta(name="argo"), spec={"crew": 3}))
    assert light.get(boat, "argo").spec == {"crew": 3}


def test_kr8s(space: Space) -> None:
    api = kr8s.api(kubeconfig=str(space.kubeconfig), namespace=space.name)
    made = Kr8sConfigMap({"metadata": {"name": "a"}, "data": {"k": "v"}}, api=api)
    made.create()
    made.patch({"data": {"l": "w"}})
    assert Kr8sConfigMap.get("a", api=api, namespace=space.name).data == {"k": "v", "l": "w"}
    made.label(tier="front")
    assert [each.name for each in api.get("configmaps", label_selector="tier=front", namespace=space.name)] == ["a"]
    with contextlib.closing(api.watch("configmaps", namespace=space.name)) as events:
        change, found = next(events)
        assert (change, found.name) == ("ADDED", "a")
    made.delete()
    made.wait("delete", timeout=20)
    assert not made.exists()
    space.run_pod("p")
    running = Kr8sPod.get("p", api=api, namespace=space.name)
    running.wait("condition=Ready", timeout=20)
    assert list(running.logs()) == [f"log of {space.name}/p c"]
    assert running.exec(["echo", "hi"]).stdout == b"hi\n"
    with pytest.raises(kr8s.ServerError, match="is invalid"):
        Kr8sConfigMap({"metadata": {"name": "Not A Name"}}, api=api).create()
    assert {"pods", "deployments"} <= {each["name"] for each in api.api_resources()}
    assert api.version()["minor"] == "36"
