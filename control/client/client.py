"""The one way in which components talk to an API server, whatever carries it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from control.api.meta import Object
from control.api.resources import Resource

JSON_PATCH = "application/json-patch+json"
MERGE_PATCH = "application/merge-patch+json"
STRATEGIC_MERGE_PATCH = "application/strategic-merge-patch+json"
APPLY_PATCH = "application/apply-patch+yaml"

EventType = Literal["ADDED", "MODIFIED", "DELETED", "BOOKMARK"]


@dataclass(frozen=True, slots=True)
class WatchEvent:
    """One change; a BOOKMARK's object holds only kind and metadata.resourceVersion."""

    type: EventType
    object: Object


@dataclass(frozen=True, slots=True)
class ObjectList:
    """A page of objects, and the revision of the whole list."""

    items: list[Object]
    resource_version: str
    continue_token: str = ""
    remaining_item_count: int | None = None


@dataclass(frozen=True, slots=True)
class DeleteOptions:
    """How an object is deleted."""

    grace_period_seconds: int | None = None
    propagation_policy: Literal["Background", "Foreground", "Orphan"] | None = None
    uid: str | None = None
    """Precondition: delete only the object with this uid."""
    resource_version: str | None = None

    def to_object(self) -> dict[str, Any]:
        """Return the DeleteOptions object of the wire."""
        options: dict[str, Any] = {"kind": "DeleteOptions", "apiVersion": "v1"}
        if self.grace_period_seconds is not None:
            options["gracePeriodSeconds"] = self.grace_period_seconds
        if self.propagation_policy is not None:
            options["propagationPolicy"] = self.propagation_policy
        wanted = {"uid": self.uid, "resourceVersion": self.resource_version}
        if preconditions := {name: value for name, value in wanted.items() if value is not None}:
            options["preconditions"] = preconditions
        return options


@dataclass(frozen=True, slots=True)
class ListOptions:
    """Which objects a list or a watch means."""

    label_selector: str = ""
    field_selector: str = ""
    limit: int = 0
    continue_token: str = ""
    resource_version: str = ""
    resource_version_match: str = ""
    allow_watch_bookmarks: bool = True
    send_initial_events: bool = False
    timeout_s: int = 0
    extra: dict[str, str] = field(default_factory=dict)


EVERYTHING = ListOptions()
DELETE_DEFAULT = DeleteOptions()


class Client(Protocol):
    """Calls of the Kubernetes API; every failure is an ApiError, of transport too (503, reason ServiceUnavailable).

    ``namespace`` is empty for cluster-scoped resources, and for all namespaces in ``list`` and ``watch``.
    """

    async def get(self, resource: Resource, name: str, namespace: str = "", *, subresource: str = "") -> Object:
        """Return one object."""
        ...

    async def list(self, resource: Resource, namespace: str = "", options: ListOptions = EVERYTHING) -> ObjectList:
        """Return one page of objects."""
        ...

    def watch(
        self, resource: Resource, namespace: str = "", options: ListOptions = EVERYTHING
    ) -> AsyncIterator[WatchEvent]:
        """Yield changes after options.resource_version until the server ends the stream; 410 raises ApiError."""
        ...

    async def create(
        self, resource: Resource, obj: Object, namespace: str = "", *, name: str = "", subresource: str = ""
    ) -> Object:
        """Create an object, or post to a subresource of ``name``; return what is stored."""
        ...

    async def update(self, resource: Resource, obj: Object, *, subresource: str = "") -> Object:
        """Replace an object, or its subresource; a stale resourceVersion raises Conflict."""
        ...

    async def patch(
        self,
        resource: Resource,
        name: str,
        patch: Any,
        namespace: str = "",
        *,
        patch_type: str = MERGE_PATCH,
        subresource: str = "",
        field_manager: str = "",
        force: bool = False,
    ) -> Object:
        """Change an object by a patch (a JSON-shaped value)."""
        ...

    async def delete(
        self, resource: Resource, name: str, namespace: str = "", options: DeleteOptions = DELETE_DEFAULT
    ) -> Object:
        """Delete an object; return it, or the Status that says so."""
        ...

    async def request(
        self, method: str, path: str, body: bytes | None = None, content_type: str = "application/json"
    ) -> bytes:
        """Send a raw REST request (discovery, health); transports without REST raise ApiError 501."""
        ...

    async def close(self) -> None:
        """Close all connections."""
        ...
