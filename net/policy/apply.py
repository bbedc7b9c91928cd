"""Bring the kernel's table to the plan, and write nothing where nothing differs.

Theory of operation
-------------------
A sync has three steps, each one transaction, and what is judged changes in the second alone:

    1. nft makes the chains and sets that are missing; nothing leads to them yet
    2. elements change: who is meant, and which profile judges each address
    3. nft removes the chains and sets that nothing leads to any more

Most syncs are the second step alone. Where nft refuses the first, the policies at fault are found by
halves: each keeps the rules that it had, or isolates and allows nothing where it had none, and
everyone else gets theirs. `forget` makes the next sync read the kernel again.

After a start, elements of addresses that no pod is known to have stay for a while: an address may be
given that no status tells yet.
"""

from __future__ import annotations

import errno
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from net.nftables.errors import NftablesError
from net.nftables.events import NftablesEvent
from net.policy import render
from net.policy.elements import Key, Place
from net.policy.kernel import ElementChange, PolicyTable, Standing
from net.policy.model import Policy
from net.policy.plan import PolicyBook
from net.policy.render import Chain

log = logging.getLogger(__name__)
ROUNDS_MAX = 1000
"""How often a sync asks again what is missing: after each refusal, and after what changed meanwhile."""
CHANGED = -1
"""The count of a chain's rules where somebody changed them."""


@dataclass(slots=True)
class SyncResult:
    """Tell what a sync did."""

    made: int = 0
    """Chains and sets."""
    removed: int = 0
    written_bytes: int = 0
    """What went to the kernel as elements."""
    refused: dict[str, str] = field(default_factory=dict)
    """Policies that nft refused, with its words."""
    is_certain: bool = True
    """False where somebody else wrote meanwhile: the next sync reads the kernel anew."""

    @property
    def wrote(self) -> bool:
        """Whether anything was written."""
        return bool(self.made or self.removed or self.written_bytes)


@dataclass(frozen=True, slots=True)
class Missing:
    """Hold what must be made, as the book had it at one moment."""

    sets: Mapping[str, str]
    chains: Mapping[str, Chain]
    owners: Mapping[str, Policy]
    """The policy whose rules a chain holds, by the chain's name."""

    def text(self, names: Iterable[str], standing: Standing) -> str:
        """Return nft's commands for the sets and some of the chains."""
        lines = [f"add table inet {render.TABLE}"]
        for name, declaration in self.sets.items():
            kind, _, body = declaration.partition(" ")
            lines.append(f"add {kind} inet {render.TABLE} {name} {body}")
        ordered = sorted(names)
        for name in ordered:
            lines.append(f"add chain inet {render.TABLE} {name} {self.chains[name].head}".rstrip())
            if name in standing.chains:
                lines.append(f"flush chain inet {render.TABLE} {name}")  # somebody tampered with it
        for name in ordered:
            lines += [f"add rule inet {render.TABLE} {name} {rule}" for rule in self.chains[name].rules]
        return "\n".join(lines) + "\n"


@dataclass(slots=True)
class PolicyApplier:
    """Own the table of one node."""

    book: PolicyBook
    table: PolicyTable
    refused: dict[str, str] = field(default_factory=dict)
    """The policies whose rules are not in force as they are written, with nft's words."""
    _standing: Standing | None = None
    _forgotten: int = 0
    """Counts `forget`, which may come while a sync waits for nft."""
    _is_loading: bool = False
    _is_doubtful: bool = False
    """Whether somebody else wrote while nft did for us."""
    _tampered: dict[str, None] = field(default_factory=dict)
    _accepted: dict[str, Policy] = field(default_factory=dict)
    _settled: bool = False

    def forget(self) -> None:
        """Read the kernel again at the next sync."""
        self._standing = None
        self._forgotten += 1

    def settle(self) -> None:
        """Wait no longer for pods whose addresses are not known yet."""
        self._settled = True

    @property
    def is_settled(self) -> bool:
        """Whether addresses that nobody is known to have are free."""
        return self._settled

    def note_events(self, events: Iterable[NftablesEvent]) -> bool:
        """Take changes of the table that others may have made; tell whether a sync is due."""
        if self._is_loading:
            return False  # nft's own, by which `_load` knows whether there were others
        noted = False
        for event in events:
            noted = True
            if event.kind in ("rule", "chain"):
                self._tampered[event.name] = None
        if noted:
            self.forget()
        return noted

    async def sync(self) -> SyncResult:
        """Bring the kernel to the plan; raises NftablesError where that cannot be."""
        result = SyncResult()
        dirty = self.book.elements.take_dirty()
        standing, self._standing, forgotten = self._standing, None, self._forgotten
        try:
            if standing is None:
                standing = await self._read()
                dirty |= self.book.elements.places() | _places(standing)
            if standing.chains or self.book.isolates:  # a node without isolated pods has no table
                if not standing.chains:
                    dirty |= self.book.elements.places()
                self._settled = self._settled or self.book.knows_all_addresses
                await self._make(standing, result)
                # From here to the change nothing waits: what leads to chains and sets finds them.
                dirty |= self.book.elements.take_dirty()
                dirty -= self._change(standing, dirty, result)
                await self._remove(standing, result)
        except NftablesError:
            self.book.elements.give_back(dirty)
            self.forget()
            raise
        self.book.elements.give_back(dirty)
        result.is_certain = forgotten == self._forgotten and not self._is_doubtful
        if result.is_certain:
            self._standing = standing
        return result

    async def _read(self) -> Standing:
        self.note_events(self.table.drain())
        tampered, self._tampered, self._is_doubtful = self._tampered, {}, False
        standing = await self.table.read(self.book.sets)
        for name in tampered.keys() & standing.chains.keys():
            standing.chains[name] = CHANGED
        return standing

    async def _load(self, text: str) -> None:
        """Run nft; its events look like a stranger's, so that here alone the count of transactions tells."""
        self.note_events(self.table.drain())
        before = self.table.generation()
        self._is_loading = True
        try:
            await self.table.load(text)
            self.table.drain()
            # Most likely somebody wrote into a table of their own, but what was drained could be of ours.
            self._is_doubtful = self._is_doubtful or self.table.generation() != before + 1
        finally:
            self._is_loading = False

    # 1. What is missing

    async def _make(self, standing: Standing, result: SyncResult) -> None:
        """Return when nothing is missing; the book may change while nft runs, so that is asked again each time."""
        for _ in range(ROUNDS_MAX):
            missing = self._missing(standing)
            if not missing.sets and not missing.chains:
                break
            try:
                await self._load(missing.text(missing.chains, standing))
            except NftablesError as error:
                if error.is_passing or not await self._refuse(missing, standing, result):
                    raise
                continue
            result.made += len(missing.sets) + len(missing.chains)
            for name in missing.sets:
                standing.elements[name] = {}
            for name, chain in missing.chains.items():
                standing.chains[name] = len(chain.rules)
            for policy in missing.owners.values():
                self._accepted[policy.key] = policy
                if policy.key not in result.refused:
                    self.refused.pop(policy.key, None)
        else:
            raise NftablesError("the policies change faster than nft can load them", errno.EAGAIN)
        for key in [key for key in self._accepted if key not in self.book.policies]:
            del self._accepted[key]
            self.refused.pop(key, None)

    def _missing(self, standing: Standing) -> Missing:
        book = self.book
        chains = {name: one for name, one in book.chains.items() if standing.chains.get(name) != len(one.rules)}
        return Missing(
            {name: text for name, text in book.sets.items() if name not in standing.elements},
            chains,
            {name: book.policies[book.owner_of_chain[name]] for name in chains if name in book.owner_of_chain},
        )

    async def _refuse(self, missing: Missing, standing: Standing, result: SyncResult) -> bool:
        """Find the policies at fault and put what they had in their rules' place; False where none is."""
        by_policy: dict[str, list[str]] = {}
        for name, policy in missing.owners.items():
            by_policy.setdefault(policy.key, []).append(name)
        # Without any policy's rules it must load, else none of them is at fault: this raises.
        await self.table.check(missing.text(missing.chains.keys() & render.base_chains().keys(), standing))
        culprits: dict[str, str] = {}
        halves = [sorted(by_policy)] if by_policy else []
        while halves:
            keys = halves.pop()
            try:
                await self.table.check(missing.text([name for key in keys for name in by_policy[key]], standing))
            except NftablesError as error:
                if error.is_passing:
                    raise
                if len(keys) == 1:
                    culprits[keys[0]] = str(error)
                else:
                    halves += [keys[: len(keys) // 2], keys[len(keys) // 2 :]]
        for key, words in culprits.items():
            policy, accepted = missing.owners[by_policy[key][0]], self._accepted.get(key)
            if self.book.policies.get(key) != policy:
                continue  # it is another one by now
            log.error("policy is refused, it keeps the rules that it had policy=%s error=%s", key, words)
            self.refused[key] = result.refused[key] = words
            fallback = policy.without_rules() if accepted is None or accepted == policy else accepted
            if fallback == policy:
                return False
            self.book.policy_changed(key, fallback)
        return bool(culprits)

    # 2. Who is meant, and who is judged

    def _change(self, standing: Standing, dirty: set[Place], result: SyncResult) -> set[Place]:
        """Write the elements that differ, and return the places that are done."""
        deleted: dict[str, list[Key]] = {}
        added: dict[str, dict[Key, str]] = {}
        waiting: set[Place] = set()
        for name, key in dirty:
            held, wanted = standing.elements.get(name), self.book.elements.wanted.get(name)
            if held is None or wanted is None:
                continue  # the whole set goes
            before, now = held.get(key), wanted.get(key)
            if before == now:
                continue
            if now is None and not self._may_go(name, key):
                waiting.add((name, key))
                continue
            if before is not None:
                deleted.setdefault(name, []).append(key)
            if now is not None:
                added.setdefault(name, {})[key] = now
        changes = [
            ElementChange(name, deleted.get(name, ()), added.get(name, {})) for name in deleted.keys() | added.keys()
        ]
        if changes:
            result.written_bytes += self.table.change(changes)
        for change in changes:
            held = standing.elements[change.name]
            for key in change.deleted:
                del held[key]
            held.update(change.added)
        return dirty - waiting

    def _may_go(self, name: str, key: Key) -> bool:
        if self._settled or name not in render.base_sets():
            return True
        return self.book.is_held(key[:4] if name.endswith("-4") else key[:16])

    # 3. What nothing leads to

    async def _remove(self, standing: Standing, result: SyncResult) -> None:
        if not self._settled:
            return
        chains = standing.chains.keys() - self.book.chains.keys()
        sets = standing.elements.keys() - self.book.sets.keys()
        if not chains and not sets:
            return
        # Emptied first: none of them leads to another then, or into a set.
        lines = [f"flush chain inet {render.TABLE} {name}" for name in sorted(chains)]
        lines += [f"delete chain inet {render.TABLE} {name}" for name in sorted(chains)]
        lines += [f"delete set inet {render.TABLE} {name}" for name in sorted(sets)]
        try:
            await self._load("\n".join(lines) + "\n")
        except NftablesError as error:
            # They judge nothing; whoever keeps them busy may let go of them.
            log.warning("what is stale cannot be removed chains=%d sets=%d error=%s", len(chains), len(sets), error)
            return
        result.removed += len(chains) + len(sets)
        for name in chains:
            del standing.chains[name]
        for name in sets:
            del standing.elements[name]


def _places(standing: Standing) -> set[Place]:
    return {(name, key) for name, held in standing.elements.items() for key in held}
