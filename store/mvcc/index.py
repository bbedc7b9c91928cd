"""All keys in order, each with its revisions."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

from sortedcontainers import SortedList

from store.mvcc.interval import Interval
from store.mvcc.key_index import KeyIndex
from store.mvcc.revision import MAIN_SHIFT, first_of, is_tombstone, main_of


class Index:
    """Finds the revision of a key, or of every key of a range, as of any point in time.

    Deleted keys stay until compaction forgets them; they are counted apart, so that counting the living keys of a range
    now costs two searches and no walk.

    A key that was created and has not changed since is kept as its one packed revision alone. Most keys are such, and a
    million integers cost the garbage collector nothing.
    """

    def __init__(self) -> None:
        self._keys: dict[bytes, int | KeyIndex] = {}
        self._order: SortedList = SortedList()
        self._deleted: SortedList = SortedList()

    def __len__(self) -> int:
        return len(self._keys)

    def lookup(self, key: bytes) -> KeyIndex | None:
        """The revisions of a key that is or was."""
        found = self._keys.get(key)
        return KeyIndex(found, main_of(found), 1) if isinstance(found, int) else found

    def put(self, key: bytes, revision: int) -> tuple[int, int, int | None]:
        """Note a change of a key; return its create revision, its version, and what revision the change replaces."""
        found = self._keys.get(key)
        if found is None:
            self._keys[key] = revision
            self._order.add(key)
            return revision >> MAIN_SHIFT, 1, None
        if isinstance(found, int):
            replaced: int | None = found
            found = self._keys[key] = KeyIndex(found, found >> MAIN_SHIFT, 1)
        else:
            replaced = found.revisions[-1]
            if replaced & 1:
                self._deleted.remove(key)
                replaced = None
        found.put(revision)
        return found.create_revision, found.version, replaced

    def delete(self, key: bytes, revision: int) -> None:
        """Note the deletion of a living key."""
        self._grown(key).delete(revision)
        self._deleted.add(key)

    def load(self, key: bytes, revision: int, create_revision: int, version: int) -> None:
        """Take one revision out of a snapshot; they come in ascending order."""
        if key not in self._keys:
            is_young = version == 1 and create_revision == main_of(revision)
            self._keys[key] = revision if is_young else KeyIndex(revision, create_revision, version)
            self._order.add(key)
            if is_tombstone(revision):
                self._deleted.add(key)
            return
        found = self._grown(key)
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
        if isinstance(found, int):
            return found if found < first_of(at_main + 1) else None
        return None if found is None else found.get(at_main)

    def revisions(self, key: bytes) -> tuple[int, int, int]:
        """The (create revision, mod revision, version) of a living key, all zero where there is none."""
        found = self._keys.get(key)
        if found is None:
            return 0, 0, 0
        if isinstance(found, int):
            return main_of(found), main_of(found), 1
        return (found.create_revision, main_of(found.revisions[-1]), found.version) if found.is_alive else (0, 0, 0)

    def walk(self, wanted: Interval) -> Iterator[tuple[bytes, KeyIndex]]:
        """Every key of a range that is or was, in order; the keys must not change meanwhile."""
        if wanted.is_empty:
            return
        keys = self._keys
        for key in self._order.irange(wanted.start, wanted.end, inclusive=(True, False)):
            found = keys[key]
            yield key, KeyIndex(found, main_of(found), 1) if isinstance(found, int) else found

    def range(self, wanted: Interval, at_main: int) -> Iterator[tuple[bytes, int]]:
        """Every key of a range that lives as of ``at_main``, with its revision."""
        if wanted.is_empty:
            return
        keys, limit = self._keys, first_of(at_main + 1)
        for key in self._order.irange(wanted.start, wanted.end, inclusive=(True, False)):
            found = keys[key]
            if isinstance(found, int):
                if found < limit:
                    yield key, found
            else:
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
            if isinstance(found, int) or (len(found.revisions) == 1 and found.is_alive):
                continue
            dropped += found.compact(compact_main)
            if not found.revisions:
                del self._keys[key]
                self._order.remove(key)
                self._deleted.remove(key)
        return dropped, keys[-1] if len(keys) == limit else None

    def _grown(self, key: bytes) -> KeyIndex:
        """The revisions of a known key, in the form that takes more of them."""
        found = self._keys[key]
        if isinstance(found, int):
            found = self._keys[key] = KeyIndex(found, main_of(found), 1)
        return found

    @staticmethod
    def _between(keys: SortedList, wanted: Interval) -> int:
        if wanted.is_empty:
            return 0
        stop: int = len(keys) if wanted.end is None else keys.bisect_left(wanted.end)
        start: int = keys.bisect_left(wanted.start)
        return stop - start
