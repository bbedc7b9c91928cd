"""NamespaceLifecycle: nothing is made in a namespace that is missing or going, and three namespaces never go."""

from __future__ import annotations

from control.api.meta import Object
from control.api.resources import NAMESPACES
from control.api.status import ApiError, not_found
from control.apiserver.admission.plugin import Plugin, concerns, denied
from control.apiserver.request import AdmissionRequest, Lookup
from control.client.client import Client

IMMORTAL = frozenset({"default", "kube-system", "kube-public"})


def is_terminating(namespace: Object) -> bool:
    """Whether the namespace is on its way out."""
    deleted = namespace.get("metadata", {}).get("deletionTimestamp")
    return bool(deleted) or namespace.get("status", {}).get("phase") == "Terminating"


def terminating_error(request: AdmissionRequest) -> ApiError:
    """Upstream's 403 for creating in a namespace that is being terminated."""
    error = denied(
        request, f"unable to create new content in namespace {request.namespace} because it is being terminated"
    )
    cause = {
        "reason": "NamespaceTerminating",
        "message": f"namespace {request.namespace} is being terminated",
        "field": "metadata.namespace",
    }
    error.status.setdefault("details", {})["causes"] = [cause]
    return error


class NamespaceLifecycle(Plugin):
    """Asks the cache for the namespace, and the store where the cache knows none."""

    def __init__(self, lookup: Lookup, client: Client) -> None:
        self._lookup = lookup
        self._client = client

    async def mutate(self, request: AdmissionRequest) -> None:
        """Refuse early, before other plugins spend work."""
        if concerns(request, NAMESPACES, "DELETE") and request.name in IMMORTAL:
            raise denied(request, "this namespace may not be deleted")
        if not request.namespace or request.resource.plural == NAMESPACES.plural:
            return
        if request.operation in ("DELETE", "CONNECT"):
            return
        namespace = self._lookup.get(NAMESPACES, request.namespace) or await self._live(request.namespace)
        if request.operation == "CREATE" and is_terminating(namespace):
            raise terminating_error(request)

    async def _live(self, name: str) -> Object:
        try:
            return await self._client.get(NAMESPACES, name)
        except ApiError as error:
            if error.code != 404:
                raise
            raise not_found(NAMESPACES.plural, name) from error
