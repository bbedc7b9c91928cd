"""Keep the schema of one family's table: load it, let it grow, mend it, and know whether it is still whole."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Sequence

from net.nftables.door import NftablesSocket, load
from net.nftables.errors import NftablesError
from net.nftables.events import NftablesEvents
from net.nftables.operations import AddChain, DeleteChain, DeleteTable, Operation
from net.proxy import nftables_schema as schema
from net.proxy.affinity import Move, carry_out
from net.proxy.nftables_schema import Blocks, Spread
from net.proxy.rules import RuleSettings
from net.proxy.standing import Shape, Standing, look, mark_name, read_shape

log = logging.getLogger(__name__)

INLINE_BYTES_MAX = 50_000
"""Batches of more elements than fit in this are sent from a thread."""


class KernelTable:
    """Own the table kube-proxy of one family; made in the network namespace that it is for."""

    def __init__(self, settings: RuleSettings, kin: list[KernelTable] | None = None) -> None:
        """Make it; `kin` are the tables of other families whose changes are no news either."""
        self.table = schema.table(settings)
        self.spreads: frozenset[Spread] = frozenset()
        self._door = NftablesSocket()
        self._reader = NftablesSocket()
        self._events = NftablesEvents([self._door.port_id])
        if kin is not None:
            kin.append(self)
            for table in kin:
                table._events.leave_out([other._door.port_id for other in kin])
        self._is_loading = False
        self._mark = ""

    def close(self) -> None:
        """Close the sockets; the table stays."""
        for part in (self._door, self._reader, self._events):
            part.close()

    async def look(self) -> Standing:
        """Read schema and elements."""
        self._events.drain()
        return await asyncio.to_thread(look, self._door, self.table)

    async def batch(self, operations: Sequence[Operation], size: int = 0) -> int:
        """Do all in one transaction; `size` is about how many elements there are."""
        if size * 50 > INLINE_BYTES_MAX:
            return await asyncio.to_thread(self._door.batch, operations)
        return self._door.batch(operations)

    async def keep(self, settings: RuleSettings, shape: Shape, needed: frozenset[Spread]) -> bool:
        """Make the schema hold what is needed; tell whether the elements that were there still are."""
        text_digest = shape.text_digest
        if text_digest and text_digest == schema.digest(schema.blocks(settings, shape.spreads)):
            self.spreads, self._mark = shape.spreads, shape.marks[0]
            await self.grow(settings, needed)
            return True
        name = f"table {self.table}"
        if shape.is_ours:
            spreads = shape.spreads | needed
            parts = schema.blocks(settings, spreads)
            try:
                # Elements outlive this, so traffic flows on.
                await self._load(schema.text(settings, parts, before=f"add {name}\nflush {name}\n"), parts)
                self.spreads = spreads
                return True
            except NftablesError as error:
                log.info("table cannot be mended and is made anew table=%s error=%s", self.table, error)
        parts = schema.blocks(settings, needed)
        await self._load(schema.text(settings, parts, before=f"add {name}\ndelete {name}\n"), parts)
        self.spreads = needed
        return False

    async def grow(self, settings: RuleSettings, needed: Iterable[Spread]) -> None:
        """Add spreads to the schema where some are missing."""
        spreads = self.spreads.union(needed)
        if spreads == self.spreads:
            return
        had = schema.blocks(settings, self.spreads)
        parts = schema.blocks(settings, spreads)
        added = {head: lines for head, lines in parts.items() if head not in had}
        await self._load(schema.text(settings, added), parts)
        self.spreads = spreads

    async def _load(self, text: str, parts: Blocks) -> None:
        """Load a text, and note in the kernel what stands since."""
        self._is_loading = True
        try:
            await load(text)
            self._events.drain()
        finally:
            self._is_loading = False
        await asyncio.to_thread(self._note, parts)

    def _note(self, parts: Blocks) -> None:
        shape = read_shape(self._door, self.table)
        wanted = {head.split()[1] for head in parts if head.startswith("chain ")}
        if strange := shape.chains - wanted:
            try:
                self._door.batch([DeleteChain(self.table, name) for name in sorted(strange)])
            except NftablesError as error:
                log.info("strange chains stay table=%s error=%s", self.table, error)
            shape = read_shape(self._door, self.table)
        self._mark = mark_name(schema.digest(parts), shape.fingerprint)
        if shape.marks != (self._mark,):
            old: list[Operation] = [DeleteChain(self.table, name) for name in shape.marks]
            self._door.batch([*old, AddChain(self.table, self._mark)])

    def move_clients(self, wanted: Sequence[Move]) -> None:
        """Keep remembered clients with their endpoints."""
        carry_out(self._door, self.table, wanted)

    def is_whole(self) -> bool:
        """Tell whether chains, rules and sets are those that were loaded."""
        shape = read_shape(self._reader, self.table)
        return shape.marks == (self._mark,) and bool(shape.text_digest)

    async def disturbed(self) -> str:
        """Wait until somebody else changes the table; say what it was."""
        while True:
            for event in await self._events.next():
                if event.kind == "overrun":
                    return "events were lost"
                if event.table == self.table and not self._is_loading:
                    return f"{event.kind} {event.name} was {'deleted' if event.deleted else 'changed'}"

    def counters(self, set_name: str) -> dict[bytes, int]:
        """Return how many packets the elements of a set have counted; those that saw none are left out."""
        return {found.key: found.packets for found in self._reader.elements(self.table, set_name) if found.packets}

    def delete(self) -> bool:
        """Take the table away; tell whether it was there."""
        self.spreads, self._mark = frozenset(), ""
        if self.table not in self._door.tables():
            return False
        self._door.batch([DeleteTable(self.table)])
        return True
