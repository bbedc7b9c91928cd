"""Addresses for Services of type LoadBalancer: each to one alone, whatever happens in between."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from control.api import meta
from control.api.meta import Object
from control.api.resources import EVENTS, SERVICES
from control.api.status import ApiError
from control.client.actions import Patch
from control.client.events import EventRecorder
from control.client.informer import Informers
from control.client.runner import Context, run_controllers
from control.cloud.loadbalancer import (
    ANNOTATION,
    CLASS,
    FINALIZER,
    LoadBalancerController,
    addresses_of,
    reconcile,
)  # fmt: skip
from control.cloud.pool import PoolError, parse_pool
from tests.fakes.fake_client import FakeClient

POOL = parse_pool("192.0.2.10-192.0.2.12, 2001:db8::/126")


def service(name: str = "web", addresses: tuple[str, ...] = (), finalizer: bool = False, **spec: Any) -> Object:
    metadata: Object = {"name": name, "namespace": "default", "uid": name, "resourceVersion": "7"}
    metadata["creationTimestamp"] = f"2026-01-01T00:00:{len(name):02}Z"
    metadata["annotations"] = spec.pop("annotations", {})
    if finalizer:
        metadata["finalizers"] = [FINALIZER]
    ingress = [{"ip": address, "ipMode": "VIP"} for address in addresses]
    defaults = {"type": "LoadBalancer", "ipFamilies": ["IPv4"], "ipFamilyPolicy": "SingleStack"}
    return {
        "apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": {**defaults, **spec},
        "status": {"loadBalancer": {"ingress": ingress} if ingress else {}},
    }  # fmt: skip


GIVEN = [
    ("first-free", service(), {}, ("192.0.2.10",)),
    ("next-free", service(), {"192.0.2.10": "default/a"}, ("192.0.2.11",)),
    ("keeps-its-own", service(addresses=("192.0.2.12",)), {}, ("192.0.2.12",)),
    ("an-older-one-has-it", service(addresses=("192.0.2.10",)), {"192.0.2.10": "default/a"}, ("192.0.2.11",)),
    ("pool-has-changed", service(addresses=("198.51.100.1",)), {}, ("192.0.2.10",)),
    ("asked-by-field", service(loadBalancerIP="192.0.2.12"), {}, ("192.0.2.12",)),
    ("asked-by-annotation", service(annotations={ANNOTATION: "192.0.2.11"}), {}, ("192.0.2.11",)),
    ("asks-for-another-now", service(addresses=("192.0.2.10",), loadBalancerIP="192.0.2.12"), {}, ("192.0.2.12",)),
    ("six", service(ipFamilies=["IPv6"]), {}, ("2001:db8::1",)),
    ("both", service(ipFamilies=["IPv6", "IPv4"], ipFamilyPolicy="RequireDualStack"), {}, ("2001:db8::1", "192.0.2.10")),
    (
        "both-asked", service(ipFamilies=["IPv4", "IPv6"], annotations={ANNOTATION: "2001:db8::3, 192.0.2.11"}), {},
        ("192.0.2.11", "2001:db8::3"),
    ),
    ("own-class", service(loadBalancerClass=CLASS), {}, ("192.0.2.10",)),
]  # fmt: skip
REFUSED = [
    ("none-left", service(), dict.fromkeys(("192.0.2.10", "192.0.2.11", "192.0.2.12"), "default/a"), "in use"),
    ("not-of-the-pool", service(loadBalancerIP="198.51.100.1"), {}, "not of the pool"),
    ("taken", service(loadBalancerIP="192.0.2.10"), {"192.0.2.10": "default/a"}, "default/a has it"),
    ("no-address", service(loadBalancerIP="web"), {}, "no address"),
    ("family", service(loadBalancerIP="2001:db8::1"), {}, "no IPv6"),
    ("two-of-a-family", service(annotations={ANNOTATION: "192.0.2.10,192.0.2.11"}), {}, "one address of a family"),
]


@pytest.mark.parametrize(("obj", "taken", "wanted"), [row[1:] for row in GIVEN], ids=[row[0] for row in GIVEN])
def test_addresses_are_given(obj: Object, taken: dict[str, str], wanted: tuple[str, ...]) -> None:
    decision = reconcile(obj, POOL, taken)
    assert (decision.holds, decision.waits) == (wanted, False)
    written = [action.patch for action in decision.actions if isinstance(action, Patch)]
    assert written[0]["metadata"]["finalizers"] == [FINALIZER]
    if addresses_of(obj) != wanted:
        ingress = [{"ip": address, "ipMode": "VIP"} for address in wanted]
        assert written[1] == {"status": {"loadBalancer": {"ingress": ingress}}}
    else:
        assert len(written) == 1


@pytest.mark.parametrize(("obj", "taken", "words"), [row[1:] for row in REFUSED], ids=[row[0] for row in REFUSED])
def test_what_cannot_be_given_is_said(obj: Object, taken: dict[str, str], words: str) -> None:
    decision = reconcile(obj, POOL, taken)
    assert (decision.holds, decision.waits) == ((), True)
    assert words in str(decision.actions[-1])


def test_a_single_family_takes_what_the_pool_has() -> None:
    only_four = parse_pool("192.0.2.10-192.0.2.12")
    both: dict[str, Any] = {"ipFamilies": ["IPv6", "IPv4"]}
    assert reconcile(service(**both, ipFamilyPolicy="PreferDualStack"), only_four, {}).holds == ("192.0.2.10",)
    assert reconcile(service(**both, ipFamilyPolicy="RequireDualStack"), only_four, {}).waits


@pytest.mark.parametrize(
    "obj",
    [
        service(type="ClusterIP"),
        service(loadBalancerClass="example.com/other"),
        service(loadBalancerClass="example.com/other", addresses=("198.51.100.1",)),
        service(addresses=("192.0.2.10",), finalizer=True),
    ],
    ids=["cluster-ip", "other-class", "other-class-served", "all-is-well"],
)
def test_what_is_not_ours_or_well_is_left_alone(obj: Object) -> None:
    assert reconcile(obj, POOL, {}).actions == ()


def test_an_address_is_given_back_with_type_and_service() -> None:
    changed = reconcile(service(type="ClusterIP", addresses=("192.0.2.10",), finalizer=True), POOL, {})
    patches = [action.patch for action in changed.actions if isinstance(action, Patch)]
    assert patches[0] == {"status": {"loadBalancer": {"ingress": None}}}
    assert patches[1]["metadata"] == {"resourceVersion": "7", "finalizers": None}
    going = service(addresses=("192.0.2.10",), finalizer=True)
    going["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    patches = [action.patch for action in reconcile(going, POOL, {}).actions if isinstance(action, Patch)]
    assert patches == [{"metadata": {"resourceVersion": "7", "finalizers": None}}]


@pytest.mark.parametrize(
    ("text", "first", "last"),
    [
        ("192.0.2.0/29", "192.0.2.1", "192.0.2.6"), ("192.0.2.4/31", "192.0.2.4", "192.0.2.5"),
        ("192.0.2.4/32", "192.0.2.4", "192.0.2.4"), ("2001:db8::/126", "2001:db8::1", "2001:db8::3"),
        ("192.0.2.4 - 192.0.2.4", "192.0.2.4", "192.0.2.4"),
    ],
)  # fmt: skip
def test_pools_are_read(text: str, first: str, last: str) -> None:
    found = [str(address) for address in parse_pool(text).spans[0]]
    assert (found[0], found[-1]) == (first, last)


@pytest.mark.parametrize("text", ["192.0.2.1/24", "192.0.2.9-192.0.2.1", "192.0.2.1-2001:db8::1", "web", "1.2.3.4-"])
def test_what_is_no_pool_is_refused(text: str) -> None:
    with pytest.raises(PoolError, match=r"neither|lead"):
        parse_pool(text)


def test_a_huge_pool_costs_nothing() -> None:
    assert parse_pool("2001:db8::/32").free("IPv6", {"2001:db8::1"}) == "2001:db8::2"


@asynccontextmanager
async def controlling(client: FakeClient) -> AsyncIterator[None]:
    """Run the loop as one instance after another would."""
    context = Context(client, Informers(client), EventRecorder(client, "test"))
    task = asyncio.ensure_future(run_controllers(context, [LoadBalancerController(context, POOL)]))
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def held(client: FakeClient) -> dict[str, str]:
    """Return who has which IPv4 address; fails where two have the same."""
    found: dict[str, str] = {}
    for obj in client.objects(SERVICES):
        for address in addresses_of(obj):
            assert address not in found, f"{address} is {found[address]}'s and {meta.key(obj)}'s"
            found[address] = meta.key(obj)
    return found


async def until(what: Any) -> None:
    async with asyncio.timeout(30):
        while not what():
            await asyncio.sleep(0.005)


async def test_exhaustion_is_told_and_ends_when_an_address_comes_free() -> None:
    client = FakeClient()
    async with controlling(client):
        for name in ("a", "b", "c", "d"):
            await client.create(SERVICES, service(name), "default")
        await until(lambda: len(held(client)) == 3)
        await until(lambda: any(e["reason"] == "SyncLoadBalancerFailed" for e in client.objects(EVENTS)))
        (late,) = {"a", "b", "c", "d"} - {key.partition("/")[2] for key in held(client).values()}
        gone = next(iter({"a", "b", "c", "d"} - {late}))
        await client.delete(SERVICES, gone, "default")
        await until(lambda: f"default/{late}" in held(client).values())
        assert gone not in [meta.name(obj) for obj in client.objects(SERVICES)]


async def test_two_with_the_same_address_are_told_apart() -> None:
    client = FakeClient()
    for name in ("younger", "old"):
        client.put(SERVICES, service(name, addresses=("192.0.2.10",), finalizer=True))
    async with controlling(client):
        await until(lambda: addresses_of(client.objects(SERVICES)[0]) != addresses_of(client.objects(SERVICES)[1]))
        await asyncio.sleep(0.05)
        assert held(client)["192.0.2.10"] == "default/old"


async def change(client: FakeClient, name: str, there: Object | None, dice: random.Random) -> None:
    """Create, delete or change a Service."""
    if there is None:
        await client.create(SERVICES, service(name), "default")
    elif dice.random() < 0.5:
        await client.delete(SERVICES, name, "default")
    else:
        kind = "ClusterIP" if there["spec"]["type"] == "LoadBalancer" else "LoadBalancer"
        await client.patch(SERVICES, name, {"spec": {"type": kind}}, "default")


@given(st.integers(0, 10_000))
def test_no_address_is_given_twice_however_often_it_starts_anew(seed: int) -> None:
    async def live() -> None:
        dice, client = random.Random(seed), FakeClient()
        for _ in range(3):
            async with controlling(client):
                for _ in range(4):
                    name = dice.choice("abcde")
                    there = {meta.name(obj): obj for obj in client.objects(SERVICES)}
                    try:
                        await change(client, name, there.get(name), dice)
                    except ApiError as error:
                        if error.code != 404:  # it was going, and is gone
                            raise
                    for _ in range(dice.randrange(6)):
                        await asyncio.sleep(0)
                    held(client)
        async with controlling(client):
            there = {meta.name(obj): obj for obj in client.objects(SERVICES) if not meta.is_being_deleted(obj)}
            wanting = sum(obj["spec"]["type"] == "LoadBalancer" for obj in there.values())
            await until(lambda: len(held(client)) >= min(3, wanting))
            held(client)

    asyncio.run(live())
