"""Rules of webhook configurations of either kind."""

from __future__ import annotations

from typing import Any

from control.api.meta import Object
from control.api.validation import names
from control.api.validation.admission import (
    FAILURE_POLICIES,
    MATCH_POLICIES,
    check_match_conditions,
    check_rule,
)
from control.api.validation.faults import Faults
from control.api.validation.forms import check_fully_qualified_name, check_webhook_client
from control.api.validation.metadata import check_selector

_REVIEWS = ("v1", "v1beta1")
_SIDE_EFFECTS = ("None", "NoneOnDryRun")


def check_webhooks(obj: Object, faults: Faults) -> None:
    """Check a webhook configuration of either kind."""
    taken: set[str] = set()
    for index, hook in enumerate(obj.get("webhooks") or []):
        here, name = f"webhooks[{index}]", hook.get("name") or ""
        _check_webhook(hook, here, faults)
        _check_reviews(hook.get("admissionReviewVersions") or [], f"{here}.admissionReviewVersions", faults)
        if name and name in taken:
            faults.duplicate(f"{here}.name", name)
        taken.add(name)


def _check_webhook(hook: dict[str, Any], path: str, faults: Faults) -> None:
    check_fully_qualified_name(hook.get("name") or "", f"{path}.name", faults)
    for index, rule in enumerate(hook.get("rules") or []):
        check_rule(rule, f"{path}.rules[{index}]", faults)
    for field, known in (("failurePolicy", FAILURE_POLICIES), ("matchPolicy", MATCH_POLICIES)):
        faults.one_of(f"{path}.{field}", hook.get(field), known, required=False)
    effects = hook.get("sideEffects")
    if effects is None:
        faults.required(f"{path}.sideEffects", f"must specify one of {', '.join(_SIDE_EFFECTS)}")
    elif effects not in _SIDE_EFFECTS:
        faults.not_supported(f"{path}.sideEffects", effects, _SIDE_EFFECTS)
    seconds = hook.get("timeoutSeconds")
    if seconds is not None and not 1 <= seconds <= 30:
        faults.invalid(f"{path}.timeoutSeconds", seconds, "the timeout value must be between 1 and 30 seconds")
    for field in ("namespaceSelector", "objectSelector"):
        check_selector(hook.get(field), f"{path}.{field}", faults)
    faults.one_of(f"{path}.reinvocationPolicy", hook.get("reinvocationPolicy"), ["IfNeeded", "Never"], required=False)
    check_webhook_client(hook.get("clientConfig") or {}, f"{path}.clientConfig", faults)
    if conditions := hook.get("matchConditions"):
        # Most webhooks have no conditions: what compiles them is imported with the first.
        from control.api.cel.admission import Expressions

        check_match_conditions(conditions, f"{path}.matchConditions", faults, Expressions())


def _check_reviews(versions: list[str], path: str, faults: Faults) -> None:
    if not versions:
        faults.required(path, f"must specify one of {', '.join(_REVIEWS)}")
        return
    for index, version in enumerate(versions):
        if version in versions[:index]:
            faults.invalid(f"{path}[{index}]", version, "duplicate version")
        else:
            faults.invalid_all(f"{path}[{index}]", version, names.dns_1035_label(version))
    if not set(versions) & set(_REVIEWS):
        faults.invalid(path, versions, f"must include at least one of {', '.join(_REVIEWS)}")
