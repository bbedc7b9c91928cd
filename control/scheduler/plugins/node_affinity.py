"""NodeAffinity and NodeName: the pod names its node, or the labels that its node must or should have."""

from __future__ import annotations

from typing import Any

import numpy as np

from control.api import meta
from control.api.meta import Object
from control.api.selectors import Requirement
from control.scheduler.framework import Candidate, Verdict, normalize
from control.scheduler.snapshot import Column, Mask, Snapshot


def _requirements(entries: list[dict[str, Any]]) -> list[Requirement]:
    return [Requirement(e["key"], e["operator"], frozenset(e.get("values") or ())) for e in entries]


def term_matches(term: dict[str, Any], node: Object) -> bool:
    """Tell whether a node selector term selects a node; an empty term selects none."""
    expressions, fields = term.get("matchExpressions") or [], term.get("matchFields") or []
    if not expressions and not fields:
        return False
    labels = meta.labels(node)
    own_fields = {"metadata.name": meta.name(node)}
    return all(r.matches(labels) for r in _requirements(expressions)) and all(
        r.matches(own_fields) for r in _requirements(fields)
    )


def required_matches(pod: Object, node: Object) -> bool:
    """Tell whether a node meets the pod's nodeSelector and required node affinity."""
    spec = pod["spec"]
    labels = meta.labels(node)
    if any(labels.get(key) != value for key, value in (spec.get("nodeSelector") or {}).items()):
        return False
    required = ((spec.get("affinity") or {}).get("nodeAffinity") or {}).get(
        "requiredDuringSchedulingIgnoredDuringExecution"
    )
    if required is None:
        return True
    return any(term_matches(term, node) for term in required.get("nodeSelectorTerms") or ())


class NodeAffinity:
    """Filters by what must match and scores by what should."""

    name = "NodeAffinity"
    weight = 2.0

    def filter(self, candidate: Candidate, snapshot: Snapshot) -> Verdict | None:
        """Keep out nodes whose labels do not match."""
        spec = candidate.pod["spec"]
        if not spec.get("nodeSelector") and not (spec.get("affinity") or {}).get("nodeAffinity"):
            return None
        matches = np.array(
            [node is not None and required_matches(candidate.pod, node) for node in snapshot.objects], bool
        )
        return Verdict(matches, (("node(s) didn't match Pod's node affinity/selector", ~matches),))

    def score(self, candidate: Candidate, snapshot: Snapshot, feasible: Mask) -> Column | None:
        """Sum the weights of the preferred terms that match."""
        affinity = ((candidate.pod["spec"].get("affinity") or {}).get("nodeAffinity") or {}).get(
            "preferredDuringSchedulingIgnoredDuringExecution"
        )
        if not affinity:
            return None
        raw = np.zeros(snapshot.size)
        for slot in snapshot.slots(feasible):
            node = snapshot.objects[slot]
            assert node is not None
            raw[slot] = sum(term["weight"] for term in affinity if term_matches(term["preference"], node))
        return normalize(raw, feasible)


class NodeName:
    """Filters by spec.nodeName where a pod came with one and yet waits."""

    name = "NodeName"

    def filter(self, candidate: Candidate, snapshot: Snapshot) -> Verdict | None:
        """Keep out all other nodes."""
        wanted = candidate.pod["spec"].get("nodeName")
        if not wanted:
            return None
        matches = np.array([name == wanted for name in snapshot.names], bool)
        return Verdict(matches, (("node(s) didn't match the requested node name", ~matches),))
