"""A table of nftables in memory that reads the commands which NetworkPolicy writes, and judges packets by them."""

from __future__ import annotations

import asyncio
import ipaddress
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from net.nftables.errors import NftablesError
from net.nftables.events import NftablesEvent
from net.policy.elements import Key, packed
from net.policy.kernel import ElementChange, Standing

PREFIX = re.compile(r"(add|flush|delete) (table|chain|rule|set|map) inet raftsman-policy ?(.*)")
PORT_BYTES = 4


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
    fail_next: NftablesError | None = None
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
        if self.fail_next is not None:
            error, self.fail_next = self.fail_next, None
            raise error

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
        rest = re.sub(r' comment "[^"]*"$', "", rule)
        while rest:
            if rest in ("accept", "drop", "counter drop"):
                return rest.rpartition(" ")[2]
            if found := re.fullmatch(r"jump (\S+)", rest):
                return self._judge(found[1], packet)
            if found := re.fullmatch(r"(ip6?) ([sd]addr) vmap @(\S+)", rest):
                address = self._address(packet, found[1], found[2])
                chain = self.elements[found[3]].get(packed(address), "") if address else ""
                # goto: what returns from there returns to the policy of the base chain
                return (self._judge(chain, packet) or "accept") if chain else ""
            rest, matches = self._match(rest, packet)
            if not matches:
                return ""
        return ""

    def _address(self, packet: Packet, family: str, side: str) -> str:
        if family != ("ip" if packet.version == 4 else "ip6"):
            return ""
        return packet.source if side == "saddr" else packet.destination

    def _match(self, text: str, packet: Packet) -> tuple[str, bool]:
        if found := re.match(r"ct direction reply ", text):
            return text[found.end() :], packet.is_reply
        if found := re.match(r"ct state related |icmpv6 type \{[^}]*\} ", text):
            return text[found.end() :], False
        if found := re.match(r"meta nfproto ipv(\d)( |$)", text):
            return text[found.end() :], packet.version == int(found[1])
        if found := re.match(r"meta l4proto (\w+) ", text):
            return text[found.end() :], packet.protocol == found[1]
        if found := re.match(r"(ip6?) saddr \. ip6? daddr @(\S+) ", text):
            first = self._address(packet, found[1], "saddr")
            key = packed(first) + packed(packet.destination) if first else b""
            return text[found.end() :], key in self.elements[found[2]]
        if found := re.match(r"(ip6?) daddr \. (\w+) dport @(\S+) ", text):
            address = self._address(packet, found[1], "daddr")
            if not address or packet.protocol != found[2]:
                return "", False
            key = packed(address) + packet.port.to_bytes(2, "big") + b"\0\0"
            return text[found.end() :], key in self.elements[found[3]]
        if found := re.match(r"(ip6?) ([sd]addr) @(\S+) ", text):
            address = self._address(packet, found[1], found[2])
            return text[found.end() :], bool(address) and packed(address) in self.elements[found[3]]
        if found := re.match(r"(ip6?) ([sd]addr) (\{[^}]*\}|\S+) ", text):
            address = self._address(packet, found[1], found[2])
            return text[found.end() :], bool(address) and any(_within(address, one) for one in _listed(found[3]))
        if found := re.match(r"(tcp|udp|sctp) dport (\{[^}]*\}|\S+) ", text):
            here = packet.protocol == found[1] and any(_holds(one, packet.port) for one in _listed(found[2]))
            return text[found.end() :], here
        raise AssertionError(f"not understood: {text}")


def _listed(text: str) -> list[str]:
    return [one.strip() for one in text.strip("{}").split(",")]


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
