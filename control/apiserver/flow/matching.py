"""Which FlowSchema a request belongs to."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from control.api import meta
from control.api.flowcontrol import CATCH_ALL
from control.api.meta import Object
from control.apiserver.request import RequestInfo, UserInfo

USERS_MAX = 2048
"""Users whose schemas are remembered; then all are forgotten and found anew."""
_ACCOUNT = "system:serviceaccount:"


class _Subjects:
    """Those whom one rule is about."""

    def __init__(self, subjects: Iterable[Mapping[str, Any]]) -> None:
        self.users: set[str] = set()
        self.groups: set[str] = set()
        self.prefixes: list[str] = []
        self.everybody = False
        for subject in subjects:
            self._add(subject)

    def _add(self, subject: Mapping[str, Any]) -> None:
        kind = subject.get("kind")
        if kind in ("User", "Group"):
            name = str((subject.get(kind.lower()) or {}).get("name") or "")
            self.everybody |= name == "*"
            (self.users if kind == "User" else self.groups).add(name)
        elif kind == "ServiceAccount":
            account = subject.get("serviceAccount") or {}
            prefix = f"{_ACCOUNT}{account.get('namespace')}:"
            if account.get("name") == "*":
                self.prefixes.append(prefix)
            else:
                self.users.add(f"{prefix}{account.get('name')}")

    def have(self, user: UserInfo) -> bool:
        """Tell whether the user is one of them."""
        return (
            self.everybody
            or user.name in self.users
            or not self.groups.isdisjoint(user.groups)
            or any(user.name.startswith(prefix) for prefix in self.prefixes)
        )


class _Rule:
    """Requests for resources, as one resource rule names them."""

    __slots__ = ("cluster_scope", "groups", "namespaces", "resources", "verbs")

    def __init__(self, rule: Mapping[str, Any]) -> None:
        self.verbs = _names(rule.get("verbs"))
        self.groups = _names(rule.get("apiGroups"))
        self.resources = _names(rule.get("resources"))
        self.namespaces = _names(rule.get("namespaces"))
        self.cluster_scope = bool(rule.get("clusterScope"))

    def matches(self, info: RequestInfo) -> bool:
        """Tell whether the request is meant."""
        if self.verbs is not None and info.verb not in self.verbs:
            return False
        if self.groups is not None and info.group not in self.groups:
            return False
        if self.resources is not None:
            asked = f"{info.resource}/{info.subresource}" if info.subresource else info.resource
            if asked not in self.resources:
                return False
        if not info.namespace:
            return self.cluster_scope
        return self.namespaces is None or info.namespace in self.namespaces


def _names(values: Iterable[str] | None) -> frozenset[str] | None:
    """Return the names, None for any."""
    found = frozenset(values or ())
    return None if "*" in found else found


class _Paths:
    """Requests of paths, as one non-resource rule names them."""

    __slots__ = ("exact", "prefixes", "verbs")

    def __init__(self, rule: Mapping[str, Any]) -> None:
        self.verbs = _names(rule.get("verbs"))
        paths = list(rule.get("nonResourceURLs") or ())
        self.exact = frozenset(path for path in paths if not path.endswith("*"))
        self.prefixes = tuple(path[:-1] for path in paths if path.endswith("*"))

    def matches(self, info: RequestInfo) -> bool:
        """Tell whether the request is meant."""
        if self.verbs is not None and info.verb not in self.verbs:
            return False
        return info.path in self.exact or info.path.startswith(self.prefixes)


class Schema:
    """One FlowSchema, ready to be asked."""

    def __init__(self, obj: Object) -> None:
        spec = obj["spec"]
        self.name = meta.name(obj)
        self.uid = meta.uid(obj)
        self.level_name: str = spec["priorityLevelConfiguration"]["name"]
        self.precedence = int(spec["matchingPrecedence"])
        self.method: str = (spec.get("distinguisherMethod") or {}).get("type", "")
        self._rules = [
            (
                _Subjects(rule.get("subjects") or ()),
                tuple(_Rule(each) for each in rule.get("resourceRules") or ()),
                tuple(_Paths(each) for each in rule.get("nonResourceRules") or ()),
            )
            for rule in spec.get("rules") or ()
        ]

    def rules_for(self, user: UserInfo) -> tuple[tuple[_Rule, ...], tuple[_Paths, ...]]:
        """Return what this schema says of the user's requests, of resources and of paths."""
        mine = [rule for rule in self._rules if rule[0].have(user)]
        return tuple(each for rule in mine for each in rule[1]), tuple(each for rule in mine for each in rule[2])

    def distinguisher(self, user: UserInfo, info: RequestInfo) -> str:
        """Return which of the schema's flows a request belongs to."""
        if self.method == "ByUser":
            return user.name
        return info.namespace if self.method == "ByNamespace" else ""


class Classifier:
    """All schemas in the order in which they are asked; the catch-all one takes what is left."""

    def __init__(self, schemas: Iterable[Schema]) -> None:
        self.schemas = sorted(schemas, key=lambda schema: (schema.precedence, schema.name))
        self._last = next(schema for schema in self.schemas if schema.name == CATCH_ALL)
        self._resources: dict[tuple[str, tuple[str, ...]], list[tuple[Schema, tuple[_Rule, ...]]]] = {}
        self._paths: dict[tuple[str, tuple[str, ...]], list[tuple[Schema, tuple[_Paths, ...]]]] = {}

    def classify(self, user: UserInfo, info: RequestInfo) -> Schema:
        """Return the first schema that means the request."""
        key = (user.name, user.groups)
        if info.is_resource_request:
            known = self._resources.get(key)
            if known is None:
                self._learn(user)
                known = self._resources[key]
            for schema, rules in known:
                for rule in rules:
                    if rule.matches(info):
                        return schema
            return self._last
        if key not in self._paths:
            self._learn(user)
        for schema, paths in self._paths[key]:
            if any(path.matches(info) for path in paths):
                return schema
        return self._last

    def _learn(self, user: UserInfo) -> None:
        if len(self._resources) >= USERS_MAX:
            self._resources.clear()
            self._paths.clear()
        found = [(schema, schema.rules_for(user)) for schema in self.schemas]
        key = (user.name, user.groups)
        self._resources[key] = [(schema, rules) for schema, (rules, _) in found if rules]
        self._paths[key] = [(schema, paths) for schema, (_, paths) in found if paths]
