"""Which webhooks a request concerns: pure.

The parsed form of both configurations is one `Hook`. Configurations of webhooks are themselves never sent to any:
nobody could put a broken one right any more.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from control.api import selectors
from control.api.cel.errors import BudgetError, CelError
from control.api.cel.frame import Purse
from control.api.meta import Object
from control.api.resources import NAMESPACES
from control.api.selectors import Selector
from control.apiserver.request import AdmissionRequest

if TYPE_CHECKING:
    from control.api.cel.environment import Program

ADMISSION_GROUP = "admissionregistration.k8s.io"


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule: every part must fit."""

    operations: frozenset[str]
    groups: frozenset[str]
    versions: frozenset[str]
    resources: frozenset[str]
    scope: str

    def fits(self, request: AdmissionRequest, *, exact: bool) -> bool:
        """Tell whether a request is meant; unless ``exact``, in whichever version it came (matchPolicy Equivalent)."""
        resource = request.resource
        return (
            _has(self.operations, request.operation)
            and _has(self.groups, resource.group)
            and (not exact or _has(self.versions, resource.version))
            and (self.scope == "*" or (self.scope == "Namespaced") == resource.namespaced)
            and any(_names(pattern, resource.plural, request.subresource) for pattern in self.resources)
        )


def _has(listed: frozenset[str], value: str) -> bool:
    return "*" in listed or value in listed


def _names(pattern: str, plural: str, subresource: str) -> bool:
    wanted, slash, part = pattern.partition("/")
    return wanted in ("*", plural) and (part in ("*", subresource) if slash else not subresource)


@dataclass(frozen=True, slots=True)
class Hook:
    """One webhook of a configuration, parsed."""

    configuration: str
    name: str
    client: Mapping[str, Any]
    """clientConfig as it stands."""
    rules: tuple[Rule, ...]
    fails_closed: bool
    exact: bool
    namespaces: Selector
    objects: Selector
    has_side_effects: bool
    timeout_s: float
    reinvokes: bool
    conditions: tuple[Program, ...]

    def __str__(self) -> str:
        """Return the name that errors show."""
        return self.name


def hooks_of(configuration: Object) -> list[Hook]:
    """Return the webhooks of a configuration in their order; what cannot be parsed is left out with an exception."""
    name = configuration["metadata"]["name"]
    return [_hook(name, hook) for hook in configuration.get("webhooks") or ()]


def _hook(configuration: str, hook: Object) -> Hook:
    return Hook(
        configuration,
        hook["name"],
        hook["clientConfig"],
        tuple(rule_of(rule) for rule in hook.get("rules") or ()),
        hook.get("failurePolicy", "Fail") == "Fail",
        hook.get("matchPolicy") == "Exact",
        selectors.from_label_selector(hook.get("namespaceSelector") or {}),
        selectors.from_label_selector(hook.get("objectSelector") or {}),
        hook.get("sideEffects") not in ("None", "NoneOnDryRun"),
        float(hook.get("timeoutSeconds") or 10),
        hook.get("reinvocationPolicy") == "IfNeeded",
        _conditions(hook.get("matchConditions") or ()),
    )


def _conditions(entries: Iterable[Object]) -> tuple[Program, ...]:
    if not entries:
        return ()
    # Most webhooks have none: what compiles them is imported with the first.
    from control.api.cel.admission import compile_condition

    return tuple(compile_condition(entry["expression"].strip()) for entry in entries)


def rule_of(rule: Object) -> Rule:
    """Read a rule."""
    return Rule(
        frozenset(rule.get("operations") or ()),
        frozenset(rule.get("apiGroups") or ()),
        frozenset(rule.get("apiVersions") or ()),
        frozenset(rule.get("resources") or ()),
        rule.get("scope") or "*",
    )


def concerns(hook: Hook, request: AdmissionRequest, namespace_labels: Mapping[str, str]) -> bool:
    """Tell whether a webhook is to be asked, its conditions apart."""
    if request.resource.group == ADMISSION_GROUP:
        return False
    if not any(rule.fits(request, exact=hook.exact) for rule in hook.rules):
        return False
    return selected(hook.namespaces, hook.objects, request, namespace_labels)


def selected(
    namespaces: Selector, objects: Selector, request: AdmissionRequest, namespace_labels: Mapping[str, str]
) -> bool:
    """Tell whether a request's namespace and one of its objects are selected; a namespace counts by its own labels."""
    held = [obj for obj in (request.object, request.old_object) if obj is not None]
    if namespaces.requirements and (request.namespace or request.resource == NAMESPACES):
        labels = _labels_of(held[0]) if request.resource == NAMESPACES and held else namespace_labels
        if not namespaces.matches(labels):
            return False
    return not objects.requirements or any(objects.matches(_labels_of(obj)) for obj in held)


def _labels_of(obj: Object) -> dict[str, str]:
    found: dict[str, str] = (obj.get("metadata") or {}).get("labels") or {}
    return found


def conditions_hold(conditions: Iterable[Program], values: Mapping[str, Any], purse: Purse | None = None) -> bool:
    """Tell whether all match conditions hold; raises CelError where none is false and one fails, and TooLongError."""
    from control.api.cel.environment import CONDITIONS_BUDGET
    from control.api.cel.meter import Meter

    failure: CelError | None = None
    meter = Meter(CONDITIONS_BUDGET, purse)
    for program in conditions:
        try:
            if meter.run(program, values) is not True:
                return False
        except BudgetError:
            raise
        except CelError as error:
            failure = failure or error
    if failure is not None:
        raise failure
    return True


def in_order(configurations: Iterable[Object]) -> list[Object]:
    """Return configurations in the order in which they are asked: by name."""
    return sorted(configurations, key=lambda configuration: str(configuration["metadata"]["name"]))
