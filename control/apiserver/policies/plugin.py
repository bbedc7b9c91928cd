"""ValidatingAdmissionPolicy in the admission chain: policies, bindings and parameters by the server's own caches."""

from __future__ import annotations

from typing import Any

from control.api import status
from control.api.cel.errors import TooLongError
from control.api.cel.frame import Purse
from control.api.resources import POLICIES, POLICY_BINDINGS
from control.api.status import ApiError
from control.apiserver import aside
from control.apiserver.admission.plugin import Plugin, object_name
from control.apiserver.authz.authorizer import ModeAuthorizer
from control.apiserver.policies.asking import judging
from control.apiserver.policies.auditing import Notes, tell_failure
from control.apiserver.policies.bound import Bound
from control.apiserver.policies.parameters import NOT_FOUND_TEXT, FindResource, Parameters, values_of
from control.apiserver.policies.policy import Binding, Fault, Judgement, Policy, binding_of, concerns, judge, policy_of
from control.apiserver.request import AdmissionRequest, Lookup

CODES = {"Unauthorized": 401, "Forbidden": 403, "Invalid": 422, "RequestEntityTooLarge": 413}


class ValidatingPolicies(Plugin):
    """Holds writes against all bound policies."""

    def __init__(self, lookup: Lookup, find: FindResource, authorizer: ModeAuthorizer | None = None) -> None:
        self._parameters = Parameters(lookup, find)
        self._authorizer = authorizer
        self._bound = Bound(lookup, (POLICIES, POLICY_BINDINGS), policy_of, binding_of)

    async def follow(self) -> None:
        """Know policies and bindings from now on."""
        await self._bound.follow()

    async def validate(self, request: AdmissionRequest) -> None:
        """Refuse what a bound policy forbids; warn and tell audit where the binding says so."""
        if not self._bound:
            return
        space = self._parameters.namespace(request)
        labels: dict[str, str] = (space.get("metadata") or {}).get("labels") or {}
        values: dict[str, Any] | None = None
        notes = Notes()
        refusals: list[ApiError] = []
        for policy, binding in self._bound:
            if not concerns(policy, binding, request, labels):
                continue
            values = values or values_of(request, space)
            for judgement in await self._judgements(policy, binding, request, values):
                notes.add(policy, judgement.annotations)
                for fault in judgement.faults:
                    refusals += _act(policy, binding, request, fault)
        notes.tell()
        if refusals:
            raise refusals[0]

    async def _judgements(
        self, policy: Policy, binding: Binding, request: AdmissionRequest, values: dict[str, Any]
    ) -> list[Judgement]:
        params = await self._parameters.of(policy.param_kind, binding.param_ref, request)
        if params is None:
            found = (Fault(f"failed to configure binding: {NOT_FOUND_TEXT}", denies=True),)
            return [Judgement(found)] if policy.fails_closed else []
        with judging(self._authorizer, request.user):
            return [await _judgement(policy, {**values, "params": found}) for found in params]


async def _judgement(policy: Policy, values: dict[str, Any]) -> Judgement:
    try:
        return judge(policy, values, Purse(aside.INLINE_COST))
    except TooLongError:
        return await aside.run(lambda: judge(policy, values))


def _act(policy: Policy, binding: Binding, request: AdmissionRequest, fault: Fault) -> list[ApiError]:
    """Do what a binding says of a fault; return the refusal where it is to be refused."""
    about = f"ValidatingAdmissionPolicy '{policy.name}' with binding '{binding.name}'"
    refusals: list[ApiError] = []
    for action in ("Deny",) if fault.denies else binding.actions:
        if action == "Deny":
            refusals.append(_denied(request, f"{about} denied request: {fault.text}", fault.reason))
        elif action == "Audit":
            tell_failure(policy, binding, fault)
        elif action == "Warn":
            request.warnings.append(f"Validation failed for {about}: {fault.text}")
    return refusals


def _denied(request: AdmissionRequest, text: str, reason: str) -> ApiError:
    resource = request.resource
    name = object_name(request)
    about = status.qualified(resource.plural, resource.group)
    details = {"name": name, "group": resource.group, "kind": resource.plural, "causes": [{"message": text}]}
    return status.failure(
        CODES.get(reason, 422),
        reason,
        f'{about} "{name}" is forbidden: {text}' if name else f"{about} is forbidden: {text}",
        {key: value for key, value in details.items() if value},
    )
