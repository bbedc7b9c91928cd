"""Connection tracking in a real kernel: what is read, what is deleted, what is left alone. Needs root."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from bench.conntrack import create, flows_to_service
from net.netlink import inside
from net.proxy.conntrack import ConntrackSocket, Flow, Reconciler, place
from tests.net.topology import Namespace, closing_all

pytestmark = pytest.mark.root
VERSIONS = pytest.mark.parametrize("ip_version", [4, 6])
FRONT = {4: "10.96.0.10", 6: "fd00:96::10"}
NODE = {4: "192.168.77.11", 6: "fd77::11"}
POD = {4: ("10.244.1.2", "10.244.1.3"), 6: ("fd00:244::2", "fd00:244::3")}
CLIENT = {4: "10.244.1.9", 6: "fd00:244::9"}


@pytest.fixture(scope="module")
def namespace() -> Iterator[Namespace]:
    with closing_all() as made:
        made.append(Namespace("ct"))
        yield made[0]


@pytest.fixture(autouse=True)
def _inside(namespace: Namespace) -> Iterator[None]:
    with inside(namespace.descriptor):
        yield
    for family in ("ipv4", "ipv6"):
        namespace.run(f"conntrack -F -f {family}")


def tracked(ip_version: int) -> set[Flow]:
    with ConntrackSocket(ip_version) as opened:
        return set(opened.udp_flows())


def flow(ip_version: int, source_port: int, target: tuple[str, int], answerer: tuple[str, int]) -> Flow:
    return Flow(place(CLIENT[ip_version], source_port), place(*target), place(*answerer))


@VERSIONS
def test_entries_are_read_as_they_were_made(ip_version: int) -> None:
    made = flows_to_service(ip_version, 700)
    create(ip_version, made)
    create(10 - ip_version, flows_to_service(10 - ip_version, 3))
    create(ip_version, made[:5], socket.IPPROTO_TCP)
    assert tracked(ip_version) == set(made)


@VERSIONS
def test_behaviour_20_stale_flows_go_and_the_healthy_stay(ip_version: int, namespace: Namespace) -> None:
    front, (first, second) = (FRONT[ip_version], 53), ((POD[ip_version][0], 5353), (POD[ip_version][1], 5353))
    healthy = flow(ip_version, 1, front, first)
    stale = flow(ip_version, 2, front, second)
    untranslated = flow(ip_version, 3, front, front)
    by_node_port = flow(ip_version, 4, (NODE[ip_version], 30053), second)
    strange = flow(ip_version, 5, (POD[ip_version][0], 30053), (POD[ip_version][0], 30053))
    create(ip_version, [healthy, stale, untranslated, by_node_port, strange])
    create(ip_version, [stale], socket.IPPROTO_TCP)
    serving = frozenset({place(*first)})
    wanted = {place(*front): serving, place("", 30053): serving}
    reconciler = Reconciler(ip_version)
    assert reconciler.reconcile(wanted, frozenset({NODE[ip_version], "127.0.0.1"})) == 3
    assert tracked(ip_version) == {healthy, strange}
    assert "tcp" in namespace.run(f"conntrack -L -f ipv{ip_version} -p tcp")
    assert not reconciler.differs(wanted)


@VERSIONS
def test_behaviour_20_a_front_that_goes_takes_its_flows_along(ip_version: int) -> None:
    front, first = (FRONT[ip_version], 53), (POD[ip_version][0], 5353)
    served = flow(ip_version, 1, front, first)
    create(ip_version, [served])
    reconciler = Reconciler(ip_version)
    assert reconciler.reconcile({place(*front): frozenset({place(*first)})}, frozenset()) == 0
    assert tracked(ip_version) == {served}, "a start keeps what is healthy"
    assert reconciler.reconcile({place(*front): frozenset()}, frozenset()) == 1
    create(ip_version, [served])
    assert reconciler.reconcile({}, frozenset()) == 1
    assert tracked(ip_version) == set()
