"""What a controller has asked for and not yet seen in its cache.

A cache runs behind the server. Without this a controller that has just created three pods, and looks again
before its informer has shown them, would create three more.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

TIMEOUT_S = 300.0
"""After so long an expectation no longer holds work up: a watch event may have been lost for good."""


@dataclass
class Expected:
    """Creations by number and deletions by uid that are still to be seen."""

    creations: int = 0
    deletions: set[str] = field(default_factory=set)
    since: float = 0.0


class Expectations:
    """Open expectations by key; bounded by the number of keys, which are forgotten with their objects."""

    def __init__(self) -> None:
        self._expected: dict[str, Expected] = {}

    def expect(self, key: str, creations: int, deletions: Iterable[str], now: float) -> None:
        """Begin to wait for so many creations and for these deletions."""
        self._expected[key] = Expected(creations, set(deletions), now)

    def created(self, key: str, count: int = 1) -> None:
        """See creations, or learn that they will not come."""
        if key in self._expected:
            self._expected[key].creations -= count

    def deleted(self, key: str, uid: str) -> None:
        """See a deletion, or learn that it will not come."""
        if key in self._expected:
            self._expected[key].deletions.discard(uid)

    def satisfied(self, key: str, now: float) -> bool:
        """Tell whether everything asked for was seen, or took too long."""
        expected = self._expected.get(key)
        if expected is None:
            return True
        return (expected.creations <= 0 and not expected.deletions) or now - expected.since > TIMEOUT_S

    def forget(self, key: str) -> None:
        """Drop the expectations of an object that is gone."""
        self._expected.pop(key, None)
