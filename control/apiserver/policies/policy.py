"""ValidatingAdmissionPolicies and their bindings, parsed, and what one of them says of a request: pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from control.api import selectors
from control.api.cel.environment import CelError, Program, compile_expression
from control.api.meta import Object
from control.api.selectors import Selector
from control.api.validation.policies import VARIABLES
from control.apiserver.request import AdmissionRequest
from control.apiserver.webhooks.matching import ADMISSION_GROUP, Rule, conditions_hold, rule_of, selected


@dataclass(frozen=True, slots=True)
class NamedRule:
    """A rule that may be about some names alone."""

    rule: Rule
    names: frozenset[str]

    def fits(self, request: AdmissionRequest, *, exact: bool) -> bool:
        """Tell whether a request is meant."""
        return self.rule.fits(request, exact=exact) and (not self.names or request.name in self.names)


@dataclass(frozen=True, slots=True)
class Match:
    """Which requests are meant (MatchResources)."""

    rules: tuple[NamedRule, ...]
    excluded: tuple[NamedRule, ...]
    exact: bool
    namespaces: Selector
    objects: Selector

    def fits(self, request: AdmissionRequest, namespace_labels: Mapping[str, str], *, any_rule: bool) -> bool:
        """Tell whether a request is meant; with ``any_rule``, no rules at all mean every request."""
        if any(rule.fits(request, exact=self.exact) for rule in self.excluded):
            return False
        if not (any_rule and not self.rules) and not any(rule.fits(request, exact=self.exact) for rule in self.rules):
            return False
        return selected(self.namespaces, self.objects, request, namespace_labels)


def match_of(found: Object | None) -> Match:
    """Read a MatchResources object."""
    found = found or {}
    return Match(
        tuple(_named(rule) for rule in found.get("resourceRules") or ()),
        tuple(_named(rule) for rule in found.get("excludeResourceRules") or ()),
        found.get("matchPolicy") == "Exact",
        selectors.from_label_selector(found.get("namespaceSelector") or {}),
        selectors.from_label_selector(found.get("objectSelector") or {}),
    )


def _named(rule: Object) -> NamedRule:
    return NamedRule(rule_of(rule), frozenset(rule.get("resourceNames") or ()))


@dataclass(frozen=True, slots=True)
class Validation:
    """One rule of a policy."""

    text: str
    program: Program
    message: str
    message_program: Program | None
    reason: str


@dataclass(frozen=True, slots=True)
class Policy:
    """A ValidatingAdmissionPolicy, parsed."""

    name: str
    match: Match
    param_kind: tuple[str, str]
    """apiVersion and kind of its parameters, empty where it has none."""
    fails_closed: bool
    conditions: tuple[Program, ...]
    variables: tuple[tuple[str, Program], ...]
    validations: tuple[Validation, ...]
    annotations: tuple[tuple[str, Program], ...]
    """What it adds to audit events: keys, and expressions of their values."""


@dataclass(frozen=True, slots=True)
class Binding:
    """A ValidatingAdmissionPolicyBinding, parsed."""

    name: str
    policy: str
    match: Match
    actions: tuple[str, ...]
    param_ref: Mapping[str, Any] | None


@dataclass(frozen=True, slots=True)
class Fault:
    """What a policy objects to."""

    text: str
    reason: str = "Invalid"
    index: int = 0
    """Which of its validations objects."""
    denies: bool = False
    """Whether the request is refused whatever the binding says."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """What a policy says of one request with one parameter."""

    faults: tuple[Fault, ...] = ()
    annotations: tuple[tuple[str, str], ...] = ()


def policy_of(obj: Object) -> Policy:
    """Read a policy; raises CelError where an expression is none."""
    spec = obj.get("spec") or {}
    kind = spec.get("paramKind") or {}
    return Policy(
        obj["metadata"]["name"],
        match_of(spec.get("matchConstraints")),
        (kind.get("apiVersion") or "", kind.get("kind") or ""),
        spec.get("failurePolicy", "Fail") == "Fail",
        tuple(_compiled(entry["expression"]) for entry in spec.get("matchConditions") or ()),
        tuple((entry["name"], _compiled(entry["expression"])) for entry in spec.get("variables") or ()),
        tuple(_validation(entry) for entry in spec.get("validations") or ()),
        tuple((entry["key"], _compiled(entry["valueExpression"])) for entry in spec.get("auditAnnotations") or ()),
    )


def _compiled(text: str) -> Program:
    return compile_expression(text, VARIABLES)


def _validation(entry: Object) -> Validation:
    message = entry.get("messageExpression")
    return Validation(
        entry["expression"].strip(),
        _compiled(entry["expression"]),
        (entry.get("message") or "").strip(),
        _compiled(message) if message else None,
        entry.get("reason") or "Invalid",
    )


def binding_of(obj: Object) -> Binding:
    """Read a binding."""
    spec = obj.get("spec") or {}
    return Binding(
        obj["metadata"]["name"],
        spec.get("policyName") or "",
        match_of(spec.get("matchResources")),
        tuple(spec.get("validationActions") or ()),
        spec.get("paramRef"),
    )


def concerns(policy: Policy, binding: Binding, request: AdmissionRequest, labels: Mapping[str, str]) -> bool:
    """Tell whether a policy is to be held against a request by a binding, its conditions apart."""
    return (
        request.resource.group != ADMISSION_GROUP
        and policy.match.fits(request, labels, any_rule=False)
        and binding.match.fits(request, labels, any_rule=True)
    )


def judge(policy: Policy, values: dict[str, Any]) -> Judgement:
    """Return what a policy says over the values of its variables; conditions that do not hold make it silent."""
    try:
        if not conditions_hold(policy.conditions, values):
            return Judgement()
    except CelError as error:
        return Judgement((Fault(f"match condition failed: {error}"),) if policy.fails_closed else ())
    values = {**values, "variables": variables_of(policy.variables, values)}
    faults = [
        fault
        for index, validation in enumerate(policy.validations)
        if (fault := _fault(policy, index, validation, values)) is not None
    ]
    if not policy.annotations:
        return Judgement(tuple(faults))
    annotations, failed = _annotations(policy, values)
    return Judgement((*faults, *failed), tuple(annotations))


def _fault(policy: Policy, index: int, validation: Validation, values: dict[str, Any]) -> Fault | None:
    try:
        holds = validation.program.run(values)
    except CelError as error:
        text = f"expression '{validation.text}' resulted in error: {error}"
        return Fault(text, index=index) if policy.fails_closed else None
    return None if holds is True else Fault(_message(validation, values), validation.reason, index)


def _annotations(policy: Policy, values: dict[str, Any]) -> tuple[list[tuple[str, str]], list[Fault]]:
    """Return the annotations for audit events, and what is wrong with those that have none."""
    made: list[tuple[str, str]] = []
    faults: list[Fault] = []
    for key, program in policy.annotations:
        try:
            found = program.run(values)
        except CelError as error:
            if policy.fails_closed:
                faults.append(Fault(f"expression '{program.text}' resulted in error: {error}", denies=True))
            continue
        if isinstance(found, str):
            if found.strip():
                made.append((key, found.strip()))
        elif found is not None:
            text = (
                f"valueExpression '{program.text}' resulted in unsupported return type: {_type_name(found)}. "
                "Return type must be either string or null."
            )
            faults.append(Fault(text, denies=True))
    return made, faults


def _type_name(value: Any) -> str:
    """Return what CEL calls a value's type."""
    for kind, name in ((bool, "bool"), (int, "int"), (float, "double"), (bytes, "bytes"), (list, "list")):
        if isinstance(value, kind):
            return name
    return "map"


def variables_of(variables: Iterable[tuple[str, Program]], values: Mapping[str, Any]) -> dict[str, Any]:
    """Return a policy's variables in their order; one that fails is missing for those that use it."""
    made: dict[str, Any] = {}
    for name, program in variables:
        try:
            made[name] = program.run({**values, "variables": made})
        except CelError:
            continue
    return made


def _message(validation: Validation, values: Mapping[str, Any]) -> str:
    if validation.message_program is not None:
        try:
            told = validation.message_program.run(values)
        except CelError:
            told = ""
        if isinstance(told, str) and told.strip() and "\n" not in told.strip():
            return told.strip()
    return validation.message or f"failed expression: {validation.text}"
