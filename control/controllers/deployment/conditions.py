"""A Deployment's status: counts, and the conditions that `kubectl rollout status` and people read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from control.api import meta
from control.api.meta import Object
from control.controllers.deployment.numbers import actual, max_unavailable, replicas
from control.controllers.pods import format_time, parse_time

Status = dict[str, Any]

AVAILABLE = "Available"
PROGRESSING = "Progressing"
REPLICA_FAILURE = "ReplicaFailure"

NEW_CREATED = "NewReplicaSetCreated"
FOUND_NEW = "FoundNewReplicaSet"
UPDATED = "ReplicaSetUpdated"
CREATE_ERROR = "ReplicaSetCreateError"
NEW_AVAILABLE = "NewReplicaSetAvailable"
TIMED_OUT = "ProgressDeadlineExceeded"
PAUSED = "DeploymentPaused"
RESUMED = "DeploymentResumed"
MINIMUM_AVAILABLE = "MinimumReplicasAvailable"
MINIMUM_UNAVAILABLE = "MinimumReplicasUnavailable"

NO_DEADLINE = 2**31 - 1


def find(status: Mapping[str, Any], kind: str) -> dict[str, Any] | None:
    """Return a condition of a status."""
    return next((entry for entry in status.get("conditions") or [] if entry.get("type") == kind), None)


def put(status: Status, kind: str, value: str, reason: str, message: str, now: datetime) -> None:
    """Set a condition; one with equal status and reason stays as it is, transition times follow the status."""
    old = find(status, kind)
    if old is not None and old.get("status") == value and old.get("reason") == reason:
        return
    stamp = format_time(now)
    since = old["lastTransitionTime"] if old is not None and old.get("status") == value else stamp
    drop(status, kind)
    entry = {"type": kind, "status": value, "lastUpdateTime": stamp, "lastTransitionTime": since}
    status["conditions"].append({**entry, "reason": reason, "message": message})


def renew(status: Status, kind: str, value: str, reason: str, message: str, now: datetime) -> None:
    """Set a condition with a new update time, even where status and reason stay."""
    old = find(status, kind)
    drop(status, kind)
    put(status, kind, value, reason, message, now)
    if old is not None and old.get("status") == value:
        status["conditions"][-1]["lastTransitionTime"] = old["lastTransitionTime"]


def drop(status: Status, kind: str) -> None:
    """Remove a condition."""
    status["conditions"] = [entry for entry in status.get("conditions") or [] if entry.get("type") != kind]


def deadline_s(deployment: Object) -> int | None:
    """Return the progress deadline in seconds, None where there is none."""
    value = (deployment.get("spec") or {}).get("progressDeadlineSeconds", 600)
    return None if value is None or value == NO_DEADLINE else int(value)


def counts(deployment: Object, new: Object | None, replica_sets: Sequence[Object], now: datetime) -> Status:
    """Return the status with its numbers and the Available condition brought up to date."""
    available = sum(actual(found, "availableReplicas") for found in replica_sets)
    old = deployment.get("status") or {}
    status: Status = {
        "observedGeneration": int(deployment["metadata"].get("generation") or 0),
        "replicas": sum(actual(found) for found in replica_sets),
        "updatedReplicas": actual(new) if new is not None else 0,
        "readyReplicas": sum(actual(found, "readyReplicas") for found in replica_sets),
        "availableReplicas": available,
        "unavailableReplicas": max(0, sum(replicas(found) for found in replica_sets) - available),
        "terminatingReplicas": sum(actual(found, "terminatingReplicas") for found in replica_sets),
        "conditions": list(old.get("conditions") or []),
    }
    if old.get("collisionCount") is not None:
        status["collisionCount"] = old["collisionCount"]
    if available >= replicas(deployment) - max_unavailable(deployment):
        put(status, AVAILABLE, "True", MINIMUM_AVAILABLE, "Deployment has minimum availability.", now)
    else:
        text = "Deployment does not have minimum availability."
        put(status, AVAILABLE, "False", MINIMUM_UNAVAILABLE, text, now)
    return status


def is_complete(deployment: Object, status: Mapping[str, Any]) -> bool:
    """Tell whether all pods are of the current template and available, and no others are left."""
    wished = replicas(deployment)
    numbers = (status.get("updatedReplicas") or 0, status.get("replicas") or 0, status.get("availableReplicas") or 0)
    generation = int(deployment["metadata"].get("generation") or 0)
    return numbers == (wished, wished, wished) and int(status.get("observedGeneration") or 0) >= generation


def has_progressed(deployment: Object, status: Mapping[str, Any]) -> bool:
    """Tell whether the rollout came further since the status that is stored."""
    old = deployment.get("status") or {}

    def number(source: Mapping[str, Any], name: str) -> int:
        return int(source.get(name) or 0)

    old_olds = number(old, "replicas") - number(old, "updatedReplicas")
    new_olds = number(status, "replicas") - number(status, "updatedReplicas")
    return (
        number(status, "updatedReplicas") > number(old, "updatedReplicas")
        or new_olds < old_olds
        or number(status, "readyReplicas") > number(old, "readyReplicas")
        or number(status, "availableReplicas") > number(old, "availableReplicas")
    )


def has_timed_out(deployment: Object, status: Mapping[str, Any], now: datetime) -> bool:
    """Tell whether nothing progressed for longer than the deadline."""
    condition, deadline = find(status, PROGRESSING), deadline_s(deployment)
    if condition is None or deadline is None or condition.get("reason") == NEW_AVAILABLE:
        return False
    if condition.get("reason") == TIMED_OUT:
        return True
    since = parse_time(condition.get("lastUpdateTime"))
    return since is not None and since + timedelta(seconds=deadline) < now


def rollout_status(
    deployment: Object, new: Object | None, replica_sets: Sequence[Object], status: Status, now: datetime
) -> Status:
    """Bring the Progressing and ReplicaFailure conditions of a status up to date."""
    current = find(status, PROGRESSING)
    if deadline_s(deployment) is None:
        drop(status, PROGRESSING)
    elif not (
        status["replicas"] == status["updatedReplicas"]
        and current is not None
        and current.get("reason") == NEW_AVAILABLE
    ):
        what = f'ReplicaSet "{meta.name(new)}"' if new is not None else f'Deployment "{meta.name(deployment)}"'
        if is_complete(deployment, status):
            put(status, PROGRESSING, "True", NEW_AVAILABLE, f"{what} has successfully progressed.", now)
        elif has_progressed(deployment, status):
            renew(status, PROGRESSING, "True", UPDATED, f"{what} is progressing.", now)
        elif has_timed_out(deployment, status, now):
            put(status, PROGRESSING, "False", TIMED_OUT, f"{what} has timed out progressing.", now)
    failures = [entry for found in replica_sets if (entry := meta.condition(found, REPLICA_FAILURE))]
    if failures:
        failure = failures[0]
        put(status, REPLICA_FAILURE, failure["status"], failure.get("reason", ""), failure.get("message", ""), now)
    else:
        drop(status, REPLICA_FAILURE)
    return status


def pause_status(deployment: Object, status: Status, now: datetime) -> bool:
    """Note that a rollout was paused or resumed, so that the deadline does not count the pause; tell whether it was."""
    if deadline_s(deployment) is None:
        return False
    condition = find(status, PROGRESSING)
    if condition is not None and condition.get("reason") == TIMED_OUT:
        return False
    noted = condition is not None and condition.get("reason") == PAUSED
    paused = bool((deployment.get("spec") or {}).get("paused"))
    if paused and not noted:
        put(status, PROGRESSING, "Unknown", PAUSED, "Deployment is paused", now)
    elif not paused and noted:
        put(status, PROGRESSING, "Unknown", RESUMED, "Deployment is resumed", now)
    return paused != noted


def seconds_to_deadline(deployment: Object, status: Mapping[str, Any], now: datetime) -> float | None:
    """Return when to look whether the rollout is stuck, None when nothing is awaited."""
    condition, deadline = find(status, PROGRESSING), deadline_s(deployment)
    if condition is None or deadline is None or is_complete(deployment, status):
        return None
    if condition.get("reason") in (TIMED_OUT, NEW_AVAILABLE):
        return None
    since = parse_time(condition.get("lastUpdateTime"))
    if since is None:
        return None
    return max(0.0, deadline - (now - since).total_seconds()) + 1.0
