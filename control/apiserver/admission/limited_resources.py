"""What may be consumed only where a quota covers it, as the administrator says: pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from control.api import quantity
from control.api.meta import Object
from control.api.quota import charges
from control.api.quota.charges import Write


@dataclass(frozen=True, slots=True)
class Limited:
    """One kind of objects whose consumption needs a quota."""

    kind: tuple[str, str]
    """Group and plural."""
    contains: tuple[str, ...]
    """Parts of the names of what is consumed."""
    scopes: tuple[Mapping[str, Any], ...]


def uncovered(limited: Iterable[Limited], write: Write, quotas: Iterable[Object], now: datetime) -> str:
    """Return why a write needs a quota that there is not, empty where it needs none."""
    held, usage = list(quotas), write.new.usage(now)
    consumed = [name for name, amount in usage.items() if quantity.parse(amount) > 0]
    named = {
        name
        for entry in limited
        if entry.kind == write.kind
        for name in consumed
        if any(part in name for part in entry.contains)
    }
    covered = {
        name
        for quota in held
        if charges.is_in_scope(quota, write.new)
        for name in charges.counted_by(quota, write.kind)
    }
    if lacking := sorted(named - covered):
        return f"insufficient quota to consume: {','.join(lacking)}"
    scopes = {
        selector.get("scopeName") or ""
        for quota in held
        for selector in charges.selectors_of(quota)
        if charges.selects(selector, write.new)
    }
    open_scopes = [
        scope
        for entry in limited
        for scope in entry.scopes
        if charges.selects(scope, write.new) and scope.get("scopeName") not in scopes
    ]
    return f"insufficient quota to match these scopes: [{' '.join(map(_shown, open_scopes))}]" if open_scopes else ""


def _shown(scope: Mapping[str, Any]) -> str:
    values = " ".join(scope.get("values") or ())
    return f"{{{scope.get('scopeName')} {scope.get('operator')} [{values}]}}"
