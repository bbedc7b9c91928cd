"""The one registry behind every kind: how objects are created, changed and deleted; ``reads`` has how they are read.

A write starts from the cached object; where the store knows a newer one the write is
computed again from that. What differs between kinds stands in ``strategy`` and in the facts of ``control.api``.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache

import orjson

from control.api import status
from control.api.cel.errors import TooLongError
from control.api.meta import Object
from control.api.resources import Resource
from control.api.tracking import keep_readable, same_but_times
from control.api.validation.faults import Faults
from control.apiserver import objects, strategy
from control.apiserver.cache import Entry, read_stored
from control.apiserver.custom.conversion import Conversions
from control.apiserver.etcd import Etcd, KeyExistsError, KeyValue, RevisionMismatchError, StoreError, TooLargeError
from control.apiserver.feed import Feed
from control.apiserver.kinds import Kind
from control.apiserver.reads import Reads
from control.apiserver.request import Admission, AdmissionRequest, Allocation, Allocator, RequestOptions, UserInfo

log = logging.getLogger(__name__)

NAME_LETTERS = "bcdfghjklmnpqrstvwxz2456789"
GENERATED_SUFFIX = 5
GENERATED_BASE_MAX = 63 - GENERATED_SUFFIX
_PAIRS = [first + second for first in NAME_LETTERS for second in NAME_LETTERS]
_VARIANTS = dict(zip("0123456789abcdef", "89ab" * 4, strict=True))
CREATE_ATTEMPTS = 8
UPDATE_ATTEMPTS = 8
NO_UNIQUE_NAME = ", the server was not able to generate a unique name for the object"

Change = Callable[[Object], Awaitable[Object]]
"""Makes the wished object of the stored one, which it must not change; may raise ApiError."""


@dataclass(slots=True)
class Context:
    """Who writes, and how."""

    user: UserInfo
    options: RequestOptions = field(default_factory=RequestOptions)
    warnings: list[str] = field(default_factory=list)
    created: bool = False
    """Set where an update created what it found missing."""
    written: Entry | None = None
    """The object as it was stored, once it was and where its kind is in memory."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What the registry takes from the server's configuration."""

    event_ttl_s: int = 3600


def now_text() -> str:
    """Return the time as metadata holds it."""
    return _second_text(int(time.time()))


@lru_cache(maxsize=2)
def _second_text(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def new_uid() -> str:
    """Return a random UUID (RFC 9562, version 4); by hand, since each new object waits for one."""
    drawn = os.urandom(16).hex()
    variant = _VARIANTS[drawn[16]]
    return f"{drawn[:8]}-{drawn[8:12]}-4{drawn[13:16]}-{variant}{drawn[17:20]}-{drawn[20:]}"


def generated_name(base: str) -> str:
    """Return a name that nobody has, beginning with ``base``."""
    draw = random.random
    first, second = _PAIRS[int(draw() * len(_PAIRS))], _PAIRS[int(draw() * len(_PAIRS))]
    return f"{base[:GENERATED_BASE_MAX]}{first}{second}{NAME_LETTERS[int(draw() * len(NAME_LETTERS))]}"


def stored_bytes(obj: Object) -> bytes:
    """Return the object as it is stored: without what the store itself knows."""
    metadata = {name: value for name, value in obj["metadata"].items() if name not in ("resourceVersion", "selfLink")}
    return orjson.dumps({**obj, "metadata": metadata})


class Registry(Reads):
    """Generic storage of all kinds."""

    def __init__(self, store: Etcd, feed: Feed, settings: Settings) -> None:
        super().__init__(store, feed)
        self.settings = settings
        self.conversions = Conversions()
        self.admission: Admission
        self.allocators: Mapping[Resource, Allocator] = {}

    async def _stored_form(self, kind: Kind, obj: Object) -> bytes:
        return stored_bytes(await self.conversions.one(obj, self.kinds.storage(kind)) if kind.custom else obj)

    # Creating.

    async def create(self, kind: Kind, namespace: str, obj: Object, context: Context) -> Object:
        """Store a new object and return it."""
        resource = kind.resource
        metadata = obj.setdefault("metadata", {})
        self._check_new_metadata(kind, namespace, metadata)
        request = AdmissionRequest(
            "CREATE",
            resource,
            context.user,
            namespace,
            metadata.get("name") or "",
            object=obj,
            dry_run=context.options.dry_run,
            warnings=context.warnings,
        )
        await self._admit(request)
        obj, metadata = request.object or obj, (request.object or obj)["metadata"]
        metadata["uid"] = new_uid()
        metadata["creationTimestamp"] = now_text()
        base = "" if metadata.get("name") else metadata.get("generateName") or ""
        for attempt in range(CREATE_ATTEMPTS):
            if base:
                metadata["name"] = generated_name(base)
            request.name = metadata.get("name") or ""
            if attempt == 0:
                strategy.prepare_create(kind, obj, context.user)
            try:
                return await self._store_new(kind, request, context)
            except KeyExistsError:
                if not base or attempt == CREATE_ATTEMPTS - 1:
                    found = status.already_exists(resource.plural, request.name, resource.group)
                    if await self._is_ending(kind, namespace, request.name):
                        found.status["message"] = "object is being deleted: " + found.status["message"]
                    if base:
                        found.status["message"] += NO_UNIQUE_NAME
                    raise found from None
        raise AssertionError("unreachable")

    async def _is_ending(self, kind: Kind, namespace: str, name: str) -> bool:
        try:
            found = await self._stored(kind, namespace, name)
            return found is not None and bool(orjson.loads(found.value)["metadata"].get("deletionTimestamp"))
        except (status.ApiError, StoreError, ValueError, KeyError, TypeError):
            return False  # It is there, which is all that is certain: it cannot be read.

    async def _admit(self, request: AdmissionRequest) -> None:
        """Let admission change the object; what it may have made of the entries of owners must be readable."""
        assert request.object is not None
        before = request.object["metadata"].get("managedFields")
        await self.admission.mutate(request)
        keep_readable(request.object or {"metadata": {}}, before, request.warnings)

    @staticmethod
    def _check_new_metadata(kind: Kind, namespace: str, metadata: Object) -> None:
        if kind.resource.namespaced:
            if metadata.setdefault("namespace", namespace) != namespace:
                raise status.bad_request(
                    "the namespace of the provided object does not match the namespace sent on the request"
                )
        else:
            metadata.pop("namespace", None)
        if metadata.get("resourceVersion"):
            raise status.bad_request("resourceVersion should not be set on objects to be created")
        for name in ("resourceVersion", "selfLink", "deletionTimestamp", "deletionGracePeriodSeconds", "generation"):
            metadata.pop(name, None)

    async def _store_new(self, kind: Kind, request: AdmissionRequest, context: Context) -> Object:
        obj = request.object
        assert obj is not None
        allocator = self.allocators.get(kind.resource)
        allocation = await allocator.allocate(request) if allocator is not None else None
        try:
            try:
                objects.validate(kind, obj, None)
            except TooLongError:
                await objects.validate_aside(kind, obj, None)
            await self.admission.validate(request)
            if context.options.dry_run:
                await _roll_back(allocation)
                return obj
            ttl_s = self.settings.event_ttl_s if kind.key_prefix == "events" else 0
            key = self.kinds.key(kind, request.namespace, obj["metadata"]["name"])
            try:
                revision = await self.store.create(key, await self._stored_form(kind, obj), ttl_s)
            except TooLargeError:
                if obj["metadata"].pop("managedFields", None) is None:
                    raise
                # Better an object that nobody owns than none.
                revision = await self.store.create(key, await self._stored_form(kind, obj), ttl_s)
        except BaseException as error:
            await _roll_back(allocation)
            await _reverse(request, error)
            raise
        return await self._stored_now(kind, obj, revision, allocation, context)

    async def _stored_now(
        self, kind: Kind, obj: Object, revision: int, allocation: Allocation | None, context: Context
    ) -> Object:
        """Return an object as it stands in the store since ``revision``."""
        obj["metadata"]["resourceVersion"] = str(revision)
        if allocation is not None:
            await allocation.commit(obj)
        storage = self.kinds.storage(kind)
        if storage is kind and (cache := self.feed.loaded(kind)) is not None:
            context.written = cache.written(obj, revision)
        elif storage is not kind and kind.custom is not None and kind.custom.webhook is None:
            # What the stored version has no field for is gone.
            stored = await self.conversions.one(obj, storage)
            return await self.conversions.one(read_stored(storage, orjson.dumps(stored)), kind)
        return obj

    # Changing.

    async def update(
        self, kind: Kind, namespace: str, name: str, change: Change, context: Context, subresource: str = ""
    ) -> Object:
        """Replace the stored object by what ``change`` makes of it, again and again until nobody came between."""
        found, newest = await self.current(kind, namespace, name)
        for _ in range(UPDATE_ATTEMPTS):
            if found is None:
                raise status.not_found(kind.resource.plural, name, kind.resource.group)
            held = found
            try:
                made = await self._update_once(kind, namespace, name, held, change, context, subresource)
                if newest or made["metadata"].get("resourceVersion") != str(held.revision):
                    return made
                # Nothing was written: what was wished for is what memory holds, which may be outdated.
                found, newest = await self._stored(kind, namespace, name), True
                if found is not None and found.revision == held.revision:
                    return made
            except RevisionMismatchError as mismatch:
                found, newest = mismatch.current, True
            except status.ApiError:
                if newest:
                    raise
                # The refusal may come from an outdated object in memory.
                stored, newest = await self._stored(kind, namespace, name), True
                if stored is not None and stored.revision == held.revision:
                    raise
                found = stored
        raise status.conflict(kind.resource.plural, name, kind.resource.group)

    async def _update_once(
        self, kind: Kind, namespace: str, name: str, found: KeyValue, change: Change, context: Context, subresource: str
    ) -> Object:
        old = read_stored(self.kinds.storage(kind), found.value)
        old["metadata"]["resourceVersion"] = str(found.revision)
        outdated = False
        if kind.custom is not None:
            outdated = old.get("apiVersion") != self.kinds.storage(kind).resource.api_version
            old = await self.conversions.one(old, kind)
        obj = await change(old)
        obj.setdefault("metadata", {})
        self._check_preconditions(kind, name, obj, old)
        _keep_identity(obj, old)
        obj = strategy.prepare_update(kind, obj, old, subresource)
        request = AdmissionRequest(
            "UPDATE",
            kind.resource,
            context.user,
            namespace,
            name,
            subresource,
            obj,
            old,
            dry_run=context.options.dry_run,
            warnings=context.warnings,
        )
        # A binding was admitted as what it is; the pod that it changes is not judged as if its owner had sent it.
        if subresource != "binding":
            await self._admit(request)
        obj = request.object or obj
        allocator = self.allocators.get(kind.resource) if not subresource else None
        allocation = await allocator.allocate(request) if allocator is not None else None
        try:
            try:
                objects.validate(kind, obj, old, subresource)
            except TooLongError:
                await objects.validate_aside(kind, obj, old, subresource)
            if subresource != "binding":
                await self.admission.validate(request)
            if context.options.dry_run:
                await _roll_back(allocation)
                return obj
            revision, stands = await self._replace(kind, obj, None if outdated else old, found)
        except BaseException as error:
            await _roll_back(allocation)
            await _reverse(request, error)
            raise
        if stands:
            return await self._stored_now(kind, obj, revision, allocation, context)
        obj["metadata"]["resourceVersion"] = str(revision)
        if allocation is not None:
            await allocation.commit(obj)
        return obj

    async def _replace(self, kind: Kind, obj: Object, old: Object | None, found: KeyValue) -> tuple[int, bool]:
        """Store the new object, or delete it where the change was the last thing that its deletion waited for.

        What is as it was is not written again, unless it is stored in another version (``old`` is None). Return the
        revision, and whether the object was written at it.
        """
        metadata = obj["metadata"]
        if metadata.get("deletionTimestamp") and deletion_is_complete(obj):
            revision = await self.store.delete(found.key, found.revision)
            await self.after_deletion(kind, obj)
            return revision, False
        if old is not None and same_but_times(obj, old):
            metadata["managedFields"] = old["metadata"]["managedFields"]
        if obj == old and _sorted(obj) == _sorted(old) and not await self.store.stale(found.key):
            return found.revision, False
        ttl_s = self.settings.event_ttl_s if kind.key_prefix == "events" else 0
        try:
            data = await self._stored_form(kind, obj)
            return await self.store.update(found.key, data, found.revision, ttl_s), True
        except TooLargeError:
            if metadata.pop("managedFields", None) is None:
                raise
            data = await self._stored_form(kind, obj)
            return await self.store.update(found.key, data, found.revision, ttl_s), True

    async def after_deletion(self, kind: Kind, deleted: Object) -> None:
        """Free what the object held outside of itself."""
        if (allocator := self.allocators.get(kind.resource)) is not None:
            await allocator.release(deleted)

    @staticmethod
    def _check_preconditions(kind: Kind, name: str, obj: Object, old: Object) -> None:
        wanted, stored = obj["metadata"], old["metadata"]
        resource = kind.resource
        if not wanted.get("name"):
            raise status.bad_request(
                f"the name of the object ({name} based on URL) was undeterminable: name must be provided"
            )
        if wanted["name"] != name:
            raise status.bad_request(
                f"the name of the object ({wanted['name']}) does not match the name on the URL ({name})"
            )
        if wanted.get("namespace", stored.get("namespace")) != stored.get("namespace"):
            raise status.bad_request(
                "the namespace of the provided object does not match the namespace sent on the request"
            )
        uid = wanted.get("uid")
        if uid and uid != stored["uid"]:
            text = f"Precondition failed: UID in precondition: {uid}, UID in object meta: {stored['uid']}"
            raise status.conflict(resource.plural, name, resource.group, text)
        revision = wanted.get("resourceVersion")
        if revision in (None, "", "0") and not strategy.allows_blind_update(kind):
            faults = Faults()
            faults.invalid("metadata.resourceVersion", 0, "must be specified for an update")
            raise status.invalid(resource.plural, name, faults.causes, resource.group)
        if revision and revision != "0" and revision != stored["resourceVersion"]:
            raise status.conflict(resource.plural, name, resource.group)


def _keep_identity(obj: Object, old: Object) -> None:
    """Take from the stored object what no update may change."""
    metadata, stored = obj["metadata"], old["metadata"]
    for name in (
        "name", "namespace", "uid", "creationTimestamp", "generation", "deletionTimestamp",
        "deletionGracePeriodSeconds", "generateName", "resourceVersion",
    ):  # fmt: skip
        if name in stored:
            metadata[name] = stored[name]
        elif name != "deletionTimestamp" or not metadata.get(name):
            # That a deletion has begun, nobody may claim: it is left there to be refused.
            metadata.pop(name, None)
    metadata.pop("selfLink", None)
    obj.setdefault("apiVersion", old.get("apiVersion"))
    obj.setdefault("kind", old.get("kind"))


def _sorted(obj: Object) -> bytes:
    """Return bytes that differ where values do: to Python, true is 1 and 1 is 1.0."""
    return orjson.dumps(obj, option=orjson.OPT_SORT_KEYS)


def deletion_is_complete(obj: Object) -> bool:
    """Tell whether nothing holds back an object whose deletion has begun."""
    metadata = obj["metadata"]
    waits = metadata.get("finalizers") or metadata.get("deletionGracePeriodSeconds")
    held_by_spec = obj.get("kind") == "Namespace" and obj.get("spec", {}).get("finalizers")
    return not waits and not held_by_spec


async def _roll_back(allocation: Allocation | None) -> None:
    if allocation is not None:
        # The request may be cancelled here, and what was taken must not stay taken.
        await asyncio.shield(allocation.rollback())


async def _reverse(request: AdmissionRequest, error: BaseException) -> None:
    """Undo what admission wrote for a write that was not stored; what is not certain, controllers find out."""
    reversals, request.reversals = request.reversals, None
    if reversals and isinstance(error, (status.ApiError, KeyExistsError, RevisionMismatchError)):
        for reverse in reversals:
            await reverse()
