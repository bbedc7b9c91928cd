"""ResourceQuotas are counted: what comes, changes, goes, and what was charged for nothing."""

from __future__ import annotations

from typing import Any

import orjson

from control.api.meta import Object
from control.api.quota.recount import SETTLED_S
from control.api.resources import CONFIG_MAPS, PODS, RESOURCE_QUOTAS, SERVICES, Resource
from control.client.runner import Context
from control.controllers.resourcequota import ResourceQuotaController
from tests.control.controllers.harness import World, until
from tests.fakes.fake_client import FakeClient

THINGS = Resource("example.com", "v1", "things", "Thing")


def serve_discovery(client: FakeClient, *resources: Resource) -> None:
    entries: dict[str, list[Any]] = {}
    for each in resources:
        entry = {"name": each.plural, "kind": each.kind, "namespaced": True, "verbs": ["list", "watch"]}
        entries.setdefault(each.path, []).append(entry)
    groups = [
        {"name": each.group, "preferredVersion": {"groupVersion": each.api_version, "version": each.version}}
        for each in resources
        if each.group
    ]
    client.raw["GET", "/apis"] = orjson.dumps({"groups": groups})
    for path, found in {"/api/v1": [], **entries}.items():
        client.raw["GET", path] = orjson.dumps({"resources": found})


def world() -> World:
    made = World()
    serve_discovery(made.client, PODS, SERVICES, CONFIG_MAPS, THINGS)
    return made


def controllers(context: Context) -> list[ResourceQuotaController]:
    # Another controller has these informers, as in the real manager; the others are the quota controller's own.
    context.informer(PODS)
    return [ResourceQuotaController(context)]


def put_quota(client: FakeClient, hard: dict[str, str], **spec: Any) -> None:
    client.put(RESOURCE_QUOTAS, {"metadata": {"name": "q", "namespace": "a"}, "spec": {"hard": hard, **spec}})


def put_pod(client: FakeClient, name: str, cpu: str = "1", phase: str = "Running", space: str = "a") -> None:
    spec = {"containers": [{"name": "c", "resources": {"requests": {"cpu": cpu}}}]}
    client.put(PODS, {"metadata": {"name": name, "namespace": space}, "spec": spec, "status": {"phase": phase}})


def status(client: FakeClient) -> Object:
    found: Object = (client.find(RESOURCE_QUOTAS, "q", "a") or {}).get("status") or {}
    return found


def used(client: FakeClient) -> Object:
    found: Object = status(client).get("used") or {}
    return found


async def charge(client: FakeClient, **amounts: str) -> None:
    """Do what admission does before a write is stored."""
    held = client.find(RESOURCE_QUOTAS, "q", "a") or {}
    state = {**held["status"], "used": {**held["status"]["used"], **amounts}}
    await client.update(RESOURCE_QUOTAS, {**held, "status": state}, subresource="status")


async def test_a_new_quota_counts_what_there_is() -> None:
    made = world()
    client = made.client
    for name in "xy":
        put_pod(client, name)
    put_pod(client, "over", phase="Succeeded")
    put_pod(client, "elsewhere", space="b")
    client.put(CONFIG_MAPS, {"metadata": {"name": "m", "namespace": "a"}})
    client.put(THINGS, {"metadata": {"name": "t", "namespace": "a"}})
    hard = {"pods": "5", "requests.cpu": "4", "configmaps": "3", "count/things.example.com": "2", "count/nothings": "1"}
    put_quota(client, hard)
    async with made.running(controllers):
        expected = {"pods": "2", "requests.cpu": "2", "configmaps": "1", "count/things.example.com": "1"}
        await until(lambda: used(client) == expected)
        assert status(client)["hard"] == hard
        client.put(RESOURCE_QUOTAS, {**(client.find(RESOURCE_QUOTAS, "q", "a") or {}), "spec": {"hard": {"pods": "9"}}})
        await until(lambda: status(client) == {"hard": {"pods": "9"}, "used": {"pods": "2"}})


async def test_what_goes_or_ends_is_given_back_at_once() -> None:
    made = world()
    client = made.client
    for name in "xyz":
        put_pod(client, name)
    put_quota(client, {"pods": "5", "requests.cpu": "9", "count/pods": "9"})
    async with made.running(controllers):
        await until(lambda: used(client) == {"pods": "3", "requests.cpu": "3", "count/pods": "3"})
        client.remove(PODS, "x", "a")
        await until(lambda: used(client) == {"pods": "2", "requests.cpu": "2", "count/pods": "2"})
        put_pod(client, "y", phase="Failed")
        await until(lambda: used(client) == {"pods": "1", "requests.cpu": "1", "count/pods": "2"})


async def test_a_charge_whose_write_is_under_way_is_not_taken_back() -> None:
    made = world()
    client = made.client
    for name in "xy":
        put_pod(client, name)
    put_quota(client, {"pods": "5"})
    async with made.running(controllers) as (controller,):
        await until(lambda: used(client) == {"pods": "2"})
        await charge(client, pods="4")
        client.remove(PODS, "x", "a")
        # Two are under way and one has gone: three are left, though only one can be counted.
        await until(lambda: used(client) == {"pods": "3"})
        put_pod(client, "w")
        controller.queue.add("a/q")
        await made.settle([controller])
        assert used(client) == {"pods": "3"}
        # The other one never came.
        made.pass_time(SETTLED_S + 1)
        controller.queue.add("a/q")
        await until(lambda: used(client) == {"pods": "2"})


async def test_only_what_is_in_scope_counts() -> None:
    made = world()
    client = made.client
    put_pod(client, "x")
    client.put(PODS, {
        "metadata": {"name": "y", "namespace": "a"}, "spec": {"containers": [], "activeDeadlineSeconds": 5},
        "status": {"phase": "Running", "qosClass": "BestEffort"},
    })  # fmt: skip
    put_quota(client, {"pods": "5"}, scopes=["Terminating", "BestEffort"])
    async with made.running(controllers):
        await until(lambda: used(client) == {"pods": "1"})


async def test_a_kind_that_comes_later_is_counted_then() -> None:
    made = world()
    client = made.client
    late = Resource("late.example.com", "v1", "guests", "Guest")
    client.put(late, {"metadata": {"name": "g", "namespace": "a"}})
    put_quota(client, {"count/guests.late.example.com": "5", "configmaps": "1"})
    async with made.running(controllers) as (controller,):
        await until(lambda: used(client) == {"configmaps": "0"})
        serve_discovery(client, PODS, CONFIG_MAPS, late)
        made.pass_time(60)
        controller.queue.add("a/q")
        await until(lambda: used(client) == {"configmaps": "0", "count/guests.late.example.com": "1"})
