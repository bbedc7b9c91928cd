"""Cluster IPs and node ports: what Services need, taking and freeing, conflicts, repair."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Network
from random import Random
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from control.api.meta import Object
from control.api.resources import IP_ADDRESSES, SERVICES, Resource
from control.api.status import ApiError, already_exists, not_found
from control.apiserver.allocation import services
from control.apiserver.allocation.addresses import Addresses
from control.apiserver.allocation.allocator import ServiceAllocator
from control.apiserver.allocation.node_ports import KEY, NodePorts
from control.apiserver.allocation.ranges import AddressRange, AllocationError, PortBitmap, PortRange, band_size
from control.apiserver.allocation.repair import Repair, address_repairs, repair_ports
from control.apiserver.request import AdmissionRequest, UserInfo
from control.client.client import DeleteOptions, ObjectList

PORTS = PortRange(30000, 30039)
NETWORK = AddressRange(IPv4Network("10.96.0.0/28"))


class Ranges:
    """Keys of the store, with a rival who may be faster."""

    def __init__(self) -> None:
        self.value: bytes | None = None
        self.revision = 0
        self.rivals = 0

    async def read(self, name: str) -> tuple[bytes | None, int]:
        assert name == KEY
        return self.value, self.revision

    async def swap(self, name: str, value: bytes, revision: int) -> bool:
        if self.rivals:
            self.rivals -= 1
            self.revision += 1
        if revision != self.revision:
            return False
        self.value, self.revision = value, revision + 1
        return True

    @property
    def taken(self) -> list[int]:
        return list(PortBitmap.from_object(PORTS, orjson.loads(self.value or b"{}")).taken())


class Hub:
    """The API, for IPAddress objects and Services."""

    def __init__(self) -> None:
        self.held: dict[tuple[str, str], Object] = {}

    async def create(self, resource: Resource, obj: Object, namespace: str = "") -> Object:
        key = (resource.plural, obj["metadata"]["name"])
        if key in self.held:
            raise already_exists(resource.plural, key[1])
        obj["metadata"]["uid"] = f"uid-{len(self.held)}"
        self.held[key] = obj
        return obj

    async def get(self, resource: Resource, name: str, namespace: str = "") -> Object:
        if (resource.plural, name) not in self.held:
            raise not_found(resource.plural, name)
        return self.held[resource.plural, name]

    async def delete(
        self, resource: Resource, name: str, namespace: str = "", options: DeleteOptions | None = None
    ) -> Object:
        return self.held.pop((resource.plural, name))

    async def list(self, resource: Resource, namespace: str = "", options: Any = None) -> ObjectList:
        return ObjectList([o for (plural, _), o in self.held.items() if plural == resource.plural], "1")

    @property
    def addresses(self) -> set[str]:
        return {name for plural, name in self.held if plural == IP_ADDRESSES.plural}


class World:
    """One API server's allocator."""

    def __init__(self, *networks: AddressRange) -> None:
        self.hub, self.ranges = Hub(), Ranges()
        random = Random(7)
        client: Any = self.hub
        addresses = {network.family: Addresses(client, network, random) for network in networks or (NETWORK,)}
        self.ports = NodePorts(self.ranges, PORTS, random)
        self.allocator = ServiceAllocator(addresses, self.ports, random)

    async def write(self, new: Object, old: Object | None = None) -> Object:
        """A write that stands."""
        request = AdmissionRequest(
            "UPDATE" if old else "CREATE", SERVICES, UserInfo("ann"), "a", new["metadata"]["name"], "", new, old
        )
        allocation = await self.allocator.allocate(request)
        if allocation is not None:
            await allocation.commit(new)
        return new


def service(name: str = "web", *ports: dict[str, Any], **spec: Any) -> Object:
    made = {"ports": list(ports) or [{"port": 80, "protocol": "TCP"}], **spec}
    return {"metadata": {"name": name, "namespace": "a"}, "spec": made}


async def test_a_service_gets_an_address_and_keeps_it() -> None:
    world = World()
    made = await world.write(service())
    spec = made["spec"]
    assert spec["clusterIPs"] == [spec["clusterIP"]]
    assert (spec["ipFamilies"], spec["ipFamilyPolicy"]) == (["IPv4"], "SingleStack")
    assert world.hub.addresses == {spec["clusterIP"]}
    parent = world.hub.held[IP_ADDRESSES.plural, spec["clusterIP"]]["spec"]["parentRef"]
    assert parent == {"group": "", "resource": "services", "namespace": "a", "name": "web"}
    changed = await world.write(service(selector={"a": "b"}), made)
    assert changed["spec"]["clusterIP"] == spec["clusterIP"]
    await world.allocator.release(changed)
    assert world.hub.addresses == set()


async def test_all_addresses_and_no_more() -> None:
    world = World()
    for number in range(NETWORK.size):
        await world.write(service(f"s{number}"))
    assert len(world.hub.addresses) == 14
    assert not {"10.96.0.0", "10.96.0.15"} & world.hub.addresses
    with pytest.raises(ApiError, match="failed to allocate a serviceIP: range is full"):
        await world.write(service("more"))


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ({"clusterIP": "None", "selector": {"a": "b"}}, ("None", ["IPv4"], "SingleStack")),
        ({"clusterIP": "None"}, ("None", ["IPv4", "IPv6"], "RequireDualStack")),
        ({"type": "ExternalName", "externalName": "x.y"}, (None, None, None)),
        ({"ipFamilyPolicy": "PreferDualStack", "clusterIP": "10.96.0.5"}, ("10.96.0.5", ["IPv4"], "PreferDualStack")),
    ],
    ids=["headless", "headless without selector", "external name", "prefers two families"],
)
async def test_kinds_of_services(spec: dict[str, Any], expected: Any) -> None:
    made = (await World().write(service("s", **spec)))["spec"]
    assert (made.get("clusterIP"), made.get("ipFamilies"), made.get("ipFamilyPolicy")) == expected


TAKEN = "10.96.0.5"


@pytest.mark.parametrize(
    ("made", "text"),
    [
        (
            service("s", clusterIP=TAKEN),
            'spec.clusterIPs: Invalid value: ["10.96.0.5"]: failed to allocate IP 10.96.0.5: provided IP is already'
            " allocated",
        ),
        (
            service("s", clusterIP="10.0.0.1"),
            'spec.clusterIPs: Invalid value: ["10.0.0.1"]: failed to allocate IP 10.0.0.1: the provided IP (10.0.0.1) is'
            " not in the valid range. The range of valid IPs is 10.96.0.0/28",
        ),
        (
            service("s", {"port": 80, "nodePort": 30001}, type="NodePort"),
            "spec.ports[0].nodePort: Invalid value: 30001: provided port is already allocated",
        ),
        (
            service("s", {"port": 80, "nodePort": 80}, type="NodePort"),
            "spec.ports[0].nodePort: Invalid value: 80: provided port is not in the valid range. The range of valid"
            " ports is 30000-30039",
        ),
        (
            service("s", ipFamilies=["IPv6"]),
            'spec.ipFamilies[0]: Invalid value: "IPv6": not configured on this cluster',
        ),
        (
            service("s", ipFamilyPolicy="RequireDualStack"),
            'spec.ipFamilyPolicy: Invalid value: "RequireDualStack": this cluster is not configured for dual-stack'
            " services",
        ),
        (
            service("s", clusterIP="10.96.0.6", clusterIPs=["10.96.0.7"]),
            'spec.clusterIPs: Invalid value: ["10.96.0.7"]: first value must match `clusterIP`',
        ),
    ],
    ids=["address taken", "address outside", "port taken", "port outside", "IPv6", "two families", "contradiction"],
)
async def test_refusals_free_what_was_taken(made: Object, text: str) -> None:
    world = World()
    await world.write(service("first", {"port": 80, "nodePort": 30001}, type="NodePort", clusterIP=TAKEN))
    with pytest.raises(ApiError) as refused:
        await world.write(made)
    assert (refused.value.code, refused.value.message) == (422, f'Service "s" is invalid: {text}')
    assert (world.hub.addresses, world.ranges.taken) == ({TAKEN}, [30001])


async def test_an_address_may_not_change() -> None:
    world = World()
    made = await world.write(service(clusterIP=TAKEN))
    with pytest.raises(ApiError, match="may not change once set"):
        await world.write(service(clusterIP="10.96.0.6"), made)


async def test_node_ports_come_stay_and_go() -> None:
    world = World()
    two = ({"port": 80, "protocol": "TCP"}, {"port": 90, "protocol": "TCP", "nodePort": 30009})
    made = await world.write(service("s", *two, type="NodePort"))
    first = made["spec"]["ports"][0]["nodePort"]
    assert world.ranges.taken == sorted({first, 30009})
    kept = await world.write(service("s", {"port": 80, "protocol": "TCP"}, type="NodePort"), made)
    assert kept["spec"]["ports"][0]["nodePort"] == first
    assert world.ranges.taken == [first]
    plain = await world.write(service("s", {"port": 80, "nodePort": first}), kept)
    assert "nodePort" not in plain["spec"]["ports"][0]
    assert world.ranges.taken == []


async def test_one_port_for_two_protocols() -> None:
    world = World()
    both = ({"port": 53, "protocol": p, "nodePort": 30053 - 20} for p in ("TCP", "UDP"))
    await world.write(service("dns", *both, type="NodePort"))
    assert world.ranges.taken == [30033]


async def test_load_balancers_and_their_health_check() -> None:
    world = World()
    made = await world.write(service(type="LoadBalancer", externalTrafficPolicy="Local"))
    assert world.ranges.taken == sorted(services.node_ports(made))
    assert made["spec"]["healthCheckNodePort"] in world.ranges.taken
    assert made["spec"]["ports"][0]["nodePort"] in world.ranges.taken
    none = await world.write(service("s2", type="LoadBalancer", allocateLoadBalancerNodePorts=False))
    assert services.node_ports(none) == set()


async def test_what_only_a_load_balancer_has_goes_with_the_type() -> None:
    world = World()
    wished: dict[str, Any] = {
        "externalTrafficPolicy": "Cluster",
        "allocateLoadBalancerNodePorts": True,
        "loadBalancerClass": "x/y",
    }
    made = await world.write(service(type="LoadBalancer", **wished))
    port = await world.write(service(type="NodePort", **wished), made)
    assert {name: port["spec"].get(name) for name in wished} == dict.fromkeys(wished) | {
        "externalTrafficPolicy": "Cluster"
    }
    plain = await world.write(service(type="ClusterIP", externalTrafficPolicy="Cluster"), port)
    assert "externalTrafficPolicy" not in plain["spec"]


async def test_becoming_external_gives_the_address_back() -> None:
    world = World()
    made = await world.write(service(type="NodePort"))
    await world.write(service(type="ExternalName", externalName="x.y"), made)
    assert (world.hub.addresses, world.ranges.taken) == (set(), [])


async def test_rivals_never_get_the_same() -> None:
    world = World()
    world.ranges.rivals = 5
    rivals = [world.write(service(f"s{number}", type="NodePort")) for number in range(10)]
    made = await asyncio.gather(*rivals)
    assert len({services.cluster_ip(one) for one in made}) == 10
    assert len(world.ranges.taken) == 10


async def test_a_write_that_fails_gives_all_back() -> None:
    world = World()
    new = service(type="NodePort")
    allocation = await world.allocator.allocate(
        AdmissionRequest("CREATE", SERVICES, UserInfo("ann"), "a", "web", "", new)
    )
    assert allocation is not None
    await allocation.rollback()
    assert (world.hub.addresses, world.ranges.taken) == (set(), [])


async def test_an_address_left_by_a_crash_is_taken_up_again() -> None:
    world = World()
    await world.hub.create(IP_ADDRESSES, services.ip_address_object(TAKEN, service()))
    assert (await world.write(service(clusterIP=TAKEN)))["spec"]["clusterIP"] == TAKEN


async def test_repair_finds_what_was_lost_and_what_was_leaked() -> None:
    world = World()
    now = datetime.now(UTC)
    old = (now - timedelta(minutes=5)).isoformat()
    lost = service("lost", {"port": 80, "nodePort": 30005}, type="NodePort", clusterIP=TAKEN, clusterIPs=[TAKEN])
    world.hub.held[SERVICES.plural, "lost"] = lost
    leaked = services.ip_address_object("10.96.0.9", service("gone"))
    leaked["metadata"] |= {"uid": "u", "creationTimestamp": old}
    young = services.ip_address_object("10.96.0.10", service("coming"))
    young["metadata"] |= {"uid": "u", "creationTimestamp": now.isoformat()}
    for address in (leaked, young):
        world.hub.held[IP_ADDRESSES.plural, address["metadata"]["name"]] = address
    await world.ports.change(lambda bitmap: bitmap.take(30007))
    repair = Repair(world.hub, world.ports)  # type: ignore[arg-type]
    for _ in range(3):
        await repair.once(now)
    assert world.hub.addresses == {TAKEN, "10.96.0.10"}
    assert world.ranges.taken == [30005]


def test_repairs_of_a_healthy_cluster_are_none() -> None:
    made = service(clusterIP=TAKEN, clusterIPs=[TAKEN])
    repairs = address_repairs([made], [services.ip_address_object(TAKEN, made)], datetime.now(UTC))
    assert (repairs.missing, repairs.leaked) == ((), ())


def test_a_port_is_freed_only_when_seen_idle_three_times() -> None:
    bitmap = PortBitmap(PORTS)
    bitmap.take(30001)
    suspects: dict[int, int] = {}
    for _ in range(2):
        suspects = repair_ports(bitmap, [], suspects)
        assert bitmap.has(30001)
    assert repair_ports(bitmap, [], suspects) == {}
    assert not bitmap.has(30001)


@given(ports=st.sets(st.integers(30000, 30039)))
def test_bitmaps_survive_storage(ports: set[int]) -> None:
    bitmap = PortBitmap(PORTS)
    for port in ports:
        assert bitmap.take(port)
        assert not bitmap.take(port)
    stored = orjson.loads(orjson.dumps(bitmap.to_object()))
    assert list(PortBitmap.from_object(PORTS, stored).taken()) == sorted(ports)
    narrower = PortBitmap.from_object(PortRange(30010, 30019), stored)
    assert list(narrower.taken()) == sorted(port for port in ports if 30010 <= port <= 30019)


@pytest.mark.parametrize(("size", "expected"), [(14, 0), (254, 16), (1022, 63), (65534, 256)])
def test_the_lower_band(size: int, expected: int) -> None:
    assert band_size(size) == expected


def test_candidates_are_all_values_once_upper_band_first() -> None:
    network = AddressRange(IPv4Network("10.0.0.0/24"))
    found = list(network.candidates(Random(1)))
    assert len(found) == len(set(found)) == 254
    assert {int(address.rpartition(".")[2]) for address in found[-16:]} == set(range(1, 17))
    with pytest.raises(AllocationError, match="range is full"):
        PortBitmap(PORTS, (1 << PORTS.size) - 1).choose(Random(1))
