"""Change an object by what a client sent: JSON patch (RFC 6902) and JSON merge patch (RFC 7386).

The strategic merge patch, which knows the types, stands in `control.api.strategic`; server-side apply in
`control.api.apply`.  All functions return a new value and leave their arguments as they are.
"""

from __future__ import annotations

from typing import Any

import orjson

from control.api import status
from control.api.status import ApiError

DEPTH_MAX = 200
"""As deep as maps and lists of a body may stand in each other; what is stored can be written as JSON again."""
COPIED_BYTES_MAX = 3 << 20
"""As much as the copy operations of one JSON patch may add."""
OPERATIONS_MAX = 10_000
"""As many operations as a JSON patch may have, like kube-apiserver's limit."""


def copy_json(value: Any) -> Any:
    """Return a deep copy of a JSON-shaped value; raises BadRequest where it is nested too deeply."""
    try:
        return orjson.loads(orjson.dumps(value))
    except orjson.JSONEncodeError as error:
        if "Recursion limit" not in str(error):
            raise
        raise too_deep() from None


def too_deep() -> ApiError:
    """400: maps and lists stand in each other deeper than any object has use for."""
    return status.bad_request("json: exceeded max depth")


def merge_patch(original: Any, patch: Any) -> Any:
    """Return ``original`` changed by a merge patch."""
    if not isinstance(patch, dict):
        return copy_json(patch)
    result = dict(original) if isinstance(original, dict) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = merge_patch(result.get(key), value)
    return result


def create_merge_patch(original: dict[str, Any], modified: dict[str, Any]) -> dict[str, Any]:
    """Return the merge patch that makes ``modified`` of ``original``."""
    patch: dict[str, Any] = {key: None for key in original if key not in modified}
    for key, value in modified.items():
        if key not in original:
            patch[key] = value
        elif isinstance(value, dict) and isinstance(original[key], dict):
            if inner := create_merge_patch(original[key], value):
                patch[key] = inner
        elif value != original[key] or type(value) is not type(original[key]):
            patch[key] = value
    return patch


def rejected(text: str) -> ApiError:
    """422: the patch cannot be applied to this object; ``text`` says why."""
    message = "the server rejected our request due to an error in our request"
    return status.failure(
        422, "Invalid", message, {"causes": [{"reason": "FieldValueInvalid", "message": text, "field": "patch"}]}
    )


def json_patch(original: Any, operations: Any) -> Any:
    """Return ``original`` changed by a JSON patch; raises ApiError (400, 413 or 422)."""
    if not isinstance(operations, list) or not all(isinstance(operation, dict) for operation in operations):
        raise status.bad_request("json: cannot unmarshal object into Go value of type jsonpatch.Patch")
    if len(operations) > OPERATIONS_MAX:
        text = f"The allowed maximum operations in a JSON patch is {OPERATIONS_MAX}, got {len(operations)}"
        raise status.failure(413, "RequestEntityTooLarge", f"Request entity too large: {text}")
    document = [copy_json(original)]
    copied = 0
    for operation in operations:
        copied += _operate(document, operation, COPIED_BYTES_MAX - copied)
    return document[0]


def _operate(document: list[Any], operation: dict[str, Any], left: int) -> int:
    """Apply one operation to the document in the one-element list ``document``; return the bytes that it copied."""
    name, path = operation.get("op"), operation.get("path")
    if not isinstance(path, str):
        raise rejected(f"{name} operation does not apply: missing path")
    if name in ("add", "replace", "test") and "value" not in operation:
        raise rejected(f"{name} operation does not apply: missing value")
    try:
        if name == "add":
            _add(document, path, operation["value"])
        elif name == "remove":
            _remove(document, path)
        elif name == "replace":
            _replace(document, path, operation["value"])
        elif name == "move":
            _add(document, path, _remove(document, str(operation.get("from"))))
        elif name == "copy":
            return _copy(document, str(operation.get("from")), path, left)
        elif name == "test":
            if not _is_same(_get_or_none(document, path), operation["value"]):
                raise rejected(f"testing value {path} failed: test failed")
        else:
            raise rejected(f"Unexpected kind: {name}")
    except _MissingError as missing:
        raise rejected(f"{name} operation does not apply: doc is missing {missing}") from None
    return 0


def _copy(document: list[Any], source: str, path: str, left: int) -> int:
    """Copy a part of the document; a few copies of copies must not fill the memory."""
    value = copy_json(_get(document, source))
    size = len(orjson.dumps(value))
    if size > left:
        text = f"the accumulated size increase of copy would be {COPIED_BYTES_MAX - left + size}"
        raise rejected(f"Unable to complete the copy, {text}, exceeding the limit {COPIED_BYTES_MAX}")
    _add(document, path, value)
    return size


def _is_same(left: Any, right: Any) -> bool:
    """Tell whether two values are the same JSON: to Python, true is 1."""
    if left != right:
        return False
    if isinstance(left, dict):
        return all(_is_same(value, right[key]) for key, value in left.items())
    if isinstance(left, list):
        return all(map(_is_same, left, right))
    return isinstance(left, bool) is isinstance(right, bool)


class _MissingError(Exception):
    """A path leads nowhere; the text says which part."""


def _steps(path: str) -> list[str]:
    """Return a JSON pointer's parts, after the document's own step."""
    if path and not path.startswith("/"):
        raise _MissingError(f"path: {path}: missing value")
    return ["0", *(part.replace("~1", "/").replace("~0", "~") for part in path.split("/")[1:])]


def _parent(document: list[Any], path: str) -> tuple[Any, str]:
    *through, last = _steps(path)
    current: Any = document
    for step in through:
        current = _child(current, step, path)
    if not isinstance(current, dict | list):
        raise _MissingError(f"path: {path}: missing value")
    return current, last


def _child(current: Any, step: str, path: str) -> Any:
    if isinstance(current, dict) and step in current:
        return current[step]
    if isinstance(current, list):
        return current[_index(step, len(current) - 1, path)]
    raise _MissingError(f"path: {path}: missing value")


def _index(step: str, maximum: int, path: str) -> int:
    if not step.isascii() or not step.isdigit() or (len(step) > 1 and step[0] == "0") or int(step) > maximum:
        raise _MissingError(f"path: {path}: invalid index referenced")
    return int(step)


def _get(document: list[Any], path: str) -> Any:
    parent, last = _parent(document, path)
    return _child(parent, last, path)


def _get_or_none(document: list[Any], path: str) -> Any:
    try:
        return _get(document, path)
    except _MissingError:
        # A test for null holds where nothing stands.
        return None


def _add(document: list[Any], path: str, value: Any) -> None:
    if path == "":
        document[0] = copy_json(value)
        return
    parent, last = _parent(document, path)
    if isinstance(parent, dict):
        parent[last] = copy_json(value)
    else:
        parent.insert(len(parent) if last == "-" else _index(last, len(parent), path), copy_json(value))


def _remove(document: list[Any], path: str) -> Any:
    if path == "":
        raise rejected("remove operation does not apply: the whole document")
    parent, last = _parent(document, path)
    found = _child(parent, last, path)
    if isinstance(parent, dict):
        del parent[last]
    else:
        del parent[int(last)]
    return found


def _replace(document: list[Any], path: str, value: Any) -> None:
    parent, last = _parent(document, path)
    _child(parent, last, path)
    parent[last if isinstance(parent, dict) else int(last)] = copy_json(value)
