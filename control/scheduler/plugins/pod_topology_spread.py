"""PodTopologySpread: pods of one selector spread evenly over the domains of a topology."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from control.api import meta, selectors
from control.scheduler.framework import SCORE_MAX, Candidate, Verdict
from control.scheduler.plugins.node_affinity import required_matches
from control.scheduler.plugins.taint_toleration import is_tolerated
from control.scheduler.snapshot import Column, Mask, Snapshot

DEFAULT_CONSTRAINTS: tuple[dict[str, Any], ...] = (
    {"topologyKey": "kubernetes.io/hostname", "maxSkew": 3, "whenUnsatisfiable": "ScheduleAnyway"},
    {"topologyKey": "topology.kubernetes.io/zone", "maxSkew": 5, "whenUnsatisfiable": "ScheduleAnyway"},
)
"""Upstream's system defaults, for pods that name no constraint of their own."""


@dataclass(frozen=True)
class Spread:
    """One constraint, counted out."""

    max_skew: int
    min_domains: int
    matches_itself: bool
    domain: Column
    """Each node's domain number, -1 without the topology's label."""
    counts: Column
    """Matching pods a domain."""
    eligible: Mask
    """Nodes that the pod may use by its own selector and tolerations."""

    def count_here(self) -> Column:
        """Return the matching pods in each node's domain."""
        if not len(self.counts):
            return np.zeros(len(self.domain))
        return np.where(self.domain >= 0, self.counts[self.domain.astype(int)], 0)

    def lowest(self) -> float:
        """Return the count of the emptiest eligible domain, 0 while there are fewer domains than asked for."""
        domains = np.unique(self.domain[self.eligible & (self.domain >= 0)]).astype(int)
        if not len(domains) or len(domains) < self.min_domains:
            return 0.0
        return float(self.counts[domains].min())


def _eligible(candidate: Candidate, snapshot: Snapshot, constraint: dict[str, Any]) -> Mask:
    honour_affinity = constraint.get("nodeAffinityPolicy", "Honor") == "Honor"
    honour_taints = constraint.get("nodeTaintsPolicy", "Ignore") == "Honor"
    tolerations = candidate.pod["spec"].get("tolerations") or []
    eligible = snapshot.present.copy()
    for slot in snapshot.slots(snapshot.present):
        node = snapshot.objects[slot]
        assert node is not None
        if honour_affinity and not required_matches(candidate.pod, node):
            eligible[slot] = False
        if honour_taints:
            taints = [t for t in node["spec"].get("taints") or () if t.get("effect") in ("NoSchedule", "NoExecute")]
            eligible[slot] &= all(is_tolerated(tolerations, taint) for taint in taints)
    return eligible


def count_out(candidate: Candidate, snapshot: Snapshot, constraint: dict[str, Any]) -> Spread:
    """Number the domains and count the matching pods in each."""
    key = constraint["topologyKey"]
    numbers: dict[str, int] = {}
    domain = np.full(snapshot.size, -1.0)
    for slot in snapshot.slots(snapshot.present):
        value = meta.labels(snapshot.objects[slot] or {}).get(key)
        if value is not None:
            domain[slot] = numbers.setdefault(value, len(numbers))
    label_selector = dict(constraint.get("labelSelector") or {})
    own = candidate.info.labels
    extra = {name: own[name] for name in constraint.get("matchLabelKeys") or () if name in own}
    label_selector["matchLabels"] = {**(label_selector.get("matchLabels") or {}), **extra}
    selector = selectors.from_label_selector(label_selector)
    eligible = _eligible(candidate, snapshot, constraint)
    counts = np.zeros(len(numbers))
    for info, slot in snapshot.pods():
        same = info.namespace == candidate.info.namespace and not info.terminating
        if same and eligible[slot] and domain[slot] >= 0 and selector.matches(info.labels):
            counts[int(domain[slot])] += 1
    return Spread(
        max_skew=int(constraint["maxSkew"]),
        min_domains=int(constraint.get("minDomains") or 1),
        matches_itself=selector.matches(own),
        domain=domain,
        counts=counts,
        eligible=eligible,
    )


class PodTopologySpread:
    """Filters by DoNotSchedule and scores by ScheduleAnyway."""

    name = "PodTopologySpread"
    weight = 2.0

    def filter(self, candidate: Candidate, snapshot: Snapshot) -> Verdict | None:
        """Keep out nodes whose domain would be ahead of the emptiest by more than maxSkew."""
        hard = [
            constraint
            for constraint in candidate.pod["spec"].get("topologySpreadConstraints") or ()
            if constraint.get("whenUnsatisfiable", "DoNotSchedule") == "DoNotSchedule"
        ]
        if not hard:
            return None
        unlabelled, skewed = np.zeros(snapshot.size, bool), np.zeros(snapshot.size, bool)
        for constraint in hard:
            spread = count_out(candidate, snapshot, constraint)
            unlabelled |= spread.domain < 0
            skew = spread.count_here() + spread.matches_itself - spread.lowest()
            skewed |= (spread.domain >= 0) & (skew > spread.max_skew)
        text = "node(s) didn't match pod topology spread constraints"
        return Verdict(~(unlabelled | skewed), ((f"{text} (missing required label)", unlabelled), (text, skewed)))

    def score(self, candidate: Candidate, snapshot: Snapshot, feasible: Mask) -> Column | None:
        """Fewer matching pods in the domain are better."""
        soft = self._soft_constraints(candidate)
        if not soft:
            return None
        raw = np.zeros(snapshot.size)
        for constraint in soft:
            spread = count_out(candidate, snapshot, constraint)
            weight = np.log(len(spread.counts) + 2)
            raw += np.where(spread.domain >= 0, spread.count_here() * weight + (spread.max_skew - 1), 0)
        lowest, highest = float(raw[feasible].min()), float(raw[feasible].max())
        if highest == 0:
            return np.full(snapshot.size, SCORE_MAX)
        scores: Column = np.floor(SCORE_MAX * (highest + lowest - raw) / highest)
        return scores

    @staticmethod
    def _soft_constraints(candidate: Candidate) -> list[dict[str, Any]]:
        own = candidate.pod["spec"].get("topologySpreadConstraints")
        if own:
            return [constraint for constraint in own if constraint.get("whenUnsatisfiable") == "ScheduleAnyway"]
        if meta.controller_of(candidate.pod) is None or not candidate.info.labels:
            return []
        selector = {"matchLabels": candidate.info.labels}
        return [{**constraint, "labelSelector": selector} for constraint in DEFAULT_CONSTRAINTS]
