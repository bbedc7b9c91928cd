"""MutatingAdmissionPolicies and their bindings, parsed, and what one of them makes of an object: pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from control.api import fieldsets, schema
from control.api.meta import Object
from control.api.patch import copy_json, json_patch
from control.api.status import ApiError
from control.apiserver.policies.policy import Match, compiled_conditions, compiled_variables, match_of, variables_of
from control.apiserver.request import AdmissionRequest
from control.apiserver.webhooks.matching import ADMISSION_GROUP, conditions_hold

if TYPE_CHECKING:
    from control.api.cel.admission import Expressions
    from control.api.cel.environment import Program
    from control.api.cel.frame import Purse

Complete = Callable[[Object], Object]
"""Makes of a changed object what its kind keeps, with defaults; raises ApiError where a field is unknown."""


class MutationError(ValueError):
    """A policy cannot change the object; the text says why."""


@dataclass(frozen=True, slots=True)
class Mutation:
    """One change that a policy makes."""

    applies: bool
    """Whether it is an apply configuration, not a JSON patch."""
    program: Program


@dataclass(frozen=True, slots=True)
class MutatingPolicy:
    """A MutatingAdmissionPolicy, parsed."""

    name: str
    match: Match
    param_kind: tuple[str, str]
    """apiVersion and kind of its parameters, empty where it has none."""
    fails_closed: bool
    reinvokes: bool
    conditions: tuple[Program, ...]
    variables: tuple[tuple[str, Program], ...]
    mutations: tuple[Mutation, ...]


@dataclass(frozen=True, slots=True)
class MutatingBinding:
    """A MutatingAdmissionPolicyBinding, parsed."""

    name: str
    policy: str
    match: Match
    param_ref: Mapping[str, Any] | None


def policy_of(obj: Object) -> MutatingPolicy:
    """Read a policy; raises CelError where an expression is none."""
    spec = obj.get("spec") or {}
    kind = spec.get("paramKind") or {}
    conditions = compiled_conditions(spec)
    expressions, variables = compiled_variables(spec, mutates=True)
    return MutatingPolicy(
        obj["metadata"]["name"],
        match_of(spec.get("matchConstraints")),
        (kind.get("apiVersion") or "", kind.get("kind") or ""),
        spec.get("failurePolicy", "Fail") == "Fail",
        spec.get("reinvocationPolicy") == "IfNeeded",
        conditions,
        variables,
        tuple(_mutation(entry, expressions) for entry in spec.get("mutations") or ()),
    )


def _mutation(entry: Object, expressions: Expressions) -> Mutation:
    applies = entry.get("patchType") == "ApplyConfiguration"
    text = entry["applyConfiguration" if applies else "jsonPatch"]["expression"]
    return Mutation(applies, expressions.compile(text))


def binding_of(obj: Object) -> MutatingBinding:
    """Read a binding."""
    spec = obj.get("spec") or {}
    return MutatingBinding(
        obj["metadata"]["name"],
        spec.get("policyName") or "",
        match_of(spec.get("matchResources")),
        spec.get("paramRef"),
    )


def concerns(
    policy: MutatingPolicy, binding: MutatingBinding, request: AdmissionRequest, labels: Mapping[str, str]
) -> bool:
    """Tell whether a policy is to change a request by a binding, its conditions apart."""
    return (
        request.resource.group != ADMISSION_GROUP
        and policy.match.fits(request, labels, any_rule=False)
        and binding.match.fits(request, labels, any_rule=True)
    )


def mutate(
    policy: MutatingPolicy, values: Mapping[str, Any], definition: str, complete: Complete, purse: Purse | None = None
) -> Object:
    """Return the object of the values as a policy changes it, itself where a condition does not hold.

    ``definition`` names the facts of its kind, by which lists are merged. Raises MutationError and CelError, and
    TooLongError where all this costs more than there is in the purse.
    """
    from control.api.cel.environment import BUDGET
    from control.api.cel.meter import Meter

    obj: Object = values["object"]
    if not conditions_hold(policy.conditions, values, purse):
        return obj
    meter = Meter(BUDGET, purse)
    for mutation in policy.mutations:
        seen = {**values, "object": obj}
        seen["variables"] = variables_of(policy.variables, seen, meter)
        made = meter.run(mutation.program, seen)
        changed = _applied(obj, made, definition) if mutation.applies else _patched(obj, made)
        try:
            obj = complete(changed)
        except ApiError as error:
            raise MutationError(error.message) from None
    return obj


def _applied(obj: Object, made: Any, definition: str) -> Object:
    if not isinstance(made, dict):
        raise MutationError("must evaluate to Object")
    from control.api.cel.initializers import built

    wish = built(made, "Object")
    shape = fieldsets.root(definition)
    if atomic := sorted(_atomics(wish, definition, "")):
        raise MutationError(
            f"error applying patch: invalid ApplyConfiguration: may not mutate atomic arrays, maps or structs: "
            f"{', '.join(atomic)}"
        )
    try:
        merged: Object = fieldsets.merge(copy_json(obj), wish, shape)
    except ApiError as error:
        raise MutationError(f"error applying patch: {error.message}") from None
    return merged


def _atomics(value: Any, kind: str, path: str) -> list[str]:
    """Return the places of a wish that would replace a whole list or structure that has one owner."""
    found = schema.resolve(kind) if kind else None
    if found is None or not isinstance(value, dict):
        return []
    told: list[str] = []
    for name, item in value.items():
        field, here = found.fields.get(name), f"{path}.{name}"
        if field is None:
            continue
        if isinstance(item, list) and field.type.startswith("[]"):
            if field.list_type in ("", "atomic"):
                told.append(here)
            for index, entry in enumerate(item):
                told += _atomics(entry, schema.element(field.type), f"{here}[{index}]")
        elif isinstance(item, dict):
            inner = schema.resolve(field.type) if field.type[:2] not in ("[]", "{}") else None
            if field.map_type == "atomic" or (inner is not None and inner.atomic):
                told.append(here)
            elif inner is not None:
                told += _atomics(item, field.type, here)
    return told


def _patched(obj: Object, made: Any) -> Object:
    if not isinstance(made, list):
        raise MutationError("type mismatch: JSONPatchType.expression should evaluate to array")
    from control.api.cel.initializers import built

    before, operations = obj, [built(operation) for operation in made]
    if not all(isinstance(operation, dict) for operation in operations):
        raise MutationError("type mismatch: JSONPatchType.expression should evaluate to array of JSONPatch")
    for operation in operations:
        if operation.get("op") == "test" and not _holds(obj, operation):
            # A patch whose test fails is no fault: it is not meant for this object.
            return before
        try:
            obj = json_patch(obj, [operation])
        except ApiError as error:
            causes = (error.status.get("details") or {}).get("causes") or [{"message": error.message}]
            raise MutationError(f"JSONPath: {causes[0]['message']}") from None
    return obj


def _holds(obj: Object, test: Mapping[str, Any]) -> bool:
    try:
        json_patch(obj, [test])
    except ApiError:
        return False
    return True
