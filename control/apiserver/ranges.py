"""Ranges that are allocated by compare-and-swap on one key, as kube-apiserver keeps them below /registry/ranges/."""

from __future__ import annotations

from control.apiserver.etcd import Etcd, KeyExistsError, RevisionMismatchError


class EtcdRanges:
    """request.RangeStore over the store."""

    def __init__(self, store: Etcd, prefix: str) -> None:
        self._store = store
        self._prefix = prefix

    def _key(self, name: str) -> str:
        return f"{self._prefix}/ranges/{name}"

    async def read(self, name: str) -> tuple[bytes | None, int]:
        """Return the value, None where there is none, and its revision (0 for none)."""
        found, _ = await self._store.get(self._key(name))
        return (found.value, found.revision) if found is not None else (None, 0)

    async def swap(self, name: str, value: bytes, revision: int) -> bool:
        """Store the value where the key is still at ``revision``; tell whether it was."""
        try:
            if revision:
                await self._store.update(self._key(name), value, revision)
            else:
                await self._store.create(self._key(name), value)
        except (RevisionMismatchError, KeyExistsError):
            return False
        return True
