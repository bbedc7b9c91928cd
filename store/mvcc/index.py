"""All keys in order, each with its revisions."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

from sortedcontainers import SortedList

from store.mvcc.interval import Interval
from store.mvcc.key_index import KeyIndex
from store.mvcc.revision import main_of


class Index:
    """Finds the revision of a key, or of every key of a range, as of any point in time.

    Deleted keys stay until compaction forgets them; they are counted apart, so that counting the living keys of a range
    now costs two searches and no walk.
    """

    def __init__(self) -> None:
        self._keys: dict[bytes, KeyIndex] = {}
        self._order: SortedList = SortedList()
        self._deleted: SortedList = SortedList()

    def __len__(self) -> int:
        return len(self._keys)

    def lookup(self, key: bytes) -> KeyIndex | None:
        """The revisions of a key that is or was."""
        return self._keys.get(key)

    def put(self, key: bytes, revision: int) -> KeyIndex:
        """Note a change of a key and return its revisions."""
        found = self._keys.get(key)
        if found is None:
            found = KeyIndex(revision, main_of(revision), 1)
            self._insert(key, found)
            return found
        if not found.is_alive:
            self._deleted.remove(key)
        found.put(revision)
        return found

    def delete(self, key: bytes, revision: int) -> None:
        """Note the deletion of a living key."""
        self._keys[key].delete(revision)
        self._deleted.add(key)

    def load(self, key: bytes, revision: int, create_revision: int, version: int) -> None:
        """Take one revision out of a snapshot; they come in ascending order."""
        found = self._keys.get(key)
        if found is None:
            self._insert(key, KeyIndex(revision, create_revision, version))
            if not self._keys[key].is_alive:
                self._deleted.add(key)
            return
        was_alive = found.is_alive
        found.revisions.append(revision)
        found.create_revision, found.version = create_revision, version
        if was_alive and not found.is_alive:
            self._deleted.add(key)
        elif found.is_alive and not was_alive:
            self._deleted.remove(key)

    def get(self, key: bytes, at_main: int) -> int | None:
        """The revision of a key as of ``at_main``."""
        found = self._keys.get(key)
        return None if found is None else found.get(at_main)

    def walk(self, wanted: Interval) -> Iterator[tuple[bytes, KeyIndex]]:
        """Every key of a range that is or was, in order; the keys must not change meanwhile."""
        if wanted.is_empty:
            return
        keys = self._keys
        for key in self._order.irange(wanted.start, wanted.end, inclusive=(True, False)):
            yield key, keys[key]

    def range(self, wanted: Interval, at_main: int) -> Iterator[tuple[bytes, int]]:
        """Every key of a range that lives as of ``at_main``, with its revision."""
        for key, found in self.walk(wanted):
            revision = found.get(at_main)
            if revision is not None:
                yield key, revision

    def count(self, wanted: Interval) -> int:
        """How many keys of a range live now."""
        return self._between(self._order, wanted) - self._between(self._deleted, wanted)

    def compact_some(self, compact_main: int, after: bytes | None, limit: int) -> tuple[list[int], bytes | None]:
        """Compact ``limit`` keys behind ``after``; return the revisions given up and the last key, None at the end."""
        keys = list(islice(self._order.irange(after, None, inclusive=(False, False)), limit))
        dropped: list[int] = []
        for key in keys:
            found = self._keys[key]
            if len(found.revisions) == 1 and found.is_alive:
                continue
            dropped += found.compact(compact_main)
            if not found.revisions:
                del self._keys[key]
                self._order.remove(key)
                self._deleted.remove(key)
        return dropped, keys[-1] if len(keys) == limit else None

    def _insert(self, key: bytes, found: KeyIndex) -> None:
        self._keys[key] = found
        self._order.add(key)

    @staticmethod
    def _between(keys: SortedList, wanted: Interval) -> int:
        if wanted.is_empty:
            return 0
        stop: int = len(keys) if wanted.end is None else keys.bisect_left(wanted.end)
        start: int = keys.bisect_left(wanted.start)
        return stop - start
