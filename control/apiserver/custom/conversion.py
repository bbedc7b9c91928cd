"""Custom objects from one version to another: by their names alone, or by the definition's own webhook.

What a webhook made of a stored object is remembered for a while, so that a thousand watches ask it once.
"""

from __future__ import annotations

import uuid
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

import orjson

from control.api import status
from control.api.custom.version import Webhook
from control.api.meta import Object
from control.api.patch import copy_json
from control.api.validation.faults import Faults
from control.api.validation.metadata import check_annotations, check_labels
from control.apiserver.convert import convert
from control.apiserver.kinds import Kind, Kinds
from control.apiserver.webhooks.caller import Caller, CallError

TIMEOUT_S = 30.0
BATCH_OBJECTS_MAX = 500
"""As many objects are converted with one question."""
REMEMBERED_BYTES_MAX = 16 << 20
REMEMBERED_MAX = 4096

_Key = tuple[str, str, str, str]
"""Definition, uid, resourceVersion and the version that was asked for."""


def judged_as(kinds: Kinds, kind: Kind) -> Kind:
    """Return the version in which objects of a kind are held to its rules: the stored one for built-in kinds.

    A custom object is completed and judged as the version that was asked for, and converted on its way to the store:
    what one version requires another may not have.
    """
    return kind if kind.custom is not None else kinds.storage(kind)


class ConversionError(ValueError):
    """A webhook did not convert what it was given; the text says why."""


class Conversions:
    """Gives objects in the version that a kind is served in."""

    def __init__(self, caller: Caller | None = None) -> None:
        self._caller = caller
        self._remembered: OrderedDict[_Key, bytes] = OrderedDict()
        self._bytes = 0

    @staticmethod
    def changes(kind: Kind) -> bool:
        """Tell whether stored objects may differ from those of a kind by more than the name of their version."""
        return kind.custom is not None and kind.custom.converts

    async def one(self, obj: Object, kind: Kind) -> Object:
        """Return one object in the kind's version; raises ApiError."""
        if not self.changes(kind) or obj.get("apiVersion") == kind.resource.api_version:
            return convert(obj, kind.resource)
        return (await self.many([obj], kind))[0]

    async def many(self, objects: Sequence[Object], kind: Kind) -> list[Object]:
        """Return objects in the kind's version, in their order; raises ApiError."""
        wanted = kind.resource.api_version
        if kind.custom is None:
            return [convert(obj, kind.resource) for obj in objects]
        if kind.custom.webhook is None:
            return [
                obj if obj.get("apiVersion") == wanted else kind.custom.cut(copy_json(convert(obj, kind.resource)))
                for obj in objects
            ]
        made = list(objects)
        keys = [_key(obj, kind) for obj in objects]
        missing: list[int] = []
        for index, obj in enumerate(objects):
            if obj.get("apiVersion") == wanted:
                continue
            if (known := self._recall(keys[index])) is not None:
                made[index] = known
            else:
                missing.append(index)
        for batch in _batches(missing):
            converted = await self._ask(kind.custom.webhook, kind, [objects[index] for index in batch])
            for index, obj in zip(batch, converted, strict=True):
                made[index] = kind.custom.cut(obj)
                self._remember(keys[index], obj)
        return made

    async def _ask(self, webhook: Webhook, kind: Kind, objects: list[Object]) -> list[Object]:
        resource = kind.resource
        about = f"conversion webhook for {objects[0].get('apiVersion')}, Kind={resource.kind}"
        if self._caller is None:
            raise status.internal_error(f"{about} failed: no webhook can be called here")
        question = review(webhook, resource.api_version, objects)
        try:
            body = await self._caller.ask(webhook.client, orjson.dumps(question), TIMEOUT_S)
        except CallError as error:
            raise status.internal_error(f"{about} failed: {error}") from None
        try:
            return read_answer(body, question, objects)
        except ConversionError as error:
            raise status.internal_error(f"{about} {error}") from None

    def _recall(self, key: _Key | None) -> Object | None:
        data = self._remembered.get(key) if key is not None else None
        if data is None or key is None:
            return None
        self._remembered.move_to_end(key)
        found: Object = orjson.loads(data)
        return found

    def _remember(self, key: _Key | None, obj: Object) -> None:
        if key is None or key in self._remembered:
            return
        data = self._remembered[key] = orjson.dumps(obj)
        self._bytes += len(data)
        while len(self._remembered) > REMEMBERED_MAX or self._bytes > REMEMBERED_BYTES_MAX:
            _, oldest = self._remembered.popitem(last=False)
            self._bytes -= len(oldest)


def _key(obj: Object, kind: Kind) -> _Key | None:
    """Return what names a stored object at one revision, None for one that is not stored as it is."""
    metadata = obj.get("metadata") or {}
    uid, revision = metadata.get("uid"), metadata.get("resourceVersion")
    # The definition's name in the facts changes with its generation: another webhook is asked anew.
    return (kind.served.definition, uid, revision, kind.resource.version) if uid and revision else None


def _batches(indexes: Sequence[int]) -> Iterator[list[int]]:
    rest = iter(indexes)
    while batch := list(islice(rest, BATCH_OBJECTS_MAX)):
        yield batch


def review(webhook: Webhook, api_version: str, objects: Sequence[Object]) -> Object:
    """Return the question: a ConversionReview."""
    request = {"uid": str(uuid.uuid4()), "desiredAPIVersion": api_version, "objects": list(objects)}
    return {
        "kind": "ConversionReview",
        "apiVersion": f"apiextensions.k8s.io/{webhook.review_version}",
        "request": request,
    }


def read_answer(body: bytes, question: Object, objects: Sequence[Object]) -> list[Object]:
    """Return the converted objects, each with the identity of its original; raises ConversionError."""
    try:
        answer = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise ConversionError(f"failed: the response is not JSON: {error}") from None
    converted = _converted(answer, question)
    if len(converted) != len(objects):
        raise ConversionError(f"returned {len(converted)} objects, expected {len(objects)}")
    wanted = question["request"]["desiredAPIVersion"]
    for index, (original, made) in enumerate(zip(objects, converted, strict=True)):
        about = f"returned invalid converted object at index {index}"
        if not isinstance(made, dict):
            raise ConversionError(f"{about}: it is no object")
        if made.get("apiVersion") != wanted:
            got = made.get("apiVersion") or ""
            raise ConversionError(f"{about}: invalid groupVersion (expected {wanted}, received {got})")
        if made.get("kind") != original.get("kind"):
            got = f"(expected {original.get('kind')}, received {made.get('kind') or ''})"
            raise ConversionError(f"{about}: invalid kind {got}")
        _restore_identity(original, made, index)
    return converted


def _converted(answer: Any, question: Object) -> list[Any]:
    spoken = question["apiVersion"]
    if not isinstance(answer, dict):
        raise ConversionError("failed: the response is no object")
    response = answer.get("response")
    if spoken.endswith("/v1"):
        if (answer.get("apiVersion"), answer.get("kind")) != (spoken, "ConversionReview"):
            got = f"{answer.get('apiVersion')}, Kind={answer.get('kind')}"
            raise ConversionError(f"failed: expected webhook response of {spoken}, Kind=ConversionReview, got {got}")
        uid = question["request"]["uid"]
        if isinstance(response, dict) and response.get("uid") != uid:
            raise ConversionError(f'failed: expected response.uid="{uid}", got "{response.get("uid") or ""}"')
    if not isinstance(response, dict):
        raise ConversionError("failed: no response provided")
    result = response.get("result") if isinstance(response.get("result"), dict) else {}
    assert isinstance(result, dict)
    if result.get("status") != "Success":
        told = result.get("message") or f"response.result.status was '{result.get('status') or ''}', not 'Success'"
        raise ConversionError(f"failed: {told}")
    found = response.get("convertedObjects")
    return found if isinstance(found, list) else []


def _restore_identity(original: Object, made: Object, index: int) -> None:
    """Give a converted object the metadata of its original; labels and annotations alone may differ."""
    about, told = f"returned invalid converted object at index {index}", made.get("metadata")
    if not isinstance(told, dict):
        raise ConversionError(f"returned invalid metadata in object at index {index}: missing metadata")
    was = original.get("metadata") or {}
    for field, word in (("name", "name"), ("namespace", "namespace"), ("uid", "UID")):
        if (told.get(field) or "") != (was.get(field) or ""):
            raise ConversionError(
                f"{about}: must have the same {word}: {was.get(field) or ''} != {told.get(field) or ''}"
            )
    made["metadata"] = {key: value for key, value in was.items() if key not in ("labels", "annotations")}
    for field, check in (("labels", check_labels), ("annotations", check_annotations)):
        value = told.get(field)
        if value is None:
            continue
        if not isinstance(value, dict) or not all(isinstance(item, str) for item in value.values()):
            text = f"metadata.{field} must be a map of strings"
            raise ConversionError(f"returned invalid metadata in object at index {index}: {text}")
        faults = Faults()
        if value != was.get(field):
            check(value, f"metadata.{field}", faults)
        if faults:
            cause = faults.causes[0]
            raise ConversionError(
                f"returned invalid metadata in object at index {index}: {cause.field}: {cause.message}"
            )
        made["metadata"][field] = value
