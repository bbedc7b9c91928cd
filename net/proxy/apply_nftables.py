"""Bring one family's nftables table to what is wanted: element by element, one transaction a sync.

Theory of operation
-------------------
The first `sync` reads what stands. Where the schema is the wanted one (see `standing`), only elements
differ, if anything does, and a restart writes nothing. A spread that is new adds blocks to the schema,
by `nft`, before the elements that lead to it; everything else is one raw batch. Where the kernel
refuses a batch, the Services in it are split in half until the one at fault is known: it keeps its old
elements, everyone else gets their new ones. Changes that others make to the table are heard as events.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Collection, Mapping, Set

from net.nftables.errors import NftablesError
from net.proxy import nftables_schema as schema
from net.proxy.affinity import Move, moves
from net.proxy.applier import Mode, Services, SyncResult
from net.proxy.claims import Claims, Difference, Elements, Staged, difference, whole_difference
from net.proxy.kernel_table import KernelTable
from net.proxy.nftables import Rendered, node_entries, render, spreads_in_use
from net.proxy.rules import PortRules, RuleSettings
from net.proxy.steps import transactions

log = logging.getLogger(__name__)

INLINE_MAX = 200
"""More Services than these are rendered in a thread: this process has more to do than that."""
GROWING_PAUSE_S = 0.001
"""Gives the kernel's hash tables the time to grow."""
NODE = ""
"""Stands for the node among the Services."""


class NftablesApplier:
    """Own the table kube-proxy of one address family; made in the network namespace that it is for."""

    def __init__(self, settings: RuleSettings, kin: list[KernelTable] | None = None) -> None:
        self.mode: Mode = "nftables"
        self.settings = settings
        self.last_read_s = 0.0
        self._kernel = KernelTable(settings, kin)
        self._claims = Claims()
        self._standing: Elements | None = None
        """What the kernel holds; None where it must be asked."""
        self._refused: dict[str, tuple[PortRules, ...]] = {}
        self._again: set[str] = set()
        self._all_changed = True

    def close(self) -> None:
        """Close the sockets; the rules stay."""
        self._kernel.close()

    def use(self, settings: RuleSettings) -> None:
        """Take new settings; what depends on them is written at the next sync."""
        if settings == self.settings:
            return
        same_masquerade = settings.masquerade_all == self.settings.masquerade_all  # the chains of spreads hold it
        if not same_masquerade or schema.blocks(self.settings, ()) != schema.blocks(settings, ()):
            self._standing = None
        self.settings, self._all_changed = settings, True

    def forget(self) -> None:
        """Read the kernel again at the next sync, and try again what it refused."""
        self._standing = None
        self._again |= self._refused.keys()
        self._refused.clear()

    async def sync(self, services: Services, changed: Set[str] | None = None) -> SyncResult:
        """Bring the kernel to these rules; raises NftablesError where nothing could be written."""
        result = SyncResult()
        if self._all_changed or changed is None:
            changed = services.keys() | (self._claims.entries.keys() - {NODE})
        try:
            await self._sync(services, changed | self._again, result)
        except BaseException:
            self._standing = None  # nothing is known for sure any more
            raise
        self._all_changed = False
        self._again.clear()
        return result

    async def _sync(self, services: Services, changed: Collection[str], result: SyncResult) -> None:
        if self._standing is not None:
            changes = await self._render(services, changed, self._standing)
            try:
                await self._commit(changes, result)
                return
            except NftablesError as error:
                if error.is_passing:
                    raise
                # Somebody may have changed what stands; with fresh knowledge a Service at fault can be told.
                log.info("change is refused, comparing all table=%s error=%s", self._kernel.table, error)
        await self._compare(services, changed, result)

    async def _compare(self, services: Services, changed: Collection[str], result: SyncResult) -> None:
        """Read what the kernel holds, and write what differs."""
        began = time.perf_counter()
        found = await self._kernel.look()
        changes = await self._render(services, changed, found.elements)
        needed = spreads_in_use(self._claims.wanted).union(*(rendered.spreads for rendered in changes.values()))
        still_there = await self._kernel.keep(self.settings, found.shape, schema.provisioned(needed))
        self._standing = found.elements if still_there else {}
        try:
            await self._commit(changes, result, whole=True)
        except NftablesError as error:
            if error.is_passing or not changes:
                raise
            self._standing = (await self._kernel.look()).elements
            await self._split(changes, services, result, error)
            await self._commit({}, result, whole=True)
        self.last_read_s = time.perf_counter() - began

    async def _render(self, services: Services, names: Collection[str], held: Elements) -> dict[str, Rendered]:
        if len(names) > INLINE_MAX:
            return await asyncio.to_thread(self._render_now, services, names, held)
        return self._render_now(services, names, held)

    def _render_now(self, services: Services, names: Collection[str], held: Elements) -> dict[str, Rendered]:
        found: dict[str, Rendered] = {}
        for name in names:
            ports = services.get(name, ())
            if name in self._refused:
                if self._refused[name] is ports:
                    continue
                del self._refused[name]
            found[name] = render(ports, self.settings, held)
        if self._all_changed:
            found[NODE] = Rendered(node_entries(self.settings))
        return found

    async def _commit(self, changes: Mapping[str, Rendered], result: SyncResult, *, whole: bool = False) -> None:
        """Write these Services in one transaction, and with `whole` everything else that differs."""
        assert self._standing is not None
        missing = {spread for found in changes.values() for spread in found.spreads} - self._kernel.spreads
        if missing:
            await self._kernel.grow(self.settings, schema.provisioned(missing))
        staged = self._claims.stage({name: found.entries for name, found in changes.items()})
        if whole:
            todo = whole_difference(staged, self._claims.wanted, self._standing)
        else:
            todo = difference(staged, self._standing)
        for number, (operations, size) in enumerate(transactions(self._kernel.table, todo, self._standing)):
            if number:
                await asyncio.sleep(GROWING_PAUSE_S)
            result.written_bytes += await self._kernel.batch(operations, size)
        moved = self._moves(changes, staged)
        self._adopt(staged, todo, whole=whole)
        if moved:
            await asyncio.to_thread(self._kernel.move_clients, moved)

    async def _split(
        self, changes: Mapping[str, Rendered], services: Services, result: SyncResult, error: NftablesError
    ) -> None:
        """Find the Services at fault: halve until one is left alone with its error."""
        if len(changes) == 1:
            (name,) = changes
            self._refused[name] = services.get(name, ())
            result.refused[name] = str(error)
            log.error("service is refused by the kernel and keeps its old rules service=%s error=%s", name, error)
            return
        names = sorted(changes)
        for half in (names[: len(names) // 2], names[len(names) // 2 :]):
            part = {name: changes[name] for name in half}
            try:
                await self._commit(part, result)
            except NftablesError as again:
                if again.is_passing:
                    raise
                await self._split(part, services, result, again)

    def _moves(self, changes: Mapping[str, Rendered], staged: Staged) -> list[Move]:
        fronts = [front for found in changes.values() for front in found.sticky]
        if not fronts:
            return []
        standing = self._standing or {}

        def before(name: str, key: bytes) -> bytes | None:
            return standing.get(name, {}).get(key)

        def after(name: str, key: bytes) -> bytes | None:
            touched = staged.wanted.get(name, {})
            return touched[key] if key in touched else before(name, key)

        return moves(fronts, before, after)

    def _adopt(self, staged: Staged, todo: Difference, *, whole: bool) -> None:
        self._claims.adopt(staged)
        if self._standing is None or self._standing is self._claims.wanted:
            return
        for name, keys in todo.deleted.items():
            for key in keys:
                self._standing[name].pop(key, None)
        for name, pairs in todo.added.items():
            self._standing.setdefault(name, {}).update(pairs)
        if whole:  # the same by now, and a copy less
            self._standing = self._claims.wanted

    async def stands(self) -> bool:
        """Tell whether chains and rules are those that were loaded."""
        return self._kernel.is_whole()

    async def disturbed(self, interval_s: float) -> str:
        """Wait until somebody else changes the table; say what it was."""
        return await self._kernel.disturbed()

    async def connections(self) -> dict[bytes, int]:
        """Return how many connections each front has seen, by its key."""
        return {**self._kernel.counters(schema.CONNECTIONS), **self._kernel.counters(schema.NODEPORT_CONNECTIONS)}

    async def clean_up(self) -> None:
        """Take the table away."""
        self._kernel.delete()
        self._standing, self._claims = None, Claims()
