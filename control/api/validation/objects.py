"""The one door: which rules hold for which kind, on creation, on change and on a change of status."""

from __future__ import annotations

from control.api.meta import Object
from control.api.resources import Resource, by_plural
from control.api.status import Cause
from control.api.validation.faults import Faults
from control.api.validation.generic import check_facts
from control.api.validation.metadata import check_metadata, check_metadata_update
from control.api.validation.tables import (
    CHANGE_FIRST,
    CHECKS,
    KEPT_FOR_GOOD,
    NEW_CHECKS,
    STATUS_CHECKS,
    UPDATE_CHECKS,
    WHOLLY_RULED,
    Check,
    CheckUpdate,
)
from control.api.validation.verdicts import Verdicts, likeness

PODS = ("", "pods")
_VERDICTS = Verdicts()
_WISHES = ("", "ephemeralcontainers", "resize")
"""Updates through these change the wish; others change status, approval or the like."""


def validate(resource: Resource, obj: Object, old: Object | None = None, subresource: str = "") -> list[Cause]:
    """Return the faults of an object that is to be stored in place of ``old``; none means that it may be."""
    faults = Faults()
    check_metadata(resource, obj, faults)
    if old is not None:
        check_metadata_update(obj, old, faults)
    name = (resource.group, resource.plural)
    if subresource not in _WISHES:
        if old is not None and (check := STATUS_CHECKS.get((*name, subresource))) is not None:
            _check_beside(check, obj, old, faults)
        return faults.causes
    update = UPDATE_CHECKS.get((*name, subresource)) if old is not None else None
    if old is not None and name == PODS:
        # What a running pod once passed is not asked of it again, only that it changes where it may.
        if update is not None:
            update(obj, old, faults)
        return faults.causes
    change_first = name in CHANGE_FIRST
    if old is not None and update is not None and change_first:
        update(obj, old, faults)
    if old is None or name not in KEPT_FOR_GOOD:
        _check_wish(resource, name, obj, old, faults)
    if old is not None and update is not None and not change_first:
        update(obj, old, faults)
    return faults.causes


def _check_wish(resource: Resource, name: tuple[str, str], obj: Object, old: Object | None, faults: Faults) -> None:
    alike = likeness(obj) if old is None and name == PODS else None
    if _VERDICTS.is_faultless(alike):
        return
    found = Faults()
    served = None if name in WHOLLY_RULED else by_plural(resource.group, resource.version, resource.plural)
    check = CHECKS.get(name)
    _check_all(check, obj, found, served.definition if served is not None else None)
    if old is None:
        if (check_new := NEW_CHECKS.get(name)) is not None:
            check_new(obj, found)
    elif found:
        # What stood before the rule did may stay: only what is new in this change is told.
        before = Faults()
        _check_all(check, old, before, served.definition if served is not None else None)
        found.causes = _new(found.causes, before.causes)
    if not found:
        _VERDICTS.note(alike)
    faults.causes.extend(found.causes)


def _check_all(check: Check | None, obj: Object, faults: Faults, definition: str | None) -> None:
    if check is not None:
        check(obj, faults)
    if definition is not None:
        check_facts(obj, definition, faults)


def _check_beside(check: CheckUpdate, obj: Object, old: Object, faults: Faults) -> None:
    found = Faults()
    check(obj, old, found)
    if found:
        before = Faults()
        check(old, old, before)
        faults.causes.extend(_new(found.causes, before.causes))


def _new(causes: list[Cause], before: list[Cause]) -> list[Cause]:
    return [cause for cause in causes if cause not in before]
