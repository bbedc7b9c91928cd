"""The schema and the object over which the golden rules were asked."""

from __future__ import annotations

import json
from typing import Any

Schema = dict[str, Any]
OBJECT: Schema = {
    "apiVersion": "example.com/v1",
    "kind": "Foo",
    "metadata": {"name": "x"},
    "spec": {
        "replicas": 3, "name": "argo", "items": ["a", "b"], "objs": [{"k": "a", "v": 1, "sub": [1, 2]}],
        "keyed": [{"k": "x", "v": 1}, {"k": "y", "v": 2}], "set": ["a", "b"], "m": {"a": 1, "b": 2}, "n": 2, "b": True,
        "d": "1m30s", "t": "2020-02-01T00:00:00Z", "day": "2020-01-02", "by": "QUI=", "ios": 5, "pres": {"z": 1},
        "emb": {"apiVersion": "v1", "kind": "K", "metadata": {"name": "n"}}, "nested": {"a": {"b": 1}},
        "foo-bar": "x", "namespace": "y", "e": "A", "nul": None, "empty": [],
    },
}  # fmt: skip


def schema(*, bounded: bool = True, values: bool = False) -> Schema:
    """Return a schema of every kind of value, with or without limits; ``values`` adds fields that the object lacks."""

    def text(length: int) -> Schema:
        return {"type": "string", **({"maxLength": length} if bounded else {})}

    def items(inner: Schema, count: int = 10, more: Schema | None = None) -> Schema:
        return {"type": "array", "items": inner, **({"maxItems": count} if bounded else {}), **(more or {})}

    def formed(form: str) -> Schema:
        return {"type": "string", "format": form}

    number, plain = {"type": "integer"}, {"type": "string"}
    of_objects = {"k": text(8), "v": number, "sub": items(number, 5), **({"nope": number} if values else {})}
    keyed = {"type": "object", "required": ["k"], "properties": {"k": text(8), "v": number}}
    preserved = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    fields: dict[str, Schema] = {
        "replicas": number, "name": text(63), "items": items(text(20)),
        "objs": items({"type": "object", "properties": of_objects}),
        "keyed": items(keyed, more={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["k"]}),
        "set": items(text(5), more={"x-kubernetes-list-type": "set"}),
        "m": {"type": "object", "additionalProperties": number, **({"maxProperties": 10} if bounded else {})},
        "n": {"type": "number"}, "b": {"type": "boolean"}, "d": formed("duration"), "t": formed("date-time"),
        "day": formed("date"), "by": formed("byte"), "ios": {"x-kubernetes-int-or-string": True}, "pres": preserved,
        "emb": {**preserved, "x-kubernetes-embedded-resource": True},
        "nested": {"type": "object", "properties": {"a": {"type": "object", "properties": {"b": number}}}},
        "foo-bar": plain, "namespace": plain, "e": {"type": "string", "enum": ["A", "Bcd"]}, "1x": plain,
        "nul": {"type": "string", "nullable": True},
        **({"nope": text(5), "empty": items(text(5), 2)} if values else {}),
    }  # fmt: skip
    whole: Schema = {"type": "object", "properties": {"spec": {"type": "object", "properties": fields}}}
    # No part may be shared: rules are put into one place.
    made: Schema = json.loads(json.dumps(whole))
    return made


def place(whole: Schema, path: str) -> Schema:
    """Return the part of a schema at a path: names of properties, ``@items`` and ``@values``."""
    found = whole
    for name in path.split(".") if path else ():
        step = {"@items": "items", "@values": "additionalProperties"}.get(name)
        found = found[step] if step else found["properties"][name]
    return found
