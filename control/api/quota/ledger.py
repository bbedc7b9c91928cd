"""Charges of several writes at once against the quotas of their namespace, until each is stored or refused.

Theory of operation. `plan` judges all open charges in order against what the quotas say, and returns the usage to
store for each quota that changes. The caller stores them one by one, guarded by their resourceVersions, and tells the
outcome: `wrote`, or `found` with what stands there instead. Then `plan` again, until nothing is left to store. What
was charged to one quota before another one refused is given back in the same way.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from control.api import amounts
from control.api.amounts import Amounts
from control.api.meta import Object, name, resource_version
from control.api.quota import charges
from control.api.quota.charges import QuotaExceededError, Write


@dataclass(slots=True, eq=False)
class Charge:
    """One write on its way into the quotas, or amounts to give back."""

    write: Write | None
    """None for amounts that are given back."""
    dry_run: bool = False
    """Judge it only."""
    refusal: str = ""
    wanted: dict[str, Amounts] = field(default_factory=dict)
    """By quota: what it must still take, or give back."""
    written: dict[str, Amounts] = field(default_factory=dict)
    """By quota: what it has taken."""


class Ledger:
    """The open charges of one namespace and its quotas as they are known."""

    def __init__(self, quotas: Mapping[str, Object], open_charges: Sequence[Charge], now: datetime) -> None:
        self._quotas = dict(quotas)
        self._charges = list(open_charges)
        self._now = now

    @property
    def refused(self) -> bool:
        """Whether a write was refused."""
        return any(each.refusal for each in self._charges)

    def quota(self, quota_name: str) -> Object:
        """Return a quota as it is known."""
        return self._quotas[quota_name]

    def plan(self) -> dict[str, Amounts]:
        """Judge what is open; return the usage to be stored by the names of the quotas that change."""
        used: dict[str, Amounts] = {
            quota_name: dict(charges.used_of(quota)) for quota_name, quota in self._quotas.items()
        }
        before = {quota_name: dict(found) for quota_name, found in used.items()}
        for each in self._charges:
            if each.write is None:
                each.wanted = amounts_left(each.wanted, used)
                self._give_back(each.wanted, used)
        for each in self._charges:
            if each.write is not None and not each.refusal:
                self._judge(each, each.write, used)
            if each.refusal and each.written:
                # Another quota refused: what this write was charged elsewhere goes back.
                each.written = amounts_left(each.written, used)
                self._give_back(each.written, used)
        return {
            quota_name: found for quota_name, found in used.items() if not amounts.are_equal(found, before[quota_name])
        }

    def _judge(self, each: Charge, write: Write, used: dict[str, Amounts]) -> None:
        added: dict[str, Amounts] = {}
        try:
            concerned = [found for _, found in sorted(self._quotas.items()) if charges.check(found, write)]
            for quota in concerned:
                quota_name = name(quota)
                if quota_name not in each.written and (
                    more := charges.charge(quota, write, used[quota_name], self._now)
                ):
                    added[quota_name] = more
        except QuotaExceededError as refusal:
            each.refusal, each.wanted = str(refusal), {}
            return
        each.wanted = {} if each.dry_run else added
        for quota_name, wanted in each.wanted.items():
            used[quota_name] = amounts.total((used[quota_name], wanted))

    @staticmethod
    def _give_back(what: Mapping[str, Amounts], used: dict[str, Amounts]) -> None:
        for quota_name, given in what.items():
            used[quota_name] = amounts.only(amounts.less(used[quota_name], given), used[quota_name].keys())

    def wrote(self, quota: Object) -> None:
        """Note that the planned usage of a quota is stored."""
        quota_name = name(quota)
        self._quotas[quota_name] = quota
        for each in self._charges:
            if each.write is None:
                each.wanted.pop(quota_name, None)
            elif each.refusal:
                each.written.pop(quota_name, None)
            elif quota_name in each.wanted:
                each.written[quota_name] = each.wanted.pop(quota_name)

    def found(self, quota_name: str, quota: Object | None) -> None:
        """Note what stands in the store instead of what was known; None for nothing."""
        if quota is None:
            self._quotas.pop(quota_name, None)
        else:
            self._quotas[quota_name] = quota

    def look_again(self, quotas: Iterable[Object]) -> bool:
        """Take what the store says of all quotas, and judge what was refused anew; tell whether anything differs."""
        newest = {name(quota): quota for quota in quotas}
        known = {quota_name: resource_version(quota) for quota_name, quota in self._quotas.items()}
        if known == {quota_name: resource_version(quota) for quota_name, quota in newest.items()}:
            return False
        self._quotas = newest
        for each in self._charges:
            each.refusal = ""
        return True


def amounts_left(by_quota: Mapping[str, Amounts], used: Mapping[str, Amounts]) -> dict[str, Amounts]:
    """Return what can be given back: nothing to a quota that is gone, nor of what it no longer counts."""
    return {
        quota_name: amounts.only(given, used[quota_name].keys())
        for quota_name, given in by_quota.items()
        if quota_name in used
    }
