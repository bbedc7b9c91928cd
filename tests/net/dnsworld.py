"""A small world of Services for tests of DNS, and one resolver beside the test that answers for it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import dns.message
import dns.query
import dns.rcode
import dns.rdatatype

from control.api.meta import Object
from control.api.resources import ENDPOINT_SLICES, NAMESPACES, SERVICES
from net.dns import answers, wire, zone
from net.dns.config import DnsConfig
from net.dns.server import DnsServer, retire
from tests.fakes.fake_client import FakeClient

DOMAIN = "cluster.local"
ZONE = zone.name_of(f"{DOMAIN}.")


def service(name: str, namespace: str = "default", **spec: Any) -> Object:
    return {"metadata": {"name": name, "namespace": namespace}, "spec": spec}


def endpoints(service_name: str, entries: list[Object], *, name: str = "", **slots: Any) -> Object:
    return {
        "metadata": {
            "name": name or f"{service_name}-abc",
            "namespace": slots.pop("namespace", "default"),
            "labels": {"kubernetes.io/service-name": service_name},
        },
        "addressType": slots.pop("address_type", "IPv4"),
        "ports": slots.pop("ports", [{"name": "http", "port": 8080, "protocol": "TCP"}]),
        "endpoints": entries,
    }


def endpoint(address: str, hostname: str = "", ready: bool | None = True) -> Object:
    found: Object = {"addresses": [address], "conditions": {} if ready is None else {"ready": ready}}
    return {**found, "hostname": hostname} if hostname else found


HTTP = [{"name": "http", "port": 80, "protocol": "TCP"}]
SERVICES_THERE = [
    service("web", clusterIP="10.96.0.5", clusterIPs=["10.96.0.5", "fd00:96::5"], ports=HTTP),
    service(
        "two", clusterIPs=["10.96.0.6"],
        ports=[{"name": "dns", "port": 53, "protocol": "UDP"}, {"port": 9000, "protocol": "TCP"}],
    ),
    service("db", clusterIP="None", clusterIPs=["None"], ports=HTTP),
    service("early", clusterIP="None", clusterIPs=["None"], publishNotReadyAddresses=True, ports=HTTP),
    service("empty", clusterIP="None", clusterIPs=["None"], ports=HTTP),
    service("six", clusterIP="None", clusterIPs=["None"], ports=HTTP),
    service("inside", type="ExternalName", externalName="Web.default.svc.cluster.local"),
    service("outside", type="ExternalName", externalName="www.example.com"),
    service("round", type="ExternalName", externalName="about.default.svc.cluster.local"),
    service("about", type="ExternalName", externalName="round.default.svc.cluster.local"),
    service("number", type="ExternalName", externalName="192.0.2.7"),
    service("waiting", type="ClusterIP", ports=HTTP),
]  # fmt: skip
SLICES_THERE = [
    endpoints("web", [endpoint("10.244.1.2"), endpoint("10.244.2.3", ready=None), endpoint("10.244.9.9", ready=False)]),
    endpoints("db", [endpoint("10.244.1.7", "db-0"), endpoint("10.244.2.7", "db-1"), endpoint("10.244.3.7")]),
    endpoints("db", [endpoint("10.244.1.7", "db-0")], name="db-twice", ports=[{"name": "admin", "port": 99}]),
    endpoints("early", [endpoint("10.244.1.8", "early-0", ready=False)]),
    endpoints("empty", [endpoint("10.244.1.9", "empty-0", ready=False)]),
    endpoints("six", [endpoint("fd00:244::7", "six-0"), endpoint("fd00:244::8")], address_type="IPv6"),
    endpoints("lost", [endpoint("10.244.7.7")]),
]


def made_zone() -> zone.Zone:
    """Return the zone of the world."""
    made = zone.Zone(ZONE, 5, ("169.254.20.10", "fd00:90::a"))
    made.put_namespace("default", True)
    made.put_namespace("bare", True)
    for found in SERVICES_THERE:
        key = f"default/{found['metadata']['name']}"
        own = [s for s in SLICES_THERE if s["metadata"]["labels"]["kubernetes.io/service-name"] == key[8:]]
        made.put_service(key, found, own)
    return made


def made_book(made: zone.Zone | None = None) -> answers.Book:
    """Return the world as a resolver holds it."""
    book = answers.Book(ZONE, 5, reverse_networks=((4, 0x0AF40000, 0xFFFF0000), (4, 0x0A600000, 0xFFFF0000)))
    book.names = dict((made or made_zone()).everything())
    book.is_complete = True
    return book


def asked(
    book: answers.Book, name: str, kind: str, size_max: int = 65535, **options: Any
) -> dns.message.Message | None:
    """Ask a book and read the answer by the library; None where it is not the book's to answer."""
    query = dns.message.make_query(name, kind, **options)
    found = answers.answer(book, wire.parse_query(query.to_wire()), size_max)
    if found is None:
        return None
    assert isinstance(found, bytes), f"the chain of {name} leads outside"
    answer = dns.message.from_wire(found)
    assert query.is_response(answer)
    return answer


def texts(answer: dns.message.Message, section: str = "answer") -> list[str]:
    """Return a section's records as sorted lines without their times to live."""
    found = getattr(answer, section)
    return sorted(
        f"{rrset.name} {dns.rdatatype.to_text(rrset.rdtype)} {rdata.to_text()}" for rrset in found for rdata in rrset
    )


class Running:
    """A DNS server on a fake API and loopback, its feeder in a thread, its resolver a process."""

    def __init__(self, config: DnsConfig) -> None:
        self.config = config
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._task: asyncio.Task[None] | None = None
        self.client = self.call(_made_client())
        self.server: DnsServer | None = None

    def call(self, work: Any, timeout_s: float = 60.0) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(timeout_s)

    def put(self, resource: Any, obj: Object) -> None:
        async def put() -> None:
            self.client.put(resource, obj)

        self.call(put())

    def remove(self, resource: Any, name: str, namespace: str = "") -> None:
        async def remove() -> None:
            self.client.remove(resource, name, namespace)

        self.call(remove())

    def put_world(self) -> None:
        for name in ("default", "bare"):
            self.put(NAMESPACES, {"metadata": {"name": name}})
        for found in SERVICES_THERE:
            self.put(SERVICES, found)
        for found in SLICES_THERE:
            self.put(ENDPOINT_SLICES, found)

    def start(self, **changes: Any) -> None:
        """Start the feeder; the resolver that runs is found."""

        async def begin() -> None:
            self.server = DnsServer(replace(self.config, **changes), self.client)
            self._task = self._loop.create_task(self.server.serve())

        self.call(begin())

    def stop(self) -> None:
        """End the feeder; the resolver stays."""

        async def end() -> None:
            assert self._task is not None
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

        self.call(end())
        self._task = None

    def close(self) -> None:
        """End feeder and resolver."""

        async def end() -> None:
            try:
                await retire(self.config)
            except OSError:
                return  # none runs

        if self._task is not None:
            self.stop()
        self.call(end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()


async def _made_client() -> FakeClient:
    return FakeClient()


@contextmanager
def running(directory: Path, **settings: Any) -> Iterator[Running]:
    """Return a server at a port of 127.0.0.1; unix sockets need short paths."""
    defaults: dict[str, Any] = {
        "bind_addresses": ("127.0.0.1",),
        "port": 0,
        "interface": "",
        "upstream": ("127.0.0.1:9",),
        "metrics_bind_address": "",
        "control_socket": directory / "dns.sock",
    }
    made = Running(DnsConfig(**{**defaults, **settings}))
    try:
        yield made
    finally:
        made.close()
