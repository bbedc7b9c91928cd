"""MutatingAdmissionPolicy in the admission chain: policies change objects before webhooks see them.

Policies are applied by the names of their bindings, each to what the one before it made. One that asks for it
(reinvocationPolicy IfNeeded) is applied once more where it, or whoever came later, changed the object.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from control.api import status
from control.api.cel.errors import CelError, TooLongError
from control.api.cel.frame import Purse
from control.api.meta import Object
from control.api.resources import MUTATING_POLICIES, MUTATING_POLICY_BINDINGS, Resource
from control.apiserver import aside
from control.apiserver.admission.plugin import Plugin, object_name
from control.apiserver.admission.reinvocation import reinvocation_of
from control.apiserver.authz.authorizer import ModeAuthorizer
from control.apiserver.policies.asking import judging
from control.apiserver.policies.bound import Bound
from control.apiserver.policies.mutation import (
    MutatingBinding,
    MutatingPolicy,
    MutationError,
    binding_of,
    concerns,
    mutate,
    policy_of,
)
from control.apiserver.policies.parameters import NOT_FOUND_TEXT, FindResource, Parameters, values_of
from control.apiserver.request import AdmissionRequest, Complete, Lookup
from control.apiserver.webhooks.plugin import restore_identity

log = logging.getLogger(__name__)

Definition = Callable[[Resource], str]
"""The name under which the facts of a resource's objects stand."""


@dataclass(frozen=True, slots=True)
class _Invocation:
    """One policy, by one binding, with one parameter object."""

    policy: MutatingPolicy
    binding: MutatingBinding
    params: Object | None

    @property
    def key(self) -> tuple[str, ...]:
        """What tells it from others."""
        metadata = (self.params or {}).get("metadata") or {}
        return (self.policy.name, self.binding.name, metadata.get("namespace") or "", metadata.get("name") or "")


class MutatingPolicies(Plugin):
    """Lets bound policies complete objects."""

    def __init__(
        self,
        lookup: Lookup,
        find: FindResource,
        authorizer: ModeAuthorizer | None,
        complete: Complete,
        definition: Definition,
    ) -> None:
        self._parameters = Parameters(lookup, find)
        self._authorizer = authorizer
        self._complete = complete
        self._definition = definition
        self._bound = Bound(lookup, (MUTATING_POLICIES, MUTATING_POLICY_BINDINGS), policy_of, binding_of)

    async def follow(self) -> None:
        """Know policies and bindings from now on."""
        await self._bound.follow()

    async def mutate(self, request: AdmissionRequest) -> None:
        """Apply the policies that concern a request; raises ApiError where one that may not fail does."""
        if not self._bound or request.object is None:
            return
        space = self._parameters.namespace(request)
        told: list[str] = []
        invocations = await self._invocations(request, space, told)
        if invocations:
            reinvocation = reinvocation_of(request)
            turns = reinvocation.policies
            if reinvocation.again:
                turns.begin(request.object)
            applied = False
            for invocation in invocations:
                if reinvocation.again and not turns.due(invocation.key):
                    continue
                changed = await self._apply(invocation, request, space, told)
                if changed:
                    turns.changed()
                if invocation.policy.reinvokes and changed is not None:
                    turns.ran(invocation.key)
                applied |= changed is not None
            if applied:
                # Kubernetes takes one that could be applied for one that changed something.
                turns.changed()
                reinvocation.wanted = True
            turns.end(request.object)
        if told:
            raise _denied(request, told)

    async def _invocations(self, request: AdmissionRequest, space: Object, told: list[str]) -> list[_Invocation]:
        labels: dict[str, str] = (space.get("metadata") or {}).get("labels") or {}
        found: list[_Invocation] = []
        for policy, binding in self._bound:
            if not concerns(policy, binding, request, labels):
                continue
            params = await self._parameters.of(policy.param_kind, binding.param_ref, request)
            if params is not None:
                found.extend(_Invocation(policy, binding, each) for each in params)
            elif policy.fails_closed:
                told.append(_text(policy, binding, f"failed to configure binding: {NOT_FOUND_TEXT}"))
        return found

    async def _apply(
        self, invocation: _Invocation, request: AdmissionRequest, space: Object, told: list[str]
    ) -> bool | None:
        """Apply one policy; tell whether it changed the object, None where it could not be applied."""
        before = request.object
        assert before is not None
        values: dict[str, Any] = {**values_of(request, space), "params": invocation.params}
        resource, policy = request.resource, invocation.policy

        def change(purse: Purse | None = None) -> Object:
            definition = self._definition(resource)
            return mutate(policy, values, definition, lambda obj: self._complete(resource, obj, "Strict"), purse)

        try:
            with judging(self._authorizer, request.user):
                try:
                    made = change(Purse(aside.INLINE_COST))
                except TooLongError:
                    made = await aside.run(change)
        except (CelError, MutationError) as error:
            if policy.fails_closed:
                told.append(_text(policy, invocation.binding, str(error)))
            else:
                log.warning("policy failed and is passed by name=%s error=%s", policy.name, error)
            return None
        if made is before:
            return None
        if made == before:
            return False
        restore_identity(made, before)
        request.object = made
        return True


def _text(policy: MutatingPolicy, binding: MutatingBinding, told: str) -> str:
    return f"policy '{policy.name}' with binding '{binding.name}' denied request: {told}"


def _denied(request: AdmissionRequest, told: list[str]) -> status.ApiError:
    details = {
        "name": object_name(request),
        "group": request.resource.group,
        "kind": request.resource.plural,
        "causes": [{"message": text} for text in told],
    }
    return status.failure(403, "Invalid", told[0], {key: value for key, value in details.items() if value})
