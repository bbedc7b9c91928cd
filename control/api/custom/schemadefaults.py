"""Hold the defaults in a schema against the schema itself."""

from __future__ import annotations

from control.api.custom.checking import check
from control.api.custom.pruning import EMBEDDED, Schema, prune
from control.api.patch import copy_json
from control.api.status import Cause
from control.api.validation.faults import Faults

_OF_OBJECTS = ("metadata", "apiVersion", "kind")


def check_defaults(schema: Schema, path: str, faults: Faults) -> None:
    """Check the defaults in a whole schema; those below maps of any key are never used."""
    _check(schema, path, faults, is_resource=True, inside_metadata=False)


def _check(schema: Schema, path: str, faults: Faults, *, is_resource: bool, inside_metadata: bool) -> None:
    is_resource = is_resource or bool(schema.get(EMBEDDED))
    inside_metadata = inside_metadata and not schema.get(EMBEDDED)
    if (default := schema.get("default")) is not None:
        here = f"{path}.default"
        if not inside_metadata and prune(copy_json(default), schema, is_root=False):
            faults.invalid(here, default, "must not have unknown fields")
        found = Faults()
        check(default, schema, "", found)
        below = [Cause(cause.reason, cause.message, _below(here, cause.field)) for cause in found.causes]
        faults.causes.extend(below)
    if isinstance(items := schema.get("items"), dict):
        _check(items, f"{path}.items", faults, is_resource=False, inside_metadata=inside_metadata)
    for name, inner in (schema.get("properties") or {}).items():
        within = inside_metadata or (is_resource and name in _OF_OBJECTS)
        _check(inner, f"{path}.properties[{name}]", faults, is_resource=False, inside_metadata=within)


def _below(path: str, field: str) -> str:
    if not field:
        return path
    return path + field if field[0] == "[" else f"{path}.{field}"
