"""Bodies in YAML: the part of it that JSON has, too."""

from __future__ import annotations

from typing import Any

import yaml

from control.api import status


class _JSONLoader(yaml.CSafeLoader):
    """YAML's JSON part: maps, lists, text, numbers, booleans and null."""


_JSONLoader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in yaml.CSafeLoader.yaml_implicit_resolvers.items()
}


def parse(body: bytes) -> Any:
    """Return the value of a document; raises BadRequest."""
    try:
        # Timestamps and the like must stay text, as they do on the way through JSON.
        return yaml.load(body, Loader=_JSONLoader)
    except yaml.YAMLError as error:
        raise status.bad_request(f"error converting YAML to JSON: {error}") from None


def dump(value: Any) -> bytes:
    """Return a value as a document."""
    text: str = yaml.dump(value, Dumper=yaml.CSafeDumper, sort_keys=False, allow_unicode=True)
    return text.encode()
