"""An API server in memory: a Client that interprets what it is asked, for tests of components.

It keeps what components rely on: revisions and conflicts, uids, generations, status apart from the rest,
finalizers and graceful deletion, selectors, pages, watches with 410 and bookmarks. It neither validates nor
defaults. Tests reach in through `put`, `objects`, `calls`, `fail_next`, `compact`, `break_watches` and `now`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import orjson

from control.api import meta, selectors, status
from control.api.meta import Object
from control.api.resources import NODES, PODS, Resource
from control.client.client import (
    APPLY_PATCH,
    DELETE_DEFAULT,
    EVERYTHING,
    JSON_PATCH,
    MERGE_PATCH,
    STRATEGIC_MERGE_PATCH,
    DeleteOptions,
    EventType,
    ListOptions,
    ObjectList,
    WatchEvent,
)
from tests.fakes.fake_patch import json_patch, merge_patch, strategic_merge_patch

DEFAULT_GRACE_S = 30
FOREGROUND = "foregroundDeletion"
ORPHAN = "orphan"

Collection = tuple[str, str]


@dataclass(frozen=True)
class Call:
    """One request that the fake was sent."""

    verb: str
    resource: str
    namespace: str
    name: str
    subresource: str = ""
    body: Any = None


@dataclass(frozen=True)
class Change:
    """One entry of the history that watches read."""

    revision: int
    collection: Collection
    type: EventType
    object: Object
    old: Object | None


def copied(value: Any) -> Any:
    """Return a deep copy of a JSON-shaped value."""
    return orjson.loads(orjson.dumps(value))


def field_value(obj: Object, path: str) -> str:
    """Return the text of a field as field selectors compare it."""
    value: Any = obj
    for part in path.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    if isinstance(value, bool):
        return "true" if value else "false"
    return "" if value is None else str(value)


def fields_match(obj: Object, selector: str) -> bool:
    """Tell whether an object meets a field selector."""
    for term in filter(None, selector.split(",")):
        if "!=" in term:
            path, _, value = term.partition("!=")
            if field_value(obj, path) == value:
                return False
        else:
            path, _, value = term.partition("=")
            if field_value(obj, path) != value.removeprefix("="):
                return False
    return True


def matcher(namespace: str, options: ListOptions) -> Callable[[Object], bool]:
    """Return the test that a list or a watch makes of each object."""
    labels = selectors.parse(options.label_selector)

    def matches(obj: Object) -> bool:
        if namespace and meta.namespace(obj) != namespace:
            return False
        return labels.matches(meta.labels(obj)) and fields_match(obj, options.field_selector)

    return matches


class FakeClient:
    """A Client over objects in memory."""

    def __init__(self, now: Callable[[], datetime] | None = None) -> None:
        self.revision = 1
        self.calls: list[Call] = []
        self.now = now or (lambda: datetime.now(UTC))
        self.raw: dict[tuple[str, str], bytes] = {}
        """What `request` answers, by (method, path)."""
        self.closed = False
        self._objects: dict[Collection, dict[str, Object]] = {}
        self._history: list[Change] = []
        self._compacted = 0
        self._uid = 0
        self._changed = asyncio.Event()
        self._watch_generation = 0
        self._failures: list[tuple[str, str, status.ApiError]] = []

    # What tests use.

    def put(self, resource: Resource, obj: Object) -> Object:
        """Store an object as it is, status included, creating or replacing it."""
        obj = copied(obj)
        obj.setdefault("apiVersion", resource.api_version)
        obj.setdefault("kind", resource.kind)
        old = self._collection(resource).get(meta.key(obj))
        self._stamp_new(obj, old)
        return self._write(resource, obj, old)

    def objects(self, resource: Resource, namespace: str = "") -> list[Object]:
        """Return copies of the stored objects, by key."""
        found = sorted(self._collection(resource).items())
        return [copied(obj) for _, obj in found if not namespace or meta.namespace(obj) == namespace]

    def find(self, resource: Resource, name: str, namespace: str = "") -> Object | None:
        """Return a copy of one stored object, or None."""
        found = self._collection(resource).get(f"{namespace}/{name}" if namespace else name)
        return copied(found) if found is not None else None

    def remove(self, resource: Resource, name: str, namespace: str = "") -> None:
        """Remove an object at once, whatever its finalizers."""
        self._erase(resource, self._must(resource, name, namespace))

    def fail_next(self, verb: str, resource: Resource | None = None, error: status.ApiError | None = None) -> None:
        """Make the next request of a verb (on a resource) fail once."""
        plural = resource.plural if resource else ""
        self._failures.append((verb, plural, error or status.service_unavailable("told to fail")))

    def forget_failures(self) -> None:
        """Fail no more."""
        self._failures.clear()

    def compact(self) -> None:
        """Forget the history: a watch from an older revision gets 410."""
        self._compacted = self.revision
        self._history.clear()

    def break_watches(self) -> None:
        """End every open watch."""
        self._watch_generation += 1
        self._wake()

    def verbs(self, resource: Resource) -> list[str]:
        """Return the verbs of the writes that a resource was sent."""
        reads = ("get", "list", "watch")
        return [call.verb for call in self.calls if call.resource == resource.plural and call.verb not in reads]

    # What components use: the Client protocol.

    async def get(self, resource: Resource, name: str, namespace: str = "", *, subresource: str = "") -> Object:
        await self._enter("get", resource, namespace, name, subresource)
        return copied(self._must(resource, name, namespace))  # type: ignore[no-any-return]

    async def list(self, resource: Resource, namespace: str = "", options: ListOptions = EVERYTHING) -> ObjectList:
        await self._enter("list", resource, namespace, "")
        matches = matcher(namespace, options)
        found = [copied(obj) for _, obj in sorted(self._collection(resource).items()) if matches(obj)]
        start = int(options.continue_token or 0)
        end = start + options.limit if options.limit else len(found)
        more = end < len(found)
        return ObjectList(
            found[start:end], str(self.revision), str(end) if more else "", len(found) - end if more else None
        )

    async def watch(
        self, resource: Resource, namespace: str = "", options: ListOptions = EVERYTHING
    ) -> AsyncIterator[WatchEvent]:
        await self._enter("watch", resource, namespace, "")
        matches = matcher(namespace, options)
        collection, generation = (resource.group, resource.plural), self._watch_generation
        if options.resource_version in ("", "0"):
            position = self.revision
            for _, obj in sorted(self._collection(resource).items()):
                if matches(obj):
                    yield WatchEvent("ADDED", copied(obj))
        else:
            position = int(options.resource_version)
        while generation == self._watch_generation:
            if position < self._compacted:
                raise status.expired(f"too old resource version: {position} ({self._compacted})")
            news = [c for c in self._history if c.revision > position and c.collection == collection]
            for change in news:
                event = self._seen_as(change, matches)
                if event is not None:
                    yield event
            position = max(position, self.revision if not news else news[-1].revision)
            if self.revision == position and generation == self._watch_generation:
                self._changed.clear()
                await self._changed.wait()

    async def create(
        self, resource: Resource, obj: Object, namespace: str = "", *, name: str = "", subresource: str = ""
    ) -> Object:
        await self._enter("create", resource, namespace, name or meta.name(obj), subresource, obj)
        if subresource:
            return self._create_subresource(resource, name, namespace, subresource, obj)
        obj = copied(obj)
        obj.setdefault("apiVersion", resource.api_version)
        obj.setdefault("kind", resource.kind)
        metadata = meta.metadata(obj)
        if resource.namespaced:
            metadata.setdefault("namespace", namespace)
            if not metadata["namespace"]:
                raise status.bad_request("an empty namespace may not be set during creation")
        if not metadata.get("name") and metadata.get("generateName"):
            metadata["name"] = f"{metadata['generateName']}{self._uid + 1:05d}"
        if meta.key(obj) in self._collection(resource):
            raise status.already_exists(resource.plural, meta.name(obj), resource.group)
        for given in ("uid", "resourceVersion", "creationTimestamp", "deletionTimestamp"):
            metadata.pop(given, None)
        self._stamp_new(obj, None)
        return copied(self._write(resource, obj, None))  # type: ignore[no-any-return]

    async def update(self, resource: Resource, obj: Object, *, subresource: str = "") -> Object:
        await self._enter("update", resource, meta.namespace(obj), meta.name(obj), subresource, obj)
        old = self._must(resource, meta.name(obj), meta.namespace(obj))
        return self._change(resource, old, copied(obj), subresource)

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
        await self._enter("patch", resource, namespace, name, subresource, patch)
        old = self._must(resource, name, namespace)
        if patch_type == JSON_PATCH:
            try:
                new = json_patch(old, patch)
            except (ValueError, KeyError, IndexError) as error:
                raise status.failure(422, "Invalid", f"the server rejected our request: {error}") from None
        elif patch_type in (STRATEGIC_MERGE_PATCH, APPLY_PATCH):
            new = strategic_merge_patch(old, patch)
        else:
            new = merge_patch(old, patch)
        return self._change(resource, old, copied(new), subresource)

    async def delete(
        self, resource: Resource, name: str, namespace: str = "", options: DeleteOptions = DELETE_DEFAULT
    ) -> Object:
        await self._enter("delete", resource, namespace, name, body=options)
        old = self._must(resource, name, namespace)
        self._check_preconditions(resource, old, options)
        obj = copied(old)
        metadata = meta.metadata(obj)
        finalizers = set(metadata.get("finalizers") or ())
        if options.propagation_policy == "Foreground":
            finalizers.add(FOREGROUND)
        if options.propagation_policy == "Orphan":
            finalizers.add(ORPHAN)
        if resource.kind == "Namespace" and (obj.get("spec") or {}).get("finalizers"):
            finalizers.add("kubernetes")
            obj.setdefault("status", {})["phase"] = "Terminating"
        grace = self._grace(resource, obj, options)
        if not finalizers and grace == 0:
            self._erase(resource, old)
            return copied(old)  # type: ignore[no-any-return]
        metadata["finalizers"] = sorted(finalizers - {"kubernetes"})
        if not metadata["finalizers"]:
            del metadata["finalizers"]
        if not metadata.get("deletionTimestamp"):
            metadata["deletionTimestamp"] = self._timestamp()
            metadata["deletionGracePeriodSeconds"] = grace
            metadata["generation"] = metadata.get("generation", 1) + 1
        else:
            metadata["deletionGracePeriodSeconds"] = min(grace, metadata.get("deletionGracePeriodSeconds", grace))
        if obj == old:
            return copied(old)  # type: ignore[no-any-return]
        return copied(self._write(resource, obj, old))  # type: ignore[no-any-return]

    async def request(
        self, method: str, path: str, body: bytes | None = None, content_type: str = "application/json"
    ) -> bytes:
        self.calls.append(Call(method, path, "", "", "", body))
        if (method, path) not in self.raw:
            raise status.failure(404, "NotFound", "the server could not find the requested resource")
        return self.raw[method, path]

    async def close(self) -> None:
        self.closed = True
        self.break_watches()

    # Inside.

    async def _enter(
        self, verb: str, resource: Resource, namespace: str, name: str, subresource: str = "", body: Any = None
    ) -> None:
        self.calls.append(Call(verb, resource.plural, namespace, name, subresource, copied_body(body)))
        for index, (wanted, plural, error) in enumerate(self._failures):
            if wanted == verb and plural in ("", resource.plural):
                del self._failures[index]
                raise error
        await asyncio.sleep(0)

    def _collection(self, resource: Resource) -> dict[str, Object]:
        return self._objects.setdefault((resource.group, resource.plural), {})

    def _must(self, resource: Resource, name: str, namespace: str) -> Object:
        found = self._collection(resource).get(f"{namespace}/{name}" if namespace and resource.namespaced else name)
        if found is None:
            raise status.not_found(resource.plural, name, resource.group)
        return found

    def _timestamp(self) -> str:
        return self.now().astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")

    def _stamp_new(self, obj: Object, old: Object | None) -> None:
        metadata = meta.metadata(obj)
        if old is None:
            self._uid += 1
            metadata.setdefault("uid", f"uid-{self._uid:04d}")
            metadata.setdefault("creationTimestamp", self._timestamp())
            metadata.setdefault("generation", 1)
        else:
            for name in ("uid", "creationTimestamp"):
                metadata.setdefault(name, old["metadata"].get(name))

    def _write(self, resource: Resource, obj: Object, old: Object | None) -> Object:
        self.revision += 1
        meta.metadata(obj)["resourceVersion"] = str(self.revision)
        self._collection(resource)[meta.key(obj)] = obj
        kind: EventType = "ADDED" if old is None else "MODIFIED"
        self._history.append(Change(self.revision, (resource.group, resource.plural), kind, copied(obj), old))
        self._wake()
        return obj

    def _erase(self, resource: Resource, old: Object) -> None:
        self.revision += 1
        self._collection(resource).pop(meta.key(old), None)
        gone = copied(old)
        gone["metadata"]["resourceVersion"] = str(self.revision)
        self._history.append(Change(self.revision, (resource.group, resource.plural), "DELETED", gone, old))
        self._wake()

    def _wake(self) -> None:
        self._changed.set()

    def _seen_as(self, change: Change, matches: Callable[[Object], bool]) -> WatchEvent | None:
        """Return the change as a watch with a selector sees it: objects enter and leave its view."""
        before = change.old is not None and matches(change.old)
        after = change.type != "DELETED" and matches(change.object)
        if after:
            return WatchEvent("MODIFIED" if before else "ADDED", copied(change.object))
        return WatchEvent("DELETED", copied(change.object)) if before else None

    def _change(self, resource: Resource, old: Object, new: Object, subresource: str) -> Object:
        """Store an update: conflicts, status apart, generation, and removal when the last finalizer goes."""
        where = (resource.plural, meta.name(old), resource.group)
        if meta.uid(new) not in ("", meta.uid(old)):
            raise status.conflict(*where, text="Precondition failed: UID in precondition does not match")
        if meta.resource_version(new) not in ("", meta.resource_version(old)):
            raise status.conflict(*where)
        result = self._composed(old, new, subresource)
        metadata, before = meta.metadata(result), old["metadata"]
        for fixed in ("uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds", "generation"):
            metadata.pop(fixed, None)
            if fixed in before:
                metadata[fixed] = before[fixed]
        metadata["resourceVersion"] = before["resourceVersion"]
        if not metadata.get("finalizers"):
            metadata.pop("finalizers", None)
        if result == old:
            return copied(old)  # type: ignore[no-any-return]
        if not subresource and {k: v for k, v in result.items() if k not in ("metadata", "status")} != {
            k: v for k, v in old.items() if k not in ("metadata", "status")
        }:
            metadata["generation"] = before.get("generation", 1) + 1
        if self._finished(resource, result):
            self._erase(resource, result)
            return copied(result)  # type: ignore[no-any-return]
        return copied(self._write(resource, result, old))  # type: ignore[no-any-return]

    def _finished(self, resource: Resource, obj: Object) -> bool:
        metadata = obj["metadata"]
        if not metadata.get("deletionTimestamp") or metadata.get("finalizers"):
            return False
        if resource.kind == "Namespace" and (obj.get("spec") or {}).get("finalizers"):
            return False
        return not metadata.get("deletionGracePeriodSeconds")

    def _composed(self, old: Object, new: Object, subresource: str) -> Object:
        if subresource == "status":
            result: Object = copied(old)
            result["status"] = new.get("status") or {}
            for name in ("annotations", "labels"):
                if (new.get("metadata") or {}).get(name) is not None:
                    result["metadata"][name] = new["metadata"][name]
            return result
        if subresource == "scale":
            result = copied(old)
            result["spec"]["replicas"] = new["spec"]["replicas"]
            return result
        if subresource in ("finalize", "approval", "ephemeralcontainers"):
            return new
        result = dict(new)
        result.pop("status", None)
        if "status" in old:
            result["status"] = old["status"]
        return result

    def _create_subresource(
        self, resource: Resource, name: str, namespace: str, subresource: str, obj: Object
    ) -> Object:
        old = self._must(resource, name, namespace)
        if subresource == "binding":
            if (old.get("spec") or {}).get("nodeName"):
                raise status.conflict(resource.plural, name, text=f"pod {name} is already assigned to node")
            new = copied(old)
            new["spec"]["nodeName"] = obj["target"]["name"]
            scheduled = {"type": "PodScheduled", "status": "True", "lastTransitionTime": self._timestamp()}
            rest = [c for c in new.setdefault("status", {}).get("conditions") or [] if c["type"] != "PodScheduled"]
            new["status"]["conditions"] = [*rest, scheduled]
            self._write(resource, new, old)
        return {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201}

    def _check_preconditions(self, resource: Resource, old: Object, options: DeleteOptions) -> None:
        where = (resource.plural, meta.name(old), resource.group)
        if options.uid and options.uid != meta.uid(old):
            text = f"Precondition failed: UID in precondition: {options.uid}, UID in object meta: {meta.uid(old)}"
            raise status.conflict(*where, text=text)
        if options.resource_version and options.resource_version != meta.resource_version(old):
            raise status.conflict(*where)

    def _grace(self, resource: Resource, obj: Object, options: DeleteOptions) -> int:
        """Return the seconds a deletion waits for the kubelet: only a pod on a node waits."""
        spec = obj.get("spec") or {}
        if resource != PODS or not spec.get("nodeName"):
            return 0
        if (obj.get("status") or {}).get("phase") in ("Succeeded", "Failed"):
            return 0
        if options.grace_period_seconds is not None:
            return options.grace_period_seconds
        return int(spec.get("terminationGracePeriodSeconds", DEFAULT_GRACE_S))


def copied_body(body: Any) -> Any:
    """Return a copy of a request's body as tests may compare it."""
    return body if body is None or isinstance(body, DeleteOptions | bytes) else copied(body)


def ready_node(name: str, **spec: Any) -> Object:
    """Return a Node that is Ready."""
    return {
        "apiVersion": NODES.api_version,
        "kind": NODES.kind,
        "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}},
        "spec": spec,
        "status": {"conditions": [{"type": "Ready", "status": "True", "reason": "KubeletReady"}]},
    }
