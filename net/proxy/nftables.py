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
CACHED_MAX = 1 << 16


@lru_cache(CACHED_MAX)
def packed(address: str) -> bytes:
    """Encode an address."""
    return ipaddress.ip_address(address).packed if ":" in address else bytes(map(int, address.split(".")))


@lru_cache(CACHED_MAX)
def target(ip: str, port: int) -> bytes:
    """Return the data of a slot map: where to."""
    return value(packed(ip) + struct.pack(">H2x", port))


def place(address: str, protocol_name: str, port: int) -> bytes:
    """Return the key of an address and port; of a node port where there is no address."""
    head = packed(address) if address else b""
    return head + protocol(protocol_name) + struct.pack(">H2x", port)


@dataclass(frozen=True, slots=True)
class Rendered:
    """Hold what one Service wants to stand in the kernel."""

    entries: tuple[Entry, ...] = ()
    spreads: frozenset[Spread] = frozenset()
    sticky: tuple[tuple[str, bytes], ...] = ()
    """Space and key of the fronts that remember their clients."""


@dataclass(slots=True)
class _Collector:
    settings: RuleSettings
    held: Held
    entries: dict[tuple[str, bytes], bytes] = field(default_factory=dict)
    spreads: set[Spread] = field(default_factory=set)
    sticky: list[tuple[str, bytes]] = field(default_factory=list)

    def lead(self, which: str, key: bytes, role: str, sticky_s: int, pool: tuple[Endpoint, ...]) -> None:
        """Have a map lead a key to a choice among endpoints."""
        spread = Spread(role, len(pool), sticky_s)
        self.spreads.add(spread)
        self.entries[(which, key)] = goto(spread.chain)
        space = spread.space
        if sticky_s and (space, key) not in self.sticky:
            self.sticky.append((space, key))
        wanted = [target(endpoint.ip, endpoint.port) for endpoint in pool]
        for slot, data in enumerate(arranged(self.held, space, key, wanted)):
            self.entries[(slot_map(space, slot), key)] = data


def arranged(held: Held, space: str, key: bytes, wanted: list[bytes]) -> list[bytes]:
    """Give each endpoint a slot: the one that it has, as long as that is one of so many."""
    if held.get(slot_map(space, 0), {}).get(key) is None:
        return wanted
    left = dict.fromkeys(wanted)
    slots: list[bytes | None] = []
    for slot in range(len(wanted)):
        data = held.get(slot_map(space, slot), {}).get(key)
        keeps = data is not None and data in left
        slots.append(data if keeps else None)
        if data is not None and keeps:
            del left[data]
    others = iter(left)
    return [data if data is not None else next(others) for data in slots]


def render(ports: Iterable[PortRules], settings: RuleSettings, held: Held) -> Rendered:
    """Render one Service; `held` is what stands, for the sake of slots."""
    into = _Collector(settings, held)
    for rules in ports:
        for front in rules.fronts:
            _render_front(into, rules, front)
        for endpoint in rules.reachable:
            if endpoint.node in ("", settings.node_name):
                into.entries[(schema.HAIRPIN, packed(endpoint.ip) * 2)] = b""
        into.entries[(schema.CLUSTER_IPS, packed(rules.port.cluster_ip))] = b""
    entries = tuple((name, key, data) for (name, key), data in into.entries.items())
    return Rendered(entries, frozenset(into.spreads), tuple(into.sticky))


def _render_front(into: _Collector, rules: PortRules, front: Front) -> None:
    key = place(front.address, rules.port.protocol, front.port)
    is_node_port = front.kind is FrontKind.NODE_PORT
    into.entries[(schema.NODEPORT_CONNECTIONS if is_node_port else schema.CONNECTIONS, key)] = b""
    verdict = rules.internal if front.kind is FrontKind.CLUSTER_IP else rules.external
    if verdict in (Verdict.REJECT, Verdict.DROP):
        refusing = schema.NO_ENDPOINT_NODEPORTS if is_node_port else schema.NO_ENDPOINT_SERVICES
        into.entries[(refusing, key)] = REJECT if verdict is Verdict.REJECT else DROP
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
        into.entries[(schema.FIREWALL_IPS, key)] = FIREWALL
        for first, last in source_ranges(rules.allowed_sources):
            into.entries[(schema.FIREWALL_SOURCES, concatenation(key, first, key, last))] = b""


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
