"""What a plugin is, and what comes of running all of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from control.api.meta import Object
from control.scheduler.snapshot import Column, Mask, PodInfo, Snapshot

SCORE_MAX = 100.0


@dataclass(frozen=True)
class Candidate:
    """The pod that a cycle places."""

    pod: Object
    info: PodInfo


@dataclass(frozen=True)
class Verdict:
    """What a filter says of all nodes."""

    passes: Mask
    reasons: tuple[tuple[str, Mask], ...] = ()
    """(text, the nodes that it keeps out); the text is upstream's."""


class Filter(Protocol):
    """Says on which nodes a pod can run."""

    name: str

    def filter(self, candidate: Candidate, snapshot: Snapshot) -> Verdict | None:
        """Judge all nodes; None where the pod asks for nothing of this plugin's."""
        ...


class Scorer(Protocol):
    """Says which of the feasible nodes are better."""

    name: str
    weight: float

    def score(self, candidate: Candidate, snapshot: Snapshot, feasible: Mask) -> Column | None:
        """Return 0 to 100 a node, 100 the best; None where all are equal."""
        ...


@dataclass(frozen=True)
class Decision:
    """Where a pod goes, or why nowhere; all that was found out is kept, so that "why" has an answer."""

    node_name: str | None
    reasons: dict[str, dict[str, list[str]]] = field(default_factory=dict)
    """Plugin → text → names of the nodes that it kept out."""
    scores: dict[str, dict[str, float]] = field(default_factory=dict)
    """Plugin → node → weighted score."""
    node_count: int = 0

    def message(self) -> str:
        """Return upstream's FailedScheduling text: "0/3 nodes are available: 3 Insufficient cpu."."""
        counts: dict[str, int] = {}
        for texts in self.reasons.values():
            for text, names in texts.items():
                counts[text] = counts.get(text, 0) + len(names)
        told = sorted(f"{count} {text}" for text, count in counts.items())
        if not told:
            return f"0/{self.node_count} nodes are available."
        return f"0/{self.node_count} nodes are available: {', '.join(told)}."


def normalize(raw: Column, feasible: Mask, *, reverse: bool = False) -> Column:
    """Scale to 0…100 by the highest feasible value, as upstream's DefaultNormalizeScore does."""
    highest = float(raw[feasible].max()) if feasible.any() else 0.0
    if highest == 0.0:
        return np.full(raw.shape, SCORE_MAX if reverse else 0.0)
    scaled = np.floor(raw * SCORE_MAX / highest)
    return SCORE_MAX - scaled if reverse else scaled
