"""The door to PyYAML: a document as the JSON that it stands for, with bounds on what a few bytes may become."""

from __future__ import annotations

from typing import Any

import orjson
import yaml

from control.api.patch import DEPTH_MAX

VALUES_MAX = 1_000_000
"""As many values as a document may have once its aliases are written out."""
MERGED_ALIASES_MAX = 20
_TIMESTAMP = "tag:yaml.org,2002:timestamp"


class DocumentError(ValueError):
    """The bytes are no YAML that stands for JSON."""


class _Loader(yaml.CSafeLoader):
    """YAML's JSON part: maps, lists, text, numbers, booleans and null."""

    repeated: list[str] | None = None

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        """Return a map, noting its keys that stand twice."""
        if self.repeated is not None:
            seen: set[str] = set()
            for key, _ in node.value:
                if isinstance(key.value, str) and key.value in seen:
                    self.repeated.append(f'line {key.start_mark.line + 1}: key "{key.value}" already set in map')
                elif isinstance(key.value, str):
                    seen.add(key.value)
        made: dict[Any, Any] = super().construct_mapping(node, deep)
        return made


# Timestamps and the like must stay text, as they do on the way through JSON.
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != _TIMESTAMP]
    for first, resolvers in yaml.CSafeLoader.yaml_implicit_resolvers.items()
}


def load(body: bytes, repeated: list[str] | None = None) -> Any:
    """Return the document's value as JSON has it; raises DocumentError. ``repeated`` gets keys that stand twice."""
    aliased = b"*" in body and b"&" in body
    if aliased and b"<<" in body and body.count(b"*") > MERGED_ALIASES_MAX:
        raise DocumentError("yaml: document contains excessive aliasing")
    _check_depth(body)
    loader = _Loader(body)
    loader.repeated = repeated
    try:
        value = loader.get_single_data()
        if aliased and _count(value, {}) > VALUES_MAX:
            raise DocumentError("yaml: document contains excessive aliasing")
        return orjson.loads(orjson.dumps(value, option=orjson.OPT_NON_STR_KEYS))
    except (yaml.YAMLError, ValueError, TypeError, RecursionError, OverflowError) as error:
        # Numbers beyond 64 bits, binary values, depth without end: every way not to be JSON ends here.
        raise DocumentError(str(error)) from None
    finally:
        loader.dispose()


def _check_depth(body: bytes) -> None:
    """Refuse nesting that would overflow the loader's stack, which is C's and ends the process."""
    depth = 0
    try:
        for event in yaml.parse(body, Loader=_Loader):
            if isinstance(event, yaml.CollectionStartEvent):
                depth += 1
                if depth > DEPTH_MAX:
                    raise DocumentError("exceeded max depth")
            elif isinstance(event, yaml.CollectionEndEvent):
                depth -= 1
    except (yaml.YAMLError, ValueError) as error:
        raise DocumentError(str(error)) from None


def _count(value: Any, known: dict[int, int]) -> int:
    """Return how many values there are with all aliases written out; one that holds itself never ends."""
    if not isinstance(value, dict | list):
        return 1
    if (found := known.get(id(value))) is not None:
        return found
    known[id(value)] = VALUES_MAX + 1  # until it is known: met again inside of itself
    size = 1 + sum(_count(each, known) for each in (value.values() if isinstance(value, dict) else value))
    known[id(value)] = size
    return size
