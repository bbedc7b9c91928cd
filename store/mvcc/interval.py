"""Ranges of keys as etcd writes them.

On the wire an empty ``range_end`` means the one key, a single zero byte means "from this key on", anything else is the
exclusive end. Inside, a range is always [start, end) where end None is past every key: the one key k is [k, k + 0x00).
"""

from __future__ import annotations

from typing import NamedTuple


class Interval(NamedTuple):
    """The keys from ``start`` up to but not including ``end``; None has no end."""

    start: bytes
    end: bytes | None

    def __contains__(self, key: object) -> bool:
        """Whether a key lies in the range."""
        return isinstance(key, bytes) and self.start <= key and (self.end is None or key < self.end)

    @property
    def is_empty(self) -> bool:
        """Whether no key can lie in the range."""
        return self.end is not None and self.end <= self.start

    @property
    def is_single(self) -> bool:
        """Whether exactly one key lies in the range."""
        return self.end is not None and len(self.end) == len(self.start) + 1 and self.end == self.start + b"\0"


def interval(key: bytes, range_end: bytes) -> Interval:
    """The range that a request means."""
    if not range_end:
        return Interval(key, key + b"\0")
    return Interval(key, None if range_end == b"\0" else range_end)
