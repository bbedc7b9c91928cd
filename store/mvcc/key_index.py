"""All revisions of one key.

Theory of operation
-------------------
A key lives in *generations*: one begins when the key is created and ends with the tombstone of its deletion. They stand
one after the other in a single ascending list, a tombstone closing each but the last. Written as main.sub, t for a
tombstone, the life of one key::

    put 1.0, put 2.0, delete 3.0t, put 4.0, delete 5.0t

    revisions   [1.0  2.0  3.0t | 4.0  5.0t]
    at 0 → none   at 1 → 1.0   at 2 → 2.0   at 3 → none   at 4 → 4.0   at 5 → none

Compaction at a revision keeps what a reader at that revision or later can see: of all revisions up to it only the last,
and not even that one where it is a tombstone of an earlier time (one at the very revision stays, because a watch may
begin there)::

    compact(2)  [2.0  3.0t | 4.0  5.0t]
    compact(3)  [3.0t | 4.0  5.0t]
    compact(4)  [4.0  5.0t]
    compact(5)  [5.0t]
    compact(6)  []           and the index forgets the key

``create_revision`` and ``version`` describe the newest generation; they outlive the revisions that compaction drops.
"""

from __future__ import annotations

from bisect import bisect_left

from store.mvcc.revision import first_of, is_tombstone, main_of


class KeyIndex:
    """The revisions of one key, oldest first."""

    __slots__ = ("create_revision", "revisions", "version")

    def __init__(self, revision: int, create_revision: int, version: int) -> None:
        self.revisions = [revision]
        self.create_revision = create_revision
        self.version = version

    @property
    def is_alive(self) -> bool:
        """Whether the newest revision is not a deletion."""
        return not is_tombstone(self.revisions[-1])

    def put(self, revision: int) -> None:
        """Add a change, which begins a new generation after a deletion."""
        if is_tombstone(self.revisions[-1]):
            self.create_revision = main_of(revision)
            self.version = 0
        self.version += 1
        self.revisions.append(revision)

    def delete(self, revision: int) -> None:
        """Close the living generation with a tombstone."""
        assert is_tombstone(revision), "a deletion is marked as such"
        assert self.is_alive, "only what lives can be deleted"
        self.version = 0
        self.revisions.append(revision)

    def get(self, at_main: int) -> int | None:
        """The revision that a reader at ``at_main`` sees, or None where the key does not exist there."""
        limit = first_of(at_main + 1)
        revision = self.revisions[-1]
        if revision >= limit:
            position = bisect_left(self.revisions, limit)
            if position == 0:
                return None
            revision = self.revisions[position - 1]
        return None if is_tombstone(revision) else revision

    def dropped_by(self, compact_main: int) -> int:
        """How many of the oldest revisions a compaction at ``compact_main`` gives up."""
        count = bisect_left(self.revisions, first_of(compact_main + 1)) - 1
        if count < 0:
            return 0
        newest = self.revisions[count]
        return count + 1 if is_tombstone(newest) and main_of(newest) != compact_main else count

    def compact(self, compact_main: int) -> list[int]:
        """Forget what no reader at ``compact_main`` or later can see and return it."""
        count = self.dropped_by(compact_main)
        dropped = self.revisions[:count]
        if count:
            self.revisions = self.revisions[count:]
        return dropped
