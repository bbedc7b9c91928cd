"""Rules that webhook configurations and admission policies share: what they match, and under which conditions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from control.api.cel.errors import CelError
from control.api.validation import names
from control.api.validation.faults import Faults
from control.api.validation.metadata import check_selector

if TYPE_CHECKING:
    from control.api.cel.admission import Expressions

FAILURE_POLICIES = ("Fail", "Ignore")
MATCH_POLICIES = ("Equivalent", "Exact")
_OPERATIONS = ("*", "CONNECT", "CREATE", "DELETE", "UPDATE")
_SCOPES = ("*", "Cluster", "Namespaced")
_CONDITIONS_MAX = 64


def check_rule(rule: dict[str, Any], path: str, faults: Faults) -> None:
    """Check a rule: operations, groups, versions, resources, scope."""
    operations = rule.get("operations") or []
    if not operations:
        faults.required(f"{path}.operations")
    _check_wildcard(operations, f"{path}.operations", "operations", faults)
    for index, operation in enumerate(operations):
        if operation not in _OPERATIONS:
            faults.not_supported(f"{path}.operations[{index}]", operation, _OPERATIONS)
    if not rule.get("apiGroups"):
        faults.required(f"{path}.apiGroups")
    _check_wildcard(rule.get("apiGroups") or [], f"{path}.apiGroups", "API groups", faults)
    versions = rule.get("apiVersions") or []
    if not versions:
        faults.required(f"{path}.apiVersions")
    _check_wildcard(versions, f"{path}.apiVersions", "API versions", faults)
    for index, version in enumerate(versions):
        if not version:
            faults.required(f"{path}.apiVersions[{index}]")
    _check_resources(rule.get("resources") or [], f"{path}.resources", faults)
    if (scope := rule.get("scope")) is not None and scope not in _SCOPES:
        faults.not_supported(f"{path}.scope", scope, _SCOPES)


def _check_wildcard(values: list[str], path: str, words: str, faults: Faults) -> None:
    if len(values) > 1 and "*" in values:
        faults.invalid(path, values, f"if '*' is present, must not specify other {words}")


def _check_resources(resources: list[str], path: str, faults: Faults) -> None:
    if not resources:
        faults.required(path)
    all_below: set[str] = set()
    below_all: set[str] = set()
    for index, entry in enumerate(resources):
        here = f"{path}[{index}]"
        if not entry:
            faults.required(here)
            continue
        resource, slash, below = entry.partition("/")
        if not slash:
            continue
        if resource in all_below:
            faults.invalid(here, entry, f"if '{resource}/*' is present, must not specify {entry}")
        if below in below_all:
            faults.invalid(here, entry, f"if '*/{below}' is present, must not specify {entry}")
        if below == "*":
            all_below.add(resource)
        if resource == "*":
            below_all.add(below)
    if len(resources) > 1 and "*/*" in resources:
        faults.invalid(path, resources, "if '*/*' is present, must not specify other resources")
    plain = [entry for entry in resources if entry and "/" not in entry]
    if "*" in plain and plain[-1] != "*":  # the last one alone is looked at
        text = "if '*' is present, must not specify other resources without subresources"
        faults.invalid(path, resources, text)


def check_match_resources(match: dict[str, Any], path: str, faults: Faults) -> None:
    """Check which objects a policy or a binding is about."""
    faults.one_of(f"{path}.matchPolicy", match.get("matchPolicy"), MATCH_POLICIES)
    for field in ("namespaceSelector", "objectSelector"):
        if match.get(field) is None:
            faults.required(f"{path}.{field}")
        else:
            check_selector(match[field], f"{path}.{field}", faults)
    for field in ("resourceRules", "excludeResourceRules"):
        for index, rule in enumerate(match.get(field) or []):
            here = f"{path}.{field}[{index}]"
            _check_resource_names(rule.get("resourceNames") or [], f"{here}.resourceNames", faults)
            check_rule(rule, here, faults)


def _check_resource_names(given: list[str], path: str, faults: Faults) -> None:
    for index, name in enumerate(given):
        if found := names.path_segment(name):
            faults.invalid(f"{path}[{index}]", name, ",".join(found))
        if name in given[:index]:
            faults.duplicate(f"{path}[{index}]", name)


def check_match_conditions(
    conditions: list[dict[str, Any]], path: str, faults: Faults, expressions: Expressions
) -> None:
    """Check the conditions under which a webhook or a policy is asked at all."""
    if len(conditions) > _CONDITIONS_MAX:
        faults.too_many(path, len(conditions), _CONDITIONS_MAX)
    seen: set[str] = set()
    for index, condition in enumerate(conditions):
        here, name = f"{path}[{index}]", condition.get("name") or ""
        text = (condition.get("expression") or "").strip()
        check_expression(text, f"{here}.expression", faults, expressions, "bool")
        if not name:
            faults.required(f"{here}.name")
            continue
        faults.invalid_all(f"{here}.name", name, names.qualified_name(name))
        if name in seen:
            faults.duplicate(f"{here}.name", name)
        seen.add(name)


def check_expression(
    text: str, path: str, faults: Faults, expressions: Expressions, *wanted: str, absent: str = ""
) -> None:
    """Check that an expression is there, can be compiled, and yields one of the types wanted."""
    if not text.strip():
        faults.required(path, absent)
        return
    try:
        expressions.compile(text, *wanted)
    except CelError as error:
        faults.invalid(path, text, str(error))
