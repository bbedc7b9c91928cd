"""A store in memory that answers as control.apiserver.etcd.Etcd does: revisions, guards, watch, compaction."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from control.apiserver.etcd import (
    Batch,
    Change,
    CompactedError,
    FutureRevisionError,
    KeyExistsError,
    KeyValue,
    Page,
    RevisionMismatchError,
    StoreUnavailableError,
)


@dataclass
class FakeStore:
    """One store; the history is kept from ``compacted`` on."""

    history: list[Change] = field(default_factory=list)
    at: int = 1
    compacted: int = 0
    down: bool = False
    held: bool = False
    """Whether watches get nothing for now, as from a member that lags."""
    _waiters: set[asyncio.Future[None]] = field(default_factory=set)

    def state(self, revision: int = 0) -> dict[str, KeyValue]:
        """Return all keys as of a revision."""
        found: dict[str, KeyValue] = {}
        for change in self.history:
            if revision and change.revision > revision:
                break
            if change.value is None:
                found.pop(change.key, None)
            else:
                found[change.key] = KeyValue(change.key, change.value, change.revision)
        return found

    def _check(self) -> None:
        if self.down:
            raise StoreUnavailableError("no store member answered")

    def _record(self, key: str, value: bytes | None) -> int:
        self.at += 1
        self.history.append(Change(key, value, self.at))
        self.wake()
        return self.at

    def wake(self) -> None:
        """Let watches look again."""
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)
        self._waiters.clear()

    async def close(self) -> None:
        """Do nothing."""

    async def get(self, key: str) -> tuple[KeyValue | None, int]:
        self._check()
        return self.state().get(key), self.at

    async def stale(self, key: str) -> bool:
        return False

    async def revision(self) -> int:
        self._check()
        return self.at

    async def page(self, prefix: str, *, limit: int = 0, revision: int = 0, after: str = "") -> Page:
        self._check()
        if revision and revision < self.compacted:
            raise CompactedError("mvcc: required revision has been compacted")
        if revision > self.at:
            raise FutureRevisionError("mvcc: required revision is a future revision")
        keys = sorted(key for key in self.state(revision) if key.startswith(prefix))
        left = [key for key in keys if key > after]
        chosen = left[:limit] if limit else left
        state = self.state(revision)
        return Page([state[key] for key in chosen], self.at, len(chosen) < len(left), len(keys))

    async def everything(self, prefix: str) -> tuple[list[KeyValue], int]:
        page = await self.page(prefix)
        await asyncio.sleep(0)
        return page.items, page.revision

    async def create(self, key: str, value: bytes, ttl_s: int = 0) -> int:
        self._check()
        if key in self.state():
            raise KeyExistsError(key)
        return self._record(key, value)

    async def update(self, key: str, value: bytes, revision: int, ttl_s: int = 0) -> int:
        self._guard(key, revision)
        return self._record(key, value)

    async def delete(self, key: str, revision: int) -> int:
        self._guard(key, revision)
        return self._record(key, None)

    def _guard(self, key: str, revision: int) -> None:
        self._check()
        current = self.state().get(key)
        if current is None or current.revision != revision:
            raise RevisionMismatchError(current)

    async def watch(self, start_revision: int) -> AsyncIterator[Batch]:
        position = start_revision
        while True:
            if position < self.compacted:
                raise CompactedError(f"compacted at {self.compacted}")
            changes = [] if self.held else [change for change in self.history if change.revision >= position]
            if changes:
                position = changes[-1].revision + 1
                yield Batch(changes, changes[-1].revision)
            else:
                waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
                self._waiters.add(waiter)
                await waiter

    def compact(self, revision: int) -> None:
        """Forget what was before ``revision``; watches that have not got there end."""
        self.compacted = revision
        self.wake()
