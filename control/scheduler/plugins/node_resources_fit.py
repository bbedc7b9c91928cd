"""NodeResourcesFit: the pod's requests must fit, and emptier nodes are better (LeastAllocated)."""

from __future__ import annotations

import numpy as np

from control.scheduler.framework import SCORE_MAX, Candidate, Verdict
from control.scheduler.snapshot import Column, Mask, Snapshot


class NodeResourcesFit:
    """Filters by what is free and scores by what stays free."""

    name = "NodeResourcesFit"
    weight = 1.0

    def filter(self, candidate: Candidate, snapshot: Snapshot) -> Verdict | None:
        """Keep out nodes with too little of anything, and full ones."""
        room = snapshot.column(snapshot.requested, "pods") + 1 <= snapshot.column(snapshot.allocatable, "pods")
        passes: Mask = room.copy()
        reasons: list[tuple[str, Mask]] = [("Too many pods", ~room)]
        for resource, wanted in candidate.info.requests.items():
            if wanted == 0:
                continue
            used = snapshot.column(snapshot.requested, resource)
            fits = used + wanted <= snapshot.column(snapshot.allocatable, resource)
            reasons.append((f"Insufficient {resource}", ~fits))
            passes &= fits
        return Verdict(passes, tuple(reasons))

    def score(self, candidate: Candidate, snapshot: Snapshot, feasible: Mask) -> Column | None:
        """Return the mean free share of cpu and memory after placing the pod."""
        wanted = (("cpu", candidate.info.nonzero_cpu), ("memory", candidate.info.nonzero_memory))
        total = np.zeros(snapshot.size)
        for resource, amount in wanted:
            capacity = snapshot.column(snapshot.allocatable, resource)
            used = snapshot.column(snapshot.requested, f"nonzero-{resource}") + amount
            free = np.floor(np.maximum(capacity - used, 0) * SCORE_MAX / np.maximum(capacity, 1))
            total += free
        return np.floor(total / len(wanted))
