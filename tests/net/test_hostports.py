"""Host ports: what a runtime asks for, and which elements of the node's table follow from it."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from net.cni import hostports
from net.cni.spec import CniError
from net.ipam.allocator import Attachment, Claim, PortMapping
from net.nftables.elements import address, concatenation, decode, port, protocol, value
from net.nftables.operations import AddElements, DeleteElements

NODE, POD, POD6 = "192.168.77.11", "10.244.1.5", "fd00:1::5"


@pytest.mark.parametrize(
    ("entry", "wanted"),
    [
        pytest.param({"hostport": 8081, "containerport": 80}, (PortMapping("tcp", 8081, 80),), id="plain"),
        pytest.param({"hostport": 0, "containerport": 80}, (), id="no host port"),
        pytest.param(
            {"hostport": 53, "containerport": 53, "protocol": "UDP", "hostip": "0.0.0.0"},
            (PortMapping("udp", 53, 53, "0.0.0.0"),),
            id="any IPv4 address",
        ),
        pytest.param(
            {"hostport": 53, "containerport": 53, "hostip": NODE}, (PortMapping("tcp", 53, 53, NODE),), id="one address"
        ),
        pytest.param(
            {"hostport": 53, "containerport": 53, "protocol": "SCTP", "hostip": "FD00:0::1"},
            (PortMapping("sctp", 53, 53, "fd00::1"),),
            id="one IPv6 address",
        ),
    ],
)
def test_mappings_are_read(entry: dict[str, Any], wanted: tuple[PortMapping, ...]) -> None:
    assert hostports.parse([entry]) == wanted


@pytest.mark.parametrize(
    "entry",
    [
        pytest.param({"hostport": 80}, id="no container port"),
        pytest.param({"hostport": 70000, "containerport": 80}, id="port too large"),
        pytest.param({"hostport": 80, "containerport": 80, "protocol": "icmp"}, id="protocol"),
        pytest.param({"hostport": 80, "containerport": 80, "hostip": "here"}, id="address"),
        pytest.param({"hostport": [1], "containerport": 80}, id="list"),
        pytest.param(7, id="number"),
    ],
)
def test_nonsense_is_refused(entry: Any) -> None:
    with pytest.raises(CniError, match="makes no sense"):
        hostports.parse([entry])


def claim(name: str, *mappings: PortMapping, addresses: tuple[str, ...] = (POD, POD6)) -> Claim:
    return Claim(Attachment(name, "eth0"), addresses, pod=f"default/{name}", port_mappings=mappings)


def test_a_port_on_every_address_leads_to_the_pod_in_both_families() -> None:
    found = hostports.wanted([claim("a", PortMapping("tcp", 8081, 80))])
    key = concatenation(protocol("tcp"), port(8081))
    assert found["any4"] == {key: value(concatenation(address(POD), port(80)))}
    assert found["any6"] == {key: value(concatenation(address(POD6), port(80)))}
    assert found["self4"] == {concatenation(address(POD), address(POD)): b""}
    assert not found["one4"]


@pytest.mark.parametrize(
    ("host_ip", "filled"),
    [
        pytest.param(NODE, {"one4", "self4"}, id="one IPv4 address"),
        pytest.param("fd00::1", {"one6", "self6"}, id="one IPv6 address"),
        pytest.param("0.0.0.0", {"any4", "self4"}, id="all IPv4 addresses"),
        pytest.param("::", {"any6", "self6"}, id="all IPv6 addresses"),
        pytest.param("", {"any4", "any6", "self4", "self6"}, id="all addresses"),
    ],
)
def test_a_host_address_chooses_the_family(host_ip: str, filled: set[str]) -> None:
    found = hostports.wanted([claim("a", PortMapping("udp", 53, 53, host_ip))])
    assert {name for name, listed in found.items() if listed} == filled


def test_of_two_pods_that_want_a_port_the_first_keeps_it() -> None:
    mapping = PortMapping("tcp", 8081, 80)
    both = [claim("b", mapping, addresses=("10.244.1.6",)), claim("a", mapping, addresses=(POD,))]
    assert list(hostports.wanted(both)["any4"].values()) == [value(concatenation(address(POD), port(80)))]


PODS = st.lists(
    st.builds(
        lambda number, host_port, protocol, host_ip: claim(
            f"p{number}", PortMapping(protocol, host_port, 80, host_ip), addresses=(f"10.244.1.{number}",)
        ),
        st.integers(2, 6),
        st.integers(1, 4),
        st.sampled_from(hostports.PROTOCOLS),
        st.sampled_from(["", NODE, "0.0.0.0"]),
    ),
    max_size=5,
)


@given(PODS, PODS)
def test_changes_lead_from_any_state_to_any_other(before: list[Claim], after: list[Claim]) -> None:
    standing, aim = hostports.wanted(before), hostports.wanted(after)
    world = {name: dict(listed) for name, listed in standing.items()}
    for operation in hostports.changes(standing, aim):
        assert isinstance(operation, AddElements | DeleteElements)
        for raw in operation.elements:
            found = decode(raw[4:])
            if isinstance(operation, DeleteElements):
                del world[operation.set_name][found.key]
            else:
                assert found.key not in world[operation.set_name], "the kernel refuses another value for a key"
                world[operation.set_name][found.key] = found.data
    assert world == aim
    assert hostports.changes(aim, aim) == []
