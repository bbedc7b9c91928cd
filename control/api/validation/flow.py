"""Rules of FlowSchemas and PriorityLevelConfigurations: which requests share which part of the server."""

from __future__ import annotations

from math import log2
from typing import Any

from control.api.flowcontrol import EXEMPT, HASH_BITS_MAX, MATCHING_PRECEDENCE_MAX, QUEUES_MAX, follows_fixed_spec
from control.api.meta import Object
from control.api.validation import names
from control.api.validation.faults import Faults
from control.api.validation.forms import metadata_of
from control.api.validation.internal import internal

_METHODS = ("ByNamespace", "ByUser")
_VERBS = ("create", "delete", "deletecollection", "get", "list", "patch", "proxy", "update", "watch")
_SUBJECTS = {"ServiceAccount": "serviceAccount", "User": "user", "Group": "group"}


def check_flow_schema(obj: Object, faults: Faults) -> None:
    """Check a FlowSchema."""
    spec = obj.get("spec") or {}
    precedence = spec.get("matchingPrecedence") or 0
    here = "spec.matchingPrecedence"
    if precedence <= 0:
        faults.invalid(here, precedence, "must be a positive value")
    if precedence > MATCHING_PRECEDENCE_MAX:
        faults.invalid(here, precedence, f"must not be greater than {MATCHING_PRECEDENCE_MAX}")
    if precedence == 1 and metadata_of(obj).get("name") != EXEMPT:
        faults.invalid(here, precedence, "only the schema named 'exempt' may have matchingPrecedence 1")
    method = spec.get("distinguisherMethod")
    if method is not None and method.get("type") not in _METHODS:
        shown = internal("flowcontrol.v1.FlowDistinguisherMethod", method)
        faults.not_supported("spec.distinguisherMethod.type", shown, _METHODS)
    level = (spec.get("priorityLevelConfiguration") or {}).get("name") or ""
    here = "spec.priorityLevelConfiguration.name"
    if level:
        faults.invalid_all(here, level, names.dns_subdomain(level))
    else:
        faults.required(here, "must reference a priority level")
    for index, rule in enumerate(spec.get("rules") or []):
        _check_rule(rule, f"spec.rules[{index}]", faults)
    _check_fixed({**obj, "kind": "FlowSchema"}, faults)


def _check_fixed(obj: Object, faults: Faults) -> None:
    """Check that nobody changes what every cluster must have; of the exempt level, its seats may be set."""
    if follows_fixed_spec(obj):
        return
    name, kind = metadata_of(obj)["name"], obj["kind"]
    free = " except the 'spec.exempt' field" if kind == "PriorityLevelConfiguration" and name == EXEMPT else ""
    shown = internal(f"flowcontrol.v1.{kind}Spec", obj.get("spec"))
    faults.invalid("spec", shown, f"spec of '{name}'{free} must equal the fixed value")


def _check_rule(rule: dict[str, Any], path: str, faults: Faults) -> None:
    subjects = rule.get("subjects") or []
    if not subjects:
        faults.required(f"{path}.subjects", "subjects must contain at least one value")
    for index, subject in enumerate(subjects):
        _check_subject(subject, f"{path}.subjects[{index}]", faults)
    resource_rules, other_rules = rule.get("resourceRules") or [], rule.get("nonResourceRules") or []
    if not resource_rules and not other_rules:
        faults.required(path, "at least one of resourceRules and nonResourceRules has to be non-empty")
    for index, entry in enumerate(resource_rules):
        _check_resource_rule(entry, f"{path}.resourceRules[{index}]", faults)
    for index, entry in enumerate(other_rules):
        _check_other_rule(entry, f"{path}.nonResourceRules[{index}]", faults)


def _check_subject(subject: dict[str, Any], path: str, faults: Faults) -> None:
    kind = subject.get("kind") or ""
    if kind not in _SUBJECTS:
        faults.not_supported(f"{path}.kind", kind, sorted(_SUBJECTS))
        return
    wanted = _SUBJECTS[kind]
    held, here = subject.get(wanted), f"{path}.{wanted}"
    if held is None:
        faults.required(here, f"{wanted} is required when subject kind is '{kind}'")
    else:
        name = held.get("name") or ""
        if not name:
            faults.required(f"{here}.name")
        elif kind == "ServiceAccount" and name != "*":
            faults.invalid_all(f"{here}.name", name, names.dns_subdomain(name))
        if kind == "ServiceAccount":
            if space := held.get("namespace"):
                faults.invalid_all(f"{here}.namespace", space, names.dns_label(space))
            else:
                faults.required(f"{here}.namespace", "must specify namespace for service account")
    for other_kind, other in _SUBJECTS.items():
        if other != wanted and subject.get(other) is not None:
            faults.forbidden(f"{path}.{other}", f"{other} is forbidden when subject kind is not '{other_kind}'")


def _check_list(values: list[str], path: str, missing: str, others: str, faults: Faults) -> None:
    """Check a list that must hold something, and nothing beside an asterisk."""
    if not values:
        faults.required(path, missing)
    elif "*" in values and len(values) > 1:
        faults.invalid(path, values, f"if '*' is present, must not specify other {others}")


def _check_verbs(rule: dict[str, Any], path: str, faults: Faults) -> None:
    verbs = rule.get("verbs") or []
    _check_list(verbs, f"{path}.verbs", "verbs must contain at least one value", "verbs", faults)
    if "*" not in verbs and not set(verbs) <= set(_VERBS):
        faults.not_supported(f"{path}.verbs", verbs, _VERBS)


def _check_resource_rule(rule: dict[str, Any], path: str, faults: Faults) -> None:
    _check_verbs(rule, path, faults)
    supply = "resource rules must supply at least one"
    _check_list(rule.get("apiGroups") or [], f"{path}.apiGroups", f"{supply} api group", "api groups", faults)
    _check_list(rule.get("resources") or [], f"{path}.resources", f"{supply} resource", "resources", faults)
    spaces, here = rule.get("namespaces") or [], f"{path}.namespaces"
    if spaces or not rule.get("clusterScope"):
        missing = "resource rules that are not cluster scoped must supply at least one namespace"
        _check_list(spaces, here, missing, "namespaces", faults)
    if "*" not in spaces:
        for index, space in enumerate(spaces):
            intro = "each member of this list must be '*' or a DNS-1123 label; "
            faults.invalid_all(f"{here}[{index}]", space, [intro + fault for fault in names.dns_label(space)])


def _check_other_rule(rule: dict[str, Any], path: str, faults: Faults) -> None:
    _check_verbs(rule, path, faults)
    urls, here = rule.get("nonResourceURLs") or [], f"{path}.nonResourceURLs"
    _check_list(urls, here, "nonResourceURLs must contain at least one value", "non-resource URLs", faults)
    if "*" not in urls:
        for index, url in enumerate(urls):
            if fault := _url_fault(url):
                faults.invalid(f"{here}[{index}]", url, fault)


def _url_fault(url: str) -> str:
    if not url:
        return "must not be empty"
    if url == "/":
        return ""
    if not url.startswith("/"):
        return "must start with slash"
    if " " in url:
        return "must not contain white-space"
    if "//" in url:
        return "must not contain double slash"
    if "*" in url and (url.count("*") > 1 or not url.endswith("/*")):
        return "wildcard can only do suffix matching"
    return ""


def check_priority_level(obj: Object, faults: Faults) -> None:
    """Check a PriorityLevelConfiguration."""
    spec, name = obj.get("spec") or {}, metadata_of(obj).get("name") or ""
    kind, limited, exempt = spec.get("type") or "", spec.get("limited"), spec.get("exempt")
    if (name == EXEMPT) is not (kind == "Exempt"):
        faults.invalid("spec.type", kind, "type must be 'Exempt' if and only if name is 'exempt'")
    if kind == "Exempt":
        if limited is not None:
            faults.forbidden("spec.limited", "must be nil if the type is not Limited")
        if exempt is not None:
            _check_exempt(exempt, faults)
    elif kind == "Limited":
        if exempt is not None:
            faults.forbidden("spec.exempt", "must be nil if the type is Limited")
        if limited is None:
            faults.required("spec.limited", "must not be empty when type is Limited")
        else:
            _check_limited(limited, faults)
    else:
        faults.not_supported("spec.type", kind, ["Exempt", "Limited"])
    _check_fixed({**obj, "kind": "PriorityLevelConfiguration"}, faults)


def _check_exempt(exempt: dict[str, Any], faults: Faults) -> None:
    shares = exempt.get("nominalConcurrencyShares")
    if shares is not None and shares < 0:
        faults.invalid("spec.exempt.nominalConcurrencyShares", shares, "must be a non-negative integer")
    lendable = exempt.get("lendablePercent")
    if lendable is not None and not 0 <= lendable <= 100:
        faults.invalid("spec.exempt.lendablePercent", lendable, "must be between 0 and 100, inclusive")


def _check_limited(limited: dict[str, Any], faults: Faults) -> None:
    path = "spec.limited"
    shares = limited.get("nominalConcurrencyShares", 30)
    if shares is not None and shares < 0:
        faults.invalid(f"{path}.nominalConcurrencyShares", shares, "must be a non-negative integer")
    lendable, borrowed = limited.get("lendablePercent"), limited.get("borrowingLimitPercent")
    if lendable is not None and not 0 <= lendable <= 100:
        faults.invalid(f"{path}.lendablePercent", lendable, "must be between 0 and 100, inclusive")
    if borrowed is not None and borrowed < 0:
        text = "if specified, must be a non-negative integer"
        faults.invalid(f"{path}.borrowingLimitPercent", borrowed, text)
    response = limited.get("limitResponse") or {}
    kind, queuing, here = response.get("type") or "", response.get("queuing"), f"{path}.limitResponse"
    if kind == "Reject":
        if queuing is not None:
            faults.forbidden(f"{here}.queuing", "must be nil if limited.limitResponse.type is not Limited")
    elif kind == "Queue":
        if queuing is None:
            text = "must not be empty if limited.limitResponse.type is Limited"
            faults.required(f"{here}.queuing", text)
        else:
            _check_queuing(queuing, f"{here}.queuing", faults)
    else:
        faults.not_supported(f"{here}.type", kind, ["Queue", "Reject"])


def _check_queuing(queuing: dict[str, Any], path: str, faults: Faults) -> None:
    queues, hand, length = (queuing.get(field) or 0 for field in ("queues", "handSize", "queueLengthLimit"))
    if length <= 0:
        faults.invalid(f"{path}.queueLengthLimit", length, "must be positive")
    if queues <= 0:
        faults.invalid(f"{path}.queues", queues, "must be positive")
    elif queues > QUEUES_MAX:
        faults.invalid(f"{path}.queues", queues, f"must not be greater than {QUEUES_MAX}")
    if hand <= 0:
        faults.invalid(f"{path}.handSize", hand, "must be positive")
    elif hand > queues:
        faults.invalid(f"{path}.handSize", hand, f"should not be greater than queues ({queues})")
    elif _entropy_bits(queues, hand) > HASH_BITS_MAX:
        text = (
            f"required entropy bits of deckSize {queues} and handSize {hand} should not be greater than {HASH_BITS_MAX}"
        )
        faults.invalid(f"{path}.handSize", hand, text)


def _entropy_bits(deck: int, hand: int) -> int:
    """Return how many bits of a hash it takes to deal a hand."""
    return -int(-sum(log2(deck - dealt) for dealt in range(min(hand, HASH_BITS_MAX + 1))) // 1)
