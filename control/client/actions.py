"""What reconcilers ask for, and the one place that does it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from control.api import meta
from control.api.meta import Object
from control.api.resources import Resource
from control.api.status import ApiError
from control.client.client import DELETE_DEFAULT, MERGE_PATCH, Client, DeleteOptions
from control.client.events import EventKind, EventRecorder


@dataclass(frozen=True)
class Create:
    """Create an object; one of this name that exists already is as good."""

    resource: Resource
    object: Object


@dataclass(frozen=True)
class Update:
    """Replace an object or its subresource; it carries the resourceVersion that it was read at."""

    resource: Resource
    object: Object
    subresource: str = ""


@dataclass(frozen=True)
class Patch:
    """Change an object by a patch."""

    resource: Resource
    namespace: str
    name: str
    patch: Any
    subresource: str = ""
    patch_type: str = MERGE_PATCH


@dataclass(frozen=True)
class Delete:
    """Delete an object; one that is gone already is as good."""

    resource: Resource
    namespace: str
    name: str
    options: DeleteOptions = DELETE_DEFAULT


@dataclass(frozen=True)
class Tell:
    """Record an event about an object."""

    about: Object
    kind: EventKind
    reason: str
    message: str


Action: TypeAlias = Create | Update | Patch | Delete | Tell


@dataclass(frozen=True)
class Plan:
    """What a reconciler decided: actions in order, and when to look again without being told."""

    actions: tuple[Action, ...] = ()
    again_after_s: float | None = None


@dataclass
class Plans:
    """Collects a plan while a reconciler decides."""

    actions: list[Action] = field(default_factory=list)
    again_after_s: float | None = None

    def add(self, *actions: Action) -> None:
        """Add actions."""
        self.actions.extend(actions)

    def again_after(self, seconds: float | None) -> None:
        """Look again after so many seconds at the latest."""
        if seconds is not None:
            self.again_after_s = seconds if self.again_after_s is None else min(self.again_after_s, seconds)

    def plan(self) -> Plan:
        """Return what was collected."""
        return Plan(tuple(self.actions), self.again_after_s)


async def apply_one(client: Client, recorder: EventRecorder, action: Action) -> Object | None:
    """Do one action and return the object that it wrote, if any."""
    match action:
        case Create(resource, obj):
            try:
                return await client.create(resource, obj, meta.namespace(obj))
            except ApiError as error:
                if error.reason != "AlreadyExists":
                    raise
        case Update(resource, obj, subresource):
            return await client.update(resource, obj, subresource=subresource)
        case Patch(resource, namespace, name, patch, subresource, patch_type):
            return await client.patch(resource, name, patch, namespace, patch_type=patch_type, subresource=subresource)
        case Delete(resource, namespace, name, options):
            try:
                await client.delete(resource, name, namespace, options)
            except ApiError as error:
                if error.code != 404:
                    raise
        case Tell(about, kind, reason, message):
            recorder.event(about, kind, reason, message)
    return None


async def apply(client: Client, recorder: EventRecorder, actions: Iterable[Action]) -> None:
    """Do the actions in order; the first failure ends it and the key is tried again."""
    for action in actions:
        await apply_one(client, recorder, action)
