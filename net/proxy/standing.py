"""Read back what stands in the kernel: whether the schema is still the one that was loaded, and all elements.

Comparing rules with text would need nft's own knowledge of their encoding. So after each load the rules,
chains and sets are read as the kernel keeps them, and their fingerprint becomes part of an empty chain's
name, beside the hash of the text: `raftsman-<text>-<kernel>`. A later look, be it by another process,
sees whether the same text was loaded and whether anybody changed a rule since.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

from net.nftables import operations as ops
from net.nftables.door import NftablesSocket
from net.nftables.elements import attributes
from net.nftables.operations import Table
from net.proxy.claims import Elements
from net.proxy.nftables_schema import MARK_PREFIX, SPACES, Spread, affinity_set, parse_spread

CHAIN_NAME, CHAIN_HOOK, CHAIN_POLICY, CHAIN_TYPE, CHAIN_FLAGS = 3, 4, 5, 7, 10
RULE_CHAIN, RULE_EXPRESSIONS = 2, 4
SET_NAME, SET_FLAGS, SET_KEY_TYPE, SET_KEY_LENGTH, SET_DATA_TYPE, SET_DATA_LENGTH, SET_TIMEOUT = 2, 3, 4, 5, 6, 7, 11
SET_FLAG_ANONYMOUS = 1
_SET_FACTS = (SET_NAME, SET_FLAGS, SET_KEY_TYPE, SET_KEY_LENGTH, SET_DATA_TYPE, SET_DATA_LENGTH, SET_TIMEOUT)
_DYNAMIC_PREFIXES = tuple(affinity_set(space, 0)[:-1] for space in SPACES)


@dataclass(slots=True)
class Shape:
    """Hold a table's schema as the kernel has it."""

    chains: frozenset[str] = frozenset()
    sets: frozenset[str] = frozenset()
    fingerprint: str = ""
    marks: tuple[str, ...] = ()
    """The names of the chains that tell what was loaded."""

    @property
    def stands(self) -> bool:
        """Whether there is any table at all."""
        return bool(self.chains or self.sets or self.marks)

    @property
    def is_ours(self) -> bool:
        """Whether this program made the table."""
        return bool(self.marks)

    @property
    def text_digest(self) -> str:
        """The hash of the text that was loaded; empty where the table is no longer what it was."""
        if len(self.marks) != 1:
            return ""
        text, _, kernel = self.marks[0].removeprefix(MARK_PREFIX).partition("-")
        return text if kernel == self.fingerprint else ""

    @property
    def spreads(self) -> frozenset[Spread]:
        """The spreads that have a chain."""
        found = (parse_spread(chain) for chain in self.chains)
        return frozenset(spread for spread in found if spread is not None)


def mark_name(text_digest: str, fingerprint: str) -> str:
    """Return the name of the chain that tells what was loaded."""
    return f"{MARK_PREFIX}{text_digest}-{fingerprint}"


def read_shape(door: NftablesSocket, table: Table) -> Shape:
    """Read chains, rules and sets; of their elements none."""
    chains = {_word(chain[CHAIN_NAME]): chain for chain in door.parts(table, ops.GETCHAIN)}
    marks = tuple(sorted(name for name in chains if name.startswith(MARK_PREFIX)))
    parts: list[bytes] = []
    for name in sorted(chains.keys() - set(marks)):
        chain = chains[name]
        hook = attributes(chain[CHAIN_HOOK]) if CHAIN_HOOK in chain else {}
        facts = [chain.get(kind, b"") for kind in (CHAIN_POLICY, CHAIN_TYPE, CHAIN_FLAGS)]
        parts.append(b"\0".join([name.encode(), *facts, *(hook[kind] for kind in sorted(hook))]))
    for rule in door.parts(table, ops.GETRULE):
        parts.append(rule.get(RULE_CHAIN, b"") + rule.get(RULE_EXPRESSIONS, b""))
    sets = {_word(found[SET_NAME]): found for found in door.parts(table, ops.GETSET)}
    for name in sorted(sets):
        parts.append(b"\0".join(sets[name].get(kind, b"") for kind in _SET_FACTS))
    hashed = hashlib.sha256()
    for part in parts:
        hashed.update(len(part).to_bytes(4, "big") + part)
    named = frozenset(name for name, found in sets.items() if not _flags(found) & SET_FLAG_ANONYMOUS)
    return Shape(frozenset(chains) - set(marks), named, hashed.hexdigest()[:16], marks)


def read_elements(door: NftablesSocket, table: Table, shape: Shape) -> Elements:
    """Read the elements of all sets but those that packets fill."""
    return {name: door.element_map(table, name) for name in sorted(shape.sets) if not is_dynamic(name)}


def is_dynamic(set_name: str) -> bool:
    """Tell whether packets fill a set, and not we."""
    return set_name.startswith(_DYNAMIC_PREFIXES)


@dataclass(slots=True)
class Standing:
    """Hold what one look found."""

    shape: Shape = field(default_factory=Shape)
    elements: Elements = field(default_factory=dict)


def look(door: NftablesSocket, table: Table) -> Standing:
    """Read all of a table."""
    shape = read_shape(door, table)
    return Standing(shape, read_elements(door, table, shape) if shape.stands else {})


def _word(raw: bytes) -> str:
    return raw.rstrip(b"\0").decode(errors="replace")


def _flags(found: dict[int, bytes]) -> int:
    return int.from_bytes(found.get(SET_FLAGS, b""), "big")
