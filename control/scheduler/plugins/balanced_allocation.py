"""NodeResourcesBalancedAllocation: nodes whose cpu and memory fill evenly are better."""

from __future__ import annotations

import numpy as np

from control.scheduler.framework import SCORE_MAX, Candidate
from control.scheduler.snapshot import Column, Mask, Snapshot


class BalancedAllocation:
    """Scores by how much the pod improves the balance: 50 + (50 + with − without) / 2, as since 1.36."""

    name = "NodeResourcesBalancedAllocation"
    weight = 1.0

    def score(self, candidate: Candidate, snapshot: Snapshot, feasible: Mask) -> Column | None:
        """Return 50 to 100; a pod that asks for nothing has nothing to balance."""
        requests = candidate.info.requests
        if not requests.get("cpu") and not requests.get("memory"):
            return None
        before = self._balance(snapshot, 0, 0)
        after = self._balance(snapshot, requests.get("cpu", 0), requests.get("memory", 0))
        return 50 + np.floor((50 + after - before) / 2)

    @staticmethod
    def _balance(snapshot: Snapshot, cpu: int, memory: int) -> Column:
        shares = []
        for resource, amount in (("cpu", cpu), ("memory", memory)):
            capacity = np.maximum(snapshot.column(snapshot.allocatable, resource), 1)
            shares.append(np.minimum((snapshot.column(snapshot.requested, resource) + amount) / capacity, 1.0))
        deviation = np.abs(shares[0] - shares[1]) / 2
        balance: Column = np.floor((1 - deviation) * SCORE_MAX)
        return balance
