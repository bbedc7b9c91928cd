"""The FlowSchemas and PriorityLevelConfigurations that every cluster has, as Kubernetes 1.36 makes them.

The mandatory ones are fixed: validation refuses any other spec under their names. The suggested ones are kept only as
long as nobody takes them over.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from control.api.meta import Object

GROUP = "flowcontrol.apiserver.k8s.io"
API_VERSION = f"{GROUP}/v1"
EXEMPT = "exempt"
CATCH_ALL = "catch-all"
AUTO_UPDATE = "apf.kubernetes.io/autoupdate-spec"
MATCHING_PRECEDENCE_MAX = 10_000
QUEUES_MAX = 10_000_000
HASH_BITS_MAX = 60

_LEVELS: tuple[tuple[str, int, int, tuple[int, int, int] | None], ...] = (
    (CATCH_ALL, 5, 0, None),
    ("system", 30, 33, (64, 6, 50)),
    ("node-high", 40, 25, (64, 6, 50)),
    ("leader-election", 10, 0, (16, 4, 50)),
    ("workload-high", 40, 50, (128, 6, 50)),
    ("workload-low", 100, 90, (128, 6, 50)),
    ("global-default", 20, 50, (128, 6, 50)),
)
"""(name, shares, lendable percent, (queues, hand size, length limit) where it queues)"""

_NODES = ("Group", "system:nodes")
_EVERYBODY = (("Group", "system:unauthenticated"), ("Group", "system:authenticated"))
_CONTROLLER_MANAGER = ("User", "system:kube-controller-manager")
_SCHEDULER = ("User", "system:kube-scheduler")
_SYSTEM_ACCOUNTS = ("ServiceAccount", "*")
_TURNS = ("get", "create", "update")

_Rule = tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...], bool]
_EVERYTHING: _Rule = (("*",), ("*",), ("*",), True)
_LEASES: _Rule = (_TURNS, ("coordination.k8s.io",), ("leases",), False)
_HEALTH = (("get",), ("/healthz", "/readyz", "/livez"))
_ALL_PATHS = (("*",), ("*",))

_SCHEMAS: tuple[
    tuple[
        str,
        str,
        int,
        str,
        tuple[tuple[str, str], ...],
        tuple[_Rule, ...],
        tuple[tuple[str, ...], tuple[str, ...]] | None,
    ],
    ...,
] = (
    (EXEMPT, EXEMPT, 1, "", (("Group", "system:masters"),), (_EVERYTHING,), _ALL_PATHS),
    ("probes", EXEMPT, 2, "", _EVERYBODY, (), _HEALTH),
    (
        "system-leader-election",
        "leader-election",
        100,
        "ByUser",
        (_CONTROLLER_MANAGER, _SCHEDULER, _SYSTEM_ACCOUNTS),
        (_LEASES,),
        None,
    ),
    (
        "endpoint-controller",
        "workload-high",
        150,
        "ByUser",
        (
            _CONTROLLER_MANAGER,
            ("ServiceAccount", "endpoint-controller"),
            ("ServiceAccount", "endpointslicemirroring-controller"),
        ),
        ((_TURNS, ("",), ("endpoints",), False),),
        None,
    ),
    (
        "workload-leader-election",
        "leader-election",
        200,
        "ByUser",
        (_SYSTEM_ACCOUNTS,),
        ((_TURNS, ("",), ("endpoints", "configmaps"), False), _LEASES),
        None,
    ),
    (
        "system-node-high",
        "node-high",
        400,
        "ByUser",
        (_NODES,),
        ((("*",), ("",), ("nodes", "nodes/status"), True), (("*",), ("coordination.k8s.io",), ("leases",), False)),
        None,
    ),
    ("system-nodes", "system", 500, "ByUser", (_NODES,), (_EVERYTHING,), _ALL_PATHS),
    (
        "kube-controller-manager",
        "workload-high",
        800,
        "ByNamespace",
        (_CONTROLLER_MANAGER,),
        (_EVERYTHING,),
        _ALL_PATHS,
    ),
    ("kube-scheduler", "workload-high", 800, "ByNamespace", (_SCHEDULER,), (_EVERYTHING,), _ALL_PATHS),
    (
        "kube-system-service-accounts",
        "workload-high",
        900,
        "ByNamespace",
        (_SYSTEM_ACCOUNTS,),
        (_EVERYTHING,),
        _ALL_PATHS,
    ),
    (
        "service-accounts",
        "workload-low",
        9000,
        "ByUser",
        (("Group", "system:serviceaccounts"),),
        (_EVERYTHING,),
        _ALL_PATHS,
    ),
    ("global-default", "global-default", 9900, "ByUser", _EVERYBODY, (_EVERYTHING,), _ALL_PATHS),
    (CATCH_ALL, CATCH_ALL, 10_000, "ByUser", _EVERYBODY, (_EVERYTHING,), _ALL_PATHS),
)
"""(name, level, precedence, distinguisher, subjects, (verbs, groups, resources, cluster scope), (verbs, paths))"""


def _level(name: str, shares: int, lendable: int, queuing: tuple[int, int, int] | None) -> Object:
    response: dict[str, Any] = {"type": "Reject"}
    if queuing is not None:
        queues, hand_size, length = queuing
        response = {"type": "Queue", "queuing": {"queues": queues, "handSize": hand_size, "queueLengthLimit": length}}
    limited = {"nominalConcurrencyShares": shares, "lendablePercent": lendable, "limitResponse": response}
    return _object("PriorityLevelConfiguration", name, {"type": "Limited", "limited": limited})


def _object(kind: str, name: str, spec: dict[str, Any]) -> Object:
    metadata = {"name": name, "annotations": {AUTO_UPDATE: "true"}}
    return {"apiVersion": API_VERSION, "kind": kind, "metadata": metadata, "spec": spec}


def _subject(kind: str, name: str) -> dict[str, Any]:
    if kind == "ServiceAccount":
        return {"kind": kind, "serviceAccount": {"name": name, "namespace": "kube-system"}}
    return {"kind": kind, kind.lower(): {"name": name}}


def _resource_rule(rule: _Rule) -> dict[str, Any]:
    verbs, groups, resources, cluster_scope = rule
    made = {"verbs": list(verbs), "apiGroups": list(groups), "resources": list(resources), "namespaces": ["*"]}
    return {**made, "clusterScope": True} if cluster_scope else made


@cache
def _priority_levels() -> tuple[Object, ...]:
    exempt = {"nominalConcurrencyShares": 0, "lendablePercent": 0}
    first = _object("PriorityLevelConfiguration", EXEMPT, {"type": "Exempt", "exempt": exempt})
    return (first, *(_level(*row) for row in _LEVELS))


@cache
def _flow_schemas() -> tuple[Object, ...]:
    made = []
    for name, level, precedence, method, subjects, rules, paths in _SCHEMAS:
        rule: dict[str, Any] = {"subjects": [_subject(*subject) for subject in subjects]}
        if rules:
            rule["resourceRules"] = [_resource_rule(each) for each in rules]
        if paths is not None:
            rule["nonResourceRules"] = [{"verbs": list(paths[0]), "nonResourceURLs": list(paths[1])}]
        spec: dict[str, Any] = {"priorityLevelConfiguration": {"name": level}, "matchingPrecedence": precedence}
        if method:
            spec["distinguisherMethod"] = {"type": method}
        made.append(_object("FlowSchema", name, {**spec, "rules": [rule]}))
    return tuple(made)


def priority_levels() -> tuple[Object, ...]:
    """Return the levels that there are from the start, with all defaults; not to be changed."""
    return _priority_levels()


def flow_schemas() -> tuple[Object, ...]:
    """Return the schemas that there are from the start, with all defaults; not to be changed."""
    return _flow_schemas()


def is_mandatory(name: str) -> bool:
    """Tell whether schema and level of this name are the same in every cluster."""
    return name in (EXEMPT, CATCH_ALL)


def kept_spec(wanted: Object, existing: Object) -> dict[str, Any]:
    """Return the spec that an object should have; the exempt level's part of the seats is its users' choice."""
    spec: dict[str, Any] = wanted["spec"]
    chosen = (existing.get("spec") or {}).get("exempt")
    return {**spec, "exempt": chosen} if "exempt" in spec and chosen else spec


def follows_fixed_spec(obj: Object) -> bool:
    """Tell whether the object, if it is a mandatory one, has the spec that it must have."""
    name = obj.get("metadata", {}).get("name") or ""
    if not is_mandatory(name):
        return True
    objects = priority_levels() if obj.get("kind") == "PriorityLevelConfiguration" else flow_schemas()
    wanted = next(each for each in objects if each["metadata"]["name"] == name)
    return obj.get("spec") == kept_spec(wanted, obj)
