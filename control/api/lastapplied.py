"""What `kubectl apply` notes on objects, and how the same user's server-side apply goes on from there.

The annotation holds the configuration that was applied by the client. Fields that still are as it says are the user's
own: applying them by the server, as the manager "kubectl", is no conflict with whoever is noted as their owner.
"""

from __future__ import annotations

from typing import Any

import orjson

from control.api.comparing import KeysMissingError
from control.api.fieldtrees import Tree, difference
from control.api.meta import Object
from control.api.tracking import Scope, bare
from control.api.validation.metadata import ANNOTATIONS_BYTES_MAX

ANNOTATION = "kubectl.kubernetes.io/last-applied-configuration"
MANAGER = "kubectl"


def _annotations(obj: Object | None) -> dict[str, str]:
    return ((obj or {}).get("metadata") or {}).get("annotations") or {}


def own_fields(live: Object | None, api_version: str, scope: Scope) -> Tree:
    """Return the fields of an object that are as its annotation says."""
    text = _annotations(live).get(ANNOTATION)
    if not text:
        return {}
    try:
        noted: Any = orjson.loads(text)
    except orjson.JSONDecodeError:
        return {}
    if not isinstance(noted, dict) or noted.get("apiVersion") != api_version:
        return {}
    try:
        written, removed = scope.changes(bare(noted), bare(live or {}))
        return difference(difference(scope.stated(noted), written), removed)
    except KeysMissingError:
        # An annotation that somebody wrote by hand need not fit the type.
        return {}


def noted(obj: Object, wish: Object) -> Object:
    """Return an object whose annotation, where it has one, holds the configuration that was applied now."""
    annotations = dict(_annotations(obj))
    if ANNOTATION not in annotations:
        return obj
    metadata = dict(wish.get("metadata") or {})
    others = {name: value for name, value in _annotations(wish).items() if name != ANNOTATION}
    annotations[ANNOTATION] = _encoded({**wish, "metadata": {**metadata, "annotations": others}})
    if sum(len(name.encode()) + len(value.encode()) for name, value in annotations.items()) > ANNOTATIONS_BYTES_MAX:
        del annotations[ANNOTATION]
    return {**obj, "metadata": {**obj["metadata"], "annotations": annotations}}


def _encoded(obj: Object) -> str:
    return orjson.dumps(obj, option=orjson.OPT_SORT_KEYS).decode() + "\n"
