"""Namespaces: what each holds from the start, and how one is emptied."""

from __future__ import annotations

from typing import Any

import orjson

from control.api import meta
from control.api.meta import Object
from control.api.resources import CONFIG_MAPS, NAMESPACES, PODS, SERVICE_ACCOUNTS
from control.api.status import internal_error
from control.controllers.namespace import NamespaceController
from control.controllers.namespacedefaults import root_ca_controller, service_account_controller
from tests.control.controllers.harness import World, until
from tests.control.controllers.test_garbage import serve_discovery


def namespace(name: str, **more: Any) -> Object:
    return {"metadata": {"name": name}, "spec": {"finalizers": ["kubernetes"]}, "status": {"phase": "Active"}, **more}


async def test_every_namespace_has_an_account_and_the_root_certificate() -> None:
    world = World()
    client = world.client
    client.put(NAMESPACES, namespace("a"))
    leaving = namespace("leaving")
    leaving["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    client.put(NAMESPACES, leaving)
    async with world.running(
        lambda context: [service_account_controller(context), root_ca_controller(context, "PEM")]
    ) as controllers:
        await until(
            lambda: client.find(SERVICE_ACCOUNTS, "default", "a") and client.find(CONFIG_MAPS, "kube-root-ca.crt", "a")
        )
        client.put(NAMESPACES, namespace("b"))
        await until(lambda: client.find(CONFIG_MAPS, "kube-root-ca.crt", "b"))
        await client.patch(CONFIG_MAPS, "kube-root-ca.crt", {"data": {"ca.crt": "forged", "x": "y"}}, "a")
        await until(lambda: (client.find(CONFIG_MAPS, "kube-root-ca.crt", "a") or {})["data"] == {"ca.crt": "PEM"})
        await client.delete(SERVICE_ACCOUNTS, "default", "a")
        await until(lambda: client.find(SERVICE_ACCOUNTS, "default", "a"))
        await world.settle(controllers)
    assert not client.objects(SERVICE_ACCOUNTS, "leaving")


async def test_a_namespace_is_emptied_and_goes() -> None:
    world = World()
    client = world.client
    serve_discovery(client)
    client.put(NAMESPACES, namespace("n"))
    for name in "ab":
        client.put(CONFIG_MAPS, {"metadata": {"name": name, "namespace": "n"}})
    client.put(CONFIG_MAPS, {"metadata": {"name": "elsewhere", "namespace": "m"}})
    world.make_ready({"metadata": {"name": "p", "namespace": "n"}, "spec": {}})
    async with world.running(lambda context: [NamespaceController(context)]) as (controller,):
        await client.delete(NAMESPACES, "n")
        await until(lambda: meta.is_being_deleted(client.find(PODS, "p", "n") or {}))
        await until(lambda: meta.condition(client.find(NAMESPACES, "n") or {}, "NamespaceContentRemaining"))
        stored = client.find(NAMESPACES, "n") or {}
        told = meta.condition(stored, "NamespaceContentRemaining") or {}
        assert told["message"] == "Some resources are remaining: pods. has 1 resource instances"
        client.remove(PODS, "p", "n")
        controller.queue.add("n")
        await until(lambda: client.find(NAMESPACES, "n") is None)
    assert [meta.name(obj) for obj in client.objects(CONFIG_MAPS)] == ["elsewhere"]


async def test_a_namespace_stays_while_a_group_does_not_answer() -> None:
    world = World()
    client = world.client
    serve_discovery(client)
    groups = {"groups": [{"name": "odd", "preferredVersion": {"groupVersion": "odd/v1", "version": "v1"}}]}
    client.raw["GET", "/apis"] = orjson.dumps(groups)
    client.put(NAMESPACES, namespace("n"))
    async with world.running(lambda context: [NamespaceController(context)]) as (controller,):
        await client.delete(NAMESPACES, "n")
        await until(lambda: meta.condition(client.find(NAMESPACES, "n") or {}, "NamespaceContentRemaining"))
        client.raw["GET", "/apis/odd/v1"] = orjson.dumps({"resources": []})
        controller.queue.add("n")
        await until(lambda: client.find(NAMESPACES, "n") is None)


async def test_a_failed_deletion_is_said_and_tried_again() -> None:
    world = World()
    client = world.client
    serve_discovery(client)
    client.put(NAMESPACES, namespace("n"))
    client.put(CONFIG_MAPS, {"metadata": {"name": "a", "namespace": "n"}})
    client.fail_next("delete", CONFIG_MAPS, internal_error("disk"))
    async with world.running(lambda context: [NamespaceController(context)]):
        await client.delete(NAMESPACES, "n")
        await until(lambda: client.find(NAMESPACES, "n") is None)
    told = [call.body for call in client.calls if (call.verb, call.subresource) == ("update", "status")]
    assert any(meta.condition_is_true(body, "NamespaceDeletionContentFailure") for body in told)
