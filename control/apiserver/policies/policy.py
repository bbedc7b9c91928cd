"""ValidatingAdmissionPolicies and their bindings, parsed, and what one of them says of a request: pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from control.api import selectors
from control.api.cel.errors import CelError
from control.api.meta import Object
from control.api.selectors import Selector
from control.apiserver.request import AdmissionRequest
from control.apiserver.webhooks.matching import ADMISSION_GROUP, Rule, conditions_hold, rule_of, selected

if TYPE_CHECKING:
    from control.api.cel.admission import Expressions
    from control.api.cel.environment import Program
    from control.api.cel.frame import Purse
    from control.api.cel.meter import Meter
    from control.api.cel.values import Late


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
    conditions = compiled_conditions(spec)
    expressions, variables = compiled_variables(spec)
    annotations = spec.get("auditAnnotations") or ()
    return Policy(
        obj["metadata"]["name"],
        match_of(spec.get("matchConstraints")),
        (kind.get("apiVersion") or "", kind.get("kind") or ""),
        spec.get("failurePolicy", "Fail") == "Fail",
        conditions,
        variables,
        tuple(_validation(entry, expressions) for entry in spec.get("validations") or ()),
        tuple((entry["key"], expressions.compile(entry["valueExpression"])) for entry in annotations),
    )


def compiled_conditions(spec: Object) -> tuple[Program, ...]:
    """Return the match conditions of a policy; raises CelError."""
    # Most servers never meet a policy: what compiles expressions is imported with the first.
    from control.api.cel.admission import Expressions

    expressions = Expressions(params=spec.get("paramKind") is not None)
    return tuple(expressions.compile(entry["expression"].strip()) for entry in spec.get("matchConditions") or ())


def compiled_variables(spec: Object, *, mutates: bool = False) -> tuple[Expressions, tuple[tuple[str, Program], ...]]:
    """Return the variables of a policy, and what its other expressions may name with them; raises CelError."""
    from control.api.cel.admission import Expressions

    entries = spec.get("variables") or ()
    expressions = Expressions(params=spec.get("paramKind") is not None, mutates=mutates, named=bool(entries))
    variables = tuple((entry["name"], expressions.variable(entry["name"], entry["expression"])) for entry in entries)
    return expressions, variables


def _validation(entry: Object, expressions: Expressions) -> Validation:
    message = entry.get("messageExpression")
    return Validation(
        entry["expression"].strip(),
        expressions.compile(entry["expression"]),
        (entry.get("message") or "").strip(),
        expressions.compile(message) if message else None,
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


def judge(policy: Policy, values: dict[str, Any], purse: Purse | None = None) -> Judgement:
    """Return what a policy says over the values of its variables; conditions that do not hold make it silent.

    Raises TooLongError where that costs more than there is in the purse.
    """
    from control.api.cel.environment import BUDGET
    from control.api.cel.meter import Meter

    try:
        if not conditions_hold(policy.conditions, values, purse):
            return Judgement()
    except CelError as error:
        return Judgement((Fault(f"match condition failed: {error}"),) if policy.fails_closed else ())
    meter = Meter(BUDGET, purse)
    values = {**values, "variables": variables_of(policy.variables, values, meter)}
    faults = [
        fault
        for index, validation in enumerate(policy.validations)
        if (fault := _fault(policy, index, validation, values, meter)) is not None
    ]
    if not policy.annotations:
        return Judgement(tuple(faults))
    annotations, failed = _annotations(policy, values, meter)
    return Judgement((*faults, *failed), tuple(annotations))


def _fault(policy: Policy, index: int, validation: Validation, values: dict[str, Any], meter: Meter) -> Fault | None:
    if meter.left < 0:
        # What is not asked any more is told once, by the one that came to the end of the budget.
        return None
    try:
        holds = meter.run(validation.program, values)
    except CelError as error:
        text = f"expression '{validation.text}' resulted in error: {error}"
        return Fault(text, index=index) if policy.fails_closed else None
    return None if holds is True else Fault(_message(validation, values, meter), validation.reason, index)


def _annotations(policy: Policy, values: dict[str, Any], meter: Meter) -> tuple[list[tuple[str, str]], list[Fault]]:
    """Return the annotations for audit events, and what is wrong with those that have none."""
    from control.api.cel.values import type_name

    made: list[tuple[str, str]] = []
    faults: list[Fault] = []
    for key, program in policy.annotations:
        try:
            found = meter.run(program, values)
        except CelError as error:
            if policy.fails_closed:
                faults.append(Fault(f"expression '{program.text}' resulted in error: {error}", denies=True))
            continue
        if isinstance(found, str):
            if found.strip():
                made.append((key, found.strip()))
        elif found is not None:
            text = (
                f"valueExpression '{program.text}' resulted in unsupported return type: {type_name(found)}. "
                "Return type must be either string or null."
            )
            faults.append(Fault(text, denies=True))
    return made, faults


def variables_of(variables: Iterable[tuple[str, Program]], values: Mapping[str, Any], meter: Meter) -> Late:
    """Return a policy's variables; each is found when it is first asked for."""
    from control.api.cel.values import Late

    finders: dict[str, Callable[[], Any]] = {}
    late = Late(finders)
    for name, program in variables:
        finders[name] = lambda program=program: meter.run(program, {**values, "variables": late})  # type: ignore[misc]
    return late


def _message(validation: Validation, values: Mapping[str, Any], meter: Meter) -> str:
    if validation.message_program is not None:
        try:
            told = meter.run(validation.message_program, values)
        except CelError:
            told = ""
        if isinstance(told, str) and told.strip() and "\n" not in told.strip():
            return told.strip()
    return validation.message or f"failed expression: {validation.text}"
