"""The RBAC evaluator: roles and bindings, indexed by who they are for.

Theory of operation. A request names a user with groups; what it may do is the union of the rules of every
binding with one of them as a subject. So bindings are indexed by subject, per namespace ("" for cluster role
bindings), and a decision looks only at the bindings of this user's own subjects: 40 system bindings and 10,000
of other people's cost nothing. The index is fed object by object, with None for one that is gone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from control.apiserver.authz.attributes import NO_OPINION, Attributes, Opinion, Verdict
from control.apiserver.authz.rules import Rule, rules_from_object
from control.apiserver.request import UserInfo

RBAC_GROUP = "rbac.authorization.k8s.io"
SERVICE_ACCOUNT_PREFIX = "system:serviceaccount:"

Subject = tuple[str, str]
"""("User" | "Group", name); service accounts are users with their long name."""


@dataclass(frozen=True, slots=True)
class RoleReference:
    """What a binding points at."""

    kind: str
    name: str


@dataclass(frozen=True, slots=True)
class Binding:
    """A RoleBinding (with a namespace) or a ClusterRoleBinding (without)."""

    namespace: str
    name: str
    role: RoleReference
    subjects: tuple[Subject, ...]
    shown: tuple[str, ...]
    """Each subject as a reason names it, in the order of `subjects`."""

    @property
    def kind(self) -> str:
        """The kind of the object that this was read from."""
        return "RoleBinding" if self.namespace else "ClusterRoleBinding"


class RbacIndex:
    """Roles and bindings of one moment, ready for questions."""

    def __init__(self) -> None:
        self._roles: dict[tuple[str, str], tuple[Rule, ...]] = {}
        self._bindings: dict[tuple[str, str], Binding] = {}
        self._by_subject: dict[str, dict[Subject, dict[str, Binding]]] = {}
        self.generation = 0
        """Grows with every change: answers given before may be others now."""

    def set_role(self, namespace: str, name: str, role: Mapping[str, Any] | None) -> None:
        """Store a Role, or a ClusterRole with an empty namespace; None forgets it."""
        self.generation += 1
        if role is None:
            self._roles.pop((namespace, name), None)
        else:
            self._roles[namespace, name] = rules_from_object(role)

    def set_binding(self, namespace: str, name: str, binding: Mapping[str, Any] | None) -> None:
        """Store a RoleBinding, or a ClusterRoleBinding with an empty namespace; None forgets it."""
        self.generation += 1
        known = self._bindings.pop((namespace, name), None)
        if known is not None:
            self._unlink(known)
        if binding is None:
            return
        parsed = binding_from_object(namespace, name, binding)
        self._bindings[namespace, name] = parsed
        index = self._by_subject.setdefault(namespace, {})
        for subject in parsed.subjects:
            index.setdefault(subject, {})[name] = parsed

    def authorize(self, attributes: Attributes) -> Verdict:
        """Allow when a rule of this user matches; RBAC never denies, it has no opinion."""
        for binding, shown, rules in self._grants(attributes.user, attributes.namespace):
            if any(rule.allows(attributes) for rule in rules):
                role = f'{binding.role.kind} "{binding.role.name}"'
                name = f"{binding.name}/{binding.namespace}" if binding.namespace else binding.name
                return Verdict(Opinion.ALLOW, f'RBAC: allowed by {binding.kind} "{name}" of {role} to {shown}')
        return NO_OPINION

    def rules_for(self, user: UserInfo, namespace: str) -> tuple[Rule, ...]:
        """Every rule that this user holds in this namespace (cluster-wide ones included)."""
        return tuple(rule for _, _, rules in self._grants(user, namespace) for rule in rules)

    def role_rules(self, namespace: str, reference: RoleReference) -> tuple[Rule, ...] | None:
        """The rules of a role that a binding in this namespace names, None if it does not exist."""
        return self._roles.get(("" if reference.kind == "ClusterRole" else namespace, reference.name))

    def _grants(self, user: UserInfo, namespace: str) -> Iterator[tuple[Binding, str, tuple[Rule, ...]]]:
        subjects = [("User", user.name), *(("Group", group) for group in user.groups)]
        for scope in ("", namespace) if namespace else ("",):
            index = self._by_subject.get(scope)
            if not index:
                continue
            for subject in subjects:
                for binding in index.get(subject, {}).values():
                    rules = self.role_rules(scope, binding.role)
                    if rules:
                        yield binding, binding.shown[binding.subjects.index(subject)], rules

    def _unlink(self, binding: Binding) -> None:
        index = self._by_subject[binding.namespace]
        for subject in binding.subjects:
            held = index.get(subject, {})
            held.pop(binding.name, None)
            if not held:
                index.pop(subject, None)
        if not index:
            del self._by_subject[binding.namespace]


def binding_from_object(namespace: str, name: str, binding: Mapping[str, Any]) -> Binding:
    """Read a binding; subjects of unknown kinds grant nothing and are left out."""
    subjects: list[Subject] = []
    shown: list[str] = []
    for entry in binding.get("subjects") or ():
        kind, subject_name = entry.get("kind", ""), entry.get("name", "")
        if kind in ("User", "Group"):
            subjects.append((kind, subject_name))
            shown.append(f'{kind} "{subject_name}"')
        elif kind == "ServiceAccount":
            owner = entry.get("namespace") or namespace
            if owner:
                subjects.append(("User", f"{SERVICE_ACCOUNT_PREFIX}{owner}:{subject_name}"))
                shown.append(f'ServiceAccount "{subject_name}/{owner}"')
    reference = binding.get("roleRef") or {}
    role = RoleReference(reference.get("kind", ""), reference.get("name", ""))
    return Binding(namespace, name, role, tuple(subjects), tuple(shown))
