"""Rules of MutatingAdmissionPolicies and their bindings."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from control.api.meta import Object
from control.api.validation.admission import check_expression
from control.api.validation.faults import Faults
from control.api.validation.policies import check_binding, check_common

if TYPE_CHECKING:
    from control.api.cel.admission import Expressions

PATCH_TYPES = {"ApplyConfiguration": "applyConfiguration", "JSONPatch": "jsonPatch"}
MADE = {"ApplyConfiguration": "Object", "JSONPatch": "list(JSONPatch)"}
"""The types of what the expressions yield."""
REINVOCATIONS = ("IfNeeded", "Never")


def check_mutating_policy(obj: Object, faults: Faults) -> None:
    """Check a MutatingAdmissionPolicy."""
    spec = obj.get("spec") or {}
    expressions = check_common(spec, faults, mutates=True)
    mutations = spec.get("mutations") or []
    if not mutations:
        faults.required("spec.mutations", "mutations must contain at least one item")
    for index, entry in enumerate(mutations):
        _check_mutation(entry, f"spec.mutations[{index}]", faults, expressions)
    faults.one_of("spec.reinvocationPolicy", spec.get("reinvocationPolicy"), REINVOCATIONS)


def _check_mutation(entry: dict[str, Any], path: str, faults: Faults, expressions: Expressions) -> None:
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
            text, absent = found.get("expression") or "", "expression is not specified"
            check_expression(text, f"{here}.expression", faults, expressions, MADE[kind], absent=absent)


def check_mutating_policy_binding(obj: Object, faults: Faults) -> None:
    """Check a MutatingAdmissionPolicyBinding."""
    check_binding(obj.get("spec") or {}, faults)
