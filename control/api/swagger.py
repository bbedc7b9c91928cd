"""OpenAPI v2, made of the v3 documents: for clients older than v3, and for programs that read one document of it all.

What v2 has no words for is left out, as Kubernetes leaves it out: ``oneOf`` and its like, ``nullable``, and defaults
beside a reference.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from control.api import openapi

METHODS = ("get", "put", "post", "delete", "patch")
_REFERENCE_V3, _REFERENCE_V2 = "#/components/schemas/", "#/definitions/"
_UNKNOWN_TO_V2 = frozenset({"allOf", "anyOf", "oneOf", "not", "nullable"})
_PRODUCES = ["application/json", "application/yaml"]
HEAD: dict[str, Any] = {
    "swagger": "2.0",
    "info": {"title": "Kubernetes", "version": openapi.VERSION},
    "securityDefinitions": {
        "BearerToken": {
            "type": "apiKey",
            "name": "authorization",
            "in": "header",
            "description": "Bearer Token authentication",
        }
    },
    "security": [{"BearerToken": []}],
}


def parts(documents: Iterable[Mapping[str, Any]]) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Yield the paths of each v3 document, and those of its definitions that no earlier one had."""
    seen: set[str] = set()
    for document in documents:
        schemas = document["components"]["schemas"]
        definitions = {name: schema(found) for name, found in schemas.items() if name not in seen}
        seen.update(definitions)
        yield {path: _path_item(item) for path, item in document["paths"].items()}, definitions


def schema(found: Mapping[str, Any]) -> dict[str, Any]:
    """Return a v3 schema in v2's words."""
    source = dict(found)
    if len(found.get("allOf") or ()) == 1 and "$ref" in found["allOf"][0]:
        source = {**source, **found["allOf"][0]}
        source.pop("default", None)
    made: dict[str, Any] = {}
    for key, value in source.items():
        if key in _UNKNOWN_TO_V2:
            continue
        if key == "$ref":
            made[key] = value.replace(_REFERENCE_V3, _REFERENCE_V2)
        elif key == "properties":
            made[key] = {name: schema(part) for name, part in value.items()}
        elif key in ("items", "additionalProperties") and isinstance(value, dict):
            made[key] = schema(value)
        else:
            made[key] = value
    if "oneOf" in source and "type" not in made:
        # Quantities and IntOrStrings travel as text as well as by number.
        made["type"] = "string"
    return made


def _path_item(item: Mapping[str, Any]) -> dict[str, Any]:
    made: dict[str, Any] = {method: _operation(item[method]) for method in METHODS if method in item}
    if item.get("parameters"):
        made["parameters"] = [_parameter(each) for each in item["parameters"]]
    return made


def _operation(found: Mapping[str, Any]) -> dict[str, Any]:
    parameters = [_parameter(each) for each in found.get("parameters", ())]
    made = {key: value for key, value in found.items() if key == "tags" or key.startswith("x-")}
    if body := found.get("requestBody"):
        content = body["content"]
        made["consumes"] = list(content)
        parameters.insert(0, {"name": "body", "in": "body", "required": True, "schema": _first_schema(content)})
    made |= {"produces": _PRODUCES, "schemes": ["https"], "parameters": parameters}
    made["responses"] = {
        code: {"description": answer["description"], "schema": _first_schema(answer["content"])}
        for code, answer in found["responses"].items()
    }
    return made


def _first_schema(content: Mapping[str, Any]) -> dict[str, Any]:
    return schema(next(iter(content.values()))["schema"])


def _parameter(found: Mapping[str, Any]) -> dict[str, Any]:
    return {**{key: value for key, value in found.items() if key != "schema"}, **found["schema"]}
