"""How many replicas each ReplicaSet of a Deployment gets: surge, availability and proportion."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from control.api import meta
from control.api.meta import Object

DESIRED_REPLICAS = "deployment.kubernetes.io/desired-replicas"
MAX_REPLICAS = "deployment.kubernetes.io/max-replicas"


def replicas(obj: Object) -> int:
    """Return spec.replicas, 1 where it is missing."""
    value = (obj.get("spec") or {}).get("replicas")
    return 1 if value is None else int(value)


def actual(replica_set: Object, field: str = "replicas") -> int:
    """Return a number of status."""
    return int((replica_set.get("status") or {}).get(field) or 0)


def is_rolling(deployment: Object) -> bool:
    """Tell whether the strategy is RollingUpdate."""
    kind = ((deployment.get("spec") or {}).get("strategy") or {}).get("type")
    return kind in (None, "", "RollingUpdate")


def resolve(value: int | str | None, total: int, *, up: bool) -> int:
    """Return an int-or-percent of a total, rounded up or down."""
    if value is None:
        return 0
    if isinstance(value, str) and value.endswith("%"):
        exact = int(value[:-1]) * total / 100
        return math.ceil(exact) if up else math.floor(exact)
    return int(value)


def fenceposts(deployment: Object) -> tuple[int, int]:
    """Return (maxSurge, maxUnavailable) as numbers, never both zero."""
    strategy = (deployment.get("spec") or {}).get("strategy") or {}
    rolling: dict[str, Any] = strategy.get("rollingUpdate") or {}
    surge = resolve(rolling.get("maxSurge", "25%"), replicas(deployment), up=True)
    unavailable = resolve(rolling.get("maxUnavailable", "25%"), replicas(deployment), up=False)
    if surge == 0 and unavailable == 0:
        # Percentages may both round to nothing; without this the rollout could never move.
        unavailable = 1
    return surge, unavailable


def max_surge(deployment: Object) -> int:
    """Return how many pods above the wish a rolling update may make."""
    return fenceposts(deployment)[0] if is_rolling(deployment) else 0


def max_unavailable(deployment: Object) -> int:
    """Return how many pods below the wish a rolling update may go."""
    if not is_rolling(deployment) or replicas(deployment) == 0:
        return 0
    return min(fenceposts(deployment)[1], replicas(deployment))


def active(replica_sets: Sequence[Object]) -> list[Object]:
    """Return those that want pods."""
    return [replica_set for replica_set in replica_sets if replicas(replica_set) > 0]


def by_age(replica_sets: Sequence[Object]) -> list[Object]:
    """Return them oldest first."""
    return sorted(replica_sets, key=lambda found: (found["metadata"].get("creationTimestamp") or "", meta.name(found)))


def new_set_size(deployment: Object, sizes: Sequence[int], current: int) -> int:
    """Return how large the new ReplicaSet may be: `sizes` are those of all ReplicaSets, `current` is its own."""
    wished = replicas(deployment)
    if not is_rolling(deployment):
        return wished
    room = wished + max_surge(deployment) - sum(sizes)
    if room <= 0:
        return current
    return current + min(room, wished - current)


def annotated(replica_set: Object, name: str) -> int | None:
    """Return a number that the controller wrote into an annotation."""
    try:
        return int(meta.annotations(replica_set)[name])
    except (KeyError, ValueError):
        return None


def scale_down_old(deployment: Object, new: Object | None, old: Sequence[Object]) -> dict[str, int]:
    """Return smaller sizes for old ReplicaSets, by name, that keep enough pods available.

    Unhealthy replicas go first, since they add nothing to availability; then healthy ones as far as the rest
    stays at the minimum.
    """
    sizes = {meta.name(found): replicas(found) for found in by_age(old)}
    before = dict(sizes)
    if not any(sizes.values()):
        return {}
    least = replicas(deployment) - max_unavailable(deployment)
    new_size = replicas(new) if new is not None else 0
    new_unavailable = new_size - actual(new, "availableReplicas") if new is not None else 0
    budget = sum(sizes.values()) + new_size - least - new_unavailable
    if budget <= 0:
        return {}
    cleaned = 0
    for found in by_age(old):
        unhealthy = sizes[meta.name(found)] - actual(found, "availableReplicas")
        count = max(0, min(budget - cleaned, unhealthy))
        sizes[meta.name(found)] -= count
        cleaned += count
    # A ReplicaSet's status runs behind its size: replicas that are already given up do not count as available.
    available = sum(min(sizes[meta.name(found)], actual(found, "availableReplicas")) for found in old)
    available += min(new_size, actual(new, "availableReplicas")) if new is not None else 0
    spare = min(available - least, budget - cleaned)
    for name, size in sizes.items():
        count = max(0, min(spare, size))
        sizes[name] -= count
        spare -= count
    return {name: size for name, size in sizes.items() if size != before[name]}


def proportional(deployment: Object, replica_sets: Sequence[Object]) -> dict[str, int]:
    """Return sizes, by name, that spread a changed wish over all active ReplicaSets in proportion to their size."""
    found = active(replica_sets)
    total = sum(replicas(entry) for entry in found)
    wished = replicas(deployment)
    allowed = wished + max_surge(deployment) if wished > 0 else 0
    change = allowed - total
    if change > 0:  # large ones first, among equals the newer
        found.sort(key=lambda entry: meta.name(entry))
        found.sort(key=lambda entry: entry["metadata"].get("creationTimestamp") or "", reverse=True)
    else:
        found = by_age(found)
    found.sort(key=replicas, reverse=True)
    sizes: dict[str, int] = {}
    added = 0
    for entry in found:
        share = _share(deployment, entry, change, added) if change else 0
        sizes[meta.name(entry)] = replicas(entry) + share
        added += share
    if change and found:
        first = meta.name(found[0])
        sizes[first] = max(0, sizes[first] + change - added)
    return sizes


def _share(deployment: Object, replica_set: Object, change: int, added: int) -> int:
    """Return one ReplicaSet's part of a change, not more than what is left of it."""
    size, left = replicas(replica_set), change - added
    if size == 0 or left == 0:
        return 0
    if replicas(deployment) == 0:
        fraction = -size
    else:
        before = annotated(replica_set, MAX_REPLICAS) or actual(deployment) or size
        exact = size * (replicas(deployment) + max_surge(deployment)) / before
        fraction = math.floor(exact + 0.5) - size
    return min(fraction, left) if change > 0 else max(fraction, left)
