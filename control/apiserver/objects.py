"""What the API server asks of the facts in ``control.api``: decoding, defaults, patches and validation of one kind."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal, cast

import orjson

from control.api import status
from control.api.cel.errors import ENDLESS, TooLongError
from control.api.decode import decode, duplicate_fields
from control.api.defaulting import apply_defaults
from control.api.meta import Object
from control.api.patch import DEPTH_MAX, json_patch, merge_patch, too_deep
from control.api.protobuf import ProtobufError, decode_body
from control.api.strategic import strategic_merge_patch
from control.api.validation.faults import Faults
from control.api.validation.metadata import check_metadata_update
from control.api.validation.objects import validate as check_object
from control.api.validation.tables import NEW_CHECKS
from control.apiserver import aside
from control.apiserver.kinds import Kind
from control.apiserver.scale import SCOPE
from control.client.client import APPLY_PATCH, JSON_PATCH, MERGE_PATCH, STRATEGIC_MERGE_PATCH

JSON, YAML, PROTOBUF = "application/json", "application/yaml", "application/vnd.kubernetes.protobuf"
YAML_TYPES = frozenset({YAML, "text/yaml", "application/x-yaml", "text/x-yaml"})
PATCH_TYPES = (JSON_PATCH, MERGE_PATCH, STRATEGIC_MERGE_PATCH, APPLY_PATCH)

EXPRESSIVE = frozenset({"apiextensions.k8s.io", "admissionregistration.k8s.io"})
EXPRESSIVE_BYTES = 32 << 10
"""Objects of these groups that are longer may hold expressions of which the check takes long."""


def media_type(content_type: str) -> str:
    """Return a Content-Type without its parameters."""
    return content_type.partition(";")[0].strip().lower()


def parse_body(body: bytes, content_type: str, validation: str) -> tuple[Any, list[str]]:
    """Return the value that a body holds, and a fault for each field that stands twice in it."""
    kind = media_type(content_type)
    if kind in (JSON, "", "*/*"):
        value = _parse_json(body, "couldn't get version/kind; json parse error")
        return value, duplicate_fields(body, value) if validation in ("Strict", "Warn") else []
    if kind == PROTOBUF:
        try:
            return _checked(decode_body(body)), []
        except ProtobufError as error:
            raise status.bad_request(str(error)) from None
    if kind in YAML_TYPES:
        return parse_yaml(body), []
    raise _unknown_format((JSON, YAML, PROTOBUF))


def _parse_json(body: bytes, about: str) -> Any:
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise status.bad_request(f"{about}: {_told(error, body)}") from None
    # Counting is cheap, and most bodies have fewer brackets than may stand in each other.
    return value if body.count(b"{") + body.count(b"[") <= DEPTH_MAX else _checked(value)


def _told(error: orjson.JSONDecodeError, body: bytes) -> str:
    """Return what is wrong with JSON, in the words of Go's parser where it is common."""
    if error.pos >= len(error.doc) or not body:
        return "unexpected end of JSON input"
    if error.msg.startswith("unexpected content after document"):
        return f"invalid character '{error.doc[error.pos]}' after top-level value"
    return str(error)


def _checked(value: Any) -> Any:
    """Return the value unless it is nested too deeply."""
    level = [value]
    for _ in range(DEPTH_MAX):
        level = [inner for each in level for inner in _parts(each)]
        if not level:
            return value
    raise too_deep()


def _parts(value: Any) -> Iterable[Any]:
    if type(value) is dict:
        return value.values()
    return value if type(value) is list else ()


def parse_yaml(body: bytes, repeated: list[str] | None = None) -> Any:
    """Return the value of a YAML document, which may well be JSON; raises BadRequest.

    ``repeated`` gets a fault for each key that stands twice.
    """
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError:
        # Imported with the first of them: a server's start need not wait for it.
        from control.apiserver import documents

        try:
            return _checked(documents.load(body, repeated))
        except documents.DocumentError as error:
            raise status.bad_request(f"error converting YAML to JSON: {error}") from None
    if repeated is not None:
        repeated.extend(duplicate_fields(body))
    return _checked(value)


_UNREAD = "couldn't get version/kind; json parse error"
_GO_HEAD = r'struct { APIVersion string "json:\"apiVersion,omitempty\""; Kind string "json:\"kind,omitempty\"" }'
_GO_WORDS = {list: "array", str: "string", bool: "bool", int: "number", float: "number"}
_QUOTED_BYTES_MAX = 4 << 10
"""No more of a body is told back to who sent it."""


def unrecognized(kind: Kind, error: status.ApiError, body: bytes) -> status.ApiError:
    """Return the fault of a body that cannot be read as the fault of a request for this kind."""
    text = error.status["message"]
    if error.code != 400 or not text.startswith(_UNREAD):
        return error
    return status.bad_request(_unrecognized(kind, text, body))


def _unrecognized(kind: Kind, text: str, body: bytes) -> str:
    shown = "<empty>"
    if body:
        shown = body[:30].decode("utf-8", "replace") if body[:1] == b"{" else body[:30].hex()
        shown += " ..." if len(body) > 30 else ""
    return f"the object provided is unrecognized (must be of type {kind.resource.kind}): {text} ({shown})"


def no_object(value: Any) -> str:
    """Return why a value that is none is no object, as Go tells it."""
    word = _GO_WORDS.get(type(value), "object")
    return f"{_UNREAD}: json: cannot unmarshal {word} into Go value of type {_GO_HEAD}"


def check_recognized(kind: Kind, value: Any, body: bytes) -> None:
    """Raise BadRequest where a body does not tell what it is: custom resources are not taken for what they might be."""
    if value is not None and not isinstance(value, dict):
        raise status.bad_request(_unrecognized(kind, no_object(value), body))
    if kind.custom is None:
        return
    if value is None or not value.get("kind"):
        text = f"Object 'Kind' is missing in '{body[:_QUOTED_BYTES_MAX].decode('utf-8', 'replace')}'"
        raise status.bad_request(_unrecognized(kind, text, body))
    if not value.get("apiVersion"):
        text = f"the API version in the data () does not match the expected API version ({kind.resource.api_version})"
        raise status.bad_request(text)


def complete(
    kind: Kind,
    value: Any,
    validation: str = "",
    duplicates: list[str] | None = None,
    warnings: list[str] | None = None,
    patch: Any = None,
) -> Object:
    """Return the object as its kind keeps it, with defaults; raises BadRequest."""
    if not isinstance(value, dict):
        raise status.bad_request("couldn't get version/kind; json parse error: the body is not an object")
    resource = kind.resource
    mode = cast(Literal["Strict", "Warn", "Ignore"], validation or "Warn")
    if kind.custom is not None:
        obj, told = kind.custom.complete(value, mode, duplicates)
        if warnings is not None:
            warnings.extend(told)
        return obj
    obj, told = decode(value, resource.group, resource.version, resource.kind, mode, duplicates, patch)
    if warnings is not None:
        warnings.extend(told)
    if obj.get("metadata") is None:
        obj["metadata"] = {}
    apply_defaults(obj, kind.served.definition)
    return obj


def parse_patch(body: bytes, content_type: str) -> tuple[str, Any]:
    """Return a patch's type and value; raises UnsupportedMediaType or BadRequest."""
    patch_type = check_patch_type(content_type)
    if patch_type == APPLY_PATCH:
        return patch_type, parse_yaml(body)
    return patch_type, _parse_json(body, "error decoding patch")


def check_patch_type(content_type: str) -> str:
    """Return a patch's type; raises UnsupportedMediaType."""
    patch_type = media_type(content_type)
    if patch_type not in PATCH_TYPES:
        raise _unknown_format(PATCH_TYPES)
    return patch_type


def patch_duplicates(body: bytes, patch_type: str) -> list[str]:
    """Return a fault for each field that stands twice in a patch that was parsed already."""
    if patch_type == APPLY_PATCH:
        repeated: list[str] = []
        parse_yaml(body, repeated)
        return repeated
    about = "json patch " if patch_type == JSON_PATCH else ""
    return [about + fault for fault in duplicate_fields(body)]


def read_for(kind: Kind, subresource: str, value: Any, validation: str, warnings: list[str]) -> Object:
    """Return the object that a handler of a kind, or of a subresource, was sent; raises BadRequest."""
    offered = kind.subresource(subresource) if subresource else kind.resource
    if not isinstance(value, dict):
        raise status.bad_request("couldn't get version/kind; json parse error: the body is not an object")
    if offered is None:
        return value
    if subresource == "eviction" and value.get("apiVersion") == "policy/v1beta1":
        # Clients from before policy/v1 evict too.
        value = {**value, "apiVersion": "policy/v1"}
    mode = cast(Literal["Strict", "Warn", "Ignore"], validation or "Warn")
    obj, told = decode(value, offered.group, offered.version, offered.kind, mode)
    warnings.extend(told)
    return obj


def patch_object(kind: Kind, patch_type: str, obj: Object, patch: Any) -> Any:
    """Return an object of a kind changed by a patch; raises ApiError."""
    return _patched(kind, patch_type, obj, patch, kind.served.definition)


def patch_scale(kind: Kind, patch_type: str, obj: Object, patch: Any) -> Any:
    """Return the Scale of an object of a kind changed by a patch; raises ApiError."""
    return _patched(kind, patch_type, obj, patch, SCOPE.definition)


def _patched(kind: Kind, patch_type: str, obj: Object, patch: Any, definition: str) -> Any:
    if kind.custom is not None and patch_type == STRATEGIC_MERGE_PATCH:
        # Custom resources have no merge keys: clients are told, and take the merge patch.
        raise _unknown_format(tuple(each for each in PATCH_TYPES if each != STRATEGIC_MERGE_PATCH))
    return apply_patch(patch_type, obj, patch, definition)


def _unknown_format(accepted: tuple[str, ...]) -> status.ApiError:
    text = "the body of the request was in an unknown format - accepted media types include: "
    return status.unsupported_media_type(text + ", ".join(accepted))


def apply_patch(patch_type: str, obj: Object, patch: Any, definition: str) -> Any:
    """Return the object changed by a patch; raises ApiError."""
    if patch_type == JSON_PATCH:
        return json_patch(obj, patch)
    if not isinstance(patch, dict):
        if patch is None:
            raise status.bad_request("Invalid JSON Patch")
        word = _GO_WORDS.get(type(patch), "object")
        text = f"error decoding patch: json: cannot unmarshal {word} into Go value of type map[string]interface {{}}"
        raise status.bad_request(text)
    if patch_type == STRATEGIC_MERGE_PATCH and definition:
        return strategic_merge_patch(obj, patch, definition)
    return merge_patch(obj, patch)


def validate_served(kind: Kind, obj: Object) -> None:
    """Raise Invalid where a new object breaks rules of the version in which it came, which is not the stored one."""
    faults = Faults()
    if (check := NEW_CHECKS.get((kind.resource.group, kind.resource.plural))) is not None:
        check(obj, faults)
    if faults:
        raise status.invalid(kind.resource.kind, obj["metadata"].get("name") or "", faults.causes, kind.resource.group)


def validate(kind: Kind, obj: Object, old: Object | None, subresource: str = "", most: int = aside.INLINE_COST) -> None:
    """Raise Invalid with a cause for each fault of the object, and TooLongError where its rules cost more than most."""
    if kind.resource.group in EXPRESSIVE and most != ENDLESS and len(orjson.dumps(obj)) > EXPRESSIVE_BYTES:
        raise TooLongError
    causes = check_object(kind.resource, obj, old, subresource)
    if kind.custom is not None:
        if causes and old is not None:
            # The original checks their metadata twice, and tells it twice.
            again = Faults()
            check_metadata_update(obj, old, again)
            causes = [*causes, *again.causes]
        causes = [*causes, *kind.custom.check(obj, old, most)]
    if causes:
        raise status.invalid(kind.resource.kind, obj["metadata"].get("name") or "", causes, kind.resource.group)


async def validate_aside(kind: Kind, obj: Object, old: Object | None, subresource: str = "") -> None:
    """Raise Invalid with a cause for each fault of an object whose rules cost much."""
    await aside.run(lambda: validate(kind, obj, old, subresource, ENDLESS))
