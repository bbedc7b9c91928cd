"""Hold a schema against the rules of structural schemas, which every CustomResourceDefinition must keep.

Structural means: every value has a type of its own outside of the junctors, so that it is clear without looking at an
object what is cut, defaulted and owned.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from control.api.custom import patterns
from control.api.custom.pruning import EMBEDDED, EXTENSION, PRESERVES, Schema, has_rules
from control.api.custom.schemadefaults import check_defaults
from control.api.custom.schemarules import check_nodes
from control.api.validation.faults import Faults

INT_OR_STRING = "x-kubernetes-int-or-string"
DEPTH_MAX = 64
"""Deeper schemas are refused: every walk over objects follows them."""
_INT_OR_STRING_FORM = [{"type": "integer"}, {"type": "string"}]
_JUNCTORS = ("anyOf", "allOf", "oneOf")
_UNREAD = ("id", "$schema", "$ref", "patternProperties", "dependencies", "additionalItems", "definitions")
"""What no structural schema has; the walk over the nodes tells of it, so nothing else is told beside."""
_AT_ROOT = frozenset({
    "description", "type", "format", "title", "maximum", "exclusiveMaximum", "minimum", "exclusiveMinimum", "maxLength",
    "minLength", "pattern", "maxItems", "minItems", "uniqueItems", "multipleOf", "required", "items", "properties",
    "externalDocs", "example", PRESERVES, EXTENSION,
})  # fmt: skip
_AT_ROOT_TEXT = (
    "only [Description Type Format Title Maximum ExclusiveMaximum Minimum ExclusiveMinimum MaxLength MinLength Pattern "
    "MaxItems MinItems UniqueItems MultipleOf Required Items Properties ExternalDocs Example XPreserveUnknownFields "
    "XValidations] fields are allowed at the root of the schema if the status subresource is enabled"
)
_NOT_IN_JUNCTORS = (
    ("type", "empty"), ("additionalProperties", "undefined"), ("default", "undefined"), ("title", "empty"),
    ("description", "empty"), ("nullable", "false"), (PRESERVES, "false"), (EMBEDDED, "false"),
    (INT_OR_STRING, "false"), ("x-kubernetes-list-map-keys", "empty"), ("x-kubernetes-list-type", "undefined"),
    ("x-kubernetes-map-type", "undefined"), (EXTENSION, "empty"),
)  # fmt: skip


def check_structural(schema: Schema, path: str, faults: Faults, *, has_status: bool = False) -> None:
    """Add a fault for each rule that a version's whole schema breaks; what its own rules say is checked at last."""
    first = len(faults.causes)
    if _is_too_deep(schema):
        faults.forbidden(path, f"schemas may not be nested deeper than {DEPTH_MAX}")
        return
    if has_status:
        _check_root(schema, path, faults)
    if schema.get("nullable"):
        faults.forbidden(f"{path}.nullable", "nullable cannot be true at the root")
    unread = _first_unread(schema)
    if not unread:
        found = Faults()
        _check_invariants(schema, path, found, level="")
        _check_complete(schema, schema, path, path, found)
        if found:
            faults.causes.extend(sorted(found.causes, key=lambda cause: f"{cause.field}: {cause.message}"))
        else:
            check_defaults(schema, path, faults)
    before = len(faults.causes)
    check_nodes(schema, path, faults)
    if unread and len(faults.causes) == before:
        faults.invalid(path, "", unread)
    if len(faults.causes) == first and has_rules(schema):
        from control.api.custom.rulefaults import expression_faults

        expression_faults(schema, path, faults)


def _inner(schema: Schema) -> Iterator[Any]:
    for name in ("properties", "definitions", "patternProperties"):
        if isinstance(found := schema.get(name), dict):
            yield from found.values()
    for name in ("additionalProperties", "items", "not"):
        yield schema.get(name)
    for name in _JUNCTORS:
        yield from schema.get(name) or ()


def _is_too_deep(schema: Schema) -> bool:
    level: list[Any] = [schema]
    for _ in range(DEPTH_MAX + 1):
        level = [inner for node in level for inner in _inner(node) if isinstance(inner, dict)]
        if not level:
            return False
    return True


def _first_unread(schema: Schema) -> str:
    """Return why a schema cannot be read as a structural one, empty where it can."""
    waiting: list[Any] = [schema]
    while waiting:
        node = waiting.pop()
        if not isinstance(node, dict):
            continue
        for name in _UNREAD:
            if node.get(name):
                return f"OpenAPIV3Schema '{name.removeprefix('$') if name == '$schema' else name}' is not supported"
        if isinstance(node.get("items"), list):
            return "OpenAPIV3Schema 'items' must be a schema, but is an array"
        if node.get(PRESERVES) is False:
            return f"internal error: '{PRESERVES}' must be true or undefined"
        waiting.extend(_inner(node))
    return ""


def _check_root(schema: Schema, path: str, faults: Faults) -> None:
    """Check that the status can be taken out of the root."""
    for name, value in schema.items():
        if value in (None, "", False, [], {}):
            continue
        if name == "type" and value != "object":
            text = 'only "object" is allowed as the type at the root of the schema if the status subresource is enabled'
            faults.invalid(f"{path}.type", value, text)
            return
        if name not in _AT_ROOT:
            faults.invalid(path, schema, _AT_ROOT_TEXT)
            return


def _check_invariants(schema: Schema, path: str, faults: Faults, *, level: str) -> None:
    kind, items, others = schema.get("type") or "", schema.get("items"), schema.get("additionalProperties")
    if kind == "array" and items is None:
        faults.required(f"{path}.items", "must be specified")
    if isinstance(items, dict):
        _check_invariants(items, f"{path}.items", faults, level="for specified array items")
    for name, inner in (schema.get("properties") or {}).items():
        _check_invariants(inner, f"{path}.properties[{name}]", faults, level="for specified object fields")
    if others is not None:
        if not level:
            faults.forbidden(f"{path}.additionalProperties", "must not be used at the root")
        if isinstance(others, dict):
            _check_invariants(others, f"{path}.additionalProperties", faults, level="for specified object fields")
    if schema.get(INT_OR_STRING):
        for name in (PRESERVES, EMBEDDED):
            if schema.get(name):
                faults.invalid(f"{path}.{name}", True, f"must be false if {INT_OR_STRING} is true")
    _check_junctors(schema, path, faults, skip_any=schema.get("anyOf") == _INT_OR_STRING_FORM)
    _check_type(schema, kind, path, faults, level)
    _check_object_fields(schema, path, faults, is_root=not level)
    if schema.get(EMBEDDED) and not schema.get(PRESERVES) and not schema.get("properties"):
        text = f"must not be empty if {EMBEDDED} is true without {PRESERVES}"
        faults.required(f"{path}.properties", text)


def _check_type(schema: Schema, kind: str, path: str, faults: Faults, level: str) -> None:
    if schema.get(EMBEDDED) and kind != "object":
        text = f"must be object if {EMBEDDED} is true"
        faults.invalid(f"{path}.type", kind, text) if kind else faults.required(f"{path}.type", text)
    elif not kind and not schema.get(INT_OR_STRING) and not schema.get(PRESERVES):
        faults.required(f"{path}.type", f"must not be empty {level or 'at the root'}")
    if schema.get(EMBEDDED) and schema.get("additionalProperties") is not None:
        faults.forbidden(f"{path}.additionalProperties", f"must not be used if {EMBEDDED} is set")
    if not level and kind and kind != "object":
        faults.invalid(f"{path}.type", kind, "must be object at the root")


def _check_object_fields(schema: Schema, path: str, faults: Faults, *, is_root: bool) -> None:
    """Check what every object has, where the schema speaks of it."""
    properties: dict[str, Schema] = schema.get("properties") or {}
    if is_root or schema.get(EMBEDDED):
        for name, kind in (("kind", "string"), ("apiVersion", "string"), ("metadata", "object")):
            if name in properties and (given := properties[name].get("type") or "") != kind:
                faults.invalid(f"{path}.properties[{name}].type", given, f"must be {kind}")
    if is_root and (metadata := properties.get("metadata")) is not None:
        named = set(metadata.get("properties") or ())
        known = {"properties"} if named and named <= {"name", "generateName"} else set()
        rest = set(metadata) - {"type", "default"} - known
        if any(metadata[field] not in (None, "", False, [], {}) for field in rest):
            text = "must not specify anything other than name and generateName, but metadata is implicitly specified"
            faults.forbidden(f"{path}.properties[metadata]", text)


def _check_junctors(schema: Schema, path: str, faults: Faults, *, skip_any: bool, skip_first_all: bool = True) -> None:
    """Check the junctors of a node, and its pattern."""
    for name in _JUNCTORS:
        for index, part in enumerate(schema.get(name) or ()):
            if name == "anyOf" and skip_any:
                continue
            first = name == "allOf" and index == 0 and skip_first_all and part.get("anyOf") == _INT_OR_STRING_FORM
            _check_part(part, f"{path}.{name}[{index}]", faults, skip_any=first)
    if isinstance(refused := schema.get("not"), dict):
        _check_part(refused, f"{path}.not", faults)
    if (pattern := schema.get("pattern")) and (fault := patterns.go_fault(pattern)):
        told = f"must be a valid regular expression, but isn't: error parsing regexp: {fault}"
        faults.invalid(f"{path}.pattern", pattern, told)


def _check_part(part: Schema, path: str, faults: Faults, *, skip_any: bool = False) -> None:
    """Check a part of a junctor: it only restricts."""
    _check_junctors(part, path, faults, skip_any=skip_any, skip_first_all=False)
    if isinstance(items := part.get("items"), dict):
        _check_part(items, f"{path}.items", faults)
    properties: dict[str, Schema] = part.get("properties") or {}
    for name, inner in properties.items():
        _check_part(inner, f"{path}.properties[{name}]", faults)
    for name, wanted in _NOT_IN_JUNCTORS:
        value = part.get(name)
        if value not in (None, "", False, []) or (value is False and name == "additionalProperties"):
            faults.forbidden(f"{path}.{name}", f"must be {wanted} to be structural")
    if "metadata" in properties:
        faults.forbidden(f"{path}.properties[metadata]", "must not be specified in a nested context")


def _check_complete(part: Schema, schema: Schema, where: str, path: str, faults: Faults) -> None:
    """Check that all that the root's junctors speak of stands in the structure; Kubernetes looks at no others."""
    parts = [("not", part.get("not"))]
    parts += [(f"{name}[{index}]", inner) for name in _JUNCTORS for index, inner in enumerate(part.get(name) or ())]
    for name, inner in parts:
        if isinstance(inner, dict):
            _check_known(inner, schema, where, f"{path}.{name}", faults)


def _check_known(part: Schema, schema: Schema | None, where: str, path: str, faults: Faults) -> None:
    if schema is None:
        faults.required(where, f"because it is defined in {path}")
        return
    _check_complete(part, schema, where, path, faults)
    if isinstance(items := part.get("items"), dict):
        around = schema.get("items")
        _check_known(items, around if isinstance(around, dict) else None, f"{where}.items", f"{path}.items", faults)
    known: dict[str, Schema] = schema.get("properties") or {}
    for name, inner in (part.get("properties") or {}).items():
        _check_known(inner, known.get(name), f"{where}.properties[{name}]", f"{path}.properties[{name}]", faults)
