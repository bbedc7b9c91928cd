"""Render Services as elements of the shared nftables maps: pure, a tuple of (set, key, data) each.

What the maps mean stands in `nftables_schema`. A Service's endpoints keep their slots as long as they
live: an endpoint more or less is one element of a slot map, and remembered clients stay where they are.
"""

from __future__ import annotations

import ipaddress
import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache

from net.nftables.elements import DROP, chain_of, concatenation, goto, prefix, protocol, value
from net.proxy import nftables_schema as schema
from net.proxy.nftables_schema import Spread, slot_map
from net.proxy.rules import Front, FrontKind, PortRules, RuleSettings, Verdict
from net.proxy.services import Endpoint

Entry = tuple[str, bytes, bytes]
"""A set or map, a key, and a map's data."""
Held = Mapping[str, Mapping[bytes, bytes]]
"""The elements of each set, by key."""
REJECT = goto(schema.REJECT_CHAIN)
FIREWALL = goto(schema.FIREWALL_CHAIN)
CACHED_MAX = 1 << 12
_OCTETS = {str(number): bytes((number,)) for number in range(256)}
_TARGET_HEADS = {size: value(bytes(size + 4))[:4] for size in (4, 16)}


def packed(address: str) -> bytes:
    """Encode an address."""
    if ":" in address:
        return _packed6(address)
    first, second, third, fourth = address.split(".")
    return _OCTETS[first] + _OCTETS[second] + _OCTETS[third] + _OCTETS[fourth]


@lru_cache(CACHED_MAX)
def _packed6(address: str) -> bytes:
    return ipaddress.IPv6Address(address).packed


@lru_cache(CACHED_MAX)
def _port(number: int) -> bytes:
    return struct.pack(">H2x", number)


def target(ip: str, port: int) -> bytes:
    """Return the data of a slot map: where to."""
    address = packed(ip)
    return _TARGET_HEADS[len(address)] + address + _port(port)


def place(address: str, protocol_name: str, port: int) -> bytes:
    """Return the key of an address and port; of a node port where there is no address."""
    return (packed(address) if address else b"") + protocol(protocol_name) + _port(port)


@lru_cache(CACHED_MAX)
def _spread(role: str, count: int, sticky_s: int) -> tuple[Spread, bytes, tuple[str, ...]]:
    """Return a spread, the verdict that leads to it, and its slots' maps."""
    spread = Spread(role, count, sticky_s)
    return spread, goto(spread.chain), tuple(slot_map(spread.space, slot) for slot in range(count))


@dataclass(frozen=True, slots=True)
class Rendered:
    """Hold what one Service wants to stand in the kernel."""

    entries: tuple[Entry, ...] = ()
    """Each set and key once."""
    spreads: frozenset[Spread] = frozenset()
    sticky: tuple[tuple[str, bytes], ...] = ()
    """Space and key of the fronts that remember their clients."""


@dataclass(slots=True)
class _Collector:
    settings: RuleSettings
    held: Held
    entries: list[Entry] = field(default_factory=list)
    spreads: set[Spread] = field(default_factory=set)
    sticky: list[tuple[str, bytes]] = field(default_factory=list)

    def lead(self, which: str, key: bytes, role: str, sticky_s: int, pool: tuple[Endpoint, ...]) -> None:
        """Have a map lead a key to a choice among endpoints."""
        spread, verdict, slots = _spread(role, len(pool), sticky_s)
        self.spreads.add(spread)
        entries = self.entries
        entries.append((which, key, verdict))
        if sticky_s:
            self.sticky.append((spread.space, key))
        wanted = [target(endpoint.ip, endpoint.port) for endpoint in pool]
        standing = self.held.get(slots[0])
        if standing and key in standing:
            wanted = arranged([self.held.get(name, {}).get(key) for name in slots], wanted)
        for name, data in zip(slots, wanted, strict=True):
            entries.append((name, key, data))


def arranged(standing: list[bytes | None], wanted: list[bytes]) -> list[bytes]:
    """Give each endpoint a slot: the one that it has, as long as that is one of so many."""
    left = dict.fromkeys(wanted)
    slots: list[bytes | None] = []
    for data in standing:
        keeps = data is not None and data in left
        slots.append(data if keeps else None)
        if data is not None and keeps:
            del left[data]
    others = iter(left)
    return [data if data is not None else next(others) for data in slots]


def render(ports: Iterable[PortRules], settings: RuleSettings, held: Held) -> Rendered:
    """Render one Service; `held` is what stands, for the sake of slots."""
    into = _Collector(settings, held)
    entries = into.entries
    here = ("", settings.node_name)
    fronts = 0
    for rules in ports:
        fronts += len(rules.fronts)
        for front in rules.fronts:
            _render_front(into, rules, front)
        for pool in (rules.cluster, rules.local):
            entries.extend((schema.HAIRPIN, packed(one.ip) * 2, b"") for one in pool if one.node in here)
        entries.append((schema.CLUSTER_IPS, packed(rules.port.cluster_ip), b""))
    if fronts > 1:  # they may share addresses, endpoints, and slots
        once = {(name, key): data for name, key, data in entries}
        entries = [(name, key, data) for (name, key), data in once.items()]
    return Rendered(tuple(entries), frozenset(into.spreads), tuple(dict.fromkeys(into.sticky)))


def _render_front(into: _Collector, rules: PortRules, front: Front) -> None:
    key = place(front.address, rules.port.protocol, front.port)
    is_node_port = front.kind is FrontKind.NODE_PORT
    into.entries.append((schema.NODEPORT_CONNECTIONS if is_node_port else schema.CONNECTIONS, key, b""))
    verdict = rules.internal if front.kind is FrontKind.CLUSTER_IP else rules.external
    if verdict in (Verdict.REJECT, Verdict.DROP):
        refusing = schema.NO_ENDPOINT_NODEPORTS if is_node_port else schema.NO_ENDPOINT_SERVICES
        into.entries.append((refusing, key, REJECT if verdict is Verdict.REJECT else DROP))
    pool = rules.local if verdict is Verdict.LOCAL else rules.cluster
    sticky_s = rules.port.affinity_timeout_s
    if front.kind is FrontKind.CLUSTER_IP:
        if verdict in (Verdict.CLUSTER, Verdict.LOCAL):
            into.lead(schema.SERVICE_IPS, key, "cluster", sticky_s, pool)
        return
    leading = schema.SERVICE_NODEPORTS if is_node_port else schema.SERVICE_IPS
    head = "nodeport-" if is_node_port else ""
    if verdict is Verdict.CLUSTER:
        into.lead(leading, key, f"{head}external", sticky_s, pool)
    elif verdict is Verdict.LOCAL:
        into.lead(leading, key, f"{head}local", sticky_s, pool)
    if rules.port.external_local and rules.has_endpoints and rules.cluster:
        # The cluster's own clients take the short way to all endpoints.
        short = schema.INSIDE_NODEPORTS if is_node_port else schema.INSIDE_IPS
        into.lead(short, key, f"{head}inside", sticky_s, rules.cluster)
    if front.kind is FrontKind.LOAD_BALANCER and rules.firewalled:
        into.entries.append((schema.FIREWALL_IPS, key, FIREWALL))
        for first, last in source_ranges(rules.allowed_sources):
            into.entries.append((schema.FIREWALL_SOURCES, concatenation(key, first, key, last), b""))


def source_ranges(networks: Iterable[str]) -> Iterator[tuple[bytes, bytes]]:
    """Yield the first and last address of each network; the kernel takes no ranges that overlap."""
    parsed = [ipaddress.ip_network(text, strict=False) for text in networks]
    four = [network for network in parsed if isinstance(network, ipaddress.IPv4Network)]
    six = [network for network in parsed if isinstance(network, ipaddress.IPv6Network)]
    for kept in (*ipaddress.collapse_addresses(four), *ipaddress.collapse_addresses(six)):
        yield prefix(str(kept))


def spreads_in_use(held: Held) -> frozenset[Spread]:
    """Return the spreads that elements lead to."""
    verdicts = {data for name in schema.LEADING for data in held.get(name, {}).values()}
    found = (schema.parse_spread(chain_of(data)) for data in verdicts)
    return frozenset(spread for spread in found if spread is not None)


def node_entries(settings: RuleSettings) -> tuple[Entry, ...]:
    """Render what belongs to no Service."""
    if not settings.node_port_cidrs:
        return ()
    return tuple((schema.NODEPORT_IPS, packed(address), b"") for address in dict.fromkeys(settings.node_addresses))
