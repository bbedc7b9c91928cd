"""How one RBAC rule matches one request, and how one set of rules covers another.

Rules are held as frozen values so that they can be compared, compacted and printed. Covering is decided as
upstream does it: a wanted rule is broken into single questions (one verb, one group, one resource, at most one
name), and each question must be answered by one rule that is held.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from control.apiserver.authz.attributes import Attributes

ALL = "*"


@dataclass(frozen=True, slots=True)
class Rule:
    """A PolicyRule of rbac.authorization.k8s.io/v1."""

    verbs: tuple[str, ...]
    api_groups: tuple[str, ...] = ()
    resources: tuple[str, ...] = ()
    resource_names: tuple[str, ...] = ()
    non_resource_urls: tuple[str, ...] = ()

    def allows(self, attributes: Attributes) -> bool:
        """Whether this rule alone allows the request."""
        if not attributes.is_resource_request:
            return self._matches_verb(attributes.verb) and self._matches_url(attributes.path)
        return (
            self._matches_verb(attributes.verb)
            and (ALL in self.api_groups or attributes.group in self.api_groups)
            and self._matches_resource(attributes.combined_resource, attributes.subresource)
            and (not self.resource_names or attributes.name in self.resource_names)
        )

    def covers(self, wanted: Rule) -> bool:
        """Whether every request that `wanted` allows is allowed by this rule too."""
        return (
            _holds_all(self.verbs, wanted.verbs)
            and _holds_all(self.api_groups, wanted.api_groups)
            and all(self._covers_resource(resource) for resource in wanted.resources)
            and all(self._matches_url(url) for url in wanted.non_resource_urls)
            and (
                not self.resource_names
                or (bool(wanted.resource_names) and set(wanted.resource_names) <= set(self.resource_names))
            )
        )

    def single_questions(self) -> Iterator[Rule]:
        """Break this rule into rules of one verb, group, resource and name each."""
        for url in self.non_resource_urls:
            for verb in self.verbs:
                yield Rule(verbs=(verb,), non_resource_urls=(url,))
        for group in self.api_groups:
            for resource in self.resources:
                for verb in self.verbs:
                    if not self.resource_names:
                        yield Rule((verb,), (group,), (resource,))
                    for name in self.resource_names:
                        yield Rule((verb,), (group,), (resource,), (name,))

    def compact_text(self) -> str:
        """Print the rule as upstream's escalation messages do."""
        parts = []
        for title, values in (
            ("APIGroups", self.api_groups),
            ("Resources", self.resources),
            ("NonResourceURLs", self.non_resource_urls),
            ("ResourceNames", self.resource_names),
            ("Verbs", self.verbs),
        ):
            if values:
                parts.append(f"{title}:[" + " ".join(f'"{value}"' for value in values) + "]")
        return "{" + ", ".join(parts) + "}"

    def to_object(self) -> dict[str, Any]:
        """The JSON shape of the rule; empty lists are left out."""
        fields = {
            "verbs": self.verbs,
            "apiGroups": self.api_groups,
            "resources": self.resources,
            "resourceNames": self.resource_names,
            "nonResourceURLs": self.non_resource_urls,
        }
        return {name: list(values) for name, values in fields.items() if values}

    def _matches_verb(self, verb: str) -> bool:
        return ALL in self.verbs or verb in self.verbs

    def _matches_resource(self, combined: str, subresource: str) -> bool:
        if ALL in self.resources or combined in self.resources:
            return True
        return bool(subresource) and f"{ALL}/{subresource}" in self.resources

    def _covers_resource(self, resource: str) -> bool:
        _, _, subresource = resource.partition("/")
        return self._matches_resource(resource, subresource)

    def _matches_url(self, url: str) -> bool:
        for held in self.non_resource_urls:
            if held in (ALL, url) or (held.endswith(ALL) and url.startswith(held.rstrip(ALL))):
                return True
        return False


def rule_from_object(value: Mapping[str, Any]) -> Rule:
    """Read a PolicyRule out of its JSON shape."""
    return Rule(
        verbs=tuple(value.get("verbs") or ()),
        api_groups=tuple(value.get("apiGroups") or ()),
        resources=tuple(value.get("resources") or ()),
        resource_names=tuple(value.get("resourceNames") or ()),
        non_resource_urls=tuple(value.get("nonResourceURLs") or ()),
    )


def rules_from_object(role: Mapping[str, Any]) -> tuple[Rule, ...]:
    """Read the rules of a Role or ClusterRole."""
    return tuple(rule_from_object(rule) for rule in role.get("rules") or ())


def uncovered(held: Iterable[Rule], wanted: Iterable[Rule]) -> tuple[Rule, ...]:
    """The single questions of `wanted` that no rule of `held` answers, in order."""
    held = tuple(held)
    return tuple(
        question
        for rule in wanted
        for question in rule.single_questions()
        if not any(owner.covers(question) for owner in held)
    )


def compact(rules: Iterable[Rule]) -> tuple[Rule, ...]:
    """Join single-resource rules that differ in their verbs alone; keep all others, in order."""
    joined: dict[tuple[tuple[str, ...], ...], Rule] = {}
    result: list[tuple[tuple[str, ...], ...] | Rule] = []
    for rule in rules:
        if len(rule.api_groups) != 1 or len(rule.resources) != 1 or rule.non_resource_urls:
            result.append(rule)
            continue
        key = (rule.api_groups, rule.resources, rule.resource_names)
        if key in joined:
            known = joined[key]
            joined[key] = replace(known, verbs=known.verbs + tuple(v for v in rule.verbs if v not in known.verbs))
        else:
            joined[key] = rule
            result.append(key)
    return tuple(item if isinstance(item, Rule) else joined[item] for item in result)


def _holds_all(held: tuple[str, ...], wanted: tuple[str, ...]) -> bool:
    return ALL in held or set(wanted) <= set(held)
