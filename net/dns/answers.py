"""PURE: what the cluster's own names are answered with, from records that were made beforehand.

A name's entry maps a type to the data of its records. An entry without records is a name that exists because of others
below it. `ENDPOINTS` is no type: it holds the packed addresses of a Service's endpoints, which have names too
(10-244-1-5.web.default.svc) that are not written out: there may be a hundred thousand.
"""

from __future__ import annotations

import ipaddress
import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from net.dns import wire
from net.dns.wire import AAAA, CNAME, IN, SOA, SRV, TO_QUESTION, A

ENDPOINTS4, ENDPOINTS6 = 0, 65535
CHAIN_MAX = 8
SHUFFLED = frozenset({A, AAAA, SRV})

Entry = Mapping[int, tuple[bytes, ...]]


class Reply(NamedTuple):
    """An answer from the own names; `target` is a name outside that the chain leads to."""

    rcode: int
    answers: list[bytes]
    authority: list[bytes]
    additional: list[bytes]
    aliases: tuple[bytes, ...] = ()
    """Names outside or inside that ours lead to, in their order."""
    target: bytes = b""


def labels(name: bytes) -> list[bytes]:
    """Return a name's labels, the root not among them."""
    found, offset = [], 0
    while length := name[offset]:
        found.append(name[offset + 1 : offset + 1 + length])
        offset += 1 + length
    return found


def address_of_label(label: bytes) -> bytes:
    """Return the packed address that a label spells with dashes; empty where it spells none."""
    text = label.decode("latin-1")
    try:
        if text.count("-") == 3 and "--" not in text:
            return ipaddress.IPv4Address(text.replace("-", ".")).packed
        return ipaddress.IPv6Address(text.replace("-", ":")).packed
    except ValueError:
        return b""


def reversed_address(name: bytes) -> bytes:
    """Return the packed address whose reverse name this is; empty for other names."""
    parts = labels(name)
    try:
        if len(parts) == 6 and parts[4:] == [b"in-addr", b"arpa"]:
            return ipaddress.IPv4Address(b".".join(parts[3::-1]).decode("ascii")).packed
        if len(parts) == 34 and parts[32:] == [b"ip6", b"arpa"] and all(len(part) == 1 for part in parts[:32]):
            return bytes.fromhex(b"".join(parts[31::-1]).decode("ascii"))
    except ValueError:
        return b""
    return b""


@dataclass
class Book:
    """The own names, and how they are looked up."""

    zone: bytes = b"\x07cluster\x05local\x00"
    ttl_s: int = 5
    names: dict[bytes, Entry] = field(default_factory=dict)
    is_complete: bool = False
    """Before that, nothing is said to be missing."""
    reverse_networks: tuple[tuple[int, int, int], ...] = ()
    """(bytes of an address, network, mask) of addresses that nobody outside can name."""
    shuffle: random.Random = field(default_factory=random.Random)

    def __post_init__(self) -> None:
        """Prepare the name below which pods are found."""
        self._pods = b"\x03pod" + self.zone

    def is_own(self, key: bytes) -> bool:
        """Tell whether a name is ours to answer."""
        if key.endswith(self.zone):
            before = len(key) - len(self.zone)
            return not before or self._is_boundary(key, before)
        if key in self.names:
            return True
        return key.endswith(b"\x04arpa\x00") and self._is_own_reverse(key)

    @staticmethod
    def _is_boundary(key: bytes, at: int) -> bool:
        offset = 0
        while offset < at:
            offset += 1 + key[offset]
        return offset == at

    def _is_own_reverse(self, key: bytes) -> bool:
        packed = reversed_address(key)
        number = int.from_bytes(packed, "big")
        return any(len(packed) == size and number & mask == net for size, net, mask in self.reverse_networks)

    def look(self, key: bytes, kind: int) -> Reply:
        """Answer one of the own names."""
        answers: list[bytes] = []
        additional: list[bytes] = []
        aliases: tuple[bytes, ...] = ()
        owner, name = TO_QUESTION, key
        for _ in range(CHAIN_MAX):
            entry = self._entry(name)
            if entry is None:
                if not self.is_complete:
                    return Reply(wire.SERVFAIL, [], [], [])
                return Reply(wire.NXDOMAIN, answers, self._soa(key), [])
            if kind == wire.ANY:
                # One set of records is an answer (RFC 8482), and all of them would serve attackers best.
                kind = next((known for known in entry if known not in (ENDPOINTS4, ENDPOINTS6)), kind)
            if found := entry.get(kind):
                records = [owner + wire.record(kind, self.ttl_s, data) for data in found]
                if kind in SHUFFLED and len(records) > 1:
                    self.shuffle.shuffle(records)
                answers += records
                if kind == SRV:
                    additional = self._targets(found)
                return Reply(wire.NOERROR, answers, [], additional)
            alias = entry.get(CNAME)
            if not alias:
                return Reply(wire.NOERROR, answers, self._soa(key), [])
            answers.append(owner + wire.record(CNAME, self.ttl_s, alias[0]))
            owner = name = alias[0]
            aliases += (name,)
            if not self.is_own(name):
                return Reply(wire.NOERROR, answers, [], [], aliases, name)
        return Reply(wire.SERVFAIL, [], [], [])

    def _entry(self, name: bytes) -> Entry | None:
        entry = self.names.get(name)
        if entry is not None or len(name) <= len(self.zone):
            return entry
        length = name[0]
        parent = name[1 + length :]
        above = self.names.get(parent)
        if above is None:
            return None
        packed = address_of_label(name[1 : 1 + length])
        if not packed:
            return None
        kind = A if len(packed) == 4 else AAAA
        if parent.endswith(self._pods):
            # One label above the zone's "pod" is a namespace, and any address may be a pod of it.
            return {kind: (packed,)} if parent != self._pods else None
        known = above.get(ENDPOINTS4 if kind == A else ENDPOINTS6)
        if not known:
            return None
        size, blob = len(packed), known[0]
        if any(blob[at : at + size] == packed for at in range(0, len(blob), size)):
            return {kind: (packed,)}
        return None

    def _targets(self, services: tuple[bytes, ...]) -> list[bytes]:
        found = []
        for target in dict.fromkeys(data[6:] for data in services):
            entry = self._entry(target)
            for kind in (A, AAAA):
                for data in (entry or {}).get(kind, ()):
                    found.append(target + wire.record(kind, self.ttl_s, data))
        return found

    def _soa(self, key: bytes) -> list[bytes]:
        apex = self.names.get(self.zone)
        data = apex.get(SOA) if apex else None
        if not data:
            return []
        if key.endswith(self.zone):
            at = wire.HEADER.size + len(key) - len(self.zone)
            owner = bytes((0xC0 | at >> 8, at & 0xFF))
        else:
            # A reverse name: its zone is the whole of the addresses above it.
            owner = self._reverse_zone(key)
        return [owner + wire.record(SOA, self.ttl_s, data[0])]

    @staticmethod
    def _reverse_zone(key: bytes) -> bytes:
        return b"\x07in-addr\x04arpa\x00" if key.endswith(b"\x07in-addr\x04arpa\x00") else b"\x03ip6\x04arpa\x00"


def answer(book: Book, query: wire.Query, size_max: int) -> bytes | Reply | None:
    """Answer a question: with bytes; with a Reply whose chain leads outside; or None where it is not ours."""
    if query.version:
        return wire.render(query, wire.BADVERS)
    if query.klass != IN:
        return wire.render(query, wire.REFUSED)
    if query.kind in (wire.AXFR, wire.IXFR, wire.OPT):
        return wire.render(query, wire.REFUSED)
    if not book.is_own(query.key):
        return None
    reply = book.look(query.key, query.kind)
    if reply.target:
        return reply
    return wire.render(
        query, reply.rcode, reply.answers, reply.authority, reply.additional,
        authoritative=reply.rcode != wire.SERVFAIL, size_max=size_max,
    )  # fmt: skip
