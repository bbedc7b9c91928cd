"""Claims and volumes stay as long as somebody uses them."""

from __future__ import annotations

from typing import Any

import pytest

from control.api import meta
from control.api.meta import Object
from control.api.resources import PERSISTENT_VOLUME_CLAIMS, PERSISTENT_VOLUMES, PODS
from control.controllers.protection import CLAIM_FINALIZER, VOLUME_FINALIZER, ClaimProtection, VolumeProtection, uses
from tests.control.controllers.harness import World, until

OF_CLAIM = [{"name": "d", "persistentVolumeClaim": {"claimName": "v"}}]


def pod(name: str = "p", node: str = "n1", volumes: list[Object] | None = None, **metadata: Any) -> Object:
    spec = {"nodeName": node, "volumes": OF_CLAIM if volumes is None else volumes}
    return {"metadata": {"name": name, "namespace": "a", "uid": "u", **metadata}, "spec": spec}


def claim(**metadata: Any) -> Object:
    return {"metadata": {"name": "v", "namespace": "a", "finalizers": [CLAIM_FINALIZER], **metadata}}


OWN = [{"name": "d", "ephemeral": {}}]
OWNED = claim(name="p-d", ownerReferences=[{"controller": True, "uid": "u", "kind": "Pod", "name": "p"}])
SHUT: Object = {"deletionTimestamp": "2026-01-01T00:00:00Z", "deletionGracePeriodSeconds": 0}


@pytest.mark.parametrize(
    ("user", "of", "expected"),
    [
        (pod(), claim(), True),
        (pod(node=""), claim(), False),
        (pod(volumes=[]), claim(), False),
        (pod(**SHUT), claim(), True),
        (pod(volumes=OWN), OWNED, True),
        (pod(volumes=OWN), claim(name="p-d"), False),
        (pod(volumes=OWN, **SHUT), OWNED, False),
    ],
    ids=["by name", "on no node", "another", "while it goes", "its own", "a namesake", "its own, let go"],
)
def test_who_uses_a_claim(user: Object, of: Object, expected: bool) -> None:
    assert uses(user, of) is expected


async def test_a_claim_goes_with_its_last_pod() -> None:
    world = World()
    client = world.client
    client.put(PERSISTENT_VOLUME_CLAIMS, claim())
    client.put(PODS, pod())
    client.put(PODS, pod("q"))
    async with world.running(lambda context: [ClaimProtection(context)]) as controllers:
        await client.delete(PERSISTENT_VOLUME_CLAIMS, "v", "a")
        await world.settle(controllers)
        assert meta.is_being_deleted(client.find(PERSISTENT_VOLUME_CLAIMS, "v", "a") or {})
        client.remove(PODS, "p", "a")
        await world.settle(controllers)
        assert client.find(PERSISTENT_VOLUME_CLAIMS, "v", "a")
        client.remove(PODS, "q", "a")
        await until(lambda: client.find(PERSISTENT_VOLUME_CLAIMS, "v", "a") is None)


async def test_what_was_made_without_protection_gets_it() -> None:
    world = World()
    client = world.client
    client.put(PERSISTENT_VOLUME_CLAIMS, {"metadata": {"name": "v", "namespace": "a"}})
    client.put(PERSISTENT_VOLUMES, {"metadata": {"name": "pv"}})
    async with world.running(lambda context: [ClaimProtection(context), VolumeProtection(context)]):
        await until(
            lambda: (
                (client.find(PERSISTENT_VOLUME_CLAIMS, "v", "a") or {})["metadata"].get("finalizers")
                == [CLAIM_FINALIZER]
            )
        )
        await until(
            lambda: (client.find(PERSISTENT_VOLUMES, "pv") or {})["metadata"].get("finalizers") == [VOLUME_FINALIZER]
        )


async def test_a_volume_goes_when_it_is_bound_no_more() -> None:
    world = World()
    client = world.client
    volume = {"metadata": {"name": "pv", "finalizers": [VOLUME_FINALIZER]}, "status": {"phase": "Bound"}}
    client.put(PERSISTENT_VOLUMES, volume)
    async with world.running(lambda context: [VolumeProtection(context)]) as controllers:
        await client.delete(PERSISTENT_VOLUMES, "pv")
        await world.settle(controllers)
        found = client.find(PERSISTENT_VOLUMES, "pv") or {}
        assert found["metadata"]["finalizers"] == [VOLUME_FINALIZER]
        client.put(PERSISTENT_VOLUMES, {**found, "status": {"phase": "Released"}})
        await until(lambda: client.find(PERSISTENT_VOLUMES, "pv") is None)
