"""TaintToleration and NodeUnschedulable: taints keep pods out unless they are tolerated."""

from __future__ import annotations

from typing import Any

import numpy as np

from control.scheduler.framework import Candidate, Verdict, normalize
from control.scheduler.snapshot import Column, Mask, Snapshot

UNSCHEDULABLE = {"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule"}


def tolerates(toleration: dict[str, Any], taint: dict[str, Any]) -> bool:
    """Tell whether a toleration covers a taint."""
    if toleration.get("effect") and toleration["effect"] != taint.get("effect"):
        return False
    if toleration.get("key") and toleration["key"] != taint.get("key"):
        return False
    if (toleration.get("operator") or "Equal") == "Exists":
        return True
    return bool(toleration.get("key")) and (toleration.get("value") or "") == (taint.get("value") or "")


def is_tolerated(tolerations: list[dict[str, Any]], taint: dict[str, Any]) -> bool:
    """Tell whether any toleration covers a taint."""
    return any(tolerates(toleration, taint) for toleration in tolerations)


def _taints(snapshot: Snapshot, slot: int) -> list[dict[str, Any]]:
    node = snapshot.objects[slot]
    return (node or {}).get("spec", {}).get("taints") or []


class TaintToleration:
    """Filters by NoSchedule and NoExecute, scores by PreferNoSchedule."""

    name = "TaintToleration"
    weight = 3.0

    def filter(self, candidate: Candidate, snapshot: Snapshot) -> Verdict | None:
        """Keep out nodes with a taint that the pod does not tolerate."""
        tolerations = candidate.pod["spec"].get("tolerations") or []
        passes = np.ones(snapshot.size, bool)
        reasons: dict[str, Mask] = {}
        for slot in snapshot.slots(snapshot.present):
            for taint in _taints(snapshot, slot):
                if taint.get("effect") in ("NoSchedule", "NoExecute") and not is_tolerated(tolerations, taint):
                    passes[slot] = False
                    text = f"node(s) had untolerated taint {{{taint.get('key')}: {taint.get('value') or ''}}}"
                    reasons.setdefault(text, np.zeros(snapshot.size, bool))[slot] = True
                    break
        return Verdict(passes, tuple(reasons.items()))

    def score(self, candidate: Candidate, snapshot: Snapshot, feasible: Mask) -> Column | None:
        """Fewer untolerated PreferNoSchedule taints are better."""
        tolerations = candidate.pod["spec"].get("tolerations") or []
        counts = np.zeros(snapshot.size)
        for slot in snapshot.slots(feasible):
            preferring = [taint for taint in _taints(snapshot, slot) if taint.get("effect") == "PreferNoSchedule"]
            counts[slot] = sum(not is_tolerated(tolerations, taint) for taint in preferring)
        return normalize(counts, feasible, reverse=True)


class NodeUnschedulable:
    """Filters by spec.unschedulable, which `kubectl cordon` sets."""

    name = "NodeUnschedulable"

    def filter(self, candidate: Candidate, snapshot: Snapshot) -> Verdict | None:
        """Keep out cordoned nodes."""
        if is_tolerated(candidate.pod["spec"].get("tolerations") or [], UNSCHEDULABLE):
            return None
        cordoned = np.array(
            [bool((node or {}).get("spec", {}).get("unschedulable")) for node in snapshot.objects], bool
        )
        return Verdict(~cordoned, (("node(s) were unschedulable", cordoned),))
