"""CEL rules in a schema (``x-kubernetes-validations``): compiled once, held against every write.

A rule sees the value at its place as ``self``. One that mentions ``oldSelf`` is a transition rule: it is asked only
where there was a value before that can be told to be the same one, by its place, or by its key in a map or a list with
keys.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from control.api.cel.environment import CelError, Program, compile_expression
from control.api.custom.checking import FORMATS
from control.api.custom.pruning import EMBEDDED, PRESERVES, Schema
from control.api.validation.faults import Faults

EXTENSION = "x-kubernetes-validations"
RULES_OF_AN_OBJECT_MAX = 10_000
"""More evaluations than this, and an object is refused: rules over long lists must bound the lists."""
_RESERVED = frozenset({
    "true", "false", "null", "in", "as", "break", "const", "continue", "else", "for", "function", "if", "import", "let",
    "loop", "package", "namespace", "return", "var", "void", "while",
})  # fmt: skip
_ESCAPES = {"__": "__underscores__", ".": "__dot__", "-": "__dash__", "/": "__slash__"}
_UNITS_S = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
ROOT = "<nil>"
"""What Kubernetes calls the place of the object itself."""
_NOTHING = object()
VARIABLES = ("self", "oldSelf", "oldSelves")
_OPTIONAL = "cel.bind(oldSelf, oldSelves.size() > 0 ? optional.of(oldSelves[0]) : optional.none(), {})"
"""How a rule gets ``oldSelf`` as an optional: values of that type cannot be handed in."""


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule, ready to be asked."""

    text: str
    program: Program
    message: str
    message_program: Program | None
    reason: str
    field_path: str
    is_transition: bool
    optional_old: bool


@dataclass(frozen=True, slots=True)
class Ruled:
    """A place in a schema with rules at it or below it."""

    schema: Schema
    rules: tuple[Rule, ...]
    properties: dict[str, Ruled]
    items: Ruled | None
    others: Ruled | None


def escape(name: str) -> str:
    """Return a field's name as rules write it: ``foo-bar`` is ``foo__dash__bar``."""
    if name in _RESERVED:
        return f"__{name}__"
    return re.sub(r"__|[.\-/]", lambda found: _ESCAPES[found.group()], name)


def compile_rules(schema: Schema) -> Ruled | None:
    """Return the tree of rules in a schema, None where there are none; raises CelError."""
    rules = tuple(_rule(entry) for entry in schema.get(EXTENSION) or ())
    properties = {
        name: found for name, inner in (schema.get("properties") or {}).items() if (found := compile_rules(inner))
    }
    items, others = (
        compile_rules(inner) if isinstance(inner := schema.get(name), dict) else None
        for name in ("items", "additionalProperties")
    )
    if not (rules or properties or items or others):
        return None
    return Ruled(schema, rules, properties, items, others)


def _rule(entry: dict[str, Any]) -> Rule:
    text, expression = entry["rule"].strip(), entry.get("messageExpression")
    return Rule(
        text,
        _compiled(entry, text),
        entry.get("message") or "",
        _compiled(entry, expression) if expression else None,
        entry.get("reason") or "FieldValueInvalid",
        entry.get("fieldPath") or "",
        re.search(r"\boldSelf\b", text) is not None,
        bool(entry.get("optionalOldSelf")),
    )


def _compiled(entry: dict[str, Any], text: str) -> Program:
    return compile_expression(_OPTIONAL.format(text) if entry.get("optionalOldSelf") else text, VARIABLES)


def rule_faults(schema: Schema, path: str, faults: Faults) -> None:
    """Add a fault for each rule in a schema that cannot be compiled."""
    for index, entry in enumerate(schema.get(EXTENSION) or ()):
        for field in ("rule", "messageExpression"):
            if not entry.get(field):
                continue
            try:
                _compiled(entry, entry[field])
            except CelError as error:
                where = f"{path}.{EXTENSION}[{index}].{field}"
                faults.invalid(where, entry if field == "rule" else entry[field], f"compilation failed: {error}")
        if not entry.get("rule"):
            faults.required(f"{path}.{EXTENSION}[{index}].rule", "rule is not specified")


@dataclass(slots=True)
class _Round:
    faults: Faults
    left: int = RULES_OF_AN_OBJECT_MAX


def check_rules(ruled: Ruled, obj: Any, old: Any, faults: Faults) -> None:
    """Add a fault for each rule that an object breaks; ``old`` is the object before, None where it is new."""
    _check(ruled, obj, _NOTHING if old is None else old, "", _Round(faults), is_root=True)


def _check(ruled: Ruled, value: Any, old: Any, path: str, asked: _Round, *, is_root: bool = False) -> None:
    if value is None:
        return
    for rule in ruled.rules:
        if asked.left <= 0:
            if asked.left == 0:
                asked.faults.forbidden(path, "validation rules are asked too often of this object: shorten its lists")
            asked.left = -1
            return
        asked.left -= 1
        _ask(rule, ruled.schema, value, old, path, asked.faults, is_root=is_root)
    if isinstance(value, dict):
        before = old if isinstance(old, dict) else {}
        for name, item in value.items():
            inner = ruled.properties.get(name) or (ruled.others if name not in ruled.properties else None)
            if inner is not None and (name in ruled.properties or name not in (ruled.schema.get("properties") or {})):
                _check(inner, item, before.get(name, _NOTHING), f"{path}.{name}" if path else name, asked)
    elif isinstance(value, list) and ruled.items is not None:
        for index, (item, was) in enumerate(_pairs(ruled.schema, value, old)):
            _check(ruled.items, item, was, f"{path}[{index}]", asked)


def _pairs(schema: Schema, value: list[Any], old: Any) -> Iterator[tuple[Any, Any]]:
    """Yield each item with the one of before that has its keys; items of other lists have no past."""
    keys = schema.get("x-kubernetes-list-map-keys") or ()
    before: dict[tuple[str, ...], Any] = {}
    if schema.get("x-kubernetes-list-type") == "map" and isinstance(old, list):
        before = {_keys(item, keys): item for item in old if isinstance(item, dict)}
    for item in value:
        yield item, before.get(_keys(item, keys), _NOTHING) if isinstance(item, dict) else _NOTHING


def _keys(item: dict[str, Any], keys: Any) -> tuple[str, ...]:
    return tuple(repr(item.get(key)) for key in keys)


def _ask(rule: Rule, schema: Schema, value: Any, old: Any, path: str, faults: Faults, *, is_root: bool) -> None:
    values: dict[str, Any] = {"self": to_cel(value, schema, is_root=is_root), "oldSelf": None, "oldSelves": []}
    if rule.is_transition:
        if old is not _NOTHING and old is not None:
            values["oldSelf"] = to_cel(old, schema, is_root=is_root)
            values["oldSelves"] = [values["oldSelf"]]
        elif not rule.optional_old:
            return
    told = rule.message or f"failed rule: {rule.text}"
    try:
        holds = rule.program.run(values)
    except CelError as error:
        holds, told = False, f"{error} evaluating rule: {told}"
    if holds is True:
        return
    if rule.message_program is not None:
        try:
            found = rule.message_program.run(values)
            told = found.strip() if isinstance(found, str) and found.strip() and "\n" not in found else told
        except CelError:
            told = told or "failed rule"  # the message alone is what Kubernetes falls back to
    where = f"{path}{rule.field_path}" if rule.field_path else path
    faults.of_reason(rule.reason, where.lstrip(".") or ROOT, _shown_type(schema), told)


def _shown_type(schema: Schema) -> str:
    return schema.get("type") or ("int-or-string" if schema.get("x-kubernetes-int-or-string") else "object")


def to_cel(value: Any, schema: Schema, *, is_root: bool = False) -> Any:
    """Return a value as rules see it: numbers, times and bytes by their schema, names of fields escaped."""
    if isinstance(value, dict):
        properties: dict[str, Schema] = schema.get("properties") or {}
        if is_root or schema.get(EMBEDDED):
            properties = {**properties, **_METADATA}
        others = schema.get("additionalProperties")
        made: dict[str, Any] = {}
        for name, item in value.items():
            if name in properties:
                made[escape(name)] = to_cel(item, properties[name])
            elif isinstance(others, dict):
                made[name] = to_cel(item, others)
            elif others is True or schema.get(PRESERVES):
                made[name] = item
        return made
    if isinstance(value, list):
        items = schema.get("items")
        return [to_cel(item, items) if isinstance(items, dict) else item for item in value]
    if isinstance(value, bool) or value is None:
        return value
    if isinstance(value, int | float):
        return float(value) if schema.get("type") == "number" else int(value)
    return _text(value, schema.get("format") or "") if isinstance(value, str) else value


_METADATA: dict[str, Schema] = {
    "apiVersion": {"type": "string"},
    "kind": {"type": "string"},
    "metadata": {"type": "object", "properties": {"name": {"type": "string"}, "generateName": {"type": "string"}}},
}
"""What rules may know of an object beside what its schema says."""


def _text(value: str, form: str) -> Any:
    if form == "byte":
        try:
            return base64.b64decode(value, validate=True)
        except binascii.Error:
            return value
    if form in ("date", "date-time") and FORMATS[form.replace("-", "")](value):
        made = Timestamp()
        made.FromDatetime(datetime.fromisoformat(value.upper()))
        return made
    if form == "duration" and FORMATS["duration"](value):
        found = re.findall(r"([\d.]+)\s*(ns|us|µs|ms|s|m|h)", value)
        nanoseconds = round(sum(float(number) * _UNITS_S[unit] for number, unit in found) * 1e9)
        length = Duration()
        length.FromNanoseconds(-nanoseconds if value.startswith("-") else nanoseconds)
        return length
    return value
