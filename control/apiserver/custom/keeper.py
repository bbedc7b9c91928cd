"""Serve what CustomResourceDefinitions define, and keep their status: names, establishment, removal.

Every API server follows the definitions by its own feed and serves what is established; all of them do the background
work too, which ends in the same status whoever is first: a write that comes too late meets a conflict and is looked at
again. A definition that is deleted goes when the last of its objects has gone.
"""

from __future__ import annotations

import asyncio
import logging

from control.api import status
from control.api.custom.definition import (
    CLEANUP_FINALIZER,
    accept,
    condition,
    is_established,
    names_held,
    terminating,
)
from control.api.custom.version import versions_of
from control.api.meta import Object
from control.api.resources import CUSTOM_RESOURCE_DEFINITIONS as DEFINITIONS
from control.apiserver.etcd import StoreError
from control.apiserver.feed import Feed
from control.apiserver.kinds import Kind
from control.apiserver.registry import now_text
from control.client.client import Client

log = logging.getLogger(__name__)

RETRY_S = 0.2
REMOVAL_POLL_S = 0.5
"""How often the objects of a definition that is being deleted are looked for: finalizers may hold them."""


class DefinitionKeeper:
    """Owns the custom kinds of one API server."""

    def __init__(self, feed: Feed, client: Client) -> None:
        self._feed = feed
        self._client = client
        self._marks: dict[str, tuple[object, ...]] = {}
        """What is served of each definition, so that a change of its status alone ends no watch."""
        self._due: asyncio.Queue[str] = asyncio.Queue()
        self._waiting: set[str] = set()

    async def start(self) -> None:
        """Serve the definitions that there are; raises StoreError."""
        self._feed.subscribe(DEFINITIONS, self._changed)
        await self._feed.warm(DEFINITIONS)

    def _changed(self, old: Object | None, new: Object | None) -> None:
        name = (new or old or {})["metadata"]["name"]
        self._serve(name, new)
        if new is not None:
            self._enqueue(name)
        else:
            # Names that it held are free for others.
            for other in self._feed.list(DEFINITIONS):
                self._enqueue(other["metadata"]["name"])

    def _enqueue(self, name: str) -> None:
        if name not in self._waiting:
            self._waiting.add(name)
            self._due.put_nowait(name)

    def _serve(self, name: str, definition: Object | None) -> None:
        if definition is not None and not is_established(definition):
            definition = None
        mark: tuple[object, ...] = ()
        if definition is not None:
            metadata, found = definition["metadata"], definition.get("status") or {}
            ending = bool(metadata.get("deletionTimestamp"))
            mark = (metadata["uid"], metadata.get("generation"), ending, str(found.get("acceptedNames")))
        if mark == self._marks.get(name, ()):
            return
        kinds = self._feed.kinds
        prefixes = {kinds.key_prefix(kind) for kind in kinds.custom(name)}
        try:
            kinds.set_custom(name, versions_of(definition) if definition is not None else ())
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            log.error("definition cannot be served name=%s error=%r", name, error)
            kinds.set_custom(name, ())
        self._marks[name] = mark
        if not mark:
            del self._marks[name]
        for prefix in prefixes:
            self._feed.forget(prefix)

    async def run(self) -> None:
        """Keep every definition's status until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            while True:
                name = await self._due.get()
                self._waiting.discard(name)
                again_s = await self._tend(name)
                if again_s:
                    tasks.create_task(self._later(name, again_s))

    async def _later(self, name: str, delay_s: float) -> None:
        await asyncio.sleep(delay_s)
        self._enqueue(name)

    async def _tend(self, name: str) -> float:
        """Do what is due for one definition; return after how many seconds to look again, 0 for not by itself."""
        definition = self._feed.get(DEFINITIONS, name)
        if definition is None:
            return 0
        try:
            if definition["metadata"].get("deletionTimestamp"):
                return await self._remove(definition)
            wanted = accept(definition, self._taken(definition), now_text())
            if wanted != definition.get("status"):
                await self._client.update(DEFINITIONS, {**definition, "status": wanted}, subresource="status")
        except status.ApiError as error:
            if error.reason not in ("Conflict", "NotFound"):
                log.warning("definition's status is not kept, trying again name=%s error=%s", name, error)
            return RETRY_S if error.reason != "NotFound" else 0
        except (StoreError, TimeoutError) as error:
            log.warning("definition's status is not kept, trying again name=%s error=%s", name, error)
            return RETRY_S
        return 0

    def _taken(self, definition: Object) -> dict[str, str]:
        """Return the names that other definitions of the group hold."""
        found: dict[str, str] = {}
        group, name = definition["spec"]["group"], definition["metadata"]["name"]
        for other in self._feed.list(DEFINITIONS):
            if other["spec"]["group"] == group and other["metadata"]["name"] != name:
                found.update(names_held(other))
        return found

    async def _remove(self, definition: Object) -> float:
        """Remove all objects of a definition, then let it go."""
        name = definition["metadata"]["name"]
        if CLEANUP_FINALIZER not in (definition["metadata"].get("finalizers") or ()):
            return 0
        if condition(definition, "Terminating") != "True":
            told = "CustomResource deletion is in progress"
            wanted = terminating(definition, "InstanceDeletionInProgress", told, now_text())
            await self._client.update(DEFINITIONS, {**definition, "status": wanted}, subresource="status")
            return 0
        storage = next((kind for kind in self._feed.kinds.custom(name) if kind.custom and kind.custom.is_storage), None)
        if storage is not None and await self._delete_objects(storage):
            return REMOVAL_POLL_S
        metadata = dict(definition["metadata"])
        metadata["finalizers"] = [each for each in metadata["finalizers"] if each != CLEANUP_FINALIZER]
        await self._client.update(DEFINITIONS, {**definition, "metadata": metadata}, subresource="status")
        return 0

    async def _delete_objects(self, kind: Kind) -> int:
        """Delete every object of a kind; return how many there were."""
        # As they are stored: a definition must be able to go when its conversion webhook has gone before it.
        resource = kind.resource
        await self._feed.fresh()
        found = list((await self._feed.cache(kind)).entries.values())
        for entry in found:
            metadata = entry.object()["metadata"]
            if metadata.get("deletionTimestamp"):
                continue
            try:
                await self._client.delete(resource, metadata["name"], metadata.get("namespace", ""))
            except status.ApiError as error:
                if error.reason != "NotFound":
                    raise
        return len(found)
