"""One scheduling decision: filter all nodes, score the feasible, take the best. No clock, no chance, no input."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from control.scheduler.framework import Candidate, Decision, Filter, Scorer
from control.scheduler.snapshot import Column, Mask, Snapshot


def _names(snapshot: Snapshot, mask: Mask) -> list[str]:
    return [snapshot.names[slot] for slot in np.flatnonzero(mask)]


def feasible_nodes(
    candidate: Candidate, snapshot: Snapshot, filters: Sequence[Filter]
) -> tuple[Mask, dict[str, dict[str, list[str]]]]:
    """Return the nodes that every filter passes, and per plugin why the others are out; the first reason counts."""
    feasible = snapshot.present.copy()
    reasons: dict[str, dict[str, list[str]]] = {}
    for plugin in filters:
        verdict = plugin.filter(candidate, snapshot)
        if verdict is None:
            continue
        for text, kept_out in verdict.reasons:
            names = _names(snapshot, kept_out & feasible)
            if names:
                reasons.setdefault(plugin.name, {})[text] = names
        feasible &= verdict.passes
    return feasible, reasons


def total_scores(
    candidate: Candidate, snapshot: Snapshot, feasible: Mask, scorers: Sequence[Scorer]
) -> tuple[Column, dict[str, dict[str, float]]]:
    """Return the weighted sum over all scorers, and each one's share by node."""
    total = np.zeros(snapshot.size)
    shares: dict[str, dict[str, float]] = {}
    slots = np.flatnonzero(feasible)
    for plugin in scorers:
        score = plugin.score(candidate, snapshot, feasible)
        if score is None:
            continue
        total += plugin.weight * score
        shares[plugin.name] = {snapshot.names[slot]: float(plugin.weight * score[slot]) for slot in slots}
    return total, shares


def decide(
    candidate: Candidate, snapshot: Snapshot, filters: Sequence[Filter], scorers: Sequence[Scorer], turn: int = 0
) -> Decision:
    """Return the decision; ``turn``, a counter of the caller's, chooses among equals."""
    feasible, reasons = feasible_nodes(candidate, snapshot, filters)
    if not feasible.any():
        return Decision(None, reasons, node_count=len(snapshot))
    total, shares = total_scores(candidate, snapshot, feasible, scorers)
    total[~feasible] = -np.inf
    best = np.flatnonzero(total == total.max())
    chosen = int(best[turn % len(best)])
    return Decision(snapshot.names[chosen], reasons, shares, len(snapshot))
