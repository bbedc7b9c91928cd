"""Rules of ValidatingAdmissionPolicies and their bindings."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from control.api.cel.errors import CelError
from control.api.meta import Object
from control.api.validation import names
from control.api.validation.admission import (
    FAILURE_POLICIES,
    check_expression,
    check_match_conditions,
    check_match_resources,
)
from control.api.validation.faults import Faults
from control.api.validation.forms import metadata_of
from control.api.validation.metadata import check_selector

if TYPE_CHECKING:
    from control.api.cel.admission import Expressions

_ABSENT = "expression is not specified"
REASONS = ("Forbidden", "Invalid", "RequestEntityTooLarge")
ACTIONS = ("Audit", "Deny", "Warn")
_ANNOTATIONS_MAX = 20
_NOTHING_TO_DO = "validations or auditAnnotations must contain at least one item"
_VALUE_BYTES_MAX = 5 * 1024
_IDENTIFIER = re.compile("[_a-zA-Z][_a-zA-Z0-9]*")
_RESERVED = frozenset({
    "true", "false", "null", "in", "as", "break", "const", "continue", "else", "for", "function", "if", "import", "let",
    "loop", "package", "namespace", "return", "var", "void", "while",
})  # fmt: skip


def check_policy(obj: Object, faults: Faults) -> None:
    """Check a ValidatingAdmissionPolicy."""
    spec = obj.get("spec") or {}
    expressions = check_common(spec, faults)
    validations, annotations = spec.get("validations") or [], spec.get("auditAnnotations") or []
    if not validations and not annotations:
        for field in ("validations", "auditAnnotations"):
            faults.required(f"spec.{field}", _NOTHING_TO_DO)
    for index, entry in enumerate(validations):
        _check_validation(entry, f"spec.validations[{index}]", faults, expressions)
    _check_annotations(annotations, metadata_of(obj).get("name") or "", faults, expressions)


def check_common(spec: dict[str, Any], faults: Faults, *, mutates: bool = False) -> Expressions:
    """Check what policies of both kinds say: what they are about, when, and with which parameters and variables.

    Returns what their other expressions may name.
    """
    # Most servers never meet a policy: what compiles expressions is imported with the first.
    from control.api.cel.admission import Expressions

    has_params, variables = spec.get("paramKind") is not None, spec.get("variables") or []
    faults.one_of("spec.failurePolicy", spec.get("failurePolicy"), FAILURE_POLICIES)
    if (kind := spec.get("paramKind")) is not None:
        check_param_kind(kind, "spec.paramKind", faults)
    check_match_constraints(spec.get("matchConstraints"), faults)
    if conditions := spec.get("matchConditions"):
        check_match_conditions(conditions, "spec.matchConditions", faults, Expressions(params=has_params))
    expressions = Expressions(params=has_params, mutates=mutates, named=bool(variables))
    check_variables(variables, faults, expressions)
    return expressions


def check_match_constraints(constraints: dict[str, Any] | None, faults: Faults) -> None:
    """Check what a policy is about: one rule at least."""
    path = "spec.matchConstraints"
    if constraints is None:
        faults.required(path)
        return
    check_match_resources(constraints, path, faults)
    if not constraints.get("resourceRules"):
        faults.required(f"{path}.resourceRules")


def check_param_kind(kind: dict[str, Any], path: str, faults: Faults) -> None:
    """Check of which kind the parameters of a policy are."""
    text, here = kind.get("apiVersion") or "", f"{path}.apiVersion"
    if not text:
        faults.required(here)
    elif text.count("/") > 1:
        faults.invalid(here, text, f"unexpected GroupVersion string: {text}")
    else:
        group, _, version = text.rpartition("/")
        if group and (found := names.dns_subdomain(group)):
            faults.invalid(here, group, ",".join(found))
        if not version:
            faults.invalid(here, text, "version must be specified")
        elif found := names.dns_1035_label(version):
            faults.invalid(here, version, ",".join(found))
    name = kind.get("kind") or ""
    if not name:
        faults.required(f"{path}.kind")
    elif found := names.dns_1035_label(name.lower()):
        text = f"may have mixed case, but should otherwise match: {','.join(found)}"
        faults.invalid(f"{path}.kind", name, text)


def check_variables(variables: list[dict[str, Any]], faults: Faults, expressions: Expressions) -> None:
    """Check the variables of a policy."""
    for index, entry in enumerate(variables):
        here, name = f"spec.variables[{index}]", entry.get("name") or ""
        if not name.strip():
            faults.required(f"{here}.name", "name is not specified")
        elif _IDENTIFIER.fullmatch(name) is None or name in _RESERVED:
            faults.invalid(f"{here}.name", name, "name is not a valid CEL identifier")
        expression = entry.get("expression") or ""
        if not expression.strip():
            faults.required(f"{here}.expression", _ABSENT)
            continue
        try:
            expressions.variable(name, expression)
        except CelError as error:
            faults.invalid(f"{here}.expression", expression, str(error))


def _check_validation(entry: dict[str, Any], path: str, faults: Faults, expressions: Expressions) -> None:
    expression = entry.get("expression") or ""
    check_expression(expression, f"{path}.expression", faults, expressions, "bool", absent=_ABSENT)
    if text := entry.get("messageExpression"):
        if not text.strip():
            faults.invalid(f"{path}.messageExpression", text, "must be non-empty if specified")
        else:
            check_expression(text, f"{path}.messageExpression", faults, expressions, "string")
    if message := entry.get("message"):
        if not message.strip():
            faults.invalid(f"{path}.message", message, "message must be non-empty if specified")
        elif re.search(r"[\n\r]", message.strip()):
            faults.invalid(f"{path}.message", message, "message must not contain line breaks")
    faults.one_of(f"{path}.reason", entry.get("reason"), REASONS, required=False)


def _check_annotations(
    annotations: list[dict[str, Any]], policy: str, faults: Faults, expressions: Expressions
) -> None:
    path = "spec.auditAnnotations"
    if len(annotations) > _ANNOTATIONS_MAX:
        faults.invalid(path, annotations, f"must not have more than {_ANNOTATIONS_MAX} auditAnnotations")
    seen: set[str] = set()
    for index, entry in enumerate(annotations):
        here, key = f"{path}[{index}]", entry.get("key") or ""
        if policy:
            faults.invalid_all(f"{here}.key", f"{policy}/{key}", names.qualified_name(f"{policy}/{key}"))
        else:
            faults.invalid(f"{here}.key", key, "requires metadata.name be non-empty")
        text = entry.get("valueExpression") or ""
        if len(text.strip().encode()) > _VALUE_BYTES_MAX:
            faults.required(f"{here}.valueExpression", f"must not exceed {_VALUE_BYTES_MAX} bytes in length")
        else:
            absent = "valueExpression is not specified"
            check_expression(text, f"{here}.valueExpression", faults, expressions, "string", "null", absent=absent)
        if key in seen:
            faults.duplicate(f"{here}.key", key)
        seen.add(key)


def check_policy_binding(obj: Object, faults: Faults) -> None:
    """Check a ValidatingAdmissionPolicyBinding."""
    spec = obj.get("spec") or {}
    check_binding(spec, faults)
    actions, path = spec.get("validationActions") or [], "spec.validationActions"
    for index, action in enumerate(actions):
        if action not in ACTIONS:
            faults.not_supported(f"{path}[{index}]", action, ACTIONS)
        if action in actions[:index]:
            faults.duplicate(f"{path}[{index}]", action)
    if "Deny" in actions and "Warn" in actions:
        text = (
            "must not contain both Deny and Warn (repeating the same validation failure information in the API "
            "response and headers serves no purpose)"
        )
        faults.invalid(path, actions, text)
    if not actions:
        faults.required(path, "at least one validation action is required")


def check_binding(spec: dict[str, Any], faults: Faults) -> None:
    """Check what bindings of either kind of policy share: the policy, its parameters, what is matched."""
    name = spec.get("policyName") or ""
    if not name:
        faults.required("spec.policyName")
    else:
        faults.invalid_all("spec.policyName", name, names.dns_subdomain(name))
    if (reference := spec.get("paramRef")) is not None:
        _check_param_ref(reference, "spec.paramRef", faults)
    if (match := spec.get("matchResources")) is not None:
        check_match_resources(match, "spec.matchResouces", faults)  # the letter is missing in Kubernetes, too


def _check_param_ref(reference: dict[str, Any], path: str, faults: Faults) -> None:
    name, selector = reference.get("name") or "", reference.get("selector")
    both = "name and selector are mutually exclusive"
    if name:
        faults.invalid_all(f"{path}.name", name, names.path_segment(name))
        if selector is not None:
            faults.forbidden(f"{path}.name", both)
    if selector is not None:
        check_selector(selector, f"{path}.selector", faults)
        if name:
            faults.forbidden(f"{path}.selector", both)
    if not name and selector is None:
        faults.required(path, "one of name or selector must be specified")
    faults.one_of(f"{path}.parameterNotFoundAction", reference.get("parameterNotFoundAction"), ["Deny", "Allow"])
