"""What consensus counts and measures of itself, for whoever looks; plain numbers, so that counting costs nothing."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, field

BOUNDS_S = tuple(0.001 * 2**power for power in range(14))
"""Upper bounds of the parts of a histogram, as etcd has them for its disk."""


class Histogram:
    """How often something took how long."""

    __slots__ = ("counts", "sum_s")

    def __init__(self) -> None:
        self.counts = [0] * (len(BOUNDS_S) + 1)
        self.sum_s = 0.0

    def observe(self, duration_s: float) -> None:
        """Count one more."""
        self.counts[bisect_left(BOUNDS_S, duration_s)] += 1
        self.sum_s += duration_s


@dataclass
class Statistics:
    """Of one member since it started."""

    leader_changes: int = 0
    log_syncs: Histogram = field(default_factory=Histogram)
    snapshot_syncs: Histogram = field(default_factory=Histogram)
