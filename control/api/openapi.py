"""OpenAPI v3 documents, one for each group version, made from the tables of facts.

They serve kubectl's create, apply, diff, edit and explain: schemas with list types and merge keys, and paths with the
kinds that they handle.  Descriptions of fields are not ours; where the package kubernetes-validate is installed they
are taken from it.
"""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import orjson

from control.api import schema
from control.api.resources import Served, Subresource, catalog

VERSION = "v1.36.0"
_PREFIXES = {
    "meta.v1": "io.k8s.apimachinery.pkg.apis.meta.v1",
    "apiextensions.v1": "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1",
    "apiregistration.v1": "io.k8s.kube-aggregator.pkg.apis.apiregistration.v1",
}
_META = "io.k8s.apimachinery.pkg.apis.meta.v1."
_EXTENSIONS = "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1."
_WORDS: dict[str, tuple[str, dict[str, Any]]] = {
    "Quantity": ("io.k8s.apimachinery.pkg.api.resource.Quantity", {"oneOf": [{"type": "string"}, {"type": "number"}]}),
    "IntOrString": (
        "io.k8s.apimachinery.pkg.util.intstr.IntOrString",
        {"format": "int-or-string", "oneOf": [{"type": "integer"}, {"type": "string"}]},
    ),
    "Time": (_META + "Time", {"type": "string", "format": "date-time"}),
    "MicroTime": (_META + "MicroTime", {"type": "string", "format": "date-time"}),
    "Duration": (_META + "Duration", {"type": "string"}),
    "FieldsV1": (_META + "FieldsV1", {"type": "object"}),
    "RawExtension": ("io.k8s.apimachinery.pkg.runtime.RawExtension", {"type": "object"}),
    "JSON": (_EXTENSIONS + "JSON", {}),
    "JSONSchemaPropsOrArray": (_EXTENSIONS + "JSONSchemaPropsOrArray", {}),
    "JSONSchemaPropsOrBool": (_EXTENSIONS + "JSONSchemaPropsOrBool", {}),
    "JSONSchemaPropsOrStringArray": (_EXTENSIONS + "JSONSchemaPropsOrStringArray", {}),
}
_PLAIN: dict[str, dict[str, Any]] = {
    "string": {"type": "string"},
    "bool": {"type": "boolean"},
    "int32": {"type": "integer", "format": "int32"},
    "int64": {"type": "integer", "format": "int64"},
    "float64": {"type": "number", "format": "double"},
    "double": {"type": "number", "format": "double"},
    "bytes": {"type": "string", "format": "byte"},
    "StringList": {"type": "array", "items": {"type": "string"}},
}
_CUSTOM_PATCHES = ("application/apply-patch+yaml", "application/json-patch+json", "application/merge-patch+json")
_PATCHES = {"custom patch": _CUSTOM_PATCHES, "patch": (*_CUSTOM_PATCHES, "application/strategic-merge-patch+json")}
_WRITE_PARAMETERS = ("dryRun", "fieldManager", "fieldValidation")
_LIST_PARAMETERS = (
    "allowWatchBookmarks",
    "continue",
    "fieldSelector",
    "labelSelector",
    "limit",
    "resourceVersion",
    "resourceVersionMatch",
    "sendInitialEvents",
    "timeoutSeconds",
    "watch",
)
_PARAMETER_TYPES = {
    **dict.fromkeys(("limit", "timeoutSeconds", "gracePeriodSeconds"), "integer"),
    **dict.fromkeys(("allowWatchBookmarks", "force", "orphanDependents", "sendInitialEvents", "watch"), "boolean"),
}
"""Query parameters that are not text."""
_DELETE_PARAMETERS = ("dryRun", "gracePeriodSeconds", "orphanDependents", "propagationPolicy")


def public_name(definition_name: str) -> str:
    """Return the name that clients know a definition by: ``io.k8s.api.apps.v1.Deployment``."""
    if "@" in definition_name:
        *group, version, kind = definition_name.partition("@")[0].split(".")
        return ".".join((*reversed(group), version, kind))
    package, _, local = definition_name.rpartition(".")
    return f"{_PREFIXES.get(package, 'io.k8s.api.' + package)}.{local}"


def group_versions() -> list[tuple[str, str]]:
    """Return the built-in (group, version) pairs, in the order of the catalog."""
    return list(dict.fromkeys((served.resource.group, served.resource.version) for served in catalog()))


def relative_path(group: str, version: str) -> str:
    """Return a document's place below /openapi/v3: ``api/v1``, ``apis/apps/v1``."""
    return f"apis/{group}/{version}" if group else f"api/{version}"


@cache
def document_bytes(group: str, version: str) -> bytes:
    """Return a group version's document as JSON."""
    return orjson.dumps(document(group, version))


@cache
def document_hash(group: str, version: str) -> str:
    """Return the hash that stands in a document's address, so that clients may cache it for ever."""
    return hash_of(document_bytes(group, version))


def hash_of(document: bytes) -> str:
    """Return the hash of a document's bytes."""
    return hashlib.sha512(document).hexdigest().upper()


def address(path: str, mark: str) -> dict[str, str]:
    """Return a document's entry in the index."""
    return {"serverRelativeURL": f"/openapi/v3/{path}?hash={mark}"}


def index(pairs: list[tuple[str, str]] | None = None) -> dict[str, Any]:
    """Return what /openapi/v3 answers: each document's address."""
    paths = {}
    for group, version in pairs if pairs is not None else group_versions():
        path = relative_path(group, version)
        paths[path] = address(path, document_hash(group, version))
    return {"paths": paths}


def document(group: str, version: str) -> dict[str, Any]:
    """Return a group version's document."""
    served = [entry for entry in catalog() if (entry.resource.group, entry.resource.version) == (group, version)]
    roots: set[str] = set()
    for entry in served:
        roots |= {entry.definition, list_definition(entry)}
    return assemble(served, roots, {})


def assemble(served: Iterable[Served], roots: set[str], schemas: Mapping[str, Any]) -> dict[str, Any]:
    """Return the document of resources: their paths, the schemas of definitions and all they need, and others."""
    paths: dict[str, Any] = {}
    roots = roots | {f"meta.v1.{name}" for name in ("DeleteOptions", "Status", "WatchEvent", "APIResourceList")}
    for entry in served:
        paths.update(_paths(entry))
        roots |= {found.name for found in map(_subresource_definition, entry.subresources) if found}
    return {
        "openapi": "3.0.0",
        "info": {"title": "Kubernetes", "version": VERSION},
        "paths": paths,
        "components": {"schemas": dict(sorted([*_schemas(roots), *schemas.items()]))},
    }


def list_definition(served: Served) -> str:
    """Return the name of the definition of a resource's lists."""
    if "@" in served.definition:
        return served.definition.replace("@", "List@")
    name = served.definition + "List"
    package, _, local = name.rpartition(".")
    return name if f"{package}.{local}" in schema.names(package) else served.definition


def _subresource_definition(subresource: Subresource) -> schema.Definition | None:
    return schema.find(subresource.group, subresource.version, subresource.kind)


def _schemas(roots: set[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    seen: set[str] = set()
    waiting = sorted(roots)
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        if name in _WORDS:
            public, made = _WORDS[name]
            yield public, _described(dict(made), public)
            continue
        yield public_name(name), _structure(name)
        for field in schema.definition(name).fields.values():
            waiting.extend(_named(field.type))


def _named(kind: str) -> list[str]:
    while kind[:2] in ("[]", "{}"):
        kind = schema.element(kind)
    if kind in _WORDS:
        return [kind]
    return [kind] if schema.resolve(kind) is not None else []


def _structure(name: str) -> dict[str, Any]:
    found = schema.definition(name)
    public = public_name(name)
    properties = {field.name: _property(field, public) for field in found.fields.values()}
    made: dict[str, Any] = {"type": "object", "properties": dict(sorted(properties.items()))}
    if required := sorted(field.name for field in found.fields.values() if field.required):
        made["required"] = required
    if found.is_object:
        made["x-kubernetes-group-version-kind"] = _kinds(name)
    if found.atomic:
        made["x-kubernetes-map-type"] = "atomic"
    return _described(made, public)


def _kinds(name: str) -> list[dict[str, str]]:
    package, _, kind = name.rpartition(".")
    if package == "meta.v1" and kind in ("DeleteOptions", "WatchEvent"):
        return [{"group": group, "kind": kind, "version": version} for group, version in group_versions()]
    version = package.rpartition(".")[2]
    return [{"group": "" if package == "meta.v1" else _group(package), "kind": kind, "version": version}]


@cache
def _groups() -> dict[str, str]:
    return {entry.definition.rpartition(".")[0]: entry.resource.group for entry in catalog()}


def _group(package: str) -> str:
    return _groups().get(package, "")


def _property(field: schema.Field, owner: str) -> dict[str, Any]:
    made = _type(field.type)
    extensions: dict[str, Any] = {}
    if field.list_type:
        extensions["x-kubernetes-list-type"] = field.list_type
    if field.list_keys:
        extensions["x-kubernetes-list-map-keys"] = list(field.list_keys)
    if field.map_type:
        extensions["x-kubernetes-map-type"] = field.map_type
    if field.patch_strategies:
        extensions["x-kubernetes-patch-strategy"] = ",".join(field.patch_strategies)
    if field.merge_key:
        extensions["x-kubernetes-patch-merge-key"] = field.merge_key
    if field.default:
        extensions["default"] = field.default
    text = _descriptions().get(owner, {}).get(field.name)
    if text:
        extensions["description"] = text
    if "$ref" in made:
        # Nothing may stand beside a $ref.
        return {"allOf": [made], **extensions} if extensions else made
    return {**made, **extensions}


def _type(kind: str) -> dict[str, Any]:
    if kind.startswith("[]"):
        return {"type": "array", "items": _type(schema.element(kind))}
    if kind.startswith("{}"):
        return {"type": "object", "additionalProperties": _type(schema.element(kind))}
    if kind in _WORDS:
        return {"$ref": f"#/components/schemas/{_WORDS[kind][0]}"}
    if not schema.is_reference(kind):
        return dict(_PLAIN[kind])
    found = schema.definition(kind)
    if found.scalar:
        return {**_PLAIN[found.scalar], **({"enum": list(found.enum)} if found.enum else {})}
    return {"$ref": f"#/components/schemas/{public_name(kind)}"}


def _described(made: dict[str, Any], public: str) -> dict[str, Any]:
    text = _descriptions().get(public, {}).get("")
    return {"description": text, **made} if text else made


@cache
def _descriptions() -> dict[str, dict[str, str]]:
    """Return definition → field → text from an installed package; the definition's own text stands under ""."""
    found = importlib.util.find_spec("kubernetes_validate")
    if found is None or found.origin is None:
        return {}
    folder = Path(found.origin).parent / "kubernetes-json-schema" / f"{VERSION}-local"
    path = folder / "_definitions.json"
    if not path.is_file():
        return {}
    texts: dict[str, dict[str, str]] = {}
    for name, definition in orjson.loads(path.read_bytes())["$defs"].items():
        fields = {field: part.get("description", "") for field, part in definition.get("properties", {}).items()}
        texts[name] = {"": definition.get("description", ""), **fields}
    return texts


def _paths(served: Served) -> dict[str, Any]:
    resource = served.resource
    collection = resource.path + ("/namespaces/{namespace}" if resource.namespaced else "") + f"/{resource.plural}"
    kind = {"group": resource.group, "kind": resource.kind, "version": resource.version}
    body, many = served.definition, list_definition(served)
    patch = "custom patch" if "@" in body else "patch"
    parameters = [_path_parameter("namespace")] if resource.namespaced else []
    paths: dict[str, Any] = {
        collection: {
            "parameters": parameters,
            **_operation(served, "list", "get", "list", kind, many, _LIST_PARAMETERS),
            **_operation(served, "create", "post", "post", kind, body, _WRITE_PARAMETERS, body),
            **_operation(
                served, "deletecollection", "delete", "deletecollection", kind, "meta.v1.Status", _LIST_PARAMETERS
            ),
        }
    }
    item = {
        **_operation(served, "get", "get", "get", kind, body, ()),
        **_operation(served, "update", "put", "put", kind, body, _WRITE_PARAMETERS, body),
        **_operation(served, "patch", "patch", "patch", kind, body, (*_WRITE_PARAMETERS, "force"), patch),
        **_operation(
            served, "delete", "delete", "delete", kind, "meta.v1.Status", _DELETE_PARAMETERS, "meta.v1.DeleteOptions"
        ),
    }
    if item:
        paths[collection + "/{name}"] = {"parameters": [_path_parameter("name"), *parameters], **item}
    if resource.namespaced and "list" in served.verbs:
        everywhere = _operation(served, "list", "get", "list", kind, many, _LIST_PARAMETERS)
        paths[f"{resource.path}/{resource.plural}"] = everywhere
    for subresource in served.subresources:
        paths[f"{collection}/{{name}}/{subresource.name}"] = {
            "parameters": [_path_parameter("name"), *parameters],
            **_subresource(served, subresource),
        }
    return paths


def _path_parameter(name: str) -> dict[str, Any]:
    return {"name": name, "in": "path", "required": True, "schema": {"type": "string", "uniqueItems": True}}


def _query_parameter(name: str) -> dict[str, Any]:
    return {"name": name, "in": "query", "schema": {"type": _PARAMETER_TYPES.get(name, "string"), "uniqueItems": True}}


def _content(definition_name: str) -> dict[str, Any]:
    if definition_name in ("patch", "custom patch"):
        return {media: {"schema": {"type": "object"}} for media in _PATCHES[definition_name]}
    return {"application/json": {"schema": {"$ref": f"#/components/schemas/{public_name(definition_name)}"}}}


def _operation(
    served: Served,
    verb: str,
    method: str,
    action: str,
    kind: dict[str, str],
    answer: str,
    parameters: tuple[str, ...],
    body: str = "",
) -> dict[str, Any]:
    """Return {method: operation} where the resource has the verb, nothing otherwise."""
    if verb not in served.verbs:
        return {}
    made = {
        "tags": [_tag(served)],
        "parameters": [_query_parameter(name) for name in parameters],
        "responses": {"200": {"description": "OK", "content": _content(answer)}},
        "x-kubernetes-action": action,
        "x-kubernetes-group-version-kind": kind,
    }
    if body:
        made["requestBody"] = {"content": _content(body)}
    return {method: made}


def _tag(served: Served) -> str:
    group = served.resource.group.split(".", maxsplit=1)[0] or "core"
    return f"{group}_{served.resource.version}"


def _subresource(served: Served, subresource: Subresource) -> dict[str, Any]:
    kind = {"group": subresource.group, "kind": subresource.kind, "version": subresource.version}
    found = _subresource_definition(subresource)
    answer = found.name if found else "meta.v1.Status"
    patch = "patch"
    if "@" in served.definition:
        # Clients choose their patch by what stands beside a kind.
        patch = "custom patch"
        answer = served.definition if subresource.name == "status" else answer
    methods = {"get": "get", "create": "post", "update": "put", "patch": "patch", "delete": "delete"}
    paths: dict[str, Any] = {}
    for verb in subresource.verbs:
        connect = subresource.kind.endswith("Options")
        parameters = _WRITE_PARAMETERS if verb in ("create", "update", "patch") and not connect else ()
        operation: dict[str, Any] = {
            "tags": [_tag(served)],
            "parameters": [_query_parameter(name) for name in parameters],
            "responses": {"200": {"description": "OK", "content": _content(answer)}},
            "x-kubernetes-action": "connect" if connect else methods[verb],
            "x-kubernetes-group-version-kind": kind,
        }
        if verb in ("create", "update", "patch") and not connect:
            operation["requestBody"] = {"content": _content(patch if verb == "patch" else answer)}
        paths[methods[verb]] = operation
    return paths
