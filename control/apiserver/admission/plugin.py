"""What an admission plugin is, and the words that several of them share."""

from __future__ import annotations

from control.api.meta import Object
from control.api.resources import Resource
from control.api.status import ApiError, forbidden
from control.apiserver.request import AdmissionRequest


class Plugin:
    """One admission plugin; each half may be left as it is here, where it does nothing."""

    about: tuple[Resource, ...] = ()
    """The resources whose writes it looks at, in whichever version; none means all."""

    async def mutate(self, request: AdmissionRequest) -> None:
        """Complete request.object, or refuse with ApiError."""

    async def validate(self, request: AdmissionRequest) -> None:
        """Refuse with ApiError; change nothing."""


def concerns(request: AdmissionRequest, resource: Resource, *operations: str, subresource: str = "") -> bool:
    """Whether the request is one of these operations on this resource."""
    return (
        request.resource.plural == resource.plural
        and request.resource.group == resource.group
        and request.subresource == subresource
        and request.operation in operations
    )


def denied(request: AdmissionRequest, text: str) -> ApiError:
    """Upstream's 403 of an admission plugin."""
    return forbidden(request.resource.plural, object_name(request), text, request.resource.group)


def object_name(request: AdmissionRequest) -> str:
    """The name that a refusal shows: the object's own, or what its name would begin with."""
    metadata = (request.object or {}).get("metadata") or {}
    return request.name or str(metadata.get("name") or metadata.get("generateName") or "")


def spec_of(obj: Object | None) -> Object:
    """The spec to read from; empty where there is none."""
    return (obj or {}).get("spec") or {}
