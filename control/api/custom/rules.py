"""CEL rules in a schema (``x-kubernetes-validations``): compiled once, held against every write.

A rule sees the value at its place as ``self``. One that mentions ``oldSelf`` is a transition rule: it is asked only
where there was a value before that can be told to be the same one, by its place, or by its key in a map or a list with
keys. All rules of one object share a budget; what they cost is counted as they run.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from control.api.cel.constants import names_of
from control.api.cel.environment import BUDGET, MESSAGE_MAX, Program, compile_in
from control.api.cel.errors import ENDLESS, BudgetError, CelError, LimitError
from control.api.cel.frame import Purse
from control.api.cel.meter import EXHAUSTED_TEXT, Meter
from control.api.cel.values import NONE, NoOverload, Optional
from control.api.custom.declared import declared
from control.api.custom.fieldpaths import FieldPathError, normalized
from control.api.custom.pruning import EMBEDDED, EXTENSION, Schema
from control.api.custom.rulefaults import rule_environment
from control.api.custom.rulevalues import to_cel
from control.api.validation.faults import Faults, quoted

ROOT = "<nil>"
"""What Kubernetes calls the place of the object itself."""
_NOTHING = object()


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule, ready to be asked."""

    text: str
    program: Program | None
    fault: str
    """Why the rule cannot be compiled."""
    message: str
    message_program: Program | None
    reason: str | None
    field_path: str
    is_transition: bool
    optional_old: bool

    @property
    def name(self) -> str:
        """What faults call the rule."""
        return self.message or self.text


@dataclass(frozen=True, slots=True)
class Ruled:
    """A place in a schema with rules at it or below it."""

    schema: Schema
    rules: tuple[Rule, ...]
    properties: dict[str, Ruled]
    items: Ruled | None
    others: Ruled | None
    is_root: bool = False


def compile_rules(schema: Schema, *, is_root: bool = True) -> Ruled | None:
    """Return the tree of rules in a schema, None where there are none."""
    rules: tuple[Rule, ...] = ()
    if entries := schema.get(EXTENSION):
        rules = tuple(_rule(entry, schema, is_root=is_root) for entry in entries)
    properties = {
        name: found
        for name, inner in (schema.get("properties") or {}).items()
        if (found := compile_rules(inner, is_root=bool(inner.get(EMBEDDED)))) is not None
    }
    items, others = (
        compile_rules(inner, is_root=bool(inner.get(EMBEDDED))) if isinstance(inner := schema.get(name), dict) else None
        for name in ("items", "additionalProperties")
    )
    if not (rules or properties or items or others):
        return None
    return Ruled(schema, rules, properties, items, others, is_root)


def _rule(entry: dict[str, Any], schema: Schema, *, is_root: bool) -> Rule:
    optional_old = bool(entry.get("optionalOldSelf"))
    program, message_program, fault = None, None, ""
    known = declared(schema, is_root=is_root)
    if known is not None:
        environment = rule_environment(known, optional_old=optional_old)
        try:
            program = compile_in(entry["rule"], environment)
        except CelError as error:
            fault = str(error)
        try:
            if expression := entry.get("messageExpression"):
                message_program = compile_in(expression, environment)
        except CelError:
            message_program = None  # the message alone is what is told then
    try:
        field_path = normalized(entry.get("fieldPath") or "", schema)
    except FieldPathError:
        field_path = ""
    return Rule(
        entry["rule"].strip(),
        program,
        fault,
        (entry.get("message") or "").strip(),
        message_program,
        entry.get("reason"),
        field_path,
        program is not None and "oldSelf" in names_of(program.node),
        optional_old,
    )


class Round:
    """One object held against the rules of its schema: what was found, and what may yet be spent."""

    def __init__(self, faults: Faults, purse: Purse) -> None:
        self.faults = faults
        self.meter = Meter(BUDGET, purse)
        self.is_over = False
        """Whether nothing more is asked."""

    def end(self, where: str, kind: str, text: str) -> None:
        """Tell why nothing more is asked."""
        self.faults.invalid(where, kind, text)
        self.is_over = True


def check_rules(ruled: Ruled, obj: Any, old: Any, faults: Faults, most: int = ENDLESS) -> None:
    """Add a fault for each rule that an object breaks; ``old`` is the object before, None where it is new.

    Raises TooLongError where all this costs more than ``most``.
    """
    asked = Round(faults, Purse(most))
    _check(ruled, obj, _NOTHING if old is None else old, "", asked, unchanged=False)


def _check(ruled: Ruled, value: Any, old: Any, path: str, asked: Round, *, unchanged: bool) -> None:
    """Ask the rules at a place and below; ``unchanged`` says that something around it is as it was."""
    if value is None or asked.is_over:
        return
    if ruled.rules:
        _ask_all(ruled, value, old, path, asked, unchanged=unchanged)
    if isinstance(value, dict):
        before = old if isinstance(old, dict) else {}
        for name, item in value.items():
            if asked.is_over:
                return
            if ruled.others is not None:
                _check(ruled.others, item, before.get(name, _NOTHING), f"{path}[{name}]", asked, unchanged=unchanged)
            elif (inner := ruled.properties.get(name)) is not None:
                here = f"{path}.{name}" if path else name
                _check(inner, item, before.get(name, _NOTHING), here, asked, unchanged=unchanged)
    elif isinstance(value, list) and ruled.items is not None:
        # What cannot be told to be the same item is as it was where the whole list is.
        unchanged = unchanged or (isinstance(old, list) and value == old)
        for index, (item, was) in enumerate(_pairs(ruled.schema, value, old)):
            if asked.is_over:
                return
            _check(ruled.items, item, was, f"{path}[{index}]", asked, unchanged=unchanged)


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


def _ask_all(ruled: Ruled, value: Any, old: Any, path: str, asked: Round, *, unchanged: bool) -> None:
    kind = ruled.schema.get("type") or ""
    where = path or ROOT
    if asked.meter.left <= 0:
        asked.end(where, kind, EXHAUSTED_TEXT)
        return
    has_past = old is not _NOTHING and old is not None
    seen = to_cel(value, ruled.schema, is_root=ruled.is_root)
    past = to_cel(old, ruled.schema, is_root=ruled.is_root) if has_past else None
    values = {"self": seen, "oldSelf": past}
    optional = {"self": seen, "oldSelf": Optional(has=True, value=past) if has_past else NONE}
    as_it_was = unchanged or (has_past and value == old)
    for rule in ruled.rules:
        if rule.program is None:
            if rule.fault:
                asked.faults.invalid(where, kind, f"rule compile error: compilation failed: {rule.fault}")
            continue
        if rule.is_transition and not has_past and not rule.optional_old:
            continue
        _ask(rule, rule.program, optional if rule.optional_old else values, (value, kind, path), asked, as_it_was)
        if asked.is_over:
            return


def _ask(
    rule: Rule, program: Program, values: dict[str, Any], about: tuple[Any, str, str], asked: Round, as_it_was: bool
) -> None:
    value, kind, path = about
    where, name = path or ROOT, rule.name
    try:
        holds = asked.meter.run(program, values)
    except BudgetError as error:
        asked.end(where, kind, str(error))
    except LimitError as error:
        text = "no further validation rules will be run due to call cost exceeds limit for rule"
        asked.end(where, kind, f"'{error}': {text}: {name}")
    except NoOverload as error:
        text = "call arguments did not match a supported operator, function or macro signature for rule"
        asked.faults.invalid(where, kind, f"'{error}': {text}: {name}")
    except CelError as error:
        asked.faults.invalid(where, kind, f"{error} evaluating rule: {name}")
    else:
        if holds is True:
            return
        told = _told(rule, values, where, kind, asked)
        if told and (rule.is_transition or not as_it_was):
            at = f"{path}.{rule.field_path}" if path and rule.field_path else rule.field_path or path
            _refuse(rule, at or ROOT, value, kind, told, asked.faults)


def _told(rule: Rule, values: dict[str, Any], where: str, kind: str, asked: Round) -> str:
    """Return what is told of a rule that does not hold, nothing where the budget does not last to find out."""
    program, found = rule.message_program, None
    if program is not None:
        try:
            found = asked.meter.run(program, values)
        except BudgetError as error:
            text = str(error).replace("validation failed", "messageExpression evaluation failed")
            asked.end(where, kind, text)
            return ""
        except LimitError:
            text = "no further validation rules will be run due to call cost exceeds limit for messageExpression"
            asked.end(where, kind, f"{text}: {quoted(program.text)}")
            return ""
        except CelError:
            found = None  # the message alone is what is told then
    shown = found.strip() if isinstance(found, str) else ""
    if shown and "\n" not in shown and len(shown.encode()) <= MESSAGE_MAX:
        return shown
    return rule.message or f"failed rule: {rule.text}"


def _refuse(rule: Rule, where: str, value: Any, kind: str, told: str, faults: Faults) -> None:
    whole = kind in ("object", "array")
    match rule.reason:
        case "FieldValueForbidden":
            faults.forbidden(where, told)
        case "FieldValueRequired":
            faults.required(where, told)
        case "FieldValueDuplicate" if whole:
            faults.duplicate_of(where)
        case "FieldValueDuplicate":
            faults.duplicate(where, value)
        case _ if whole:
            faults.wrong(where, told)
        case _:
            faults.invalid(where, value, told)
