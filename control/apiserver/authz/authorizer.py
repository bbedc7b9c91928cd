"""The authorizer of the API server: superusers, nodes, then RBAC, over indexes that the watch cache keeps fresh."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from control.api.meta import Object, metadata
from control.api.resources import (
    CLUSTER_ROLE_BINDINGS,
    CLUSTER_ROLES,
    PERSISTENT_VOLUMES,
    PODS,
    ROLE_BINDINGS,
    ROLES,
    Resource,
)
from control.apiserver.authz.attributes import NO_OPINION, SUPERUSER_GROUP, Attributes, Opinion, Verdict
from control.apiserver.authz.node import NodeAuthorizer, NodeGraph, node_name_of
from control.apiserver.authz.rbac import RbacIndex
from control.apiserver.authz.rules import Rule
from control.apiserver.request import Decision, Lookup, RequestInfo, UserInfo

Judge = Callable[[Attributes], Verdict]
FOLLOWED = (CLUSTER_ROLES, ROLES, CLUSTER_ROLE_BINDINGS, ROLE_BINDINGS, PODS, PERSISTENT_VOLUMES)
"""What the indexes are made of."""
DECISIONS_MAX = 8192
Question = tuple[int, str, str, str, str, str, str, str]
MODES = ("Node", "RBAC", "AlwaysAllow", "AlwaysDeny")


def attributes_of(user: UserInfo, info: RequestInfo) -> Attributes:
    """The question that a request asks of the authorizers."""
    return Attributes(
        user=user,
        verb=info.verb,
        group=info.group,
        version=info.version,
        resource=info.resource,
        subresource=info.subresource,
        namespace=info.namespace,
        name=info.name,
        path=info.path,
        is_resource_request=info.is_resource_request,
        field_selector=info.field_selector,
    )


class ModeAuthorizer:
    """Asks the configured modes in turn; the first that allows or denies decides, nobody's opinion is a no."""

    def __init__(self, modes: Sequence[str]) -> None:
        unknown = [mode for mode in modes if mode not in MODES]
        if unknown:
            raise ValueError(f"unknown authorization mode {unknown[0]!r}; choose from {', '.join(MODES)}")
        self.rbac = RbacIndex()
        self.graph = NodeGraph()
        judges: dict[str, Judge] = {
            "Node": NodeAuthorizer(self.graph).authorize,
            "RBAC": self.rbac.authorize,
            "AlwaysAllow": lambda _: Verdict(Opinion.ALLOW),
            "AlwaysDeny": lambda _: Verdict(Opinion.DENY, "Everything is forbidden."),
        }
        self._judges = [judges[mode] for mode in modes]
        self._decisions: dict[Question, tuple[UserInfo, int, Decision]] = {}
        """What was decided of whom, as of which generation of the rules."""

    async def authorize(self, user: UserInfo, info: RequestInfo) -> Decision:
        """Judge one request."""
        return self.decide(user, info)

    def decide(self, user: UserInfo, info: RequestInfo) -> Decision:
        """Judge one request; a question that was asked before is answered as before, until the rules change."""
        question = (
            id(user), info.verb, info.group, info.resource, info.subresource, info.namespace, info.name,
            "" if info.is_resource_request else info.path,
        )  # fmt: skip
        known = self._decisions.get(question)
        if known is not None and known[0] is user and known[1] == self.rbac.generation:
            return known[2]
        verdict = self.judge(attributes_of(user, info))
        decision = Decision(verdict.allowed, verdict.reason)
        if node_name_of(user) is None:
            # What nodes may depends on which pods are theirs.
            if len(self._decisions) >= DECISIONS_MAX:
                self._decisions.clear()
            self._decisions[question] = user, self.rbac.generation, decision
        return decision

    def judge(self, attributes: Attributes) -> Verdict:
        """Answer one question; a refusal carries the reasons of all who were asked."""
        if SUPERUSER_GROUP in attributes.user.groups:
            return Verdict(Opinion.ALLOW)
        reasons = []
        for ask in self._judges:
            verdict = ask(attributes)
            if verdict.opinion is not Opinion.NO_OPINION:
                return verdict
            if verdict.reason:
                reasons.append(verdict.reason)
        return Verdict(Opinion.NO_OPINION, "\n".join(reasons)) if reasons else NO_OPINION

    def allows(self, attributes: Attributes) -> bool:
        """Whether the answer is yes."""
        return self.judge(attributes).allowed

    def rules_for(self, user: UserInfo, namespace: str) -> tuple[Rule, ...]:
        """Every RBAC rule that the user holds in the namespace."""
        return self.rbac.rules_for(user, namespace)

    async def follow(self, lookup: Lookup) -> None:
        """Fill the indexes and keep them fresh from the watch cache."""
        watched: tuple[tuple[Resource, Callable[[str, str, Object | None], None]], ...] = (
            (CLUSTER_ROLES, self.rbac.set_role),
            (ROLES, self.rbac.set_role),
            (CLUSTER_ROLE_BINDINGS, self.rbac.set_binding),
            (ROLE_BINDINGS, self.rbac.set_binding),
            (PODS, self.graph.set_pod),
            (PERSISTENT_VOLUMES, lambda _, name, volume: self.graph.set_volume(name, volume)),
        )
        for resource, store in watched:
            lookup.subscribe(resource, _listener(store))
            await lookup.warm(resource)


def _listener(store: Callable[[str, str, Object | None], None]) -> Callable[[Object | None, Object | None], None]:
    def changed(old: Object | None, new: Object | None) -> None:
        known = new if new is not None else old
        if known is not None:
            about = metadata(known)
            store(str(about.get("namespace") or ""), str(about["name"]), new)

    return changed
