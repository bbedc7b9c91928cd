"""Rules of MutatingAdmissionPolicies and their bindings."""

from __future__ import annotations

from typing import Any

from control.api.cel.environment import CelError
from control.api.cel.initializers import rewritten
from control.api.meta import Object
from control.api.validation.admission import check_expression
from control.api.validation.faults import Faults
from control.api.validation.policies import (
    VARIABLES,
    check_binding,
    check_common,
)

PATCH_TYPES = {"ApplyConfiguration": "applyConfiguration", "JSONPatch": "jsonPatch"}
REINVOCATIONS = ("IfNeeded", "Never")


def check_mutating_policy(obj: Object, faults: Faults) -> None:
    """Check a MutatingAdmissionPolicy."""
    spec = obj.get("spec") or {}
    check_common(spec, faults)
    mutations = spec.get("mutations") or []
    if not mutations:
        faults.required("spec.mutations", "mutations must contain at least one item")
    for index, entry in enumerate(mutations):
        _check_mutation(entry, f"spec.mutations[{index}]", faults)
    faults.one_of("spec.reinvocationPolicy", spec.get("reinvocationPolicy"), REINVOCATIONS)


def _check_mutation(entry: dict[str, Any], path: str, faults: Faults) -> None:
    kind = entry.get("patchType")
    faults.one_of(f"{path}.patchType", kind, tuple(PATCH_TYPES))
    if kind not in PATCH_TYPES:
        return
    for other, field in PATCH_TYPES.items():
        here, found = f"{path}.{field}", entry.get(field)
        if other != kind:
            if found is not None:
                faults.invalid(here, "", f"must not be specified when patchType is {kind}")
        elif found is None:
            faults.required(here)
        else:
            _check_mutating(found.get("expression") or "", f"{here}.expression", faults)


def _check_mutating(text: str, path: str, faults: Faults) -> None:
    try:
        made = rewritten(text)
    except CelError as error:
        faults.invalid(path, text, f"compilation failed: {error}")
        return
    found = Faults()
    check_expression(made, path, found, VARIABLES, "expression is not specified")
    for cause in found.causes:
        if cause.reason == "FieldValueRequired":
            faults.required(path, "expression is not specified")
        else:
            faults.invalid(path, text, "compilation failed: " + cause.message.partition("compilation failed: ")[2])


def check_mutating_policy_binding(obj: Object, faults: Faults) -> None:
    """Check a MutatingAdmissionPolicyBinding."""
    check_binding(obj.get("spec") or {}, faults)
