"""Hold the rules in a schema against what Kubernetes asks of rules: their types, their cost, and what they speak of."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from typing import Any

from control.api.cel.constants import names_of
from control.api.cel.costs import estimate
from control.api.cel.environment import Environment, Program, compile_in
from control.api.cel.errors import CelError
from control.api.cel.sizes import Declared, multiply
from control.api.cel.types import optional_of
from control.api.custom.declared import REQUEST_BYTES_MAX, declared
from control.api.custom.fieldpaths import FieldPathError, normalized
from control.api.custom.pruning import EMBEDDED, EXTENSION, Schema
from control.api.validation.faults import Faults

RULE_COST_MAX = 10_000_000
"""What one rule may cost at most over all values that one object may have for it."""
SCHEMA_COST_MAX = 100_000_000
"""What all rules of a schema may cost together."""
REASONS = ("FieldValueDuplicate", "FieldValueForbidden", "FieldValueInvalid", "FieldValueRequired")
_EXPENSIVE_MAX = 4
_LINE_BREAK = re.compile(r"[\n\r]")
_FIELDS = {
    "Rule": ("rule", ""), "Message": ("message", ""), "MessageExpression": ("messageExpression", ""),
    "Reason": ("reason", None), "FieldPath": ("fieldPath", ""), "OptionalOldSelf": ("optionalOldSelf", None),
}  # fmt: skip


def entry_faults(schema: Schema, path: str, faults: Faults) -> None:
    """Add a fault for what is wrong with the entries of the rules at a place of a schema, whatever they compute."""
    for index, entry in enumerate(schema.get(EXTENSION) or ()):
        here = f"{path}.{EXTENSION}[{index}]"
        rule, message = str(entry.get("rule") or "").strip(), entry.get("message") or ""
        if not rule:
            faults.required(f"{here}.rule", "rule is not specified")
        elif message and not message.strip():
            faults.invalid(f"{here}.message", message, "must be non-empty if specified")
        elif _LINE_BREAK.search(message.strip()):
            faults.invalid(f"{here}.message", message, "must not contain line breaks")
        elif _LINE_BREAK.search(rule) and not message:
            faults.required(f"{here}.message", "message must be specified if rule contains line breaks")
        expression = entry.get("messageExpression") or ""
        if expression and not expression.strip():
            faults.required(f"{here}.messageExpression", "messageExpression must be non-empty if specified")
        if (reason := entry.get("reason")) is not None and reason not in REASONS:
            faults.not_supported(f"{here}.reason", reason, REASONS)
        if field_path := entry.get("fieldPath") or "":
            _path_faults(field_path, schema, f"{here}.fieldPath", faults)


def _path_faults(field_path: str, schema: Schema, path: str, faults: Faults) -> None:
    if not field_path.strip():
        faults.invalid(path, field_path, "must be non-empty if specified")
    if _LINE_BREAK.search(field_path):
        faults.invalid(path, field_path, "must not contain line breaks")
    try:
        normalized(field_path, schema)
    except FieldPathError:
        faults.invalid(path, field_path, "must be a valid path")


# What rules compute


@dataclass(slots=True)
class _Costs:
    """What all rules of a schema cost together, and the most expensive of them."""

    total: int = 0
    expensive: list[tuple[int, str]] = field(default_factory=list)

    def observe(self, path: str, cost: int) -> None:
        """Count a rule."""
        self.total += cost
        if cost >= SCHEMA_COST_MAX // 100:
            self.expensive = sorted([*self.expensive, (cost, path)], key=lambda each: -each[0])[:_EXPENSIVE_MAX]


@dataclass(frozen=True, slots=True)
class _Place:
    """A place in a schema: how often an object may have it, and from where on its past is not known."""

    path: str
    times: int | None
    """None where nothing bounds how often."""
    unknown_past: str = ""

    def below(self, name: str, times: int | None, *, forgets: bool) -> _Place:
        """Return a place within."""
        both = None if self.times is None or times is None else multiply(self.times, times)
        return _Place(f"{self.path}{name}", both, self.unknown_past or (self.path if forgets else ""))


def expression_faults(schema: Schema, path: str, faults: Faults) -> None:
    """Add a fault for each rule of a version's whole schema that cannot be compiled or costs too much."""
    costs = _Costs()
    _walk(schema, _Place(path, 1), faults, costs, is_root=True)
    if costs.total > SCHEMA_COST_MAX:
        for _, where in costs.expensive:
            text = "contributed to estimated rule cost total exceeding cost limit for entire OpenAPIv3 schema"
            faults.forbidden(where, text)
        name = f"{EXTENSION} estimated rule cost total for entire OpenAPIv3 schema"
        faults.forbidden(path, _cost_text(name, costs.total, SCHEMA_COST_MAX))


def _walk(schema: Schema, place: _Place, faults: Faults, costs: _Costs, *, is_root: bool) -> None:
    others, items = schema.get("additionalProperties"), schema.get("items")
    times = _times(schema)
    if isinstance(others, dict):
        _walk(others, place.below(".additionalProperties", times, forgets=False), faults, costs,
              is_root=bool(others.get(EMBEDDED)))  # fmt: skip
    forgets = schema.get("x-kubernetes-map-type") not in (None, "granular", "atomic")
    for name, inner in (schema.get("properties") or {}).items():
        _walk(inner, place.below(f".properties[{name}]", times, forgets=forgets), faults, costs,
              is_root=bool(inner.get(EMBEDDED)))  # fmt: skip
    if isinstance(items, dict):
        forgets = schema.get("x-kubernetes-list-type") != "map"
        _walk(items, place.below(".items", times, forgets=forgets), faults, costs,
              is_root=bool(items.get(EMBEDDED)))  # fmt: skip
    if rules := schema.get(EXTENSION):
        known = declared(schema, is_root=is_root)
        if known is None:
            return
        for index, entry in enumerate(rules):
            _check(entry, known, replace(place, path=f"{place.path}.{EXTENSION}[{index}]"), faults, costs)


def _times(schema: Schema) -> int | None:
    """Return how often a value has what is within it, None where nothing bounds that."""
    most: Any = 1
    if schema.get("type") == "array":
        most = schema.get("maxItems")
    elif schema.get("type") == "object" and schema.get("additionalProperties") is not None:
        most = schema.get("maxProperties")
    return None if most is None else max(int(most), 0)


def rule_environment(known: Declared, *, optional_old: bool) -> Environment:
    """Return what rules over values of a type may name."""
    return Environment({"self": known.type, "oldSelf": optional_of(known.type) if optional_old else known.type})


def _check(entry: dict[str, Any], known: Declared, place: _Place, faults: Faults, costs: _Costs) -> None:
    environment = rule_environment(known, optional_old=bool(entry.get("optionalOldSelf")))
    program = _compiled(entry, "rule", environment, place.path, faults)
    if program is None:
        _optional_faults(entry, place.path, faults)
        return
    often = place.times if place.times is not None else REQUEST_BYTES_MAX // (known.serialized_min + 1)
    cost = multiply(estimate(program.node, known).high, often)
    if cost > RULE_COST_MAX:
        faults.forbidden(f"{place.path}.rule", _cost_text("estimated rule cost", cost, RULE_COST_MAX))
    costs.observe(f"{place.path}.rule", cost)
    if entry.get("messageExpression"):
        message = _compiled(entry, "messageExpression", environment, place.path, faults)
        if message is not None:
            cost = estimate(message.node, known).high
            where = f"{place.path}.messageExpression"
            if cost > RULE_COST_MAX:
                faults.forbidden(where, _cost_text("estimated messageExpression cost", cost, RULE_COST_MAX))
            costs.observe(where, cost)
    if "oldSelf" in names_of(program.node):
        if place.unknown_past:
            text = f"oldSelf cannot be used on the uncorrelatable portion of the schema within {place.unknown_past}"
            faults.invalid(f"{place.path}.rule", entry["rule"], text)
    else:
        _optional_faults(entry, place.path, faults)


def _optional_faults(entry: dict[str, Any], path: str, faults: Faults) -> None:
    if (optional := entry.get("optionalOldSelf")) is not None:
        faults.invalid(f"{path}.optionalOldSelf", optional, "may not be set if oldSelf is not used in rule")


def _compiled(entry: dict[str, Any], name: str, environment: Environment, path: str, faults: Faults) -> Program | None:
    wanted, about = ("bool", "") if name == "rule" else ("string", "messageExpression ")
    told = "cel expression must evaluate to a bool" if name == "rule" else "messageExpression must evaluate to a string"
    try:
        program = compile_in(entry[name], environment)
    except CelError as error:
        told = f"{about}compilation failed: {error}"
    else:
        if program.type.kind == wanted:
            try:
                program.plan()
            except CelError as error:
                told = f"{about or 'program '}instantiation failed: {error}"
            else:
                return program
    shown = {key: entry.get(source, default) for key, (source, default) in _FIELDS.items()}
    faults.invalid(f"{path}.{name}", shown, told)
    return None


def _cost_text(name: str, cost: int, limit: int) -> str:
    factor = cost / limit
    shown = "more than 100x" if factor > 100 else f"{factor:f}x" if factor < 1.5 else f"{factor:.1f}x"
    remedy = (
        "try simplifying the rule, or adding maxItems, maxProperties, and maxLength where arrays, maps, and strings"
    )
    return f"{name} exceeds budget by factor of {shown} ({remedy} are declared)"
