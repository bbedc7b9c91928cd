"""The store's door with encryption behind it: callers read and write values as they are."""

from __future__ import annotations

from collections.abc import AsyncIterator
from time import perf_counter

from control.apiserver.config import EtcdConfig
from control.apiserver.encryption.keeper import Encryption
from control.apiserver.encryption.transformers import IDENTITY, Opened, Transformer, TransformError
from control.apiserver.etcd import (
    LIST_PAGE_KEYS,
    Batch,
    Change,
    Etcd,
    KeyValue,
    Page,
    RevisionMismatchError,
    TransformationError,
    UnreadableValue,
)
from control.apiserver.keys import Keys
from control.apiserver.measures import StoreMetrics


class EncryptedEtcd(Etcd):
    """A client of an etcd cluster whose values are encrypted as a configuration says."""

    def __init__(self, config: EtcdConfig, metrics: StoreMetrics | None, keys: Keys, encryption: Encryption) -> None:
        super().__init__(config, metrics)
        self._keys = keys
        self._encryption = encryption

    def _transformer(self, key: str) -> Transformer:
        return self._encryption.transformers.of(self._keys.resource(key))

    async def _seal(self, key: str, value: bytes) -> bytes:
        transformer = self._transformer(key)
        if transformer is IDENTITY:
            return value
        since = perf_counter()
        try:
            sealed = await transformer.seal(value, key.encode())
        except TransformError as error:
            self._note(key, "to_storage", transformer.write_prefix, since, failed=True)
            raise TransformationError(f'unable to transform key "{key}": {error}') from None
        self._note(key, "to_storage", transformer.write_prefix, since)
        return sealed

    async def _open(self, key: str, stored: bytes) -> Opened:
        """Read a stored value; raises TransformationError."""
        transformer = self._transformer(key)
        if transformer is IDENTITY and not stored.startswith(b"k"):
            # Nothing encrypted it, and it does not say so.
            return Opened(stored, False)
        since = perf_counter()
        prefix = transformer.prefix_of(stored)
        try:
            found = await transformer.open(stored, key.encode())
        except TransformError as error:
            self._note(key, "from_storage", prefix, since, failed=True)
            raise TransformationError(f'unable to transform key "{key}": {error}') from None
        self._note(key, "from_storage", prefix, since)
        return found

    def _note(self, key: str, direction: str, prefix: str, since: float, *, failed: bool = False) -> None:
        group, plural = self._keys.resource(key)
        labels = (f"{plural}.{group}" if group else plural, direction, prefix)
        metrics = self._encryption.metrics
        metrics.operations.add(*labels, "unknown-non-grpc" if failed else "OK")
        if not failed:
            metrics.durations.observe(perf_counter() - since, *labels)

    async def _readable(self, key: str, stored: bytes) -> bytes:
        """Return a value, or an empty one that says why it cannot be read."""
        try:
            return (await self._open(key, stored)).data
        except TransformationError as error:
            return UnreadableValue(str(error))

    async def _opened(self, found: KeyValue) -> KeyValue:
        return KeyValue(found.key, (await self._open(found.key, found.value)).data, found.revision)

    # Reading.

    async def get(self, key: str) -> tuple[KeyValue | None, int]:
        """Return the key's value and the store's revision, as of now."""
        found, revision = await super().get(key)
        return (await self._opened(found) if found is not None else None), revision

    async def stale(self, key: str) -> bool:
        """Tell whether the key's value would be written differently now."""
        found, _ = await super().get(key)
        return found is not None and (await self._open(key, found.value)).stale

    async def page(self, prefix: str, *, limit: int = 0, revision: int = 0, after: str = "") -> Page:
        """Return keys with a prefix in order; raises where one of them cannot be read."""
        page = await super().page(prefix, limit=limit, revision=revision, after=after)
        return Page([await self._opened(item) for item in page.items], page.revision, page.more, page.count)

    async def everything(self, prefix: str) -> tuple[list[KeyValue], int]:
        """Return all keys with a prefix as of one revision; what cannot be read says so in its value."""
        items: list[KeyValue] = []
        revision, after, more = 0, "", True
        while more:
            page = await super().page(prefix, limit=LIST_PAGE_KEYS, revision=revision, after=after)
            items += [KeyValue(i.key, await self._readable(i.key, i.value), i.revision) for i in page.items]
            revision, more = revision or page.revision, page.more
            after = items[-1].key if items else ""
        return items, revision

    async def watch(self, start_revision: int) -> AsyncIterator[Batch]:
        """Yield every change of every key; what cannot be read says so in its value."""
        async for batch in super().watch(start_revision):
            yield Batch([await self._readable_change(change) for change in batch.changes], batch.revision)

    async def _readable_change(self, change: Change) -> Change:
        if change.value is None:
            return change
        return Change(change.key, await self._readable(change.key, change.value), change.revision)

    # Writing.

    async def create(self, key: str, value: bytes, ttl_s: int = 0) -> int:
        """Store a new key and return its revision; raise KeyExistsError where there is one."""
        return await super().create(key, await self._seal(key, value), ttl_s)

    async def update(self, key: str, value: bytes, revision: int, ttl_s: int = 0) -> int:
        """Replace the value where the key is still at ``revision``; else raise RevisionMismatchError."""
        try:
            return await super().update(key, await self._seal(key, value), revision, ttl_s)
        except RevisionMismatchError as mismatch:
            raise await self._readable_mismatch(mismatch) from None

    async def delete(self, key: str, revision: int) -> int:
        """Delete the key where it is still at ``revision``; else raise RevisionMismatchError."""
        try:
            return await super().delete(key, revision)
        except RevisionMismatchError as mismatch:
            raise await self._readable_mismatch(mismatch) from None

    async def _readable_mismatch(self, mismatch: RevisionMismatchError) -> RevisionMismatchError:
        current = mismatch.current
        return RevisionMismatchError(await self._opened(current) if current is not None else None)

    async def put(self, key: str, value: bytes, lease: int = 0) -> int:
        """Store a value whatever stands there."""
        return await super().put(key, await self._seal(key, value), lease)
