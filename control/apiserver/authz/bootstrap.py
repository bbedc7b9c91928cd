"""Makes the roles and bindings that a cluster starts with, and decides what is missing from those that exist.

Reconciliation only adds, as upstream's does: rules and subjects that somebody added stay, those that somebody
took away come back, and an object annotated `rbac.authorization.kubernetes.io/autoupdate: "false"` is left alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from control.api.meta import Object
from control.api.resources import CLUSTER_ROLE_BINDINGS, CLUSTER_ROLES, ROLE_BINDINGS, ROLES, Resource
from control.api.selectors import from_label_selector
from control.apiserver.authz import roles as tables
from control.apiserver.authz.rbac import RBAC_GROUP
from control.apiserver.authz.rules import Rule, rules_from_object, uncovered

_VERBS = {
    "read": ("get", "list", "watch"),
    "write": ("create", "update", "patch", "delete", "deletecollection"),
    "all": ("get", "list", "watch", "create", "update", "patch", "delete", "deletecollection"),
}
_LABELS = {"kubernetes.io/bootstrapping": "rbac-defaults"}
_AUTO_UPDATE = "rbac.authorization.kubernetes.io/autoupdate"
_AGGREGATE_LABEL = f"{RBAC_GROUP}/aggregate-to-"
CONTROLLER_PREFIX = "system:controller:"

_ALL_AUTHENTICATED = ("Group", "system:authenticated")
_ALL_UNAUTHENTICATED = ("Group", "system:unauthenticated")
_NODES = ("Group", "system:nodes")
_BOOTSTRAPPERS = ("Group", "system:bootstrappers")
_CSR = "system:certificates.k8s.io:certificatesigningrequests:"

_CLUSTER_BINDINGS: tuple[tuple[str, str, tuple[tuple[str, str], ...]], ...] = (
    ("cluster-admin", "cluster-admin", (("Group", "system:masters"),)),
    ("system:monitoring", "system:monitoring", (("Group", "system:monitoring"),)),
    ("system:discovery", "system:discovery", (_ALL_AUTHENTICATED,)),
    ("system:basic-user", "system:basic-user", (_ALL_AUTHENTICATED,)),
    ("system:public-info-viewer", "system:public-info-viewer", (_ALL_AUTHENTICATED, _ALL_UNAUTHENTICATED)),
    ("system:node-proxier", "system:node-proxier", (("User", "system:kube-proxy"),)),
    (
        "system:kube-controller-manager",
        "system:kube-controller-manager",
        (("User", "system:kube-controller-manager"),),
    ),
    ("system:kube-dns", "system:kube-dns", (("ServiceAccount", "kube-system/kube-dns"),)),
    ("system:kube-scheduler", "system:kube-scheduler", (("User", "system:kube-scheduler"),)),
    ("system:volume-scheduler", "system:volume-scheduler", (("User", "system:kube-scheduler"),)),
    # The node authorizer judges nodes; upstream keeps this binding with nobody in it.
    ("system:node", "system:node", ()),
    (
        "system:service-account-issuer-discovery",
        "system:service-account-issuer-discovery",
        (("Group", "system:serviceaccounts"),),
    ),
    (
        "system:cloud-controller-manager",
        "system:cloud-controller-manager",
        (("User", "system:cloud-controller-manager"),),
    ),
    ("raftsman:cni", "raftsman:cni", (("User", "raftsman:cni"),)),
    ("raftsman:kubelet-api-admin", "system:kubelet-api-admin", (("Group", "raftsman:kubelet-api-admin"),)),
    ("raftsman:controllers", "raftsman:controllers", (("User", "system:kube-controller-manager"),)),
    ("raftsman:node-bootstrapper", "system:node-bootstrapper", (_BOOTSTRAPPERS,)),
    ("raftsman:node-autoapprove-bootstrap", f"{_CSR}nodeclient", (_BOOTSTRAPPERS,)),
    ("raftsman:node-autoapprove-rotation", f"{_CSR}selfnodeclient", (_NODES,)),
    ("raftsman:node-component", "raftsman:node-component", (_BOOTSTRAPPERS, _NODES)),
    ("raftsman:node-serving", "raftsman:node-serving", (_NODES,)),
)
"""(binding, cluster role, subjects)"""

_NAMESPACE_BINDINGS: tuple[tuple[str, str, str, tuple[tuple[str, str], ...]], ...] = (
    (
        "kube-system",
        "system::extension-apiserver-authentication-reader",
        "extension-apiserver-authentication-reader",
        (("User", "system:kube-controller-manager"), ("User", "system:kube-scheduler")),
    ),
    ("raftsman-announce", "raftsman:announce", "raftsman:announce", (("User", "raftsman:cni"),)),
    (
        "kube-system",
        "system::leader-locking-kube-controller-manager",
        "system::leader-locking-kube-controller-manager",
        (("User", "system:kube-controller-manager"), ("ServiceAccount", "kube-system/kube-controller-manager")),
    ),
    (
        "kube-system",
        "system::leader-locking-kube-scheduler",
        "system::leader-locking-kube-scheduler",
        (("User", "system:kube-scheduler"), ("ServiceAccount", "kube-system/kube-scheduler")),
    ),
    *(
        (namespace, CONTROLLER_PREFIX + name, CONTROLLER_PREFIX + name, (("ServiceAccount", f"kube-system/{name}"),))
        for namespace, name in (
            ("kube-system", "bootstrap-signer"),
            ("kube-system", "cloud-provider"),
            ("kube-system", "token-cleaner"),
            ("kube-public", "bootstrap-signer"),
        )
    ),
)
"""(namespace, binding, role, subjects)"""


def parse_rules(table: str) -> tuple[Rule, ...]:
    """Read a role's table (`roles.py` states its columns)."""
    return tuple(_parse_line(line) for line in table.splitlines() if line.strip())


def policy() -> list[tuple[Resource, Object]]:
    """Every role and binding that a cluster starts with."""
    wanted: list[tuple[Resource, Object]] = [(CLUSTER_ROLES, role) for role in _cluster_roles()]
    for (namespace, name), table in tables.NAMESPACE_ROLES.items():
        role = _object("Role", name, namespace)
        role["rules"] = [rule.to_object() for rule in parse_rules(table)]
        wanted.append((ROLES, role))
    for name, role_name, subjects in _CLUSTER_BINDINGS:
        wanted.append((CLUSTER_ROLE_BINDINGS, _binding("ClusterRole", name, "", role_name, subjects)))
    for controller in tables.CONTROLLER_ROLES:
        name = CONTROLLER_PREFIX + controller
        account = (("ServiceAccount", f"kube-system/{controller}"),)
        wanted.append((CLUSTER_ROLE_BINDINGS, _binding("ClusterRole", name, "", name, account)))
    for namespace, name, role_name, subjects in _NAMESPACE_BINDINGS:
        wanted.append((ROLE_BINDINGS, _binding("Role", name, namespace, role_name, subjects)))
    return wanted


def reconciled(existing: Object, wanted: Object) -> Object | None:
    """The existing object with what it lacks, or None when it lacks nothing or asks to be left alone."""
    annotations = existing.get("metadata", {}).get("annotations") or {}
    if annotations.get(_AUTO_UPDATE) == "false":
        return None
    changed: Object = {**existing, "metadata": dict(existing.get("metadata", {}))}
    for field in ("labels", "annotations"):
        held = changed["metadata"].get(field) or {}
        missing = {key: value for key, value in wanted["metadata"].get(field, {}).items() if key not in held}
        if missing:
            changed["metadata"][field] = {**held, **missing}
    if "roleRef" in wanted:
        held_subjects = list(existing.get("subjects") or ())
        lacking = [subject for subject in wanted.get("subjects") or () if subject not in held_subjects]
        if lacking:
            changed["subjects"] = held_subjects + lacking
    elif "aggregationRule" in wanted:
        if existing.get("aggregationRule") != wanted["aggregationRule"]:
            changed["aggregationRule"] = wanted["aggregationRule"]
    else:
        held_rules = rules_from_object(existing)
        if lost := uncovered(held_rules, rules_from_object(wanted)):
            changed["rules"] = list(existing.get("rules") or ()) + [rule.to_object() for rule in lost]
    return changed if changed != existing else None


def aggregate(role: Object, all_roles: Iterable[Object]) -> list[dict[str, Any]] | None:
    """The rules of an aggregated ClusterRole: those of every role that its selectors choose, in order of name."""
    aggregation = role.get("aggregationRule")
    if not aggregation:
        return None
    selectors = [from_label_selector(selector) for selector in aggregation.get("clusterRoleSelectors") or ()]
    rules: list[dict[str, Any]] = []
    for source in sorted(all_roles, key=lambda item: str(item["metadata"]["name"])):
        labels = source["metadata"].get("labels") or {}
        if source["metadata"]["name"] != role["metadata"]["name"] and any(s.matches(labels) for s in selectors):
            rules.extend(rule for rule in source.get("rules") or () if rule not in rules)
    return rules


def _cluster_roles() -> list[Object]:
    found = []
    for name, table in tables.CLUSTER_ROLES.items():
        role = _object("ClusterRole", name)
        if name.startswith("system:aggregate-to-"):
            role["metadata"]["labels"][_AGGREGATE_LABEL + name.removeprefix("system:aggregate-to-")] = "true"
        role["rules"] = [rule.to_object() for rule in parse_rules(table)]
        found.append(role)
    for name, table in tables.CONTROLLER_ROLES.items():
        role = _object("ClusterRole", CONTROLLER_PREFIX + name)
        role["rules"] = [rule.to_object() for rule in parse_rules(table)]
        found.append(role)
    found.append(_controllers_role())
    return found + _aggregated_roles(found)


def _aggregated_roles(sources: list[Object]) -> list[Object]:
    """Make admin, edit and view with their rules filled in, so that they work before any controller runs."""
    made: list[Object] = []
    for name, taken_by in sorted(tables.AGGREGATED_ROLES.items(), reverse=True):
        role = _object("ClusterRole", name)
        if taken_by is not None:
            role["metadata"]["labels"][_AGGREGATE_LABEL + taken_by] = "true"
        role["aggregationRule"] = {"clusterRoleSelectors": [{"matchLabels": {_AGGREGATE_LABEL + name: "true"}}]}
        role["rules"] = aggregate(role, [*sources, *made])
        made.append(role)
    return made


def _controllers_role() -> Object:
    """Join all controllers' rules for the one user that runs them; whoever may update may patch."""
    joined: dict[tuple[tuple[str, ...], tuple[str, ...]], tuple[str, ...]] = {}
    lines = [*tables.CONTROLLER_ROLES.values(), tables.RAFTSMAN_CONTROLLER_RULES]
    for rule in (rule for table in lines for rule in parse_rules(table)):
        for group in rule.api_groups:
            for resource in rule.resources:
                single = ((group, resource), rule.resource_names)
                known = joined.get(single, ())
                verbs = (*rule.verbs, "patch") if "update" in rule.verbs else rule.verbs
                joined[single] = known + tuple(verb for verb in dict.fromkeys(verbs) if verb not in known)
    role = _object("ClusterRole", "raftsman:controllers")
    rules = [Rule(verbs, (group,), (resource,), names) for ((group, resource), names), verbs in joined.items()]
    role["rules"] = [rule.to_object() for rule in _by_verbs(rules)]
    return role


def _by_verbs(rules: list[Rule]) -> list[Rule]:
    """Join rules that differ in their resources alone."""
    joined: dict[tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]], Rule] = {}
    for rule in rules:
        ordered = replace(rule, verbs=tuple(sorted(rule.verbs)))
        key = (ordered.verbs, ordered.api_groups, ordered.resource_names)
        known = joined.get(key)
        joined[key] = ordered if known is None else replace(known, resources=known.resources + ordered.resources)
    return list(joined.values())


def _parse_line(line: str) -> Rule:
    columns = [column.strip() for column in line.split("|")]
    verbs_text, group_text, resources_text = columns[:3]
    verbs = tuple(dict.fromkeys(verb for word in verbs_text.split() for verb in _VERBS.get(word, (word,))))
    names = tuple(columns[3].split()) if len(columns) > 3 else ()
    if group_text == "url":
        return Rule(verbs, non_resource_urls=tuple(resources_text.split()))
    groups = tuple("" if group == "core" else group for group in group_text.split(","))
    return Rule(verbs, groups, tuple(resources_text.split()), names)


def _object(kind: str, name: str, namespace: str = "") -> Object:
    metadata: dict[str, Any] = {"name": name, "labels": dict(_LABELS), "annotations": {_AUTO_UPDATE: "true"}}
    if namespace:
        metadata["namespace"] = namespace
    return {"apiVersion": f"{RBAC_GROUP}/v1", "kind": kind, "metadata": metadata}


def _binding(
    role_kind: str, name: str, namespace: str, role_name: str, subjects: tuple[tuple[str, str], ...]
) -> Object:
    binding = _object("RoleBinding" if namespace else "ClusterRoleBinding", name, namespace)
    binding["roleRef"] = {"apiGroup": RBAC_GROUP, "kind": role_kind, "name": role_name}
    if subjects:
        binding["subjects"] = [_subject(kind, subject) for kind, subject in subjects]
    return binding


def _subject(kind: str, name: str) -> Mapping[str, str]:
    if kind == "ServiceAccount":
        namespace, _, account = name.partition("/")
        return {"kind": kind, "name": account, "namespace": namespace}
    return {"apiGroup": RBAC_GROUP, "kind": kind, "name": name}
