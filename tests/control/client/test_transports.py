"""Both transports are one Client: the same answers, the same errors, the same watches."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Any

import pytest

from control.api import meta
from control.api.meta import Object
from control.api.resources import CONFIG_MAPS, DEPLOYMENTS, NODES, PODS
from control.api.status import ApiError
from control.client.client import JSON_PATCH, Client, DeleteOptions, ListOptions
from control.client.connect import connect
from control.client.grpc import GrpcClient
from control.client.kubeconfig import Kubeconfig, Material
from control.client.rest import RestClient, list_query, object_path
from tests.fakes.fake_client import FakeClient, ready_node
from tests.fakes.fake_server import hub_server, rest_server

TOKEN = Material(data=b"secret\n")


@asynccontextmanager
async def opened(transport: str, fake: FakeClient) -> AsyncIterator[Client]:
    if transport == "rest":
        async with rest_server(fake) as (_, address):
            client = connect(Kubeconfig(address, token=TOKEN))
            try:
                yield client
            finally:
                await client.close()
    else:
        async with hub_server(fake) as (_, address):
            client = connect(Kubeconfig("http://127.0.0.1:1", (address,), token=TOKEN))
            try:
                yield client
            finally:
                await client.close()


both = pytest.mark.parametrize("transport", ["rest", "grpc"])


def config_map(name: str, **labels: str) -> Object:
    return {"metadata": {"name": name, "namespace": "n", "labels": labels}, "data": {"ä": "ö"}}


@both
async def test_an_objects_life(transport: str) -> None:
    fake = FakeClient()
    async with opened(transport, fake) as client:
        made = await client.create(CONFIG_MAPS, config_map("a"))
        assert made == await client.get(CONFIG_MAPS, "a", "n")
        newer = await client.update(CONFIG_MAPS, {**made, "data": {"k": "v"}})
        assert newer["data"] == {"k": "v"}
        merged = await client.patch(CONFIG_MAPS, "a", {"data": {"k": None, "l": "w"}}, "n")
        assert merged["data"] == {"l": "w"}
        operations = [{"op": "replace", "path": "/data/l", "value": "x"}]
        patched = await client.patch(CONFIG_MAPS, "a", operations, "n", patch_type=JSON_PATCH)
        assert patched["data"] == {"l": "x"}
        with pytest.raises(ApiError, match="Precondition failed"):
            await client.delete(CONFIG_MAPS, "a", "n", DeleteOptions(uid="other"))
        await client.delete(CONFIG_MAPS, "a", "n", DeleteOptions(uid=meta.uid(made), propagation_policy="Background"))
        assert fake.objects(CONFIG_MAPS) == []


@both
async def test_subresources_and_cluster_scope(transport: str) -> None:
    fake = FakeClient()
    async with opened(transport, fake) as client:
        await client.create(NODES, ready_node("n1"))
        node = await client.get(NODES, "n1")
        await client.update(NODES, {**node, "status": {"phase": "x"}}, subresource="status")
        assert (fake.find(NODES, "n1") or {})["status"] == {"phase": "x"}
        fake.put(PODS, {"metadata": {"name": "p", "namespace": "n"}, "spec": {}})
        await client.create(PODS, {"target": {"name": "n1"}}, "n", name="p", subresource="binding")
        assert (fake.find(PODS, "p", "n") or {})["spec"]["nodeName"] == "n1"
        await client.create(DEPLOYMENTS, {"metadata": {"generateName": "d-", "namespace": "n"}, "spec": {}})
        assert len(fake.objects(DEPLOYMENTS)) == 1


@both
async def test_errors_keep_their_status(transport: str) -> None:
    fake = FakeClient()
    async with opened(transport, fake) as client:
        with pytest.raises(ApiError) as missing:
            await client.get(CONFIG_MAPS, "none", "n")
        assert (missing.value.code, missing.value.reason) == (404, "NotFound")
        assert missing.value.message == 'configmaps "none" not found'
        made = await client.create(CONFIG_MAPS, config_map("a"))
        with pytest.raises(ApiError) as twice:
            await client.create(CONFIG_MAPS, config_map("a"))
        assert twice.value.reason == "AlreadyExists"
        with pytest.raises(ApiError) as stale:
            await client.update(CONFIG_MAPS, {**made, "metadata": {**made["metadata"], "resourceVersion": "1"}})
        assert stale.value.reason == "Conflict"


@both
async def test_lists_have_kinds_selectors_and_pages(transport: str) -> None:
    fake = FakeClient()
    for index in range(3):
        fake.put(CONFIG_MAPS, config_map(f"c{index}", even="no" if index % 2 else "yes"))
    async with opened(transport, fake) as client:
        first = await client.list(CONFIG_MAPS, "n", ListOptions(limit=2))
        assert [meta.name(obj) for obj in first.items] == ["c0", "c1"]
        assert {obj["kind"] for obj in first.items} == {"ConfigMap"}
        rest = await client.list(CONFIG_MAPS, "n", ListOptions(limit=2, continue_token=first.continue_token))
        assert [meta.name(obj) for obj in rest.items] == ["c2"]
        even = await client.list(CONFIG_MAPS, options=ListOptions(label_selector="even in (yes,maybe)"))
        assert [meta.name(obj) for obj in even.items] == ["c0", "c2"]
        assert first.resource_version == str(fake.revision)


@both
async def test_watches_begin_go_on_and_end(transport: str) -> None:
    fake = FakeClient()
    fake.put(CONFIG_MAPS, config_map("a"))
    async with opened(transport, fake) as client:
        seen: list[tuple[str, str]] = []
        stream: Any = client.watch(CONFIG_MAPS, "n", ListOptions(resource_version=str(fake.revision)))
        async with asyncio.timeout(5):
            async with aclosing(stream) as events:
                fake.put(CONFIG_MAPS, config_map("b"))
                async for event in events:
                    seen.append((event.type, meta.name(event.object)))
                    if len(seen) == 1:
                        fake.remove(CONFIG_MAPS, "a", "n")
                    if len(seen) == 2:
                        fake.break_watches()
        assert seen == [("ADDED", "b"), ("DELETED", "a")]
        fake.compact()
        with pytest.raises(ApiError) as gone:
            await anext(client.watch(CONFIG_MAPS, "n", ListOptions(resource_version="1")))
        assert gone.value.code == 410


@both
async def test_a_watch_that_is_left_leaves_nothing_behind(transport: str) -> None:
    fake = FakeClient()
    fake.put(CONFIG_MAPS, config_map("a"))
    async with opened(transport, fake) as client:
        for _ in range(20):
            stream: Any = client.watch(CONFIG_MAPS)
            async with asyncio.timeout(5), aclosing(stream) as events:
                assert (await anext(events)).type == "ADDED"
        await client.get(CONFIG_MAPS, "a", "n")


@pytest.mark.parametrize("hub", [(), ("127.0.0.1:1",)], ids=["rest", "grpc"])
async def test_a_server_that_is_not_there_is_unavailable(hub: tuple[str, ...]) -> None:
    client = connect(Kubeconfig("http://127.0.0.1:1", hub))
    with pytest.raises(ApiError) as refused:
        await client.get(CONFIG_MAPS, "a", "n")
    assert (refused.value.code, refused.value.reason) == (503, "ServiceUnavailable")
    with pytest.raises(ApiError):
        await anext(client.watch(CONFIG_MAPS))
    await client.close()


async def test_tokens_are_sent() -> None:
    fake = FakeClient()
    fake.put(CONFIG_MAPS, config_map("a"))
    async with rest_server(fake) as (served, address), hub_server(fake) as (hub, hub_address):
        rest = RestClient(Kubeconfig(address, token=TOKEN))
        grpc_client = GrpcClient(Kubeconfig(address, (hub_address,), token=TOKEN))
        await rest.get(CONFIG_MAPS, "a", "n")
        await grpc_client.get(CONFIG_MAPS, "a", "n")
        await rest.close()
        await grpc_client.close()
    assert served.authorizations == ["Bearer secret"]
    assert hub.authorizations == ["Bearer secret"]


async def test_the_hub_of_several_addresses_survives_the_loss_of_one() -> None:
    fake = FakeClient()
    fake.put(CONFIG_MAPS, config_map("a"))
    async with hub_server(fake) as (_, second):
        async with hub_server(fake) as (_, first):
            client = GrpcClient(Kubeconfig("http://127.0.0.1:1", (first, second)))
            await client.get(CONFIG_MAPS, "a", "n")
        async with asyncio.timeout(10):
            while True:
                try:
                    await client.get(CONFIG_MAPS, "a", "n")
                    break
                except ApiError:  # the address that is gone was not given up yet
                    await asyncio.sleep(0.05)
        await client.close()


async def test_raw_requests_of_the_hub_go_to_rest() -> None:
    fake = FakeClient()
    fake.put(CONFIG_MAPS, config_map("a"))
    async with rest_server(fake) as (_, address), hub_server(fake) as (_, hub_address):
        client = GrpcClient(Kubeconfig(address, (hub_address,)))
        assert b'"a"' in await client.request("GET", "/api/v1/namespaces/n/configmaps/a")
        await client.close()


async def test_connections_are_kept_and_replaced() -> None:
    fake = FakeClient()
    fake.put(CONFIG_MAPS, config_map("a"))
    async with rest_server(fake) as (served, address):
        client = RestClient(Kubeconfig(address))
        for _ in range(5):
            await client.get(CONFIG_MAPS, "a", "n")
        assert served.connections == 1
        served.drop_next = 1
        await client.get(CONFIG_MAPS, "a", "n")  # repeatable: sent anew on a new connection
        assert served.connections == 2
        served.drop_next = 1
        with pytest.raises(ApiError):  # not repeatable: it may have been done
            await client.create(CONFIG_MAPS, config_map("b"))
        await asyncio.gather(*(client.get(CONFIG_MAPS, "a", "n") for _ in range(20)))
        await client.close()


@pytest.mark.parametrize(
    ("raw", "code"),
    [
        (b"HTTP/1.1 502 Bad Gateway\r\ncontent-length: 4\r\n\r\noops", 502),
        (b"HTTP/1.1 500 X\r\ncontent-length: 2\r\n\r\n[]", 500),
        (b"nonsense\r\n\r\n", 503),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n[1]       ", 500),
        (b"HTTP/1.1 200 OK\r\n" + (b"x: " + b"y" * 1000 + b"\r\n") * 300, 503),
    ],
    ids=["a proxy's answer", "not a Status", "not HTTP", "not an object", "endless headers"],
)
async def test_strange_answers_are_errors(raw: bytes, code: int) -> None:
    async with rest_server(FakeClient()) as (served, address):
        client = RestClient(Kubeconfig(address))
        served.respond_raw.append(raw)
        with pytest.raises(ApiError) as caught:
            await client.get(CONFIG_MAPS, "a", "n")
        assert caught.value.code == code
        await client.close()


async def test_a_busy_server_is_asked_again_when_it_says_so() -> None:
    fake = FakeClient()
    fake.put(CONFIG_MAPS, config_map("a"))
    async with rest_server(fake) as (served, address):
        client = RestClient(Kubeconfig(address))
        served.respond_raw.append(b"HTTP/1.1 429 X\r\nretry-after: 0\r\ncontent-length: 0\r\n\r\n")
        assert meta.name(await client.get(CONFIG_MAPS, "a", "n")) == "a"
        await client.close()


def test_paths_and_queries() -> None:
    assert object_path(PODS, "n", "p", "log") == "/api/v1/namespaces/n/pods/p/log"
    assert object_path(DEPLOYMENTS) == "/apis/apps/v1/deployments"
    assert object_path(NODES, "ignored", "n1") == "/api/v1/nodes/n1"
    options = ListOptions(label_selector="a=b", limit=5, resource_version="7", timeout_s=9)
    assert list_query(options, watch=False) == "?labelSelector=a%3Db&limit=5&resourceVersion=7&timeoutSeconds=9"
    assert "limit" not in list_query(options, watch=True)
    assert "allowWatchBookmarks=true" in list_query(options, watch=True)
