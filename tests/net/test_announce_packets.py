"""Nodes that answer for addresses, a stranger that asks the link, and the kernel's own neighbour tables."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import Iterable, Iterator
from typing import Any

import pytest

from control.api.meta import Object
from control.api.resources import ENDPOINT_SLICES, LEASES, NODES, SERVICES
from net.announce.config import NAMESPACE, AnnounceConfig
from net.announce.responder import Responder
from net.announce.server import Announcer
from net.netlink import inside
from tests.fakes.fake_client import FakeClient
from tests.net.topology import FABRIC, Fabric, Namespace, closing_all, eventually

pytestmark = [pytest.mark.root, pytest.mark.timeout(120)]
VIP, VIP6 = f"{FABRIC}.220", "fd00:77::220"
DURATION_S = 1.5


class InsideResponder(Responder):
    """A responder whose sockets live in a node's namespace, while many share one loop."""

    def __init__(self, node: Namespace) -> None:
        super().__init__()
        self._node = node

    def place(self) -> None:
        with inside(self._node.descriptor):
            super().place()


class World:
    """Two nodes and a stranger on one bridge, and one API for all."""

    def __init__(self, made: list[Namespace]) -> None:
        self.fabric = Fabric()
        made.append(self.fabric)
        self.fabric.ip("addr add fd00:77::1/64 dev br0 nodad")
        self.nodes: dict[str, Namespace] = {}
        for number in (1, 2):
            node = Namespace(f"a{number}")
            made.append(node)
            self.fabric.join(node, f"{FABRIC}.{10 + number}")
            node.ip(f"addr add fd00:77::{10 + number}/64 dev eth0 nodad")
            self.nodes[f"n{number}"] = node
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self._thread.start()
        self.client: FakeClient = self.call(_made_client())
        self.tasks: dict[str, asyncio.Task[None]] = {}
        self.announcers: dict[str, Announcer] = {}
        for name in self.nodes:
            self.put(NODES, node_object(name))

    def call(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(60)

    def put(self, resource: Any, obj: Object) -> None:
        async def put() -> None:
            self.client.put(resource, obj)

        self.call(put())

    def start(self, name: str) -> None:
        async def begin() -> None:
            config = AnnounceConfig(hostname_override=name, lease_duration_s=DURATION_S)
            self.announcers[name] = Announcer(config, self.client, InsideResponder(self.nodes[name]))
            self.tasks[name] = self.loop.create_task(self.announcers[name].serve())

        self.call(begin())

    def end(self, name: str, *, in_order: bool = True) -> None:
        """End a node's announcer; without order it tells nobody, as when its machine dies."""

        async def end() -> None:
            if not in_order:
                self.announcers[name]._renewed.clear()
            task = self.tasks.pop(name)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

        self.call(end())

    def close(self) -> None:
        for name in list(self.tasks):
            self.end(name)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(10)
        self.loop.close()

    def mac(self, name: str) -> str:
        return str(json.loads(self.nodes[name].ip("-j link show eth0"))[0]["address"])

    def seen(self, address: str) -> str:
        """Return the Ethernet address that the stranger has for an address, without asking anew."""
        for entry in json.loads(self.fabric.ip("-j neigh show dev br0") or "[]"):
            if entry["dst"] == address:
                return str(entry.get("lladdr", ""))
        return ""

    def knock(self, address: str) -> None:
        """Let the stranger's kernel ask the link for an address."""
        with inside(self.fabric.descriptor):
            family = socket.AF_INET6 if ":" in address else socket.AF_INET
            with socket.socket(family, socket.SOCK_DGRAM) as knocking:
                knocking.sendto(b"?", (address, 9))

    def holder(self) -> str:
        found = [lease for lease in self.client.objects(LEASES) if lease["spec"]["holderIdentity"]]
        return str(found[0]["spec"]["holderIdentity"]) if found else ""


async def _made_client() -> FakeClient:
    return FakeClient()


def node_object(name: str, ready: str = "True", **spec: Any) -> Object:
    return {"metadata": {"name": name}, "spec": spec, "status": {"conditions": [{"type": "Ready", "status": ready}]}}


def web(**spec: Any) -> Object:
    return {
        "metadata": {"name": "web", "namespace": "default"},
        "spec": {"type": "LoadBalancer", **spec},
        "status": {"loadBalancer": {"ingress": [{"ip": VIP, "ipMode": "VIP"}, {"ip": VIP6, "ipMode": "VIP"}]}},
    }


@pytest.fixture
def world() -> Iterator[World]:
    with closing_all() as made:
        built = World(made)
        try:
            yield built
        finally:
            built.close()


def announced_by(world: World, name: str) -> bool:
    for address in (VIP, VIP6):
        world.knock(address)
    return world.seen(VIP) == world.seen(VIP6) == world.mac(name)


def other(name: str) -> str:
    return "n2" if name == "n1" else "n1"


def test_one_node_answers_and_another_takes_over_when_it_dies(world: World) -> None:
    world.put(SERVICES, web())
    for name in world.nodes:
        world.start(name)
    eventually(world.holder)
    first = world.holder()
    eventually(lambda: announced_by(world, first))
    world.end(first, in_order=False)
    # The stranger is told; it need not ask, which it would not do while it believes what it knows.
    eventually(lambda: world.seen(VIP) == world.mac(other(first)))
    eventually(lambda: world.seen(VIP6) == world.mac(other(first)))
    assert world.holder() == other(first)
    world.start(first)
    eventually(lambda: announced_by(world, other(first)))


def test_who_holds_an_address_keeps_it(world: World) -> None:
    world.put(SERVICES, web())
    for name in world.nodes:
        world.start(name)
    eventually(world.holder)
    first, renewals, silences = world.holder(), set(), []
    responder = world.announcers[first]._responder

    def renewed_often() -> bool:
        spec = world.client.objects(LEASES)[0]["spec"]
        renewals.add(spec["renewTime"])
        if announced_by(world, first) and not responder.addresses:
            silences.append(spec)
        return len(renewals) > 6

    eventually(renewed_often)
    assert world.client.objects(LEASES)[0]["spec"]["leaseTransitions"] == 0
    assert world.holder() == first
    assert not silences


def test_an_orderly_end_hands_over(world: World) -> None:
    world.put(SERVICES, web())
    for name in world.nodes:
        world.start(name)
    eventually(world.holder)
    first = world.holder()
    world.end(first)
    assert world.holder() in ("", other(first))
    eventually(lambda: announced_by(world, other(first)))


@pytest.mark.parametrize("how", ["not-ready", "cordoned", "excluded"])
def test_a_node_that_is_not_fit_gives_up(world: World, how: str) -> None:
    world.put(SERVICES, web())
    for name in world.nodes:
        world.start(name)
    eventually(world.holder)
    first = world.holder()
    changed = node_object(first, "False" if how == "not-ready" else "True", unschedulable=how == "cordoned")
    if how == "excluded":
        changed["metadata"]["labels"] = {"node.kubernetes.io/exclude-from-external-load-balancers": "true"}
    world.put(NODES, changed)
    eventually(lambda: announced_by(world, other(first)))


def test_local_traffic_is_announced_where_the_endpoints_are(world: World) -> None:
    def endpoints(node: str) -> Object:
        labels = {"kubernetes.io/service-name": "web"}
        entry = {"addresses": ["10.244.1.2"], "nodeName": node, "conditions": {"ready": True}}
        return {
            "metadata": {"name": "web-abc", "namespace": "default", "labels": labels},
            "addressType": "IPv4",
            "endpoints": [entry],
        }

    world.put(SERVICES, web(externalTrafficPolicy="Local"))
    for name in world.nodes:
        world.start(name)
    for name in ("n2", "n1"):
        world.put(ENDPOINT_SLICES, endpoints(name))
        eventually(lambda name=name: announced_by(world, name))  # type: ignore[misc]


def test_without_the_api_a_holder_falls_silent_before_another_may_begin(world: World) -> None:
    world.put(SERVICES, web())
    world.start("n1")
    eventually(lambda: announced_by(world, "n1"))

    waits: list[bool] = []
    seen: list[bool] = []

    async def hang(*_: object, **__: object) -> Object:
        waits.append(True)
        try:
            await asyncio.sleep(3600)
        finally:
            waits.pop()
        raise AssertionError("unreachable")

    responder = world.announcers["n1"]._responder
    before = responder.use

    def use(addresses: Iterable[str]) -> None:
        wanted = set(addresses)
        if not wanted and not seen:
            seen.append(bool(waits))
        before(wanted)

    async def cut() -> None:
        world.client.update = hang  # type: ignore[method-assign]
        responder.use = use  # type: ignore[method-assign]

    world.call(cut())
    eventually(lambda: not responder.addresses)
    assert seen == [True], "it waited for the API's answer before it fell silent"


def test_a_service_that_goes_takes_its_lease_along(world: World) -> None:
    world.put(SERVICES, web())
    world.start("n1")
    eventually(lambda: announced_by(world, "n1"))
    assert world.client.objects(LEASES)[0]["metadata"]["namespace"] == NAMESPACE

    async def remove() -> None:
        world.client.remove(SERVICES, "web", "default")

    world.call(remove())
    eventually(lambda: not world.client.objects(LEASES))
    assert not world.announcers["n1"]._responder.addresses
