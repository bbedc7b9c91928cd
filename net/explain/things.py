"""What a step of an explanation says must stand in the kernel, and how to tell whether it does: pure.

Each `Thing` is looked up in a `Standing`, the state of one network namespace as somebody read it:

    Rule("nat", "KUBE-SERVICES", "-d 10.96.0.1/32 … -j KUBE-SVC-X").missing(standing) → "the kernel has no chain …"
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from net import chains
from net.chains import Tables
from net.explain.sockets import Waiting
from net.links import Address, ForwardingEntry, Link, Neighbour, Route
from net.proxy.standing import Shape


@dataclass(frozen=True, slots=True)
class Place:
    """Name a network namespace: a node's, or that of a pod on it."""

    node: str
    pod: str = ""

    def __str__(self) -> str:
        """Return the words for it."""
        return f"pod {self.pod}" if self.pod else f"node {self.node}"


NftElements = Mapping[tuple[str, str, str], Mapping[bytes, bytes]]
"""The elements of nftables' sets and maps, by (family, table, set): key and data as the kernel keeps them."""


@dataclass(frozen=True)
class Standing:
    """Hold what was read of one network namespace."""

    links: tuple[Link, ...] = ()
    addresses: tuple[Address, ...] = ()
    routes: tuple[Route, ...] = ()
    neighbours: tuple[Neighbour, ...] | None = None
    """None where they were not read."""
    forwarding: tuple[ForwardingEntry, ...] = ()
    """Where tunnels send frames."""
    tables: Tables = field(default_factory=dict)
    """iptables' tables, those of both IP versions under their own names."""
    chains: Mapping[tuple[str, str, str], tuple[str, ...]] = field(default_factory=dict)
    """nftables' chains by (family, table, chain), with the rules' texts."""
    elements: NftElements = field(default_factory=dict)
    recent: Mapping[str, frozenset[str]] = field(default_factory=dict)
    """The client addresses that iptables' lists remember, by the list's name."""
    shapes: Mapping[tuple[str, str], Shape] = field(default_factory=dict)
    """The schemas of the proxy's tables of nftables, by (family, table)."""
    listeners: tuple[Waiting, ...] | None = None
    """What programs wait at; None where it was not read."""

    def link(self, index: int) -> str:
        """Return a link's name."""
        return next((link.name for link in self.links if link.index == index), f"link {index}")

    def route_to(self, address: str) -> Route | None:
        """Return the route that the kernel takes to an address: the longest prefix, then the lowest metric."""
        wanted = ipaddress.ip_address(address)
        best: tuple[int, int, Route] | None = None
        for route in self.routes:
            network = ipaddress.ip_network(route.network, strict=False)
            if network.version != wanted.version or wanted not in network:
                continue
            if best is None or (network.prefixlen, -route.metric) > best[:2]:
                best = (network.prefixlen, -route.metric, route)
        return best[2] if best is not None else None


class Thing(Protocol):
    """One thing that must stand in the kernel."""

    @property
    def traced_as(self) -> str:
        """The table and chain that a packet's trace names here; empty where none is."""
        ...

    def missing(self, standing: Standing) -> str:
        """Say what is not as it must be; empty where all is well."""
        ...


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule in a chain of iptables."""

    table: str
    chain: str
    rule: str

    @property
    def traced_as(self) -> str:
        """Table and chain."""
        return f"{self.table} {self.chain}"

    def __str__(self) -> str:
        """Return it as iptables-save prints it, with its table."""
        return f"-t {self.table} -A {self.chain} {self.rule}"

    def missing(self, standing: Standing) -> str:
        """Look it up."""
        have = standing.tables.get(self.table, {}).get(self.chain)
        if have is None:
            return f"the kernel has no chain {self.chain} in table {self.table}"
        if self.rule in have or any(chains.same((rule,), (self.rule,)) for rule in have):
            return ""
        return f"chain {self.chain} in table {self.table} lacks the rule: {self.rule}"


@dataclass(frozen=True, slots=True)
class Chain:
    """One chain of iptables with exactly these rules."""

    table: str
    chain: str
    rules: tuple[str, ...]

    @property
    def traced_as(self) -> str:
        """Table and chain."""
        return f"{self.table} {self.chain}"

    def __str__(self) -> str:
        """Return its name with its table."""
        return f"chain {self.chain} of table {self.table}"

    def missing(self, standing: Standing) -> str:
        """Look it up."""
        have = standing.tables.get(self.table, {}).get(self.chain)
        if have is None:
            return f"the kernel has no chain {self.chain} in table {self.table}"
        if chains.same(have, self.rules):
            return ""
        lacks = next((rule for rule in self.rules if not any(chains.same((h,), (rule,)) for h in have)), "")
        if lacks:
            return f"chain {self.chain} in table {self.table} lacks the rule: {lacks}"
        extra = next((rule for rule in have if not any(chains.same((rule,), (w,)) for w in self.rules)), "")
        if extra:
            return f"chain {self.chain} in table {self.table} has a rule that nobody wants: {extra}"
        return f"chain {self.chain} in table {self.table} has its rules in another order"


@dataclass(frozen=True, slots=True)
class NftChain:
    """One chain of nftables that must be there, and words that some rule of it must hold."""

    family: str
    table: str
    chain: str
    holds: str = ""

    @property
    def traced_as(self) -> str:
        """Table and chain."""
        return f"{self.table} {self.chain}"

    def __str__(self) -> str:
        """Return its name as nft takes it."""
        return f"chain {self.family} {self.table} {self.chain}"

    def missing(self, standing: Standing) -> str:
        """Look it up."""
        have = standing.chains.get((self.family, self.table, self.chain))
        if have is None:
            return f"the kernel has no chain {self.chain} in table {self.family} {self.table}"
        if self.holds and not any(self.holds in rule for rule in have):
            return f"chain {self.chain} in table {self.family} {self.table} has no rule with: {self.holds}"
        return ""


@dataclass(frozen=True, slots=True)
class Element:
    """One element of a set or map of nftables, with its data where it is a map."""

    family: str
    table: str
    set: str
    key: bytes
    data: bytes
    words: str
    """The element as people write it."""

    @property
    def traced_as(self) -> str:
        """No chain."""
        return ""

    def __str__(self) -> str:
        """Return it nearly as nft prints it."""
        return f"{self.family} {self.table} {self.set} {{ {self.words} }}"

    def missing(self, standing: Standing) -> str:
        """Look it up."""
        have = standing.elements.get((self.family, self.table, self.set))
        where = f"{self.set} of table {self.family} {self.table}"
        if have is None:
            return f"the kernel has no set {where}"
        if self.key not in have:
            return f"set {where} lacks the element {self.words}"
        if self.data and have[self.key] != self.data:
            return f"set {where} holds something else than {self.words}"
        return ""


@dataclass(frozen=True, slots=True)
class NoElement:
    """A key that a set or map must not hold; where there is no such set, all is well."""

    family: str
    table: str
    set: str
    key: bytes
    words: str

    @property
    def traced_as(self) -> str:
        """No chain."""
        return ""

    def __str__(self) -> str:
        """Return it in words."""
        return f"no {self.words} in {self.family} {self.table} {self.set}"

    def missing(self, standing: Standing) -> str:
        """Look it up."""
        held = standing.elements.get((self.family, self.table, self.set), {})
        return f"set {self.set} of table {self.family} {self.table} holds {self.words}" if self.key in held else ""


@dataclass(frozen=True, slots=True)
class WantedRoute:
    """The route by which an address must be reached."""

    address: str
    gateway: str | None = ""
    """Empty for a destination on the link itself; None where any way is right."""
    link: str = ""
    """The name of the link, or the beginning of it; empty where any is right."""

    @property
    def traced_as(self) -> str:
        """No chain."""
        return ""

    def __str__(self) -> str:
        """Return it nearly as ip(8) prints it."""
        return (
            f"route to {self.address}"
            + (f" via {self.gateway}" if self.gateway else "")
            + (f" dev {self.link}" if self.link else "")
        )

    def missing(self, standing: Standing) -> str:
        """Look it up."""
        found = standing.route_to(self.address)
        if found is None:
            return f"the kernel has no route to {self.address}"
        link = standing.link(found.index)
        if (self.gateway is not None and found.gateway != self.gateway) or not link.startswith(self.link):
            via = f" via {found.gateway}" if found.gateway else ""
            wanted = str(self).removeprefix(f"route to {self.address}") or " on link"
            return f"the kernel routes {self.address} by {found.network}{via} dev {link}, not{wanted}"
        own = next((found_link for found_link in standing.links if found_link.index == found.index), None)
        return f"link {link} is down" if own is not None and not own.is_up else ""


@dataclass(frozen=True, slots=True)
class WantedAddress:
    """An address that must stand on some link of the namespace."""

    address: str
    link: str = ""

    @property
    def traced_as(self) -> str:
        """No chain."""
        return ""

    def __str__(self) -> str:
        """Return it in words."""
        return f"address {self.address}"

    def missing(self, standing: Standing) -> str:
        """Look it up."""
        for found in standing.addresses:
            if found.address == self.address:
                return ""
        return f"no link has the address {self.address}"


@dataclass(frozen=True, slots=True)
class WantedNeighbour:
    """A neighbour whose MAC address must be known without asking."""

    address: str
    mac: str = ""

    @property
    def traced_as(self) -> str:
        """No chain."""
        return ""

    def __str__(self) -> str:
        """Return it in words."""
        return f"neighbour {self.address}" + (f" at {self.mac}" if self.mac else "")

    def missing(self, standing: Standing) -> str:
        """Look it up."""
        if standing.neighbours is None:
            return ""
        found = next((entry for entry in standing.neighbours if entry.address == self.address and entry.mac), None)
        if found is None:
            return f"the neighbour {self.address} is not pinned"
        if self.mac and found.mac != self.mac:
            return f"the neighbour {self.address} is pinned to {found.mac}, not {self.mac}"
        return ""


@dataclass(frozen=True, slots=True)
class Forwarding:
    """Where a tunnel sends what is meant for a MAC address."""

    mac: str
    remote: str

    @property
    def traced_as(self) -> str:
        """No chain."""
        return ""

    def __str__(self) -> str:
        """Return it in words."""
        return f"forwarding entry {self.mac} to {self.remote}"

    def missing(self, standing: Standing) -> str:
        """Look it up."""
        found = next((entry for entry in standing.forwarding if entry.mac == self.mac), None)
        if found is None:
            return f"the tunnel does not know where {self.mac} is"
        return (
            ""
            if found.destination == self.remote
            else f"the tunnel sends {self.mac} to {found.destination}, not {self.remote}"
        )


@dataclass(frozen=True, slots=True)
class Listener:
    """A program that must wait at a port."""

    protocol: str
    address: str
    port: int

    @property
    def traced_as(self) -> str:
        """No chain."""
        return ""

    def __str__(self) -> str:
        """Return it in words."""
        return f"program at {self.protocol.lower()} port {self.port}"

    def missing(self, standing: Standing) -> str:
        """Look it up."""
        if standing.listeners is None or self.protocol == "SCTP":
            return ""
        if any(waiting.takes(self.protocol, self.address, self.port) for waiting in standing.listeners):
            return ""
        return f"nothing listens at {self.protocol} port {self.port}"
