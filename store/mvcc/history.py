"""Every kept change in the order of its revision: what watchers replay and snapshots carry.

A change is kept as the encoded ``mvccpb.KeyValue`` that readers get, so that answers are put together from finished
bytes. The history is a list of short segments, which keeps appending, finding and dropping cheap at any size. What is
in a full segment is nothing to the garbage collector: an array of numbers and a tuple of bytes.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterator

_SEGMENT_CHANGES = 1024


class _Segment:
    __slots__ = ("records", "revisions")

    def __init__(self, revision: int, record: bytes) -> None:
        self.revisions = array("Q", (revision,))
        self.records: list[bytes] | tuple[bytes, ...] = [record]


class History:
    """Packed revision → encoded record, ascending."""

    def __init__(self) -> None:
        self._segments: list[_Segment] = []
        self._firsts: list[int] = []
        self._changes = 0
        self.size_bytes = 0
        """Sum of the lengths of all records."""

    def __len__(self) -> int:
        return self._changes

    def append(self, revision: int, record: bytes) -> None:
        """Add the newest change."""
        last = self._segments[-1] if self._segments else None
        if last is not None and len(last.revisions) < _SEGMENT_CHANGES and isinstance(last.records, list):
            assert revision > last.revisions[-1], "history only grows at its end"
            last.revisions.append(revision)
            last.records.append(record)
        else:
            if last is not None:
                last.records = tuple(last.records)
            self._segments.append(_Segment(revision, record))
            self._firsts.append(revision)
        self._changes += 1
        self.size_bytes += len(record)

    def get(self, revision: int) -> bytes:
        """The record of a revision that the index knows."""
        segment = self._segments[bisect_right(self._firsts, revision) - 1]
        return segment.records[bisect_left(segment.revisions, revision)]

    def drop(self, revision: int) -> None:
        """Forget one change."""
        place = bisect_right(self._firsts, revision) - 1
        segment = self._segments[place]
        position = bisect_left(segment.revisions, revision)
        assert segment.revisions[position] == revision, "only what is kept can be dropped"
        self.size_bytes -= len(segment.records[position])
        self._changes -= 1
        kept = (*segment.records[:position], *segment.records[position + 1 :])
        segment.records = kept if isinstance(segment.records, tuple) else list(kept)
        del segment.revisions[position]
        if not segment.revisions:
            del self._segments[place], self._firsts[place]

    def since(self, revision: int) -> Iterator[tuple[int, bytes]]:
        """Every change from ``revision`` on; changes may be added meanwhile, none dropped."""
        place = max(bisect_right(self._firsts, revision) - 1, 0)
        position: int | None = None
        while place < len(self._segments):
            segment = self._segments[place]
            if position is None:
                position = bisect_left(segment.revisions, revision)
            while position < len(segment.revisions):
                yield segment.revisions[position], segment.records[position]
                position += 1
            place, position = place + 1, 0
