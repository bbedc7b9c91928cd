"""How objects go: grace, finalizers, preconditions, and the removal itself.

``decide`` is pure; ``delete`` carries it out against the store until nobody came between.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson

from control.api import status
from control.api.decode import DecodeError, clean
from control.api.meta import Object
from control.api.validation.faults import Faults
from control.apiserver import strategy
from control.apiserver.cache import Filter
from control.apiserver.etcd import KeyValue, RevisionMismatchError
from control.apiserver.kinds import Kind
from control.apiserver.options import check_write
from control.apiserver.paging import ListQuery
from control.apiserver.reads import ListResult
from control.apiserver.registry import UPDATE_ATTEMPTS, Context, Registry, deletion_is_complete, stored_bytes
from control.apiserver.request import AdmissionRequest, RequestOptions

FOREGROUND, ORPHAN = "foregroundDeletion", "orphan"
_FINALIZER_OF = {"Foreground": FOREGROUND, "Orphan": ORPHAN}
POD_GRACE_DEFAULT_S = 30


@dataclass(frozen=True, slots=True)
class DeleteWish:
    """DeleteOptions, read."""

    grace_period_s: int | None = None
    propagation: str = ""
    uid: str = ""
    resource_version: str = ""
    dry_run: bool = False
    options: Object | None = None


def read_options(options: Object | None) -> DeleteWish:
    """Read a DeleteOptions object; raises BadRequest or Invalid."""
    options = _checked(options or {})
    conditions = options.get("preconditions") or {}
    propagation = options.get("propagationPolicy") or ""
    if options.get("orphanDependents") is not None:
        if propagation:
            text = "orphanDependents and deletionPropagation cannot be both set"
            raise _invalid("propagationPolicy", f'Invalid value: "{propagation}": {text}')
        propagation = "Orphan" if options["orphanDependents"] else "Background"
    if propagation not in ("", "Foreground", "Background", "Orphan"):
        faults = Faults()
        faults.not_supported("propagationPolicy", propagation, ("Foreground", "Background", "Orphan", "nil"))
        raise status.invalid("DeleteOptions", "", faults.causes, "meta.k8s.io")
    check_write("delete", RequestOptions(), options.get("dryRun") or ())
    return DeleteWish(
        options.get("gracePeriodSeconds"),
        propagation,
        conditions.get("uid") or "",
        conditions.get("resourceVersion") or "",
        "All" in (options.get("dryRun") or ()),
        options,
    )


def _checked(options: Object) -> Object:
    """Return the options without what DeleteOptions lack; raises BadRequest."""
    if options.get("kind") not in (None, "", "DeleteOptions"):
        raise status.bad_request("decoded object cannot be converted to DeleteOptions")
    try:
        return clean(options, "meta.v1.DeleteOptions")[0]
    except DecodeError as error:
        raise status.bad_request(str(error)) from None


def _invalid(field: str, message: str) -> status.ApiError:
    return status.invalid("DeleteOptions", "", [status.Cause("FieldValueInvalid", message, field)], "meta.k8s.io")


def grace_period_s(kind: Kind, obj: Object, wish: DeleteWish) -> int:
    """Return how long the object's owner gets to end it: only pods that run somewhere have any."""
    if strategy.name_of(kind) != ("", "pods"):
        return 0
    spec, phase = obj.get("spec") or {}, (obj.get("status") or {}).get("phase")
    period: int = POD_GRACE_DEFAULT_S if (found := spec.get("terminationGracePeriodSeconds")) is None else int(found)
    if wish.grace_period_s is not None:
        period = wish.grace_period_s
    if not spec.get("nodeName") or phase in ("Succeeded", "Failed"):
        return 0
    return 1 if period < 0 else period


def decide(kind: Kind, old: Object, wish: DeleteWish, now: datetime) -> Object | None:
    """Return the object as it must be stored while its deletion goes on; None where it can go at once."""
    metadata: dict[str, Any] = {**old["metadata"]}
    obj: Object = {**old, "metadata": metadata}
    begun = metadata.get("deletionTimestamp")
    left_s: int = metadata.get("deletionGracePeriodSeconds") or 0
    if begun and left_s and not _shortens(wish, left_s):
        return old
    finalizers = _finalizers(kind, list(metadata.get("finalizers") or ()), wish)
    grace_s = _granted_s(wish) if begun and left_s else grace_period_s(kind, old, wish)
    holding = strategy.FINALIZER_OF_DELETION.get(strategy.name_of(kind))
    if holding is not None and not begun and holding not in finalizers:
        finalizers.append(holding)
    if begun:
        grace_s = min(grace_s, left_s)
        if grace_s < left_s:
            started = datetime.fromisoformat(begun) - timedelta(seconds=left_s)
            metadata["deletionTimestamp"] = (started + timedelta(seconds=grace_s)).strftime("%Y-%m-%dT%H:%M:%SZ")
    else:
        metadata["deletionTimestamp"] = (now + timedelta(seconds=grace_s)).strftime("%Y-%m-%dT%H:%M:%SZ")
        if "generation" in metadata:
            metadata["generation"] = int(metadata["generation"]) + 1
    metadata["deletionGracePeriodSeconds"] = grace_s
    if finalizers:
        metadata["finalizers"] = finalizers
    else:
        metadata.pop("finalizers", None)
    if kind.resource.kind == "Namespace" and not begun:
        obj["status"] = {**(obj.get("status") or {}), "phase": "Terminating"}
    return None if deletion_is_complete(obj) else obj


def _granted_s(wish: DeleteWish) -> int:
    return 1 if (wish.grace_period_s or 0) < 0 else wish.grace_period_s or 0


def _shortens(wish: DeleteWish, left_s: int) -> bool:
    """Tell whether grace that was granted already gets shorter: it is never extended."""
    return wish.grace_period_s is not None and _granted_s(wish) < left_s


def _finalizers(kind: Kind, held: list[str], wish: DeleteWish) -> list[str]:
    """Return the finalizers of a deletion that ends its dependents first, or leaves them, or neither."""
    name = strategy.name_of(kind)
    if name in strategy.NOT_COLLECTED:
        return [each for each in held if each not in (FOREGROUND, ORPHAN)]
    if wish.propagation:
        chosen = _FINALIZER_OF.get(wish.propagation, "")
    elif FOREGROUND in held or ORPHAN in held:
        return held
    else:
        chosen = ORPHAN if name in strategy.ORPHANS_BY_DEFAULT else ""
    return [*(each for each in held if each not in (FOREGROUND, ORPHAN)), *([chosen] if chosen else ())]


def _check(kind: Kind, name: str, old: Object, wish: DeleteWish) -> None:
    for wanted, field, about, perhaps in (
        (wish.uid, "uid", "UID", "deleted and then recreated"),
        (wish.resource_version, "resourceVersion", "ResourceVersion", "modified"),
    ):
        if wanted and wanted != old["metadata"][field]:
            text = (
                f"the {about} in the precondition ({wanted}) does not match the {about} in record"
                f" ({old['metadata'][field]}). The object might have been {perhaps}"
            )
            raise status.conflict(kind.resource.kind, name, kind.resource.group, text)


def success(kind: Kind, deleted: Object) -> Object:
    """Return the Status that says that the object is gone."""
    details = {
        "name": deleted["metadata"]["name"],
        "group": kind.resource.group,
        "kind": kind.resource.plural,
        "uid": deleted["metadata"]["uid"],
    }
    return {
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Success",
        "details": {name: value for name, value in details.items() if value},
    }


async def delete(
    registry: Registry, kind: Kind, namespace: str, name: str, wish: DeleteWish, context: Context
) -> tuple[Object, bool]:
    """Delete an object or begin to; return it, or the Status of its end, and whether it is gone."""
    found, newest = await registry.current(kind, namespace, name)
    for _ in range(UPDATE_ATTEMPTS):
        if found is None:
            raise status.not_found(kind.resource.plural, name, kind.resource.group)
        try:
            return await _delete_once(registry, kind, namespace, name, found, wish, context)
        except RevisionMismatchError as mismatch:
            found, newest = mismatch.current, True
        except status.ApiError:
            if newest:
                raise
            found, newest = (await registry.store.get(registry.kinds.key(kind, namespace, name)))[0], True
    raise status.conflict(kind.resource.plural, name, kind.resource.group)


async def _delete_once(
    registry: Registry, kind: Kind, namespace: str, name: str, found: KeyValue, wish: DeleteWish, context: Context
) -> tuple[Object, bool]:
    old: Object = orjson.loads(found.value)
    old["metadata"]["resourceVersion"] = str(found.revision)
    _check(kind, name, old, wish)
    request = AdmissionRequest(
        "DELETE",
        kind.resource,
        context.user,
        namespace,
        name,
        old_object=old,
        options=wish.options or {},
        dry_run=wish.dry_run,
        warnings=context.warnings,
    )
    await registry.admission.mutate(request)
    await registry.admission.validate(request)
    remains = decide(kind, old, wish, datetime.now(UTC))
    if remains is not None:
        if not wish.dry_run and remains != old:
            revision = await registry.store.update(found.key, stored_bytes(remains), found.revision)
            remains["metadata"]["resourceVersion"] = str(revision)
        return remains, False
    if not wish.dry_run:
        revision = await registry.store.delete(found.key, found.revision)
        await registry.after_deletion(kind, old)
        old["metadata"]["resourceVersion"] = str(revision)
    if strategy.name_of(kind) in strategy.ANSWERS_WITH_DELETED_OBJECT:
        return old, True
    return success(kind, old), True


async def delete_collection(
    registry: Registry, kind: Kind, chosen: Filter, query: ListQuery, wish: DeleteWish, context: Context
) -> tuple[list[Object], ListResult]:
    """Delete every object that is meant; return what was found, and the list of it."""
    listed = await registry.list(kind, chosen, query)
    found = []
    for entry in listed.entries:
        found.append(entry.object())
        try:
            await delete(registry, kind, entry.namespace, entry.name, wish, context)
        except status.ApiError as error:
            if error.reason != "NotFound":
                raise
    return found, listed
