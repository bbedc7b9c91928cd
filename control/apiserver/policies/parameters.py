"""The parameters that a binding gives a policy, and the values that its expressions see."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from control.api import selectors
from control.api.meta import Object
from control.api.resources import NAMESPACES, Resource
from control.apiserver.policies.asking import authorizer_of
from control.apiserver.request import AdmissionRequest, Lookup
from control.apiserver.webhooks.review import request_of

FindResource = Callable[[str, str], Resource | None]
"""(apiVersion, kind) → the resource that is served under it."""
NOT_FOUND_TEXT = "no params found for policy binding with `Deny` parameterNotFoundAction"


class Parameters:
    """Finds parameters in the server's own caches."""

    def __init__(self, lookup: Lookup, find: FindResource) -> None:
        self._lookup = lookup
        self._find = find

    def namespace(self, request: AdmissionRequest) -> Object:
        """Return the Namespace of a request, empty where it has none."""
        return (self._lookup.get(NAMESPACES, request.namespace) if request.namespace else None) or {}

    async def of(
        self, param_kind: tuple[str, str], reference: Mapping[str, Any] | None, request: AdmissionRequest
    ) -> list[Object | None] | None:
        """Return the parameters to run a policy with, each in turn; None where there must be some and are none."""
        if not param_kind[1] or reference is None:
            return [None]
        found: list[Object | None] = []
        resource = self._find(*param_kind)
        if resource is not None:
            await self._lookup.warm(resource)
            namespace = (reference.get("namespace") or request.namespace) if resource.namespaced else ""
            found.extend(self._named(resource, reference, namespace))
        return None if not found and reference.get("parameterNotFoundAction") == "Deny" else found

    def _named(self, resource: Resource, reference: Mapping[str, Any], namespace: str) -> Iterator[Object]:
        if name := reference.get("name"):
            found = self._lookup.get(resource, name, namespace)
            if found is not None:
                yield found
            return
        wanted = selectors.from_label_selector(reference.get("selector") or {})
        for found in self._lookup.list(resource, namespace):
            if wanted.matches(found["metadata"].get("labels") or {}):
                yield found


def values_of(request: AdmissionRequest, space: Object) -> dict[str, Any]:
    """Return the values of the variables that expressions of policies may name."""
    from control.api.cel.admission import namespace_value

    return {
        "object": request.object,
        "oldObject": request.old_object,
        "request": {**request_of(request), "object": None, "oldObject": None},
        "namespaceObject": namespace_value(space),
        "params": None,
        **authorizer_of(request),
    }
