"""Encode nfnetlink requests about tables, chains and sets: pure bytes, one message or several an operation."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from net.nftables.elements import attribute

Family = Literal["ip", "ip6", "inet", "arp", "bridge", "netdev"]
FAMILIES: dict[Family, int] = {"inet": 1, "ip": 2, "arp": 3, "netdev": 5, "bridge": 7, "ip6": 10}
FAMILY_NAMES: dict[int, Family] = {number: name for name, number in FAMILIES.items()}

NFNL_SUBSYS_NFTABLES = 10
NEWTABLE, GETTABLE, DELTABLE = 0, 1, 2
NEWCHAIN, GETCHAIN, DELCHAIN = 3, 4, 5
NEWRULE, GETRULE, DELRULE = 6, 7, 8
NEWSET, GETSET, DELSET = 9, 10, 11
NEWSETELEM, GETSETELEM, DELSETELEM = 12, 13, 14
NEWGEN, GETGEN = 15, 16
NLM_F_CREATE, NLM_F_EXCL = 0x400, 0x200
NFTA_TABLE, NFTA_NAME, NFTA_ELEMENTS = 1, 2, 3
"""The first attributes of chains, rules, sets and element lists are the table's name and the own one."""
NFTA_CHAIN_NAME = 3
NETLINK_HEADER_BYTES, GENERIC_HEADER_BYTES = 16, 4
MESSAGE_ELEMENTS_BYTES = 60_000
"""An attribute's length has 16 bits."""


@dataclass(frozen=True, slots=True)
class Table:
    """Name one table."""

    family: Family
    name: str

    def __str__(self) -> str:
        """Return the form that nft prints."""
        return f"{self.family} {self.name}"


@dataclass(frozen=True, slots=True)
class AddElements:
    """Add elements to a set or map; one that stands with the same data stays, with other data it is an error."""

    table: Table
    set_name: str
    elements: Sequence[bytes]
    """Made by `elements.element`."""


@dataclass(frozen=True, slots=True)
class DeleteElements:
    """Delete elements; one that is not there is an error."""

    table: Table
    set_name: str
    elements: Sequence[bytes]


@dataclass(frozen=True, slots=True)
class FlushSet:
    """Delete all elements of a set or map."""

    table: Table
    set_name: str


@dataclass(frozen=True, slots=True)
class AddTable:
    """Make a table; one that stands stays."""

    table: Table


@dataclass(frozen=True, slots=True)
class DeleteTable:
    """Delete a table with all that is in it; where none may stand, put AddTable before."""

    table: Table


@dataclass(frozen=True, slots=True)
class AddChain:
    """Make a chain without a hook."""

    table: Table
    name: str


@dataclass(frozen=True, slots=True)
class DeleteChain:
    """Delete a chain that is empty and that nothing leads to."""

    table: Table
    name: str


Operation = AddElements | DeleteElements | FlushSet | AddTable | DeleteTable | AddChain | DeleteChain


def about(operation: Operation) -> str:
    """Say what an operation does, for errors."""
    match operation:
        case AddElements(table, name, elements):
            return f"add {len(elements)} elements to {table} {name}"
        case DeleteElements(table, name, elements):
            return f"delete {len(elements)} elements of {table} {name}"
        case FlushSet(table, name):
            return f"flush set {table} {name}"
        case AddTable(table):
            return f"add table {table}"
        case DeleteTable(table):
            return f"delete table {table}"
        case AddChain(table, name):
            return f"add chain {table} {name}"
        case DeleteChain(table, name):
            return f"delete chain {table} {name}"


def text(name: str) -> bytes:
    """Encode a name."""
    return name.encode() + b"\0"


def generic(family: Family) -> bytes:
    """Return nfnetlink's own header."""
    return struct.pack(">BBH", FAMILIES[family], 0, 0)


def messages(operation: Operation) -> Iterator[tuple[int, int, bytes]]:
    """Yield an operation's messages: kind, flags, body."""
    match operation:
        case AddElements(table, name, elements):
            yield from _element_messages(NEWSETELEM, NLM_F_CREATE, table, name, elements)
        case DeleteElements(table, name, elements):
            yield from _element_messages(DELSETELEM, 0, table, name, elements)
        case FlushSet(table, name):
            yield DELSETELEM, 0, _named(table, name)
        case AddTable(table):
            yield NEWTABLE, NLM_F_CREATE, generic(table.family) + attribute(NFTA_TABLE, text(table.name))
        case DeleteTable(table):
            yield DELTABLE, 0, generic(table.family) + attribute(NFTA_TABLE, text(table.name))
        case AddChain(table, name):
            yield NEWCHAIN, NLM_F_CREATE, _named(table, name, NFTA_CHAIN_NAME)
        case DeleteChain(table, name):
            yield DELCHAIN, 0, _named(table, name, NFTA_CHAIN_NAME)


def _named(table: Table, name: str, kind: int = NFTA_NAME) -> bytes:
    return generic(table.family) + attribute(NFTA_TABLE, text(table.name)) + attribute(kind, text(name))


def _element_messages(
    kind: int, flags: int, table: Table, name: str, elements: Sequence[bytes]
) -> Iterator[tuple[int, int, bytes]]:
    if not elements:
        return
    head = _named(table, name)
    step = MESSAGE_ELEMENTS_BYTES // max(map(len, elements))
    for start in range(0, len(elements), step):
        yield kind, flags, head + attribute(NFTA_ELEMENTS, b"".join(elements[start : start + step]))


def element_at(body: bytes, offset: int) -> bytes:
    """Return the element of an element message that holds a place, counted from the message's start; else nothing."""
    data = bytes(NETLINK_HEADER_BYTES) + body
    position = NETLINK_HEADER_BYTES + GENERIC_HEADER_BYTES
    while position + 4 <= len(data):
        length, kind = struct.unpack_from("=HH", data, position)
        if kind & 0x3FFF == NFTA_ELEMENTS:
            inner, end = position + 4, position + length
            while inner + 4 <= end:
                (size,) = struct.unpack_from("=H", data, inner)
                if inner <= offset < inner + size:
                    return data[inner : inner + size]
                inner += max(4, size + 3 & ~3)
            return b""
        position += max(4, length + 3 & ~3)
    return b""
