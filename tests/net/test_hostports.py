"""Host ports: what a runtime asks for, where packets end, what a flush or a restart does."""

from __future__ import annotations

from typing import Any

import pytest

from net.cni import hostports
from net.cni.hostports import HostPorts
from net.cni.spec import CniError
from net.ipam.allocator import Attachment, Claim, PortMapping
from tests.fakes.fake_iptables import End, FakeIptables, Packet

NODE, POD, OUTSIDE = "192.168.77.11", "10.244.1.5", "203.0.113.5"
CLAIM = Claim(Attachment("a", "eth0"), (POD,), pod="default/web", port_mappings=(PortMapping("tcp", 8081, 80),))


def ports_of(fake: FakeIptables) -> HostPorts:
    async def open_door() -> FakeIptables:
        return fake

    return HostPorts(open_door)


@pytest.mark.parametrize(
    ("entry", "wanted"),
    [
        pytest.param({"hostPort": 8081, "containerPort": 80}, (PortMapping("tcp", 8081, 80),), id="plain"),
        pytest.param({"hostPort": 0, "containerPort": 80}, (), id="no host port"),
        pytest.param(
            {"hostPort": 53, "containerPort": 53, "protocol": "UDP", "hostIP": "0.0.0.0"},
            (PortMapping("udp", 53, 53),),
            id="any address",
        ),
        pytest.param(
            {"hostPort": 53, "containerPort": 53, "hostIP": NODE}, (PortMapping("tcp", 53, 53, NODE),), id="one address"
        ),
        pytest.param({"hostPort": 53, "containerPort": 53, "hostIP": "fd00::1"}, (), id="other family"),
    ],
)
def test_mappings_are_read(entry: dict[str, Any], wanted: tuple[PortMapping, ...]) -> None:
    assert hostports.parse([entry]) == wanted


@pytest.mark.parametrize(
    "entry",
    [
        pytest.param({"hostPort": 80}, id="no container port"),
        pytest.param({"hostPort": 70000, "containerPort": 80}, id="port too large"),
        pytest.param({"hostPort": 80, "containerPort": 80, "protocol": "icmp"}, id="protocol"),
        pytest.param({"hostPort": 80, "containerPort": 80, "hostIP": "here"}, id="address"),
    ],
)
def test_nonsense_is_refused(entry: dict[str, Any]) -> None:
    with pytest.raises(CniError, match="makes no sense"):
        hostports.parse([entry])


@pytest.mark.parametrize(
    ("packet", "end"),
    [
        pytest.param(Packet(OUTSIDE, NODE, 8081), End("ACCEPT", f"{POD}:80"), id="from outside"),
        pytest.param(Packet(NODE, NODE, 8081, from_node=True), End("ACCEPT", f"{POD}:80"), id="from the node"),
        pytest.param(Packet(POD, NODE, 8081), End("ACCEPT", f"{POD}:80", True), id="from the pod itself"),
        pytest.param(Packet(OUTSIDE, NODE, 8082), End("ACCEPT", f"{NODE}:8082"), id="another port"),
        pytest.param(Packet(OUTSIDE, NODE, 8081, "udp"), End("ACCEPT", f"{NODE}:8081"), id="another protocol"),
        pytest.param(Packet(POD, OUTSIDE, 8081), End("ACCEPT", f"{OUTSIDE}:8081"), id="somebody else's port"),
    ],
)
async def test_where_packets_end(packet: Packet, end: End) -> None:
    fake = FakeIptables((NODE, "127.0.0.1"))
    await ports_of(fake).sync([CLAIM])
    assert fake.trace(packet) == {end}


async def test_nothing_is_written_until_a_port_is_wanted() -> None:
    fake = FakeIptables()
    ports = ports_of(fake)
    await ports.sync([])
    assert fake.writes == []
    await ports.sync([CLAIM])
    await ports.sync([CLAIM])
    assert len(fake.writes) == 1
    await ports_of(fake).sync([CLAIM])
    assert len(fake.writes) == 1, "a restart writes nothing"
    await ports.sync([])
    assert fake.tables["nat"][hostports.DISPATCH] == []


async def test_a_flush_is_repaired() -> None:
    fake = FakeIptables((NODE,))
    ports = ports_of(fake)
    await ports.sync([CLAIM])
    fake.tables["nat"][hostports.DISPATCH].clear()
    ports.forget()
    await ports.sync([CLAIM])
    assert fake.trace(Packet(OUTSIDE, NODE, 8081)) == {End("ACCEPT", f"{POD}:80")}
