"""What the expressions of a ValidatingAdmissionPolicy say that the kinds which it is about do not know."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from control.api.cel.admission import Expressions
from control.api.cel.errors import CelError
from control.api.cel.types import DYN, Type

TYPES_MAX = 10
"""So many kinds of one rule are looked at."""
Kind = tuple[str, str, str]
"""Group, version and kind."""


def resources_of(policy: dict[str, Any]) -> list[list[tuple[str, str, str]]]:
    """Return, for each rule of a policy, the group, version and plural of the resources that it names."""
    rules = ((policy.get("spec") or {}).get("matchConstraints") or {}).get("resourceRules") or ()
    found: list[list[tuple[str, str, str]]] = []
    for rule in rules:
        groups, versions = sorted(rule.get("apiGroups") or ()), sorted(rule.get("apiVersions") or ())
        if any("*" in each for each in (*groups, *versions)):
            continue
        plurals = sorted(each for each in rule.get("resources") or () if "*" not in each and "/" not in each)
        found.append([(group, version, plural) for group in groups for version in versions for plural in plurals])
    return found


def warnings(policy: dict[str, Any], kinds: Iterable[tuple[Kind, Type]], params: Type | None) -> list[dict[str, str]]:
    """Return what ``status.typeChecking.expressionWarnings`` holds, by the kinds that a policy is about."""
    spec = policy.get("spec") or {}
    ordered = sorted(kinds, key=lambda each: each[0])
    found: list[dict[str, str]] = []
    for index, entry in enumerate(spec.get("validations") or ()):
        for field in ("expression", "messageExpression"):
            if text := entry.get(field):
                told = [line for kind, known in ordered if (line := _warning(text, spec, kind, known, params))]
                if told:
                    found.append({"fieldRef": f"spec.validations[{index}].{field}", "warning": "\n".join(told)})
    return found


def _warning(text: str, spec: dict[str, Any], kind: Kind, known: Type, params: Type | None) -> str:
    entries = spec.get("variables") or ()
    expressions = Expressions(
        params=spec.get("paramKind") is not None, of=known, params_of=params or DYN, named=bool(entries)
    )
    for entry in entries:
        try:
            expressions.variable(entry["name"], entry["expression"])
        except CelError:
            expressions.unknown(entry["name"])
    try:
        expressions.compile(text)
    except CelError as error:
        group, version, name = kind
        return f"{group}/{version}, Kind={name}: {error}\n"
    return ""
