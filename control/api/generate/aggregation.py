"""Types whose Go sources no Debian package ships, taken from the OpenAPI definitions of kubernetes-validate."""

from __future__ import annotations

import importlib.resources
import json
from typing import Any

_PREFIX = "io.k8s.kube-aggregator.pkg.apis.apiregistration.v1."
_WORDS = {"string": "string", "boolean": "bool"}
_NUMBERS = {
    "APIService": ("metadata", "spec", "status"),
    "APIServiceCondition": ("type", "status", "lastTransitionTime", "reason", "message"),
    "APIServiceList": ("metadata", "items"),
    "APIServiceSpec": (
        "service", "group", "version", "insecureSkipTLSVerify", "caBundle", "", "groupPriorityMinimum",
        "versionPriority",
    ),
    "APIServiceStatus": ("conditions",),
    "ServiceReference": ("namespace", "name", "port"),
}  # fmt: skip
"""Fields by their protobuf numbers, from 1 on, which no OpenAPI document tells."""


def build(version: str) -> dict[str, Any]:
    """Return the table of apiregistration.v1."""
    folder = importlib.resources.files("kubernetes_validate") / "kubernetes-json-schema" / f"v{version}-local"
    definitions = json.loads((folder / "_definitions.json").read_text())["$defs"]
    table = {}
    for name, definition in sorted(definitions.items()):
        if name.startswith(_PREFIX):
            required = set(definition.get("required", ()))
            numbers = _NUMBERS[name.removeprefix(_PREFIX)]
            properties = definition["properties"]
            is_object = "x-kubernetes-group-version-kind" in definition
            fields = {
                field: _field(schema, field in required, numbers.index(field) + 1)
                for field, schema in properties.items()
                if field in numbers
            }
            table[name.removeprefix(_PREFIX)] = {"fields": fields, **({"object": True} if is_object else {})}
    return table


def _field(schema: dict[str, Any], required: bool, number: int) -> list[Any]:
    extra: dict[str, Any] = {}
    for letter, source in (("list", "list-type"), ("keys", "list-map-keys"), ("patch", "patch-strategy")):
        if value := schema.get(f"x-kubernetes-{source}"):
            extra[letter] = value
    if key := schema.get("x-kubernetes-patch-merge-key"):
        extra["key"] = key
    kind = _type(schema)
    pointer = kind.startswith("apiregistration") and not required
    flags = "r" if required else ("po" if pointer else "o")
    return [kind, flags, number, *([extra] if extra else [])]


def _type(schema: dict[str, Any]) -> str:
    if reference := schema.get("$ref"):
        name = str(reference).rsplit("/", 1)[1]
        if name.startswith(_PREFIX):
            return "apiregistration.v1." + name.removeprefix(_PREFIX)
        local = name.rsplit(".", 1)[1]
        return local if local == "Time" else f"meta.v1.{local}"
    plain = schema["type"] if isinstance(schema["type"], str) else schema["type"][0]
    if plain == "array":
        return "[]" + _type(schema["items"])
    if schema.get("format") == "byte":
        return "bytes"
    if plain in ("integer", "number"):
        return str(schema.get("format", "int32"))
    return _WORDS[plain]
