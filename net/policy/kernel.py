"""The table as the kernel holds it: read by dumps, chains written by nft, elements by one transaction."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from net.nftables import door, operations
from net.nftables.door import NftablesSocket
from net.nftables.elements import chain_of, element, goto
from net.nftables.errors import NftablesError
from net.nftables.events import NftablesEvent, NftablesEvents
from net.nftables.operations import AddElements, DeleteElements, Table
from net.policy import render
from net.policy.elements import Key

TABLE = Table("inet", render.TABLE)
SET_IS_ANONYMOUS = 0x1
CHAIN_NAME, RULE_CHAIN, SET_NAME, SET_FLAGS = 3, 2, 2, 3


@dataclass(slots=True)
class Standing:
    """Hold what stands: how many rules each chain has, and what each set holds."""

    chains: dict[str, int] = field(default_factory=dict)
    elements: dict[str, dict[Key, str]] = field(default_factory=dict)
    """The chain that each key of a map leads to; empty for keys of sets."""


@dataclass(frozen=True, slots=True)
class ElementChange:
    """Change one set or map in a transaction; a key whose value changes is both deleted and added."""

    name: str
    deleted: Sequence[Key]
    added: Mapping[Key, str]


class PolicyTable(Protocol):
    """What `apply` needs of the kernel; tests have a table in memory."""

    async def read(self, sets: Iterable[str]) -> Standing:
        """Return what stands; of the elements those of the given sets, all other sets empty."""
        ...

    async def load(self, text: str) -> None:
        """Run nft commands in one transaction; raises NftablesError."""
        ...

    async def check(self, text: str) -> None:
        """Raise NftablesError where `load` would, and change nothing."""
        ...

    def change(self, changes: Sequence[ElementChange]) -> int:
        """Change elements in one transaction and return the bytes sent; raises NftablesError."""
        ...

    def generation(self) -> int:
        """Return the number that grows with every transaction of anybody."""
        ...

    async def next_events(self) -> list[NftablesEvent]:
        """Wait for changes; those of `change` are left out, those of `load` are among them."""
        ...

    def drain(self) -> list[NftablesEvent]:
        """Return at once the changes that have come so far."""
        ...

    def close(self) -> None:
        """Close what is open."""
        ...


class KernelTable:
    """Speak with the kernel of the namespace in which this was made."""

    def __init__(self) -> None:
        self._socket = NftablesSocket()
        # Dumps in a thread must not meet a transaction's answers on one socket.
        self._reading = NftablesSocket()
        self._events = NftablesEvents((self._socket.port_id,))

    def close(self) -> None:
        """Close the sockets."""
        for one in (self._socket, self._reading, self._events):
            one.close()

    async def read(self, sets: Iterable[str]) -> Standing:
        """Return what stands; of the elements those of the given sets, all other sets empty."""
        return await asyncio.to_thread(self._read, frozenset(sets))

    def _read(self, sets: frozenset[str]) -> Standing:
        if TABLE not in self._reading.tables():
            return Standing()
        found = Standing()
        rules = Counter(_word(rule[RULE_CHAIN]) for rule in self._reading.parts(TABLE, operations.GETRULE))
        for chain in self._reading.parts(TABLE, operations.GETCHAIN):
            name = _word(chain[CHAIN_NAME])
            found.chains[name] = rules[name]
        for declared in self._reading.parts(TABLE, operations.GETSET):
            name = _word(declared[SET_NAME])
            if int.from_bytes(declared.get(SET_FLAGS, b""), "big") & SET_IS_ANONYMOUS:
                continue
            held = self._reading.elements(TABLE, name) if name in sets else []
            found.elements[name] = {one.key: chain_of(one.data) for one in held}
        return found

    async def load(self, text: str) -> None:
        """Run nft commands in one transaction; raises NftablesError."""
        await door.load(text)

    async def check(self, text: str) -> None:
        """Raise NftablesError where `load` would, and change nothing."""
        await door.load(text, check_only=True)

    def change(self, changes: Sequence[ElementChange]) -> int:
        """Change elements in one transaction and return the bytes sent; raises NftablesError."""
        batch: list[operations.Operation] = []
        for one in changes:
            batch.append(DeleteElements(TABLE, one.name, [element(key) for key in one.deleted]))
            added = [element(key, goto(chain) if chain else b"") for key, chain in one.added.items()]
            batch.append(AddElements(TABLE, one.name, added))
        return self._socket.batch(batch)

    def generation(self) -> int:
        """Return the number that grows with every transaction of anybody."""
        return self._socket.generation()

    async def next_events(self) -> list[NftablesEvent]:
        """Wait for changes; those of `change` are left out, those of `load` are among them."""
        return _of_table(await self._events.next())

    def drain(self) -> list[NftablesEvent]:
        """Return at once the changes that have come so far."""
        return _of_table(self._events.drain())


class AbsentTable:
    """Stand for the table on a kernel without nf_tables: nothing is there, nothing can be."""

    async def read(self, sets: Iterable[str]) -> Standing:
        """Return nothing."""
        return Standing()

    async def load(self, text: str) -> None:
        """Raise NftablesError."""
        raise NftablesError("the kernel has no nf_tables, or this process may not use it")

    async def check(self, text: str) -> None:
        """Raise NftablesError."""
        await self.load(text)

    def change(self, changes: Sequence[ElementChange]) -> int:
        """Change nothing."""
        return 0

    def generation(self) -> int:
        """Return the same number always."""
        return 0

    async def next_events(self) -> list[NftablesEvent]:
        """Wait until cancelled."""
        await asyncio.Event().wait()
        return []

    def drain(self) -> list[NftablesEvent]:
        """Return nothing."""
        return []

    def close(self) -> None:
        """Have nothing to close."""


def open_table() -> PolicyTable:
    """Return the table of this namespace's kernel."""
    return KernelTable() if door.is_supported() else AbsentTable()


def _of_table(events: list[NftablesEvent]) -> list[NftablesEvent]:
    return [event for event in events if event.kind == "overrun" or event.table == TABLE]


def _word(raw: bytes) -> str:
    return raw.rstrip(b"\0").decode(errors="replace")
