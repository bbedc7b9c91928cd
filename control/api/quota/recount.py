"""What a quota's status should say, given what is stored: bounds taken over, usage counted anew.

A write is charged before it is stored. So for a moment more is used than can be counted, and lowering the usage to
what is counted would let others take the same room twice. What was seen to go away is given back at once; what else
is used beyond the count only once nothing was charged for a while, by when all writes under way have come to an end.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from control.api import amounts
from control.api.amounts import Amounts
from control.api.meta import Object
from control.api.quota.charges import is_in_scope, used_of
from control.api.quota.usage import Measure, Name, kinds_of, tracks

SETTLED_S = 10.0
"""A write that was charged so long ago has been stored, or never will be."""
PATIENCE_S = 60.0
"""Where charges never rest, the count is taken after so long; what it misses comes back with its own news."""


@dataclass(frozen=True, slots=True)
class Recount:
    """What the status should be, and when to look again."""

    status: Object
    again_after_s: float | None = None


def counted_kinds(quota: Object) -> set[Name]:
    """Return the kinds that a quota counts."""
    hard = (quota.get("spec") or {}).get("hard") or {}
    return {kind for name in hard for kind in kinds_of(name)}


def count(quota: Object, kind: Name, measures: Iterable[Measure], now: datetime) -> dict[str, str]:
    """Return what the objects of one kind use of a quota, zero included."""
    hard = (quota.get("spec") or {}).get("hard") or {}
    names = {name for name in hard if tracks(kind, name)}
    scoped = (amounts.only(each.usage(now), names) for each in measures if is_in_scope(quota, each))
    return {**dict.fromkeys(names, "0"), **amounts.total(scoped)}


def recount(quota: Object, counted: Amounts, freed: Amounts, since_charge_s: float, since_surplus_s: float) -> Recount:
    """Return the status of a quota of which so much was counted.

    `freed` is what was seen to go since the last recount; the other two say how long ago something was charged, and
    since when more is used than is counted.
    """
    hard = dict((quota.get("spec") or {}).get("hard") or {})
    before = used_of(quota)
    known = (quota.get("status") or {}).get("hard") is not None and before.keys() >= counted.keys()
    surplus = amounts.without_zeroes(amounts.less(amounts.only(before, counted.keys()), counted))
    if not known or not surplus or since_charge_s >= SETTLED_S or since_surplus_s >= PATIENCE_S:
        return Recount({"hard": hard, "used": dict(counted)})
    used = amounts.highest(counted, amounts.less(amounts.only(before, counted.keys()), freed))
    used = amounts.only(used, counted.keys())
    left = amounts.without_zeroes(amounts.less(used, counted))
    wait_s = min(SETTLED_S - since_charge_s, PATIENCE_S - since_surplus_s) if left else None
    return Recount({"hard": hard, "used": used}, wait_s)


def differs(quota: Object, status: Object) -> bool:
    """Tell whether a quota's status must be written."""
    stored = quota.get("status") or {}
    return not (
        amounts.are_equal(stored.get("hard") or {}, status["hard"])
        and amounts.are_equal(stored.get("used") or {}, status["used"])
        and "hard" in stored
        and "used" in stored
    )
