"""Hold the rules of one namespace as texts and elements, and compare two of them: pure.

Both sides are read from a kernel: one is the node's, the other a rehearsal, an empty namespace into which the same
appliers wrote what is wanted. So nothing has to be known of how nft and iptables spell what they were given.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from net import chains
from net.chains import KERNEL_CHAINS, Tables
from net.explain import elements
from net.explain.diff import Difference, of_chain
from net.policy import render
from net.proxy import apply, nftables_schema, standing
from net.proxy.nftables_schema import MARK_PREFIX, SPACES, parse_spread, slot_chain, slot_map

TableName = tuple[str, str]
Blocks = Mapping[str, tuple[str, ...]]
"""The lines of each chain, set and map, by its head ("chain services")."""
_HEAD = re.compile(r"^\t(?P<head>(?:chain|set|map) \S+) \{$")
HOST_PORTS = "raftsman-hostports"
PARTS = {
    nftables_schema.TABLE_NAME: "services",
    render.TABLE: "policy",
    "raftsman-pods": "masquerade",
    HOST_PORTS: "host ports",
}
"""The part of the network that each table of nftables is for."""


@dataclass(frozen=True)
class Dump:
    """Hold the rules that are ours of one namespace."""

    tables: Mapping[TableName, Blocks] = field(default_factory=dict)
    """nftables' tables by (family, name)."""
    elements: Mapping[tuple[str, str, str], Mapping[bytes, bytes]] = field(default_factory=dict)
    """The elements by (family, table, set)."""
    iptables: Tables = field(default_factory=dict)
    """iptables' tables; IPv6's bear the prefix ip6/."""


def parse_table(listed: str) -> Blocks:
    """Read `nft -s -t list table`."""
    found: dict[str, tuple[str, ...]] = {}
    head, lines = "", list[str]()
    for line in listed.splitlines():
        if match := _HEAD.match(line):
            head, lines = match["head"], []
        elif line == "\t}" and head:
            found[head], head = tuple(lines), ""
        elif head and line.strip():
            lines.append(" ".join(line.split()))
    return found


def part_of_chain(chain: str) -> str:
    """Return the part that an iptables chain belongs to; empty where it is not ours."""
    if apply.owned(chain):
        return "services"
    if chain.startswith("RAFTSMAN-HOSTPORTS"):
        return "host ports"
    return "masquerade" if chain.startswith("RAFTSMAN-") else ""


def compare(wanted: Dump, live: Dump) -> list[Difference]:
    """Return what differs."""
    found: list[Difference] = []
    for table in sorted({*wanted.tables, *live.tables}):
        found += _of_table(table, wanted, live)
    for name in sorted({*wanted.iptables, *live.iptables}):
        found += _of_iptables(name, wanted.iptables.get(name, {}), live.iptables.get(name, {}))
    return sorted(found, key=lambda difference: (difference.part, difference.what))


def _of_table(table: TableName, wanted: Dump, live: Dump) -> Iterable[Difference]:
    part, name = PARTS.get(table[1], table[1]), f"nftables {' '.join(table)}"
    want, have = wanted.tables.get(table), live.tables.get(table)
    if have is None:
        yield Difference(part, name, lacks=("(the whole table)",))
        return
    if want is None:
        if not _is_at_rest(table, live):
            yield Difference(part, name, extra=("(the whole table)",))
        return
    for head in sorted({*want, *have}):
        if head.startswith(f"chain {MARK_PREFIX}") or (head not in want and _may_stay(table, head)):
            continue
        yield from of_chain(part, f"{name} {head}", want.get(head), have.get(head))
    yield from _of_elements(part, table, wanted, live)


def _may_stay(table: TableName, head: str) -> bool:
    """Tell whether a block is one that is kept for later, though nothing needs it now."""
    kind, _, name = head.partition(" ")
    if table[1] == nftables_schema.TABLE_NAME:
        if kind == "chain":
            kept = (MARK_PREFIX, *(slot_chain(space, 0)[:-1] for space in SPACES), *(f"{s}remember-" for s in SPACES))
            return parse_spread(name) is not None or name.startswith(kept)
        return name.startswith(tuple(slot_map(space, 0)[:-1] for space in SPACES)) or standing.is_dynamic(name)
    return table[1] == HOST_PORTS or (name in render.base_chains() or name in render.base_sets())


def _is_at_rest(table: TableName, live: Dump) -> bool:
    """Tell whether a table is one that is kept with nothing in force in it."""
    return all(_may_stay(table, head) for head in live.tables[table]) and not any(
        held for (*where, _), held in live.elements.items() if tuple(where) == table
    )


def _of_elements(part: str, table: TableName, wanted: Dump, live: Dump) -> Iterable[Difference]:
    want, have = _elements(table, wanted), _elements(table, live)
    for name in sorted({*want, *have}):
        missing, strange = want.get(name, frozenset()), have.get(name, frozenset())
        lacks = sorted(elements.words(name.partition(" ")[2], key, data) for key, data in missing - strange)
        extra = sorted(elements.words(name.partition(" ")[2], key, data) for key, data in strange - missing)
        if lacks or extra:
            yield Difference(part, f"nftables {' '.join(table)} {name}", tuple(lacks), tuple(extra))


def _elements(table: TableName, dump: Dump) -> dict[str, frozenset[tuple[bytes, bytes]]]:
    """Return elements by set; those of slot maps together, as the slots' order is the kernel's history."""
    found: dict[str, set[tuple[bytes, bytes]]] = {}
    for (*where, name), held in dump.elements.items():
        if tuple(where) != table or (table[1] == nftables_schema.TABLE_NAME and standing.is_dynamic(name)):
            continue
        space = next((s for s in sorted(SPACES, key=len, reverse=True) if name.startswith(slot_map(s, 0)[:-1])), None)
        label = f"set {name}" if space is None else f"slots {slot_map(space, 0)[:-2]}"
        found.setdefault(label, set()).update(held.items())
    return {name: frozenset(held) for name, held in found.items()}


def _of_iptables(
    name: str, want: Mapping[str, tuple[str, ...]], have: Mapping[str, tuple[str, ...]]
) -> Iterable[Difference]:
    for chain in sorted({*want, *have}):
        what = f"iptables {name} chain {chain}"
        if chain not in KERNEL_CHAINS:
            yield from of_chain(part_of_chain(chain) or "services", what, want.get(chain), have.get(chain))
            continue
        lacks = _jumps(want.get(chain, ()), have.get(chain, ()))
        extra = _jumps(have.get(chain, ()), want.get(chain, ()))
        for part in sorted({*lacks, *extra}):
            yield Difference(part, what, tuple(lacks.get(part, ())), tuple(extra.get(part, ())))


def _jumps(rules: Iterable[str], others: Iterable[str]) -> dict[str, list[str]]:
    """Return the rules that lead to a chain of ours and that the others lack, by part."""
    found: dict[str, list[str]] = {}
    known = {chains.normal(rule) for rule in others}
    for rule in rules:
        words = rule.split()
        part = part_of_chain(words[-1]) if len(words) >= 2 and words[-2] in ("-j", "-g") else ""
        if part and chains.normal(rule) not in known:
            found.setdefault(part, []).append(rule)
    return found
