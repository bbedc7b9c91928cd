"""Write the nftables schema of one address family: chains, rules and empty sets; pure text.

Theory of operation
-------------------
No chain belongs to a Service. A packet finds its chain by looking its destination up in a map, and the
chain knows one thing alone: among how many endpoints to choose. It draws a *slot*, and the slot's own
map, asked for the same destination again, holds the endpoint:

    10.96.0.1 . tcp . 80  →  @service-ips           →  goto cluster-3
    cluster-3                numgen random mod 3    →  goto endpoint-1
    endpoint-1               @endpoints-1           →  dnat to 10.244.2.7:8080

So the text depends on the *spreads* in use (a role and a number of endpoints), never on the number of
Services, and whatever happens to Services later is a matter of elements. New spreads only add blocks.

Four *spaces* of slot maps exist: by address or by node port, and of all endpoints or of the node's own.
Client affinity is a set of clients per slot: who stands in one is led to that slot again.
Node ports, refusals, firewall and masquerading bear kube-proxy's own names where they mean the same.
Only plain `type` declarations are used: nft 1.0.6 cannot load `typeof` with `th dport` twice.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from net.nftables.operations import Table
from net.proxy.rules import RuleSettings

TABLE_NAME = "kube-proxy"
SERVICE_IPS, SERVICE_NODEPORTS = "service-ips", "service-nodeports"
INSIDE_IPS, INSIDE_NODEPORTS = "service-ips-inside", "service-nodeports-inside"
LEADING = (SERVICE_IPS, SERVICE_NODEPORTS, INSIDE_IPS, INSIDE_NODEPORTS)
"""The maps that lead to spreads."""
NO_ENDPOINT_SERVICES, NO_ENDPOINT_NODEPORTS = "no-endpoint-services", "no-endpoint-nodeports"
CLUSTER_IPS, NODEPORT_IPS, HAIRPIN = "cluster-ips", "nodeport-ips", "hairpin-connections"
FIREWALL_IPS, FIREWALL_SOURCES = "firewall-ips", "firewall-sources"
CONNECTIONS, NODEPORT_CONNECTIONS = "service-connections", "nodeport-connections"
REJECT_CHAIN, FIREWALL_CHAIN = "reject-chain", "firewall-allow-check"
MARK_PREFIX = "raftsman-"
"""A chain of this prefix stands for a table that is ours, and tells what it should hold."""
AFFINITY_ENTRIES_MAX = 65536
PROVISION_STEPS = (8, 16, 32, 64)
"""Spreads are made ahead up to the next of these, so that a few more endpoints need no new chain."""


@dataclass(frozen=True, slots=True)
class Role:
    """Say for which packets a spread is: whose slots it draws from, and which sources it masquerades."""

    space: str
    masquerade: str
    """outside (what comes from no pod), always, own (what this node sends), or never."""


ROLES: Mapping[str, Role] = {
    "cluster": Role("", "outside"),
    "external": Role("", "always"),
    "inside": Role("", "own"),
    "local": Role("local-", "never"),
    "nodeport-external": Role("nodeport-", "always"),
    "nodeport-inside": Role("nodeport-", "own"),
    "nodeport-local": Role("nodeport-local-", "never"),
}
SPACES = ("", "local-", "nodeport-", "nodeport-local-")
_SPREAD = re.compile(rf"({'|'.join(sorted(ROLES, key=len, reverse=True))})-(\d+)(?:-sticky-(\d+))?\Z")


@dataclass(frozen=True, slots=True, order=True)
class Spread:
    """Name one choice among a number of slots."""

    role: str
    count: int
    sticky_s: int = 0
    """How long a client is remembered, in seconds; 0 is not at all."""

    @property
    def chain(self) -> str:
        """The name of its chain."""
        return f"{self.role}-{self.count}-sticky-{self.sticky_s}" if self.sticky_s else f"{self.role}-{self.count}"

    @property
    def space(self) -> str:
        """Whose slots it draws from."""
        return ROLES[self.role].space


def parse_spread(chain: str) -> Spread | None:
    """Return the spread that a chain's name stands for."""
    match = _SPREAD.match(chain)
    return Spread(match[1], int(match[2]), int(match[3] or 0)) if match else None


def slot_map(space: str, slot: int) -> str:
    """Return the map that holds the endpoints of one slot."""
    return f"{space}endpoints-{slot}"


def slot_chain(space: str, slot: int) -> str:
    """Return the chain that leads to the endpoint of one slot."""
    return f"{space}endpoint-{slot}"


def affinity_set(space: str, slot: int) -> str:
    """Return the set of the clients that are bound to one slot."""
    return f"{space}affinity-{slot}"


def provisioned(wanted: Iterable[Spread]) -> frozenset[Spread]:
    """Add spreads of fewer and of a few more endpoints to those wanted."""
    most: dict[tuple[str, int], int] = {("cluster", 0): PROVISION_STEPS[1]}
    found = set(wanted)
    for spread in found:
        kind = (spread.role, spread.sticky_s)
        step = next((step for step in PROVISION_STEPS if step >= spread.count), PROVISION_STEPS[-1])
        most[kind] = max(most.get(kind, 0), step)
    for (role, sticky_s), count in most.items():
        found |= {Spread(role, number, sticky_s) for number in range(1, count + 1)}
    return frozenset(found)


Blocks = dict[str, str]
"""The parts of a table by kind and name, in the order in which they can be loaded."""


class _Writer:
    """Know how one family spells things."""

    def __init__(self, settings: RuleSettings) -> None:
        self.settings = settings
        self.ip = "ip6" if settings.ip_version == 6 else "ip"
        address = "ipv6_addr" if settings.ip_version == 6 else "ipv4_addr"
        self.place = f"{address} . inet_proto . inet_service"
        self.address = address
        self.target = f"{address} . inet_service"
        self.mark = f"0x{1 << settings.masquerade_bit:x}"
        self.blocks: Blocks = {}

    def declare(self, kind: str, name: str, *lines: str) -> None:
        self.blocks[f"{kind} {name}"] = "".join(f"    {line}\n" for line in lines)

    def chain(self, name: str, *rules: str) -> None:
        self.declare("chain", name, *rules)

    def key(self, space: str) -> str:
        port = "meta l4proto . th dport"
        return port if space.startswith("nodeport") else f"{self.ip} daddr . {port}"

    def key_type(self, space: str) -> str:
        return "inet_proto . inet_service" if space.startswith("nodeport") else self.place

    @property
    def cidrs(self) -> str:
        return ", ".join(dict.fromkeys(self.settings.cluster_cidrs))

    @property
    def own_cidrs(self) -> str:
        return ", ".join(dict.fromkeys(self.settings.short_circuit_cidrs))

    def masquerade(self, how: str) -> list[str]:
        """Return the rule that marks what must bear the node's address."""
        mark = f"meta mark set meta mark | {self.mark}"
        if how == "always" or (how == "outside" and self.settings.masquerade_all):
            return [mark]
        if how == "outside":
            return [f"{self.ip} saddr != {{ {self.cidrs} }} {mark}"] if self.cidrs else []
        return [f"fib saddr type local {mark}"] if how == "own" else []


def table(settings: RuleSettings) -> Table:
    """Return the table of a family."""
    return Table("ip6" if settings.ip_version == 6 else "ip", TABLE_NAME)


def blocks(settings: RuleSettings, spreads: Iterable[Spread]) -> Blocks:
    """Write all parts of the table."""
    writer = _Writer(settings)
    _declare_sets(writer)
    wanted = sorted(spreads)
    for space in SPACES:
        for slot in range(max((spread.count for spread in wanted if spread.space == space), default=0)):
            writer.declare("map", slot_map(space, slot), f"type {writer.key_type(space)} : {writer.target}")
            rule = f"dnat {writer.ip} to {writer.key(space)} map @{slot_map(space, slot)}"
            writer.chain(slot_chain(space, slot), rule)
        _remembering(writer, space, [spread for spread in wanted if spread.space == space and spread.sticky_s])
    for spread in wanted:
        writer.chain(spread.chain, *_spread_rules(writer, spread))
    _filter_chains(writer)
    _nat_chains(writer)
    return writer.blocks


def _declare_sets(writer: _Writer) -> None:
    for name in (SERVICE_IPS, INSIDE_IPS, NO_ENDPOINT_SERVICES, FIREWALL_IPS):
        writer.declare("map", name, f"type {writer.place} : verdict")
    for name in (SERVICE_NODEPORTS, INSIDE_NODEPORTS, NO_ENDPOINT_NODEPORTS):
        writer.declare("map", name, "type inet_proto . inet_service : verdict")
    writer.declare("set", CONNECTIONS, f"type {writer.place}", "counter")
    writer.declare("set", NODEPORT_CONNECTIONS, "type inet_proto . inet_service", "counter")
    writer.declare("set", CLUSTER_IPS, f"type {writer.address}")
    writer.declare("set", NODEPORT_IPS, f"type {writer.address}")
    writer.declare("set", HAIRPIN, f"type {writer.address} . {writer.address}")
    writer.declare("set", FIREWALL_SOURCES, f"type {writer.place} . {writer.address}", "flags interval")


def _remembering(writer: _Writer, space: str, sticky: list[Spread]) -> None:
    """Write what remembers clients: a set for each slot, and a chain for each slot and time."""
    times: dict[int, int] = {}
    for spread in sticky:
        times[spread.sticky_s] = max(times.get(spread.sticky_s, 0), spread.count)
    for slot in range(max(times.values(), default=0)):
        writer.declare(
            "set", affinity_set(space, slot), f"type {writer.address} . {writer.key_type(space)}",
            f"size {AFFINITY_ENTRIES_MAX}", "flags dynamic,timeout",
        )  # fmt: skip
    for sticky_s, count in sorted(times.items()):
        for slot in range(count):
            key = f"{writer.ip} saddr . {writer.key(space)}"
            writer.chain(
                _remember_chain(space, slot, sticky_s),
                f"update @{affinity_set(space, slot)} {{ {key} timeout {sticky_s}s }}",
                f"goto {slot_chain(space, slot)}",
            )


def _remember_chain(space: str, slot: int, sticky_s: int) -> str:
    return f"{space}remember-{slot}-{sticky_s}"


def _spread_rules(writer: _Writer, spread: Spread) -> list[str]:
    space = spread.space
    rules = writer.masquerade(ROLES[spread.role].masquerade)
    ends = [slot_chain(space, slot) for slot in range(spread.count)]
    if spread.sticky_s:
        ends = [_remember_chain(space, slot, spread.sticky_s) for slot in range(spread.count)]
        client = f"{writer.ip} saddr . {writer.key(space)}"
        rules += [f"{client} @{affinity_set(space, slot)} goto {end}" for slot, end in enumerate(ends)]
    if spread.count == 1:
        return [*rules, f"goto {ends[0]}"]
    choices = ", ".join(f"{slot} : goto {end}" for slot, end in enumerate(ends))
    return [*rules, f"numgen random mod {spread.count} vmap {{ {choices} }}"]


def _filter_chains(writer: _Writer) -> None:
    place = writer.key("")
    port = writer.key("nodeport-")
    writer.chain(REJECT_CHAIN, "meta l4proto tcp reject with tcp reset", "reject")
    writer.chain(FIREWALL_CHAIN, f"{place} . {writer.ip} saddr @{FIREWALL_SOURCES} return", "drop")
    writer.chain("firewall-check", f"{place} vmap @{FIREWALL_IPS}")
    writer.chain("service-endpoints-check", f"{place} vmap @{NO_ENDPOINT_SERVICES}")
    writer.chain("nodeport-endpoints-check", f"{_own_address(writer)} {port} vmap @{NO_ENDPOINT_NODEPORTS}")
    writer.chain("cluster-ips-check", f"{writer.ip} daddr @{CLUSTER_IPS} goto {REJECT_CHAIN}")
    invalid = [] if writer.settings.conntrack_be_liberal else ["ct state invalid drop"]
    new = "ct state new"
    services, nodeports = f"{new} jump service-endpoints-check", f"{new} jump nodeport-endpoints-check"
    cluster_ips, firewall = f"{new} jump cluster-ips-check", f"{new} jump firewall-check"
    for name, hook, priority, rules in (
        # The firewall sees the address that was asked for, so it stands before the translation.
        ("filter-prerouting-pre-dnat", "prerouting", -110, [firewall]),
        ("filter-output-pre-dnat", "output", -110, [firewall]),
        ("filter-input", "input", -110, [nodeports, services]),
        ("filter-forward", "forward", -110, [*invalid, services, cluster_ips]),
        # What has endpoints for this node's own processes was translated before.
        ("filter-output-post-dnat", "output", -90, [nodeports, services, cluster_ips]),
    ):
        writer.chain(name, f"type filter hook {hook} priority {priority}", *rules)


def _own_address(writer: _Writer) -> str:
    if writer.settings.node_port_cidrs:
        return f"{writer.ip} daddr @{NODEPORT_IPS}"
    # Node ports on loopback would need route_localnet, which lets neighbours reach 127.0.0.1 (CVE-2020-8558).
    loopback = "::1" if writer.ip == "ip6" else "127.0.0.0/8"
    return f"fib daddr type local {writer.ip} daddr != {loopback}"


def _nat_chains(writer: _Writer) -> None:
    place, port = writer.key(""), writer.key("nodeport-")
    inside = [f"{writer.ip} saddr {{ {writer.own_cidrs} }}"] if writer.own_cidrs else []
    inside.append("fib saddr type local")
    writer.chain(
        "nodeports",
        f"{port} @{NODEPORT_CONNECTIONS}",
        *(f"{source} {port} vmap @{INSIDE_NODEPORTS}" for source in inside),
        f"{port} vmap @{SERVICE_NODEPORTS}",
    )
    writer.chain(
        "services",
        f"{place} @{CONNECTIONS}",
        *(f"{source} {place} vmap @{INSIDE_IPS}" for source in inside),
        f"{place} vmap @{SERVICE_IPS}",
        f"{_own_address(writer)} goto nodeports",
    )
    writer.chain("nat-prerouting", "type nat hook prerouting priority -100", "jump services")
    writer.chain("nat-output", "type nat hook output priority -100", "jump services")
    writer.chain("masquerading", "masquerade fully-random")
    writer.chain(
        "nat-postrouting",
        "type nat hook postrouting priority 100",
        f"ct status dnat {writer.ip} saddr . {writer.ip} daddr @{HAIRPIN} goto masquerading",
        f"meta mark & {writer.mark} != {writer.mark} return",
        f"meta mark set meta mark ^ {writer.mark}",
        "goto masquerading",
    )


def text(settings: RuleSettings, parts: Blocks, *, before: str = "") -> str:
    """Return what nft loads; `before` stands in front, in the same transaction."""
    body = "".join(f"  {head} {{\n{lines}  }}\n" for head, lines in parts.items())
    return f"{before}table {table(settings)} {{\n{body}}}\n"


def digest(parts: Blocks) -> str:
    """Return a short hash of a schema."""
    joined = "".join(f"{head}\n{lines}" for head, lines in sorted(parts.items()))
    return hashlib.sha256(joined.encode()).hexdigest()[:16]
