"""Whether a write fits into a quota, and what it adds to what is used, in Kubernetes' words."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from control.api import amounts, pod_resources, quantity
from control.api.amounts import Amounts
from control.api.meta import Object, name
from control.api.quota.usage import PODS, Measure, Name, compute_usage, measure, tracks

_MUST_BE_SET = frozenset({
    "cpu", "memory", "requests.cpu", "requests.memory", "limits.cpu", "limits.memory",
})  # fmt: skip
"""What each container must name where a quota counts it."""


class QuotaExceededError(Exception):
    """The write does not fit; the text says why."""


@dataclass(frozen=True, slots=True)
class Write:
    """One write as quotas see it."""

    kind: Name
    object: Object
    new: Measure
    old: Measure | None = None
    """What the stored object counts for; None for a new one."""
    bounded: bool = True
    """Whether it is refused where it does not fit; a status only tells what has happened."""


def write_of(kind: Name, obj: Object, old: Object | None, *, bounded: bool = True) -> Write:
    """Return a write of an object in place of ``old``."""
    return Write(kind, obj, measure(kind, obj), measure(kind, old) if old is not None else None, bounded)


def selectors_of(quota: Object) -> list[dict[str, Any]]:
    """Return the scopes of a quota, each as a requirement."""
    spec = quota.get("spec") or {}
    plain: list[dict[str, Any]] = [{"scopeName": scope, "operator": "Exists"} for scope in spec.get("scopes") or ()]
    return plain + list((spec.get("scopeSelector") or {}).get("matchExpressions") or ())


def is_in_scope(quota: Object, measured: Measure) -> bool:
    """Tell whether an object is in all scopes of a quota."""
    return all(selects(selector, measured) for selector in selectors_of(quota))


def selects(selector: Mapping[str, Any], measured: Measure) -> bool:
    """Tell whether an object is in one scope, as a requirement says it."""
    scope, operator = selector.get("scopeName") or "", selector.get("operator")
    names = measured.selected.get(scope)
    if names is None:
        return scope in measured.scopes
    values = frozenset(selector.get("values") or ())
    match operator:
        case "In":
            return bool(names & values)
        case "NotIn":
            return not names or bool(names - values)
        case "DoesNotExist":
            return not names
        case _:
            return bool(names)


def hard_of(quota: Object) -> Amounts:
    """Return the bounds that are in force."""
    found: Amounts = (quota.get("status") or {}).get("hard") or {}
    return found


def used_of(quota: Object) -> Amounts:
    """Return what is used."""
    found: Amounts = (quota.get("status") or {}).get("used") or {}
    return found


def counted_by(quota: Object, kind: Name) -> list[str]:
    """Return the names in a quota that count objects of a kind, sorted."""
    return sorted(each for each in hard_of(quota) if tracks(kind, each))


def check(quota: Object, write: Write) -> bool:
    """Tell whether a quota concerns a write; raises QuotaExceededError where it cannot be judged."""
    restricted = counted_by(quota, write.kind)
    if not restricted or not is_in_scope(quota, write.new):
        return False
    if write.kind == PODS and (missing := _missing(write.object, restricted)):
        raise QuotaExceededError(f"failed quota: {name(quota)}: must specify {missing}")
    used = used_of(quota)
    if any(each not in used for each in restricted):
        raise QuotaExceededError(f"status unknown for quota: {name(quota)}, resources: {','.join(restricted)}")
    return True


def charge(quota: Object, write: Write, used: Amounts, now: datetime) -> dict[str, str]:
    """Return what a write adds to a quota of which so much is used; raises QuotaExceededError where it is too much."""
    usage = write.new.usage(now)
    if negative := sorted(each for each, text in usage.items() if quantity.parse(text) < 0):
        raise QuotaExceededError(f"quota usage is negative for resource(s): {','.join(negative)}")
    if write.old is not None and is_in_scope(quota, write.old):
        usage = amounts.less(usage, write.old.usage(now))
    hard = hard_of(quota)
    requested = amounts.only(amounts.without_zeroes(usage), hard.keys())
    if write.bounded:
        wanted = amounts.only(amounts.total((used, requested)), requested.keys())
        if exceeded := amounts.exceeding(wanted, hard):
            parts = (amounts.shown(amounts.only(each, exceeded)) for each in (requested, used, hard))
            text = "exceeded quota: {}, requested: {}, used: {}, limited: {}"
            raise QuotaExceededError(text.format(name(quota), *parts))
    return requested


def _missing(pod: Object, restricted: Iterable[str]) -> str:
    """Return what containers must name and do not: ``cpu for: a,b; memory for: a``."""
    required = _MUST_BE_SET.intersection(restricted)
    spec = pod.get("spec") or {}
    if not required or pod_resources.has_pod_level(spec):
        return ""
    lacking: dict[str, set[str]] = {}
    for container in (*(spec.get("containers") or ()), *(spec.get("initContainers") or ())):
        resources = container.get("resources") or {}
        named = compute_usage(resources.get("requests") or {}, resources.get("limits") or {})
        for each in required - named.keys():
            lacking.setdefault(each, set()).add(str(container.get("name")))
    return "; ".join(f"{each} for: {','.join(sorted(lacking[each]))}" for each in sorted(lacking))
