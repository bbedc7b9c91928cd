"""ValidatingAdmissionPolicy in the admission chain: policies, bindings and parameters by the server's own caches."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import Any

from control.api import selectors, status
from control.api.meta import Object
from control.api.resources import NAMESPACES, POLICIES, POLICY_BINDINGS, Resource
from control.api.status import ApiError
from control.apiserver.admission.plugin import Plugin, object_name
from control.apiserver.policies.policy import Binding, Fault, Policy, binding_of, concerns, judge, policy_of
from control.apiserver.request import AdmissionRequest, Lookup
from control.apiserver.webhooks.review import request_of

log = logging.getLogger(__name__)

FindResource = Callable[[str, str], Resource | None]
"""(apiVersion, kind) → the resource that is served under it."""
CODES = {"Unauthorized": 401, "Forbidden": 403, "Invalid": 422, "RequestEntityTooLarge": 413}


class ValidatingPolicies(Plugin):
    """Holds writes against all bound policies."""

    def __init__(self, lookup: Lookup, find: FindResource) -> None:
        self._lookup = lookup
        self._find = find
        self._policies: dict[str, Policy | str] = {}
        """Each policy, or why it cannot be read."""
        self._bindings: dict[str, Binding] = {}

    async def follow(self) -> None:
        """Know policies and bindings from now on."""
        self._lookup.subscribe(POLICIES, self._policy_changed)
        self._lookup.subscribe(POLICY_BINDINGS, self._binding_changed)
        await self._lookup.warm(POLICIES)
        await self._lookup.warm(POLICY_BINDINGS)

    def _policy_changed(self, old: Object | None, new: Object | None) -> None:
        name = (new or old or {})["metadata"]["name"]
        if new is None:
            self._policies.pop(name, None)
            return
        try:
            self._policies[name] = policy_of(new)
        except (KeyError, TypeError, ValueError) as error:
            log.error("policy cannot be read name=%s error=%s", name, error)
            self._policies[name] = str(error)

    def _binding_changed(self, old: Object | None, new: Object | None) -> None:
        name = (new or old or {})["metadata"]["name"]
        if new is None:
            self._bindings.pop(name, None)
        else:
            self._bindings[name] = binding_of(new)

    async def validate(self, request: AdmissionRequest) -> None:
        """Refuse what a bound policy forbids; warn where the binding says so."""
        if not self._bindings:
            return
        space = (self._lookup.get(NAMESPACES, request.namespace) if request.namespace else None) or {}
        labels: dict[str, str] = (space.get("metadata") or {}).get("labels") or {}
        values: dict[str, Any] | None = None
        for name in sorted(self._bindings):
            binding = self._bindings[name]
            policy = self._policies.get(binding.policy)
            if policy is None or isinstance(policy, str) or not concerns(policy, binding, request, labels):
                continue
            values = values or self._values(request, space)
            for fault in await self._faults(policy, binding, request, values):
                self._act(policy, binding, request, fault)

    @staticmethod
    def _values(request: AdmissionRequest, space: Object) -> dict[str, Any]:
        return {
            "object": request.object,
            "oldObject": request.old_object,
            "request": {**request_of(request), "object": None, "oldObject": None},
            "namespaceObject": space or None,
            "params": None,
            "variables": {},
            "authorizer": None,
        }

    async def _faults(
        self, policy: Policy, binding: Binding, request: AdmissionRequest, values: dict[str, Any]
    ) -> list[Fault]:
        if not policy.param_kind[1] or binding.param_ref is None:
            return judge(policy, values)
        reference = binding.param_ref
        params = [found async for found in self._params(policy, reference, request)]
        if not params:
            if reference.get("parameterNotFoundAction") != "Deny" or not policy.fails_closed:
                return []
            return [Fault("no params found for policy binding with `Deny` parameterNotFoundAction")]
        return [fault for found in params for fault in judge(policy, {**values, "params": found})]

    async def _params(self, policy: Policy, reference: Any, request: AdmissionRequest) -> Any:
        resource = self._find(*policy.param_kind)
        if resource is None:
            return
        await self._lookup.warm(resource)
        namespace = (reference.get("namespace") or request.namespace) if resource.namespaced else ""
        for found in self._named(resource, reference, namespace):
            yield found

    def _named(self, resource: Resource, reference: Any, namespace: str) -> Iterator[Object]:
        if name := reference.get("name"):
            found = self._lookup.get(resource, name, namespace)
            if found is not None:
                yield found
            return
        wanted = selectors.from_label_selector(reference.get("selector") or {})
        for found in self._lookup.list(resource, namespace):
            if wanted.matches(found["metadata"].get("labels") or {}):
                yield found

    @staticmethod
    def _act(policy: Policy, binding: Binding, request: AdmissionRequest, fault: Fault) -> None:
        about = f"ValidatingAdmissionPolicy '{policy.name}' with binding '{binding.name}'"
        if "Deny" in binding.actions:
            raise _denied(request, f"{about} denied request: {fault.text}", fault.reason)
        if "Warn" in binding.actions:
            request.warnings.append(f"Validation failed for {about}: {fault.text}")


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
