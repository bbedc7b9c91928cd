"""A table of nftables in memory that reads the commands which NetworkPolicy writes, and judges packets by them."""

from __future__ import annotations

import asyncio
import ipaddress
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

from net.nftables.errors import NftablesError
from net.nftables.events import NftablesEvent
from net.policy.elements import Key, packed
from net.policy.kernel import ElementChange, Standing

PREFIX = re.compile(r"(add|flush|delete) (table|chain|rule|set|map) inet raftsman-policy ?(.*)")


@dataclass(frozen=True)
class Packet:
    """The first packet of a flow, as the forward hook sees it."""

    source: str
    destination: str
    protocol: str = "tcp"
    port: int = 80
    is_reply: bool = False

    @property
    def version(self) -> int:
        return 6 if ":" in self.source else 4


@dataclass
class FakePolicyTable:
    """Interpret; refuse what `refuses` matches."""

    chains: dict[str, list[str]] = field(default_factory=dict)
    heads: dict[str, str] = field(default_factory=dict)
    elements: dict[str, dict[Key, str]] = field(default_factory=dict)
    loads: list[str] = field(default_factory=list)
    changes: list[ElementChange] = field(default_factory=list)
    reads: int = 0
    refuses: str = ""
    failures: list[NftablesError] = field(default_factory=list)
    """What the next writes raise, in turn."""
    events: asyncio.Queue[list[NftablesEvent]] = field(default_factory=asyncio.Queue)
    _generation: int = 0

    # What `apply` needs

    async def read(self, sets: Iterable[str]) -> Standing:
        self.reads += 1
        asked = set(sets)
        await asyncio.sleep(0)
        return Standing(
            {name: len(rules) for name, rules in self.chains.items()},
            {name: dict(held) if name in asked else {} for name, held in self.elements.items()},
        )

    async def check(self, text: str) -> None:
        if self.refuses and re.search(self.refuses, text):
            raise NftablesError(f"nft: refused: {self.refuses}")
        await asyncio.sleep(0)

    async def load(self, text: str) -> None:
        await self.check(text)
        self._maybe_fail()
        self.loads.append(text)
        self._generation += 1
        for line in text.splitlines():
            self._run(line)

    def _run(self, line: str) -> None:
        found = PREFIX.fullmatch(line)
        assert found, line
        verb, kind, rest = found.groups()
        name, _, body = rest.partition(" ")
        match verb, kind:
            case "add", "chain":
                self.chains.setdefault(name, [])
                self.heads[name] = body
            case "add", "rule":
                for wanted in re.findall(r"@(\S+)", body):
                    assert wanted in self.elements, f"{line}: no set {wanted}"
                assert not (jump := re.fullmatch(r"jump (\S+)", body)) or jump[1] in self.chains, line
                self.chains[name].append(body)
            case "add", "set" | "map":
                self.elements.setdefault(name, {})
            case "flush", "chain":
                self.chains[name].clear()
            case "delete", "chain":
                users = [other for other, rules in self.chains.items() if f"jump {name}" in rules]
                users += [at for at, held in self.elements.items() if name in held.values()]
                assert not users, f"{line}: used by {users}"
                del self.chains[name]
            case "delete", "set":
                users = [
                    other for other, rules in self.chains.items() if any(f"@{name} " in f"{rule} " for rule in rules)
                ]
                assert not users, f"{line}: used by {users}"
                del self.elements[name]

    def change(self, changes: Sequence[ElementChange]) -> int:
        self._maybe_fail()
        self._generation += 1
        for one in changes:
            for key in one.deleted:
                del self.elements[one.name][key]
            for key, chain in one.added.items():
                assert key not in self.elements[one.name], f"{one.name} has {key!r}"
                assert not chain or chain in self.chains, f"no chain {chain}"
                self.elements[one.name][key] = chain
        self.changes += changes
        return sum(len(one.deleted) + len(one.added) for one in changes)

    def _maybe_fail(self) -> None:
        if self.failures:
            raise self.failures.pop(0)

    def generation(self) -> int:
        return self._generation

    async def next_events(self) -> list[NftablesEvent]:
        return await self.events.get()

    def drain(self) -> list[NftablesEvent]:
        found: list[NftablesEvent] = []
        while not self.events.empty():
            found += self.events.get_nowait()
        return found

    def close(self) -> None:
        return

    @property
    def writes(self) -> int:
        return len(self.loads) + len(self.changes)

    # What tests ask

    def passes(self, packet: Packet) -> bool:
        """Tell whether a packet gets through the forward hook."""
        hooked = sorted(
            (int(found[1]), name)
            for name, head in self.heads.items()
            if name in self.chains and (found := re.search(r"priority (\d+)", head))
        )
        return all(self._judge(name, packet) != "drop" for _, name in hooked)

    def _judge(self, chain: str, packet: Packet) -> str:
        for rule in self.chains[chain]:
            verdict = self._apply(rule, packet)
            if verdict:
                return verdict
        return ""

    def _apply(self, rule: str, packet: Packet) -> str:
        for kind, *words in parsed(rule):
            match kind, words:
                case "verdict", [verdict]:
                    return verdict
                case "jump", [chain]:
                    return self._judge(chain, packet)
                case "vmap", [family, side, name]:
                    address = _address(packet, family, side)
                    chain = self.elements[name].get(packed(address), "") if address else ""
                    # goto: what returns from there returns to the policy of the base chain
                    return (self._judge(chain, packet) or "accept") if chain else ""
            if not self._matches(kind, words, packet):
                return ""
        return ""

    def _matches(self, kind: str, words: list[str], packet: Packet) -> bool:
        match kind, words:
            case "reply", _:
                return packet.is_reply
            case "other", _:
                return False
            case "version", [version]:
                return packet.version == int(version)
            case "protocol", [protocol]:
                return packet.protocol == protocol
            case "pair", [family, name]:
                first = _address(packet, family, "saddr")
                return bool(first) and packed(first) + packed(packet.destination) in self.elements[name]
            case "named", [family, protocol, name]:
                address = _address(packet, family, "daddr")
                key = packed(address) + packet.port.to_bytes(2, "big") + b"\0\0" if address else b""
                return packet.protocol == protocol and key in self.elements[name]
            case "set", [family, side, name]:
                address = _address(packet, family, side)
                return bool(address) and packed(address) in self.elements[name]
            case "addresses", [family, side, listed]:
                address = _address(packet, family, side)
                return bool(address) and any(_within(address, one) for one in _listed(listed))
            case "ports", [protocol, listed]:
                return packet.protocol == protocol and any(_holds(one, packet.port) for one in _listed(listed))
        raise AssertionError(f"not understood: {kind}")


FORMS = {
    "verdict": r"(?:counter )?(accept|drop)$",
    "jump": r"jump (\S+)$",
    "vmap": r"(ip6?) ([sd]addr) vmap @(\S+)$",
    "reply": r"ct direction reply ",
    "other": r"ct state related |icmpv6 type \{[^}]*\} ",
    "version": r"meta nfproto ipv(\d) ",
    "protocol": r"meta l4proto (\w+) ",
    "pair": r"(ip6?) saddr \. ip6? daddr @(\S+) ",
    "named": r"(ip6?) daddr \. (\w+) dport @(\S+) ",
    "set": r"(ip6?) ([sd]addr) @(\S+) ",
    "addresses": r"(ip6?) ([sd]addr) (\{[^}]*\}|\S+) ",
    "ports": r"(tcp|udp|sctp) dport (\{[^}]*\}|\S+) ",
}


@lru_cache(maxsize=10000)
def parsed(rule: str) -> tuple[tuple[str, ...], ...]:
    """Return a rule's steps: what kind, and its words."""
    rest = re.sub(r' comment "[^"]*"$', "", rule)
    steps = []
    while rest:
        kind, found = next(
            ((kind, found) for kind, form in FORMS.items() if (found := re.match(form, rest))), ("", None)
        )
        assert found is not None, f"not understood: {rest}"
        steps.append((kind, *found.groups()))
        rest = rest[found.end() :]
    return tuple(steps)


def _address(packet: Packet, family: str, side: str) -> str:
    if family != ("ip" if packet.version == 4 else "ip6"):
        return ""
    return packet.source if side == "saddr" else packet.destination


@lru_cache(maxsize=10000)
def _listed(text: str) -> list[str]:
    return [one.strip() for one in text.strip("{}").split(",")]


@lru_cache(maxsize=100000)
def _within(address: str, text: str) -> bool:
    found = ipaddress.ip_address(address)
    if "-" in text:
        first, last = (ipaddress.ip_address(end) for end in text.split("-"))
        return int(first) <= int(found) <= int(last)
    return found in ipaddress.ip_network(text)


def _holds(text: str, port: int) -> bool:
    first, _, last = text.partition("-")
    return int(first) <= port <= int(last or first)


def sets_of(table: FakePolicyTable) -> Mapping[str, int]:
    """Return how many elements each set of a scope or port has."""
    return {name: len(held) for name, held in table.elements.items() if name.startswith(("pods-", "port-"))}
