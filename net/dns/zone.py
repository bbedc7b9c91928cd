"""PURE: the records of Services, EndpointSlices and Namespaces, by the DNS-Based Service Discovery schema 1.1.0.

    Service default/web, 10.96.0.5, port http:80, endpoint 10.244.1.2
      web.default.svc.cluster.local                     A 10.96.0.5
      _http._tcp.web.default.svc.cluster.local          SRV 0 100 80 web.default.svc.cluster.local
      10-244-1-2.web.default.svc.cluster.local          A 10.244.1.2        (by the endpoints that its entry holds)
      5.0.96.10.in-addr.arpa                            PTR web.default.svc.cluster.local

`Zone` keeps which names each object has, so that a change tells which names are new, other or gone. A reverse name may
belong to several Services; all other names belong to one.
"""

from __future__ import annotations

import ipaddress
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import dns.exception
import dns.name
import dns.reversename

from control.api import meta
from control.api.meta import Object
from net.dns import wire
from net.dns.answers import ENDPOINTS4, ENDPOINTS6, Entry
from net.dns.wire import AAAA, CNAME, NS, PTR, SOA, SRV, TXT, A

SCHEMA_VERSION = "1.1.0"
SERVICE_NAME_LABEL = "kubernetes.io/service-name"
SRV_WEIGHT = 100
NAMESPACE_OWNER = "namespace/"
SERVICE_OWNER = "service/"

Entries = dict[bytes, dict[int, tuple[bytes, ...]]]


def _wire(name: dns.name.Name) -> bytes:
    written = name.to_wire()
    assert written is not None, "without a file the name is returned"
    return written.lower()


def name_of(text: str) -> bytes:
    """Return a name in wire form, in small letters; raises ValueError."""
    try:
        return _wire(dns.name.from_text(text))
    except dns.exception.DNSException as error:
        raise ValueError(f"{text!r} is no name: {error}") from None


def label(text: str) -> bytes:
    """Return a label in wire form; Kubernetes has seen to it that it is one."""
    raw = text.lower().encode()
    return bytes((len(raw),)) + raw


def reverse_name(address: str) -> bytes:
    """Return the name under which an address's PTR records stand."""
    return _wire(dns.reversename.from_address(address))


def pack_address(address: str) -> tuple[int, bytes]:
    """Return the type of an address's record, and its data; raises ValueError."""
    parsed = ipaddress.ip_address(address)
    return (A if parsed.version == 4 else AAAA), parsed.packed


def dashed(address: str) -> str:
    """Return the label of an endpoint without a hostname."""
    return address.replace(".", "-").replace(":", "-")


def srv(port: int, target: bytes, weight: int = SRV_WEIGHT) -> bytes:
    """Return the data of an SRV record."""
    return struct.pack("!HHH", 0, weight, port) + target


def apex(zone: bytes, addresses: Iterable[str], ttl_s: int) -> Entries:
    """Return what stands at the zone's own name and beside it."""
    server = b"\x02ns\x03dns" + zone
    soa = server + b"\x0ahostmaster" + zone + struct.pack("!5I", 1, 7200, 1800, 86400, ttl_s)
    found: Entries = {
        zone: {SOA: (soa,), NS: (server,)},
        b"\x03svc" + zone: {},
        b"\x03pod" + zone: {},
        b"\x03dns" + zone: {},
        label("dns-version") + zone: {TXT: (bytes((len(SCHEMA_VERSION),)) + SCHEMA_VERSION.encode(),)},
        server: {},
    }
    for address in addresses:
        kind, data = pack_address(address)
        _add(found, server, kind, data)
    return found


def _add(found: Entries, name: bytes, kind: int, data: bytes) -> None:
    entry = found.setdefault(name, {})
    known = entry.get(kind, ())
    if data not in known:
        entry[kind] = (*known, data)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One address of a Service that may be told."""

    address: str
    hostname: str
    ports: tuple[tuple[str, str, int], ...]
    """(name, protocol, number)"""

    @property
    def label(self) -> str:
        """The label under which the endpoint is found below its Service."""
        return self.hostname or dashed(self.address)


def endpoints_of(slices: Iterable[Object], publish_not_ready: bool) -> list[Endpoint]:
    """Return the endpoints that are told, each address once with the ports of all slices."""
    merged: dict[str, Endpoint] = {}
    for found in slices:
        if found.get("addressType") not in ("IPv4", "IPv6"):
            continue
        ports = tuple(
            (port.get("name") or "", (port.get("protocol") or "TCP").lower(), int(port["port"]))
            for port in found.get("ports") or ()
            if port.get("port")
        )
        for entry in found.get("endpoints") or ():
            ready = (entry.get("conditions") or {}).get("ready") is not False
            for address in entry.get("addresses") or ():
                if not (ready or publish_not_ready):
                    continue
                known = merged.get(address)
                hostname = entry.get("hostname") or (known.hostname if known else "")
                every = tuple(dict.fromkeys((*(known.ports if known else ()), *ports)))
                merged[address] = Endpoint(address, hostname, every)
    return list(merged.values())


def service_entries(service: Object, slices: Iterable[Object], zone: bytes) -> Entries:
    """Return all names of one Service with their records; the reverse ones are among them."""
    spec = service.get("spec") or {}
    base = label(meta.name(service)) + label(meta.namespace(service)) + b"\x03svc" + zone
    if len(base) > wire.NAME_BYTES_MAX:
        return {}
    found: Entries = {}
    if spec.get("type") == "ExternalName":
        return _external(base, str(spec.get("externalName") or ""))
    addresses = [text for text in spec.get("clusterIPs") or [spec.get("clusterIP") or ""] if text]
    endpoints = endpoints_of(slices, bool(spec.get("publishNotReadyAddresses")))
    if "None" in addresses:
        _headless(found, base, endpoints)
    elif addresses:
        _clustered(found, base, addresses, spec.get("ports") or ())
    else:
        return {}  # it waits for its address
    for endpoint in endpoints:
        if endpoint.hostname:
            _add_address(found, label(endpoint.hostname) + base, endpoint.address)
            _add(found, reverse_name(endpoint.address), PTR, label(endpoint.hostname) + base)
    if base in found:
        packed = [pack_address(endpoint.address)[1] for endpoint in endpoints]
        for kind, size in ((ENDPOINTS4, 4), (ENDPOINTS6, 16)):
            if blob := b"".join(sorted(data for data in packed if len(data) == size)):
                found[base][kind] = (blob,)
    return found


def _external(base: bytes, target: str) -> Entries:
    try:
        ipaddress.ip_address(target)
    except ValueError:
        try:
            return {base: {CNAME: (name_of(target),)}}
        except ValueError:
            return {base: {}}
    return {base: {}}  # an address is no name that an alias could lead to


def _add_address(found: Entries, name: bytes, address: str) -> None:
    kind, data = pack_address(address)
    _add(found, name, kind, data)


def _add_port(found: Entries, base: bytes, port: tuple[str, str, int], target: bytes, weight: int) -> None:
    name, protocol, number = port
    data = srv(number, target, weight)
    _add(found, base, SRV, data)
    if not name:
        return
    above = label(f"_{protocol}") + base
    below = label(f"_{name}") + above
    if len(below) <= wire.NAME_BYTES_MAX:
        found.setdefault(above, {})
        _add(found, below, SRV, data)


def _clustered(found: Entries, base: bytes, addresses: Sequence[str], ports: Iterable[Object]) -> None:
    for address in addresses:
        _add_address(found, base, address)
        _add(found, reverse_name(address), PTR, base)
    for port in ports:
        triple = (port.get("name") or "", (port.get("protocol") or "TCP").lower(), int(port["port"]))
        _add_port(found, base, triple, base, SRV_WEIGHT)


def _headless(found: Entries, base: bytes, endpoints: Sequence[Endpoint]) -> None:
    weight = max(1, SRV_WEIGHT // len(endpoints)) if endpoints else 0
    for endpoint in endpoints:
        target = label(endpoint.label) + base
        if len(target) > wire.NAME_BYTES_MAX:
            continue
        _add_address(found, base, endpoint.address)
        _add(found, reverse_name(endpoint.address), PTR, target)
        for port in endpoint.ports:
            _add_port(found, base, port, target, weight)


@dataclass
class Zone:
    """Which names there are and whose; tells what changed."""

    zone: bytes
    ttl_s: int = 5
    addresses: tuple[str, ...] = ()
    """The servers' own."""
    _names: dict[str, Entries] = field(default_factory=dict)
    _reverse: dict[bytes, dict[str, tuple[bytes, ...]]] = field(default_factory=dict)
    _changed: dict[bytes, Entry | None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Enter the zone's own names."""
        self._put("", apex(self.zone, self.addresses, self.ttl_s))

    def put_service(self, key: str, service: Object | None, slices: Iterable[Object]) -> None:
        """Note a Service (namespace/name) with its slices as they are now; None where it is gone."""
        self._put(SERVICE_OWNER + key, service_entries(service, slices, self.zone) if service is not None else {})

    def put_namespace(self, name: str, exists: bool) -> None:
        """Note that a Namespace is there or gone."""
        found: Entries = {}
        if exists:
            found = {label(name) + b"\x03svc" + self.zone: {}, label(name) + b"\x03pod" + self.zone: {}}
        self._put(NAMESPACE_OWNER + name, found)

    def _put(self, owner: str, found: Entries) -> None:
        before = self._names.get(owner, {})
        for name in before.keys() | found.keys():
            old, new = before.get(name), found.get(name)
            if old == new:
                continue
            if not name.endswith(b"\x04arpa\x00"):
                self._changed[name] = new
                continue
            held = self._reverse.setdefault(name, {})
            if new is None:
                held.pop(owner, None)
            else:
                held[owner] = new[PTR]
            if not held:
                del self._reverse[name]
            self._changed[name] = self._merged(name)
        if found:
            self._names[owner] = found
        else:
            self._names.pop(owner, None)

    def _merged(self, name: bytes) -> Entry | None:
        held = self._reverse.get(name)
        if not held:
            return None
        return {PTR: tuple(dict.fromkeys(data for owner in sorted(held) for data in held[owner]))}

    def take_changes(self) -> dict[bytes, Entry | None]:
        """Return the names that changed since the last call, None for those that are gone."""
        changed, self._changed = self._changed, {}
        return changed

    def everything(self) -> dict[bytes, Entry]:
        """Return all names."""
        found: dict[bytes, Entry] = {}
        for entries in self._names.values():
            for name, entry in entries.items():
                merged = self._merged(name) if name in self._reverse else None
                found[name] = merged if merged is not None else entry
        return found
