"""Rules of ValidatingAdmissionPolicies and their bindings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from control.api.cel.environment import CelError, compile_expression
from control.api.meta import Object
from control.api.validation.faults import Faults

VARIABLES = ("object", "oldObject", "request", "params", "namespaceObject", "variables", "authorizer")
"""What expressions of policies may name."""
REASONS = ("Forbidden", "Invalid", "RequestEntityTooLarge", "Unauthorized")
ACTIONS = ("Audit", "Deny", "Warn")


def check_policy(obj: Object, faults: Faults) -> None:
    """Check a ValidatingAdmissionPolicy."""
    spec = obj.get("spec") or {}
    validations = spec.get("validations") or []
    if not validations and not spec.get("auditAnnotations"):
        text = "validations or auditAnnotations must contain at least one item"
        faults.required("spec.validations", text)
    for index, entry in enumerate(validations):
        here = f"spec.validations[{index}]"
        _check_expression(entry, "expression", here, faults)
        if entry.get("messageExpression"):
            _check_expression(entry, "messageExpression", here, faults)
        if entry.get("reason") and entry["reason"] not in REASONS:
            faults.not_supported(f"{here}.reason", entry["reason"], REASONS)
    for field in ("variables", "matchConditions"):
        for index, entry in enumerate(spec.get(field) or []):
            if not entry.get("name"):
                faults.required(f"spec.{field}[{index}].name")
            _check_expression(entry, "expression", f"spec.{field}[{index}]", faults)
    _check_rules(spec.get("matchConstraints"), faults)
    kind = spec.get("paramKind")
    if kind is not None:
        for field in ("apiVersion", "kind"):
            if not kind.get(field):
                faults.required(f"spec.paramKind.{field}")


def _check_expression(entry: Mapping[str, Any], field: str, path: str, faults: Faults) -> None:
    text = (entry.get(field) or "").strip()
    if not text:
        faults.required(f"{path}.{field}", f"{field} is not specified")
        return
    try:
        compile_expression(text, VARIABLES)
    except CelError as error:
        faults.invalid(f"{path}.{field}", entry[field], f"compilation failed: {error}")


def _check_rules(constraints: Mapping[str, Any] | None, faults: Faults) -> None:
    if constraints is None:
        faults.required("spec.matchConstraints")
        return
    rules = constraints.get("resourceRules") or []
    if not rules:
        faults.required("spec.matchConstraints.resourceRules")
    for index, rule in enumerate(rules):
        for field in ("apiGroups", "apiVersions", "resources", "operations"):
            if not rule.get(field):
                faults.required(f"spec.matchConstraints.resourceRules[{index}].{field}")


def check_policy_binding(obj: Object, faults: Faults) -> None:
    """Check a ValidatingAdmissionPolicyBinding."""
    spec = obj.get("spec") or {}
    if not spec.get("policyName"):
        faults.required("spec.policyName")
    actions = spec.get("validationActions") or []
    if not actions:
        faults.required("spec.validationActions")
    for index, action in enumerate(actions):
        if action not in ACTIONS:
            faults.not_supported(f"spec.validationActions[{index}]", action, ACTIONS)
        elif action in actions[:index]:
            faults.duplicate(f"spec.validationActions[{index}]", action)
    if "Deny" in actions and "Warn" in actions:
        text = (
            "must not contain both Deny and Warn (repeating the same validation failure information in the API "
            "response and headers serves no purpose)"
        )
        faults.invalid("spec.validationActions", actions, text)
    reference = spec.get("paramRef")
    if reference is not None and bool(reference.get("name")) == (reference.get("selector") is not None):
        faults.required("spec.paramRef", "one of name or selector must be specified")
