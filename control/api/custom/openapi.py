"""The OpenAPI v3 document of a group version of custom resources: what kubectl explain, apply and diff ask for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from control.api import openapi
from control.api.custom.version import CustomVersion

_META = "#/components/schemas/io.k8s.apimachinery.pkg.apis.meta.v1."


def document(versions: Sequence[CustomVersion]) -> dict[str, Any]:
    """Return the document of all kinds of one group version."""
    schemas: dict[str, Any] = {}
    for version in versions:
        name = openapi.public_name(version.served.definition)
        schemas[name] = _object(version)
        schemas[openapi.public_name(openapi.list_definition(version.served))] = _list(version, name)
    roots = {"meta.v1.ObjectMeta", "meta.v1.ListMeta"}
    return openapi.assemble([version.served for version in versions], roots, schemas)


def _kind(version: CustomVersion, suffix: str = "") -> list[dict[str, str]]:
    resource = version.served.resource
    return [{"group": resource.group, "kind": resource.kind + suffix, "version": resource.version}]


def _object(version: CustomVersion) -> dict[str, Any]:
    properties = dict(version.schema.get("properties") or {})
    properties["apiVersion"] = properties["kind"] = {"type": "string"}
    properties["metadata"] = {"allOf": [{"$ref": f"{_META}ObjectMeta"}]}
    return {**version.schema, "properties": properties, "x-kubernetes-group-version-kind": _kind(version)}


def _list(version: CustomVersion, name: str) -> dict[str, Any]:
    return {
        "type": "object",
        "required": ["items"],
        "properties": {
            "apiVersion": {"type": "string"},
            "kind": {"type": "string"},
            "metadata": {"allOf": [{"$ref": f"{_META}ListMeta"}]},
            "items": {"type": "array", "items": {"allOf": [{"$ref": f"#/components/schemas/{name}"}]}},
        },
        "x-kubernetes-group-version-kind": _kind(version, "List"),
    }
