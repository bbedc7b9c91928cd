"""The door to netlink: batches, dumps, errors that say what, events and their overrun. Needs root."""

from __future__ import annotations

import asyncio
import errno
import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest

from control.api.resources import NODES
from net import messages, netlink
from net.links import Event, Route
from net.netlink import NetlinkError, RouteEvents, RouteSocket, inside
from net.routes.config import RoutesConfig
from net.routes.server import RoutesServer
from tests.net.topology import FABRIC, Fabric, Namespace, Node, closing_all, eventually

pytestmark = pytest.mark.root


@pytest.fixture
def place() -> Iterator[Namespace]:
    with closing_all() as made:
        namespace = Namespace("place")
        made.append(namespace)
        yield namespace


def test_what_is_written_is_read_back(place: Namespace) -> None:
    with inside(place.descriptor), RouteSocket() as socket:
        socket.batch(
            [
                messages.put_address(1, "10.9.9.1", 32),
                messages.put_route("10.8.0.0/16", 1, protocol=82, metric=5),
                messages.put_route("10.7.0.0/16", 1, protocol=82, source="10.9.9.1"),
            ]
        )
        assert "10.9.9.1" in {found.address for found in socket.addresses()}
        assert set(socket.routes()) == {
            Route("10.8.0.0/16", 1, "", 82, 5),
            Route("10.7.0.0/16", 1, "", 82, 0, "10.9.9.1"),
        }
        assert [link.name for link in socket.links()] == ["lo"]
        socket.batch([messages.delete_route("10.8.0.0/16", 1, protocol=82, metric=5)])
        assert [route.network for route in socket.routes()] == ["10.7.0.0/16"]


def test_big_batches_and_big_dumps(place: Namespace) -> None:
    with inside(place.descriptor), RouteSocket() as socket:
        networks = [f"10.{number // 250}.{number % 250}.0/24" for number in range(2000)]
        socket.batch([messages.put_route(network, 1, protocol=82) for network in networks])
        assert {route.network for route in socket.routes()} == set(networks)


def test_errors_name_the_request_and_the_rest_is_done(place: Namespace) -> None:
    with inside(place.descriptor), RouteSocket() as socket:
        wanted = [
            messages.delete_link("nowhere"),
            messages.put_route("10.8.0.0/16", 1, protocol=82),
            messages.delete_link("gone", ignore=(errno.ENODEV,)),
        ]
        with pytest.raises(NetlinkError, match="delete link nowhere: No such device"):
            socket.batch(wanted)
        assert len(socket.routes()) == 1


def test_a_thread_returns_from_elsewhere(place: Namespace) -> None:
    with inside(place.descriptor), RouteSocket() as socket:
        assert len(socket.links()) == 1
    with RouteSocket() as socket:
        assert "lo" in {link.name for link in socket.links()}
    assert netlink.is_namespace(place.path)
    assert not netlink.is_namespace("/etc/hostname")
    assert not netlink.is_namespace("/none")


def test_pyroute2_stays_out_until_a_dump_and_its_front_for_ever() -> None:
    program = (
        "import sys; from net.netlink import RouteSocket; import net.proxy.server, net.cni.server, net.routes.server\n"
        "assert not [name for name in sys.modules if name.startswith('pyroute2')]\n"
        "RouteSocket().links(); assert 'pyroute2' not in sys.modules\n"
        "import pyroute2; assert pyroute2.IPRoute\n"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", program], check=True, timeout=60)


async def test_events_tell_what_changed(place: Namespace) -> None:
    with inside(place.descriptor):
        events, socket = RouteEvents(), RouteSocket()
    try:
        socket.batch([messages.put_route("10.8.0.0/16", 1, protocol=82)])
        async with asyncio.timeout(5):
            assert await events.next() == [Event("route", protocol=82)]
    finally:
        events.close()
        socket.close()


async def test_an_overrun_is_told(place: Namespace) -> None:
    with inside(place.descriptor):
        events, socket = RouteEvents(buffer_bytes=4096), RouteSocket()
    try:
        networks = [f"10.{number // 250}.{number % 250}.0/24" for number in range(5000)]
        socket.batch([messages.put_route(network, 1, protocol=82) for network in networks])
        seen: list[Event] = []
        async with asyncio.timeout(5):
            while Event("overrun") not in seen:
                seen += await events.next()
    finally:
        events.close()
        socket.close()


def test_routes_are_repaired_after_a_storm_of_events() -> None:
    with closing_all() as made:
        fabric = Fabric()
        made.append(fabric)
        node = Node(1, fabric)
        made.append(node)
        peer = {**node.object(), "metadata": {"name": "n2"}, "spec": {"podCIDRs": ["10.244.2.0/24"]}}
        peer["status"] = {"addresses": [{"type": "InternalIP", "address": f"{FABRIC}.12"}]}
        node.put(NODES, node.object())
        node.put(NODES, peer)

        async def make() -> RoutesServer:
            return RoutesServer(RoutesConfig(hostname_override="n1"), node.client)

        node.start(node.call(make()).serve())
        eventually(lambda: "10.244.2.0/24" in node.ip("route"))
        lines = "".join(f"route add 20.{number // 250}.{number % 250}.0/24 dev lo\n" for number in range(5000))
        subprocess.run(["ip", "-n", node.name, "-batch", "-"], input=lines.encode(), check=True, timeout=60)
        node.ip("route del 10.244.2.0/24")
        eventually(lambda: "10.244.2.0/24 via" in node.ip("route show 10.244.2.0/24"), 5)


class Disturbed:
    """A socket to the kernel whose dumps lose all that they hold to a change, as often as wished."""

    def __init__(self, real: socket.socket, times: int) -> None:
        self.send, self.close = real.send, real.close
        self._real, self._times = real, times

    def recv(self, size: int) -> bytes:
        data = self._real.recv(size)
        if not self._times:
            return data
        offset = 0
        while True:
            if offset >= len(data):
                data, offset = self._real.recv(size), 0
            length, kind, flags, sequence, port = netlink.HEADER.unpack_from(data, offset)
            if kind == netlink.NLMSG_DONE:
                break
            offset += (length + 3) & ~3
        self._times -= 1
        head = netlink.HEADER.pack(length, kind, flags | netlink.NLM_F_DUMP_INTR, sequence, port)
        return head + data[offset + netlink.HEADER.size :]


@pytest.mark.parametrize(("times", "is_read"), [(1, True), (3, True), (1000, False)], ids=["once", "often", "always"])
def test_a_dump_that_a_change_disturbed_is_asked_again(place: Namespace, times: int, is_read: bool) -> None:
    with inside(place.descriptor), RouteSocket() as door:
        door.batch([messages.put_address(1, "10.9.9.1", 32)])
        door._socket = Disturbed(door._socket, times)  # type: ignore[assignment]
        if is_read:
            assert "10.9.9.1" in {found.address for found in door.addresses()}
        else:
            with pytest.raises(NetlinkError, match="changes while it is read"):
                door.addresses()
