"""Which requests are told of, and how much of them: the rules of an audit.k8s.io/v1 Policy, first match first; pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from control.api.validation.faults import Faults
from control.api.validation.names import dns_subdomain
from control.apiserver.config import ConfigurationError
from control.apiserver.request import RequestInfo, UserInfo

API_VERSION, KIND = "audit.k8s.io/v1", "Policy"
STAGES = ("RequestReceived", "ResponseStarted", "ResponseComplete", "Panic")
_RULE = (
    "level", "users", "userGroups", "verbs", "resources", "namespaces", "nonResourceURLs", "omitStages",
    "omitManagedFields",
)  # fmt: skip


class Level(IntEnum):
    """How much is told; each level tells what those below it tell."""

    NONE = 0
    METADATA = 1
    REQUEST = 2
    REQUEST_RESPONSE = 3


LEVELS = {
    "None": Level.NONE,
    "Metadata": Level.METADATA,
    "Request": Level.REQUEST,
    "RequestResponse": Level.REQUEST_RESPONSE,
}
NAMES = {level: name for name, level in LEVELS.items()}


@dataclass(frozen=True, slots=True)
class Wish:
    """What a policy wants to be told of one request."""

    level: Level
    omitted: frozenset[str] = frozenset()
    """Stages that are not told."""
    omit_managed_fields: bool = False


NOTHING = Wish(Level.NONE)


@dataclass(frozen=True, slots=True)
class GroupResources:
    """Resources of one group; none named means all."""

    group: str
    resources: tuple[str, ...]
    names: frozenset[str]

    def matches(self, info: RequestInfo) -> bool:
        """Tell whether a request asks for one of them."""
        if self.group != info.group:
            return False
        if not self.resources:
            return True
        if self.names and info.name not in self.names:
            return False
        combined = f"{info.resource}/{info.subresource}" if info.subresource else info.resource
        for resource in self.resources:
            if resource in ("*", combined):
                return True
            first, slash, second = resource.partition("/")
            if not slash:
                continue
            if first == "*" and info.subresource and second == info.subresource:
                return True
            if second == "*" and first == info.resource:
                return True
        return False


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule; an empty field matches everything."""

    wish: Wish
    users: frozenset[str]
    groups: frozenset[str]
    verbs: frozenset[str]
    namespaces: frozenset[str]
    resources: tuple[GroupResources, ...]
    paths: tuple[str, ...]

    def matches(self, user: UserInfo | None, info: RequestInfo) -> bool:
        """Tell whether the rule is about this request; the user is None where nobody knows who asks."""
        if self.users and (user is None or user.name not in self.users):
            return False
        if self.groups and (user is None or self.groups.isdisjoint(user.groups)):
            return False
        if self.verbs and info.verb not in self.verbs:
            return False
        if self.namespaces or self.resources:
            if not info.is_resource_request or (self.namespaces and info.namespace not in self.namespaces):
                return False
            return not self.resources or any(each.matches(info) for each in self.resources)
        if self.paths:
            return not info.is_resource_request and any(_path_matches(info.path, path) for path in self.paths)
        return True


def _path_matches(path: str, wanted: str) -> bool:
    if wanted in ("*", path):
        return True
    return wanted.endswith("*") and path.startswith(wanted.rstrip("*"))


@dataclass(frozen=True, slots=True)
class Policy:
    """All rules in their order."""

    rules: tuple[Rule, ...]

    def judge(self, user: UserInfo | None, info: RequestInfo) -> Wish:
        """Return what is to be told of a request: the first matching rule's wish, nothing without one."""
        for rule in self.rules:
            if rule.matches(user, info):
                return rule.wish
        return NOTHING


def parse(document: Any) -> tuple[Policy, list[str]]:
    """Return a policy and the fields that mean nothing, which are left out; raise ConfigurationError."""
    if not isinstance(document, dict) or (document.get("apiVersion"), document.get("kind")) != (API_VERSION, KIND):
        raise ConfigurationError(f"expected apiVersion {API_VERSION} and kind {KIND}")
    reader = _Reader(document)
    rules = tuple(
        reader.rule(rule, f"rules[{index}]") for index, rule in enumerate(reader.items(document, "rules", "rules"))
    )
    if reader.faults:
        texts = [f"{cause.field}: {cause.message}" for cause in reader.faults.causes]
        raise ConfigurationError(texts[0] if len(texts) == 1 else f"[{', '.join(texts)}]")
    if not rules:
        raise ConfigurationError("loaded illegal policy with 0 rules")
    return Policy(rules), reader.unknown


class _Reader:
    """Collects what is wrong on the way."""

    def __init__(self, document: Mapping[str, Any]) -> None:
        self.faults = Faults()
        self.unknown: list[str] = []
        self._note_unknown(document, "", ("apiVersion", "kind", "metadata", "rules", "omitStages", "omitManagedFields"))
        self._omitted = self._stages(document, "omitStages")
        self._omit_managed_fields = bool(document.get("omitManagedFields"))

    def _note_unknown(self, value: Mapping[str, Any], prefix: str, known: Sequence[str]) -> None:
        self.unknown += [f'unknown field "{prefix}{name}"' for name in value if name not in known]

    def items(self, value: Mapping[str, Any], name: str, path: str) -> list[Any]:
        """Return a list of anything."""
        found = value.get(name)
        if found is None:
            return []
        if not isinstance(found, list):
            self.faults.type_invalid(path, str(found), "must be a list")
            return []
        return found

    def _texts(self, value: Mapping[str, Any], name: str, path: str) -> tuple[str, ...]:
        found = value.get(name)
        if found is None:
            return ()
        if not isinstance(found, list) or not all(isinstance(each, str) for each in found):
            self.faults.type_invalid(path, str(found), "must be a list of strings")
            return ()
        return tuple(found)

    def _stages(self, value: Mapping[str, Any], path: str) -> frozenset[str]:
        found = self._texts(value, "omitStages", path)
        for index, stage in enumerate(found):
            if stage not in STAGES:
                self.faults.invalid(f"{path}[{index}]", stage, f"allowed stages are {','.join(STAGES)}")
        return frozenset(found)

    def rule(self, value: Any, path: str) -> Rule:
        """Read one rule."""
        if not isinstance(value, dict):
            self.faults.type_invalid(path, str(value), "must be an object")
            value = {"level": "None"}
        self._note_unknown(value, f"{path}.", _RULE)
        level = value.get("level")
        if not level:
            self.faults.required(f"{path}.level")
        elif not isinstance(level, str) or level not in LEVELS:
            self.faults.not_supported(f"{path}.level", level, LEVELS)
        paths = self._paths(value, f"{path}.nonResourceURLs")
        resources = tuple(
            self._resources(each, f"{path}.resources") for each in self.items(value, "resources", f"{path}.resources")
        )
        omitted = self._stages(value, f"{path}.omitStages")
        namespaces = self._texts(value, "namespaces", f"{path}.namespaces")
        if paths and (resources or namespaces):
            text = "rules cannot apply to both regular resources and non-resource URLs"
            self.faults.invalid(f"{path}.nonResourceURLs", list(paths), text)
        managed = value.get("omitManagedFields")
        return Rule(
            Wish(
                LEVELS.get(str(level), Level.NONE),
                self._omitted | omitted,
                self._omit_managed_fields if managed is None else bool(managed),
            ),
            frozenset(self._texts(value, "users", f"{path}.users")),
            frozenset(self._texts(value, "userGroups", f"{path}.userGroups")),
            frozenset(self._texts(value, "verbs", f"{path}.verbs")),
            frozenset(namespaces),
            resources,
            paths,
        )

    def _paths(self, value: Mapping[str, Any], path: str) -> tuple[str, ...]:
        found = self._texts(value, "nonResourceURLs", path)
        for index, each in enumerate(found):
            if each == "*":
                continue
            if not each.startswith("/"):
                text = "non-resource URL rules must begin with a '/' character"
                self.faults.invalid(f"{path}[{index}]", each, text)
            if "*" in each[:-1]:
                text = "non-resource URL wildcards '*' must be the final character of the rule"
                self.faults.invalid(f"{path}[{index}]", each, text)
        return found

    def _resources(self, value: Any, path: str) -> GroupResources:
        if not isinstance(value, dict):
            self.faults.type_invalid(path, str(value), "must be an object")
            value = {}
        self._note_unknown(value, f"{path}.", ("group", "resources", "resourceNames"))
        group = str(value.get("group") or "")
        if group and (texts := dns_subdomain(group)):
            self.faults.invalid(f"{path}.group", group, ",".join(texts))
        resources = self._texts(value, "resources", f"{path}.resources")
        names = self._texts(value, "resourceNames", f"{path}.resourceNames")
        if names and not resources:
            text = "using resourceNames requires at least one resource"
            self.faults.invalid(f"{path}.resourceNames", list(names), text)
        return GroupResources(group, resources, frozenset(names))
