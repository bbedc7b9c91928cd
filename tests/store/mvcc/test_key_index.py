"""One key's revisions: the worked example of the module, and what compaction leaves."""

from __future__ import annotations

import pytest

from store.mvcc.key_index import KeyIndex
from store.mvcc.revision import is_tombstone, main_of, pack, sub_of


def worked_example() -> KeyIndex:
    """put 1, put 2, delete 3, put 4, delete 5."""
    found = KeyIndex(pack(1, 0), 1, 1)
    found.put(pack(2, 0))
    found.delete(pack(3, 0, tombstone=True))
    found.put(pack(4, 0))
    found.delete(pack(5, 0, tombstone=True))
    return found


@pytest.mark.parametrize(("main", "sub", "tombstone"), [(1, 0, False), (7, 3, True), (1 << 40, 1 << 30, True)])
def test_packed_revisions_keep_their_parts(main: int, sub: int, tombstone: bool) -> None:
    packed = pack(main, sub, tombstone=tombstone)
    assert (main_of(packed), sub_of(packed), is_tombstone(packed)) == (main, sub, tombstone)


@pytest.mark.parametrize(
    ("at", "seen"), [(0, None), (1, 1), (2, 2), (3, None), (4, 4), (5, None), (9, None)], ids=lambda value: str(value)
)
def test_readers_see_the_generation_of_their_time(at: int, seen: int | None) -> None:
    revision = worked_example().get(at)
    assert (None if revision is None else main_of(revision)) == seen


@pytest.mark.parametrize(
    ("at", "left"),
    [(0, [1, 2, 3, 4, 5]), (1, [1, 2, 3, 4, 5]), (2, [2, 3, 4, 5]), (3, [3, 4, 5]), (4, [4, 5]), (5, [5]), (6, [])],
    ids=lambda value: str(value),
)
def test_compaction_keeps_what_can_still_be_seen(at: int, left: list[int]) -> None:
    found = worked_example()
    dropped = found.compact(at)
    assert [main_of(revision) for revision in found.revisions] == left
    assert [main_of(revision) for revision in dropped] == [main for main in range(1, 6) if main not in left]


def test_a_new_generation_counts_versions_from_one() -> None:
    found = KeyIndex(pack(1, 0), 1, 1)
    found.put(pack(2, 0))
    assert (found.create_revision, found.version) == (1, 2)
    found.delete(pack(3, 0, tombstone=True))
    found.put(pack(4, 0))
    assert (found.create_revision, found.version) == (4, 1)


def test_versions_outlive_compaction() -> None:
    found = KeyIndex(pack(1, 0), 1, 1)
    for main in range(2, 6):
        found.put(pack(main, 0))
    found.compact(5)
    assert (len(found.revisions), found.create_revision, found.version) == (1, 1, 5)
