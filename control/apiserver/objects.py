"""What the API server asks of the facts in ``control.api``: decoding, defaults, patches and validation of one kind."""

from __future__ import annotations

from typing import Any, Literal, cast

import orjson
import yaml

from control.api import status
from control.api.decode import decode, duplicate_fields
from control.api.defaulting import apply_defaults
from control.api.meta import Object
from control.api.patch import json_patch, merge_patch
from control.api.protobuf import ProtobufError, decode_body
from control.api.strategic import strategic_merge_patch
from control.api.validation.objects import validate as check_object
from control.apiserver.kinds import Kind
from control.client.client import APPLY_PATCH, JSON_PATCH, MERGE_PATCH, STRATEGIC_MERGE_PATCH

JSON, YAML, PROTOBUF = "application/json", "application/yaml", "application/vnd.kubernetes.protobuf"
YAML_TYPES = frozenset({YAML, "text/yaml", "application/x-yaml", "text/x-yaml"})
PATCH_TYPES = (JSON_PATCH, MERGE_PATCH, STRATEGIC_MERGE_PATCH, APPLY_PATCH)


def media_type(content_type: str) -> str:
    """Return a Content-Type without its parameters."""
    return content_type.partition(";")[0].strip().lower()


def parse_body(body: bytes, content_type: str, validation: str) -> tuple[Any, list[str]]:
    """Return the value that a body holds, and a fault for each field that stands twice in it."""
    kind = media_type(content_type)
    if kind in (JSON, "", "*/*"):
        try:
            value = orjson.loads(body)
        except orjson.JSONDecodeError as error:
            raise status.bad_request(f"couldn't get version/kind; json parse error: {error}") from None
        return value, duplicate_fields(body, value) if validation in ("Strict", "Warn") else []
    if kind == PROTOBUF:
        try:
            return decode_body(body), []
        except ProtobufError as error:
            raise status.bad_request(str(error)) from None
    if kind in YAML_TYPES:
        return parse_yaml(body), []
    raise _unknown_format((JSON, YAML, PROTOBUF))


def parse_yaml(body: bytes) -> Any:
    """Return the value of a YAML document; raises BadRequest."""
    try:
        # Timestamps and the like must stay text, as they do on the way through JSON.
        return yaml.load(body, Loader=_JSONLoader)
    except yaml.YAMLError as error:
        raise status.bad_request(f"error converting YAML to JSON: {error}") from None


class _JSONLoader(yaml.CSafeLoader):
    """YAML's JSON part: maps, lists, text, numbers, booleans and null."""


_JSONLoader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in yaml.CSafeLoader.yaml_implicit_resolvers.items()
}


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
    patch_type = media_type(content_type)
    if patch_type == APPLY_PATCH:
        return patch_type, parse_yaml(body)
    if patch_type not in PATCH_TYPES:
        raise _unknown_format(PATCH_TYPES)
    try:
        return patch_type, orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise status.bad_request(f"error decoding patch: {error}") from None


def patch_object(kind: Kind, patch_type: str, obj: Object, patch: Any) -> Any:
    """Return an object of a kind changed by a patch; raises ApiError."""
    if kind.custom is not None and patch_type == STRATEGIC_MERGE_PATCH:
        # Custom resources have no merge keys: clients are told, and take the merge patch.
        raise _unknown_format(tuple(each for each in PATCH_TYPES if each != STRATEGIC_MERGE_PATCH))
    return apply_patch(patch_type, obj, patch, kind.served.definition)


def _unknown_format(accepted: tuple[str, ...]) -> status.ApiError:
    text = "the body of the request was in an unknown format - accepted media types include: "
    return status.unsupported_media_type(text + ", ".join(accepted))


def apply_patch(patch_type: str, obj: Object, patch: Any, definition: str) -> Any:
    """Return the object changed by a patch; raises ApiError."""
    if patch_type == JSON_PATCH:
        return json_patch(obj, patch)
    if not isinstance(patch, dict):
        raise status.bad_request("json: cannot unmarshal into Go value of type map[string]interface {}")
    if patch_type == STRATEGIC_MERGE_PATCH and definition:
        return strategic_merge_patch(obj, patch, definition)
    return merge_patch(obj, patch)


def validate(kind: Kind, obj: Object, old: Object | None, subresource: str = "") -> None:
    """Raise Invalid with a cause for each fault of the object."""
    causes = check_object(kind.resource, obj, old, subresource)
    if kind.custom is not None:
        causes = [*causes, *kind.custom.check(obj, old)]
    if causes:
        raise status.invalid(kind.resource.kind, obj["metadata"].get("name") or "", causes, kind.resource.group)
