"""The gRPC hub beside REST: one service, two doors, the same answers; and the loopback client behind both."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest

from control.api.resources import CONFIG_MAPS, DEPLOYMENTS, PODS
from control.api.status import ApiError
from control.apiserver.grpc import HubServer
from control.apiserver.loopback import LoopbackClient
from control.apiserver.rest import server as door
from control.client.client import STRATEGIC_MERGE_PATCH, Client, ListOptions
from control.client.grpc import GrpcClient
from control.client.kubeconfig import Kubeconfig
from control.client.rest import RestClient
from tests.control.apiserver.harness import Api, config_map, deployment, pod, running


@asynccontextmanager
async def client_of(api: Api, transport: str) -> AsyncIterator[Client]:
    """Serve the API on real sockets and yield a client of it."""
    if transport == "loopback":
        loopback = LoopbackClient()
        loopback.service = api.service
        yield loopback
        return
    bound = door.bind("127.0.0.1", 0)
    serving = asyncio.ensure_future(door.serve(api.app, bound, None))
    hub = HubServer(replace(api.service.config, grpc_port=0), api.service)
    await hub.start()
    running_hub = asyncio.ensure_future(hub.run())
    config = Kubeconfig(f"http://127.0.0.1:{bound.getsockname()[1]}", (f"127.0.0.1:{hub.port}",))
    client: Client = GrpcClient(config) if transport == "grpc" else RestClient(config)
    try:
        yield client
    finally:
        await client.close()
        api.feed.end_watches()
        for task in (serving, running_hub):
            task.cancel()
        await asyncio.wait([serving, running_hub], timeout=15)
        bound.close()


@pytest.fixture(params=["grpc", "rest", "loopback"])
async def asked(request: pytest.FixtureRequest) -> AsyncIterator[Client]:
    async with running() as api, client_of(api, request.param) as client:
        yield client


async def test_the_verbs(asked: Client) -> None:
    made = await asked.create(DEPLOYMENTS, deployment("web"), "default")
    assert (made["kind"], made["metadata"]["generation"]) == ("Deployment", 1)
    assert await asked.get(DEPLOYMENTS, "web", "default") == made
    patch = {"spec": {"replicas": 3}}
    patched = await asked.patch(DEPLOYMENTS, "web", patch, "default", patch_type=STRATEGIC_MERGE_PATCH)
    assert patched["spec"]["replicas"] == 3
    with pytest.raises(ApiError, match="the object has been modified"):
        await asked.update(DEPLOYMENTS, {**made, "spec": {**made["spec"], "replicas": 4}})
    status = await asked.update(DEPLOYMENTS, {**patched, "status": {"replicas": 1}}, subresource="status")
    assert status["status"] == {"replicas": 1}
    assert (await asked.get(DEPLOYMENTS, "web", "default", subresource="scale"))["kind"] == "Scale"
    await asked.delete(DEPLOYMENTS, "web", "default")
    with pytest.raises(ApiError) as caught:
        await asked.get(DEPLOYMENTS, "web", "default")
    assert (caught.value.code, caught.value.reason) == (404, "NotFound")
    assert caught.value.status["details"]["name"] == "web"


async def test_refusals_carry_their_causes(asked: Client) -> None:
    wrong = deployment("web", -1)
    with pytest.raises(ApiError) as caught:
        await asked.create(DEPLOYMENTS, wrong, "default")
    assert caught.value.status["details"]["causes"][0]["field"] == "spec.replicas"


async def test_binding_is_a_subresource(asked: Client) -> None:
    await asked.create(PODS, pod("p"), "default")
    binding: dict[str, Any] = {"apiVersion": "v1", "kind": "Binding", "metadata": {"name": "p", "namespace": "default"}}
    binding["target"] = {"kind": "Node", "name": "n1"}
    await asked.create(PODS, binding, "default", name="p", subresource="binding")
    assert (await asked.get(PODS, "p", "default"))["spec"]["nodeName"] == "n1"


async def test_lists_and_pages(asked: Client) -> None:
    for name in "abc":
        await asked.create(CONFIG_MAPS, config_map(name), "default")
    page = await asked.list(CONFIG_MAPS, "default", ListOptions(limit=2))
    assert (len(page.items), page.remaining_item_count) == (2, 1)
    rest = await asked.list(CONFIG_MAPS, "default", ListOptions(limit=2, continue_token=page.continue_token))
    assert [item["metadata"]["name"] for item in rest.items] == ["c"]
    chosen = await asked.list(CONFIG_MAPS, "", ListOptions(field_selector="metadata.name=b"))
    assert [item["metadata"]["name"] for item in chosen.items] == ["b"]


async def test_watch_from_a_list_on(asked: Client) -> None:
    await asked.create(CONFIG_MAPS, config_map("before"), "default")
    listed = await asked.list(CONFIG_MAPS, "default")
    seen: list[tuple[str, str]] = []

    async def follow() -> None:
        async for event in asked.watch(CONFIG_MAPS, "default", ListOptions(resource_version=listed.resource_version)):
            if event.type != "BOOKMARK":
                seen.append((event.type, event.object["metadata"]["name"]))
            if len(seen) == 21:
                return

    following = asyncio.ensure_future(follow())
    for number in range(20):
        await asked.create(CONFIG_MAPS, config_map(f"n{number:02}"), "default")
    await asked.delete(CONFIG_MAPS, "before", "default")
    await asyncio.wait_for(following, 10)
    assert seen == [*(("ADDED", f"n{number:02}") for number in range(20)), ("DELETED", "before")]


async def test_watch_of_a_forgotten_revision_is_gone(asked: Client) -> None:
    for name in "ab":
        await asked.create(CONFIG_MAPS, config_map(name), "default")
    await asked.list(CONFIG_MAPS)
    with pytest.raises(ApiError) as caught:
        async for _ in asked.watch(CONFIG_MAPS, "default", ListOptions(resource_version="1")):
            pass
    assert caught.value.code == 410


async def test_watch_list(asked: Client) -> None:
    await asked.create(CONFIG_MAPS, config_map("a"), "default")
    types = []
    async for event in asked.watch(CONFIG_MAPS, "default", ListOptions(send_initial_events=True)):
        types.append(event.type)
        if event.type == "BOOKMARK":
            break
    assert types == ["ADDED", "BOOKMARK"]
