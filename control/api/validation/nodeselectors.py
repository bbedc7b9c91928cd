"""Rules of what chooses nodes: node selectors, tolerations and the topology terms of storage."""

from __future__ import annotations

from typing import Any

from control.api.validation import names
from control.api.validation.faults import Faults
from control.api.validation.internal import internal
from control.api.validation.metadata import check_labels

_EFFECTS = ("NoSchedule", "PreferNoSchedule", "NoExecute")
_WRONG_OPERATOR = "not a valid selector operator"


def check_node_selector(selector: dict[str, Any], path: str, faults: Faults) -> None:
    """Check a node selector: it has a term at least."""
    terms = selector.get("nodeSelectorTerms") or []
    if not terms:
        faults.required(f"{path}.nodeSelectorTerms", "must have at least one node selector term")
    for index, term in enumerate(terms):
        check_node_term(term, f"{path}.nodeSelectorTerms[{index}]", faults)


def check_node_term(term: dict[str, Any], path: str, faults: Faults, *, any_value: bool = False) -> None:
    """Check one term of a node selector; a term that is only preferred may hold any value."""
    for index, entry in enumerate(term.get("matchExpressions") or []):
        _check_expression(entry, f"{path}.matchExpressions[{index}]", faults, any_value)
    for index, entry in enumerate(term.get("matchFields") or []):
        _check_field(entry, f"{path}.matchFields[{index}]", faults)


def _check_expression(entry: dict[str, Any], path: str, faults: Faults, any_value: bool) -> None:
    operator, values, key = entry.get("operator") or "", entry.get("values") or [], entry.get("key") or ""
    if operator in ("In", "NotIn"):
        if not values:
            faults.required(f"{path}.values", "must be specified when `operator` is 'In' or 'NotIn'")
    elif operator in ("Exists", "DoesNotExist"):
        if values:
            faults.forbidden(f"{path}.values", "may not be specified when `operator` is 'Exists' or 'DoesNotExist'")
    elif operator in ("Gt", "Lt"):
        if len(values) != 1:
            faults.required(f"{path}.values", "must be specified single value when `operator` is 'Lt' or 'Gt'")
    else:
        faults.invalid(f"{path}.operator", operator, _WRONG_OPERATOR)
    faults.invalid_all(f"{path}.key", key, names.qualified_name(key))
    if not any_value:
        for position, value in enumerate(values):
            faults.invalid_all(f"{path}.values[{position}]", value, names.label_value(value))


def _check_field(entry: dict[str, Any], path: str, faults: Faults) -> None:
    operator, values, key = entry.get("operator") or "", entry.get("values") or [], entry.get("key") or ""
    if operator not in ("In", "NotIn"):
        faults.invalid(f"{path}.operator", operator, _WRONG_OPERATOR)
    elif len(values) != 1:
        text = "must be only one value when `operator` is 'In' or 'NotIn' for node field selector"
        faults.required(f"{path}.values", text)
    if key != "metadata.name":
        faults.invalid(f"{path}.key", key, "not a valid field selector key")
        return
    for position, value in enumerate(values):
        faults.invalid_all(f"{path}.values[{position}]", value, names.dns_subdomain(value))


def check_tolerations(tolerations: list[dict[str, Any]], path: str, faults: Faults) -> None:
    """Check tolerations of taints."""
    for index, toleration in enumerate(tolerations):
        _check_toleration(toleration, f"{path}[{index}]", faults)


def _check_toleration(toleration: dict[str, Any], path: str, faults: Faults) -> None:
    key, operator, effect = (toleration.get(field) or "" for field in ("key", "operator", "effect"))
    value = toleration.get("value") or ""
    if key:
        faults.invalid_all(f"{path}.key", key, names.qualified_name(key))
    elif operator != "Exists":
        text = 'operator must be Exists when `key` is empty, which means "match all values and all keys"'
        faults.invalid(f"{path}.operator", operator, text)
    if toleration.get("tolerationSeconds") is not None and effect != "NoExecute":
        faults.invalid(f"{path}.effect", effect, "effect must be 'NoExecute' when `tolerationSeconds` is set")
    if operator in ("", "Equal"):
        if found := names.label_value(value):
            faults.invalid(f"{path}.operator", value, ";".join(found))
    elif operator == "Exists":
        if value:
            faults.invalid(f"{path}.operator", value, "value must be empty when `operator` is 'Exists'")
    else:
        known = ["Equal", "Exists", "Lt", "Gt"] if operator in ("Gt", "Lt") else ["Equal", "Exists"]
        faults.not_supported(f"{path}.operator", operator, known)
    if effect and effect not in _EFFECTS:
        faults.not_supported(f"{path}.effect", effect, _EFFECTS)


def check_scheduling(scheduling: dict[str, Any], path: str, faults: Faults) -> None:
    """Check where the pods of a runtime class may run."""
    check_labels(scheduling.get("nodeSelector"), f"{path}.nodeSelector", faults)
    check_tolerations(scheduling.get("tolerations") or [], f"{path}.tolerations", faults)


def check_topologies(terms: list[dict[str, Any]], path: str, faults: Faults) -> None:
    """Check the terms that say where volumes of a class may be made; none stands twice."""
    seen: list[dict[str, frozenset[str]]] = []
    for index, term in enumerate(terms):
        here = f"{path}[{index}].matchLabelExpressions"
        chosen: dict[str, frozenset[str]] = {}
        for position, entry in enumerate(term.get("matchLabelExpressions") or []):
            key, values = entry.get("key") or "", entry.get("values") or []
            if not values:
                faults.required(f"{here}[{position}].values")
            for place, value in enumerate(values):
                if value in values[:place]:
                    faults.duplicate(f"{here}[{position}].values[{place}]", value)
            faults.invalid_all(f"{here}[{position}].key", key, names.qualified_name(key))
            if key in chosen:
                faults.duplicate(f"{here}[{position}].key", key)
            chosen[key] = frozenset(values)
        if chosen in seen:
            faults.duplicate(here, "")
        seen.append(chosen)


def check_taints(taints: list[dict[str, Any]], path: str, faults: Faults) -> None:
    """Check a node's taints: each pair of key and effect stands once."""
    seen: set[tuple[str, str]] = set()
    for index, taint in enumerate(taints):
        here = f"{path}[{index}]"
        key, value, effect = (taint.get(field) or "" for field in ("key", "value", "effect"))
        faults.invalid_all(f"{here}.key", key, names.qualified_name(key))
        if found := names.label_value(value):
            faults.invalid(f"{here}.value", value, ";".join(found))
        if not effect:
            faults.required(f"{here}.effect")
        elif effect not in _EFFECTS:
            faults.not_supported(f"{here}.effect", effect, _EFFECTS)
        if (key, effect) in seen:
            faults.duplicate(here, internal("core.v1.Taint", taint), "taints must be unique by key and effect pair")
        seen.add((key, effect))
