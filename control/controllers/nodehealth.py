"""Judge nodes by their signs of life, pure: conditions, taints, and when to evict."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from control.api import meta
from control.api.meta import Object
from control.controllers.pods import format_time, parse_time

NOT_READY = "node.kubernetes.io/not-ready"
UNREACHABLE = "node.kubernetes.io/unreachable"
UNSCHEDULABLE = "node.kubernetes.io/unschedulable"
CONDITION_TAINTS: Mapping[tuple[str, str], str] = {
    ("Ready", "False"): NOT_READY,
    ("Ready", "Unknown"): UNREACHABLE,
    ("MemoryPressure", "True"): "node.kubernetes.io/memory-pressure",
    ("DiskPressure", "True"): "node.kubernetes.io/disk-pressure",
    ("PIDPressure", "True"): "node.kubernetes.io/pid-pressure",
    ("NetworkUnavailable", "True"): "node.kubernetes.io/network-unavailable",
}
OUR_NO_SCHEDULE = frozenset({*CONDITION_TAINTS.values(), UNSCHEDULABLE})
OUR_NO_EXECUTE = frozenset({NOT_READY, UNREACHABLE})
WATCHED_CONDITIONS = ("Ready", "MemoryPressure", "DiskPressure", "PIDPressure")

NEVER_UPDATED = ("NodeStatusNeverUpdated", "Kubelet never posted node status.")
STOPPED_POSTING = ("NodeStatusUnknown", "Kubelet stopped posting node status.")


@dataclass(frozen=True)
class Sign:
    """The last sign of life: what it looked like, and when it was seen by our clock."""

    mark: tuple[str, ...]
    seen: datetime


def mark_of(node: Object, lease: Object | None) -> tuple[str, ...]:
    """Return what changes with each sign of life: the lease's renewal and the Ready condition's heartbeat."""
    renewed = ((lease or {}).get("spec") or {}).get("renewTime")
    ready = meta.condition(node, "Ready") or {}
    return (str(renewed), str(ready.get("lastHeartbeatTime")), str(ready.get("status")))


def observe(known: Sign | None, node: Object, lease: Object | None, now: datetime) -> Sign:
    """Return the sign of life to remember: a new one counts from now, whatever the node's own clock says."""
    mark = mark_of(node, lease)
    if known is None or known.mark != mark:
        # Our own verdict of Unknown changes the mark too, and is no sign of life.
        verdict = known is not None and mark[:2] == known.mark[:2] and mark[2] == "Unknown"
        return Sign(mark, known.seen if verdict and known is not None else now)
    return known


def judge(node: Object, sign: Sign, now: datetime, grace: timedelta, startup_grace: timedelta) -> Object | None:
    """Return the node's status with its conditions Unknown when it was silent too long, else None."""
    ready = meta.condition(node, "Ready")
    limit = startup_grace if ready is None else grace
    if now - sign.seen <= limit:
        return None
    stamp = format_time(now)
    conditions: list[dict[str, Any]] = []
    stored = (node.get("status") or {}).get("conditions") or []
    for entry in stored:
        if entry.get("type") in WATCHED_CONDITIONS and entry.get("status") != "Unknown":
            reason, message = STOPPED_POSTING
            entry = {**entry, "status": "Unknown", "reason": reason, "message": message, "lastTransitionTime": stamp}
        conditions.append(entry)
    for kind in WATCHED_CONDITIONS:
        if meta.condition(node, kind) is None:
            reason, message = NEVER_UPDATED
            conditions.append(
                {
                    "type": kind, "status": "Unknown", "reason": reason, "message": message,
                    "lastHeartbeatTime": node["metadata"].get("creationTimestamp"), "lastTransitionTime": stamp,
                }
            )  # fmt: skip
    if conditions == stored:
        return None
    return {**(node.get("status") or {}), "conditions": conditions}


def ready_status(node: Object) -> str:
    """Return True, False or Unknown, as the Ready condition says."""
    return str((meta.condition(node, "Ready") or {}).get("status") or "Unknown")


def wished_taints(node: Object, now: datetime, *, may_evict: bool) -> list[dict[str, Any]]:
    """Return the taints that a node should have; others' are kept, and ours keep the time they were added.

    A new NoExecute taint, which evicts, is only put where `may_evict` says so: in a zone where everything fails
    at once the fault is more likely ours.
    """
    spec = node.get("spec") or {}
    stored = spec.get("taints") or []
    # A node that has not said anything yet keeps the taint that it was registered with.
    silent = NOT_READY if meta.condition(node, "Ready") is None else ""
    kept = [
        taint
        for taint in stored
        if not (taint.get("effect") == "NoSchedule" and taint.get("key") in OUR_NO_SCHEDULE - {silent})
        and not (taint.get("effect") == "NoExecute" and taint.get("key") in OUR_NO_EXECUTE)
    ]
    for key in _no_schedule_keys(node):
        kept.append(_taint(stored, key, "NoSchedule", None))
    status = ready_status(node)
    if status != "True" and meta.condition(node, "Ready") is not None:
        key = NOT_READY if status == "False" else UNREACHABLE
        has_one = any(taint.get("effect") == "NoExecute" and taint.get("key") in OUR_NO_EXECUTE for taint in stored)
        if may_evict or has_one:
            # Rounded up: a timestamp has whole seconds, and nobody must leave before the time that was tolerated.
            added = format_time(now + timedelta(seconds=1) - timedelta(microseconds=1))
            kept.append(_taint(stored, key, "NoExecute", added))
    return kept


def _no_schedule_keys(node: Object) -> list[str]:
    keys = []
    for (kind, status), key in CONDITION_TAINTS.items():
        entry = meta.condition(node, kind)
        if entry is not None and entry.get("status") == status:
            keys.append(key)
    if (node.get("spec") or {}).get("unschedulable"):
        keys.append(UNSCHEDULABLE)
    return keys


def _taint(stored: Iterable[Mapping[str, Any]], key: str, effect: str, added: str | None) -> dict[str, Any]:
    for taint in stored:
        if taint.get("key") == key and taint.get("effect") == effect:
            return dict(taint)
    return {"key": key, "effect": effect, **({"timeAdded": added} if added else {})}


def same_taints(left: Iterable[Mapping[str, Any]], right: Iterable[Mapping[str, Any]]) -> bool:
    """Tell whether two lists hold the same taints, in any order."""

    def comparable(taints: Iterable[Mapping[str, Any]]) -> list[tuple[tuple[str, str], ...]]:
        return sorted(tuple(sorted((key, str(value)) for key, value in taint.items())) for taint in taints)

    return comparable(left) == comparable(right)


def tolerates(toleration: Mapping[str, Any], taint: Mapping[str, Any]) -> bool:
    """Tell whether one toleration covers one taint."""
    if toleration.get("effect") and toleration["effect"] != taint.get("effect"):
        return False
    if toleration.get("key") and toleration["key"] != taint.get("key"):
        return False
    if toleration.get("operator", "Equal") == "Exists":
        return True
    return bool(toleration.get("key")) and (toleration.get("value") or "") == (taint.get("value") or "")


def eviction_time(pod: Object, node: Object, now: datetime) -> datetime | None:
    """Return when a pod must leave its node for a NoExecute taint, None for never."""
    taints = [taint for taint in (node.get("spec") or {}).get("taints") or [] if taint.get("effect") == "NoExecute"]
    tolerations = (pod.get("spec") or {}).get("tolerations") or []
    moment: datetime | None = None
    for taint in taints:
        since = parse_time(taint.get("timeAdded")) or now
        covering = [toleration for toleration in tolerations if tolerates(toleration, taint)]
        if not covering:
            return now
        seconds = [
            float(entry["tolerationSeconds"]) for entry in covering if entry.get("tolerationSeconds") is not None
        ]
        if seconds:
            leave = since + timedelta(seconds=max(0.0, min(seconds)))
            moment = leave if moment is None else min(moment, leave)
    return moment


@dataclass(frozen=True)
class Zone:
    """How the nodes of one zone fare."""

    ready: int
    not_ready: int

    @property
    def is_fully_disrupted(self) -> bool:
        """True when no node is ready."""
        return self.ready == 0 and self.not_ready > 0

    def is_partially_disrupted(self, threshold: float) -> bool:
        """True when more than two nodes, and at least this part of all, are not ready."""
        return self.not_ready > 2 and self.not_ready / (self.ready + self.not_ready) >= threshold


def zone_name(node: Object) -> str:
    """Return the failure domain of a node."""
    labels = meta.labels(node)
    return f"{labels.get('topology.kubernetes.io/region', '')}:{labels.get('topology.kubernetes.io/zone', '')}"


def zones(nodes: Iterable[Object]) -> dict[str, Zone]:
    """Count ready and other nodes by zone."""
    found: dict[str, Zone] = {}
    for node in nodes:
        name = zone_name(node)
        zone = found.get(name, Zone(0, 0))
        is_ready = ready_status(node) == "True"
        found[name] = Zone(zone.ready + is_ready, zone.not_ready + (not is_ready))
    return found


def eviction_rate(
    zone: Zone, every: Mapping[str, Zone], normal: float, secondary: float, large_cluster: int, threshold: float
) -> float:
    """Return how many nodes a second of a zone may be tainted so that their pods are evicted."""
    if all(entry.is_fully_disrupted for entry in every.values()):
        return 0.0  # all of them at once: it is the master that is cut off
    if zone.is_fully_disrupted:
        return normal
    if zone.is_partially_disrupted(threshold):
        size = zone.ready + zone.not_ready
        return secondary if size > large_cluster else 0.0
    return normal
