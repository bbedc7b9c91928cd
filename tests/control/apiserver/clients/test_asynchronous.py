"""kubernetes_asyncio and pykube-ng, unmodified: one writes switches as Python does, one merges whole objects."""

from __future__ import annotations

import asyncio

import pykube
import pytest
from kubernetes_asyncio import client, config, dynamic, watch
from kubernetes_asyncio.stream import WsApiClient

from tests.control.apiserver.clients.space import Space

pytestmark = pytest.mark.root


async def test_kubernetes_asyncio_writes_watches_and_enters_pods(space: Space) -> None:
    space.run_pod("web")
    await config.load_kube_config(str(space.kubeconfig))
    async with client.ApiClient() as api, asyncio.timeout(60):
        core = client.CoreV1Api(api)
        await core.create_namespaced_config_map(space.name, {"metadata": {"name": "first"}})
        async with watch.Watch() as watching:
            async for event in watching.stream(core.list_namespaced_config_map, space.name):
                if event["type"] == "MODIFIED":
                    break
                await core.patch_namespaced_config_map("first", space.name, {"data": {"a": "b"}})
            assert event["object"].data == {"a": "b"}
        resource = await (await dynamic.DynamicClient(api)).resources.get(api_version="v1", kind="ConfigMap")
        wanted = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "second"}, "data": {"a": "b"}}
        made = await resource.server_side_apply(body=wanted, namespace=space.name, field_manager="async")
        assert made.metadata.managedFields[0].manager == "async"
        with pytest.raises(client.ApiException) as caught:
            await core.create_namespaced_config_map(space.name, {"metadata": {"name": "second"}})
        assert (caught.value.status, caught.value.reason) == (409, "Conflict")
        # It writes stdout=True and tty=False.
        async with WsApiClient() as streams:
            said = await client.CoreV1Api(streams).connect_get_namespaced_pod_exec(
                "web", space.name, command=["echo", "hello"], stdin=False, stdout=True, stderr=True, tty=False
            )
        assert "hello" in said
        assert await core.read_namespaced_pod_log("web", space.name)
        await core.delete_collection_namespaced_config_map(space.name)
        assert (await core.list_namespaced_config_map(space.name)).items == []


def test_strict_types_find_the_zeroes_of_new_objects(space: Space) -> None:
    metadata, labels = {"name": "web"}, {"app": "web"}
    containers = [{"name": "c", "image": "busybox"}]
    spec = {
        "selector": {"matchLabels": labels},
        "template": {"metadata": {"labels": labels}, "spec": {"containers": containers}},
    }
    space.create({"apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": metadata, "spec": spec})
    api = pykube.HTTPClient(pykube.KubeConfig.from_file(str(space.kubeconfig)))
    found = pykube.DaemonSet.objects(api).filter(namespace=space.name).get(name="web")
    assert found.obj["status"]["numberReady"] == 0
    found.labels["kept"] = "yes"
    found.update()
    found.reload()
    assert found.labels == {"kept": "yes"}
    found.delete(propagation_policy="Background")
    assert not found.exists()
