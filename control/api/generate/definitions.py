"""Turn parsed Go packages into the compact type tables that `control.api.schema` loads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from control.api.generate.golang import GoField, GoPackage, GoStruct, parse_package

PACKAGES = {
    "meta.v1": "apimachinery/pkg/apis/meta/v1",
    "apiextensions.v1": "apiextensions-apiserver/pkg/apis/apiextensions/v1",
    **{
        name: "api/" + name.replace(".", "/")
        for name in [
            "core.v1",
            "apps.v1",
            "batch.v1",
            "autoscaling.v1",
            "autoscaling.v2",
            "policy.v1",
            "networking.v1",
            "rbac.v1",
            "storage.v1",
            "scheduling.v1",
            "coordination.v1",
            "discovery.v1",
            "events.v1",
            "node.v1",
            "certificates.v1",
            "admissionregistration.v1",
            "authentication.v1",
            "authorization.v1",
            "flowcontrol.v1",
            "resource.v1",
        ]
    },
}
"""Short package name → folder below k8s.io/ in the Go sources."""

_WORDS = {
    "string": "string",
    "bool": "bool",
    "int": "int64",
    "int32": "int32",
    "int64": "int64",
    "float64": "float64",
    "metav1.Time": "Time",
    "metav1.MicroTime": "MicroTime",
    "metav1.Duration": "Duration",
    "metav1.FieldsV1": "FieldsV1",
    "metav1.Verbs": "StringList",
    "Verbs": "StringList",
    "Time": "Time",
    "MicroTime": "MicroTime",
    "Duration": "Duration",
    "FieldsV1": "FieldsV1",
    "ExtraValue": "StringList",
    "resource.Quantity": "Quantity",
    "intstr.IntOrString": "IntOrString",
    "runtime.RawExtension": "RawExtension",
    "runtime.Object": "RawExtension",
    "types.UID": "string",
    "types.NodeName": "string",
    "JSON": "JSON",
    "JSONSchemaPropsOrArray": "JSONSchemaPropsOrArray",
    "JSONSchemaPropsOrBool": "JSONSchemaPropsOrBool",
    "JSONSchemaPropsOrStringArray": "JSONSchemaPropsOrStringArray",
}
_PREFIXES = {"metav1": "meta.v1"} | dict.fromkeys(("v1", "corev1", "apiv1", "api"), "core.v1")
_SKIPPED = {"TypeMeta"} | {word for word in _WORDS if word[0].isupper()}
Table = dict[str, Any]


def build(source: Path) -> dict[str, Table]:
    """Return a table of types for each package, read from the folder that holds the k8s.io sources."""
    packages = {name: parse_package(source / folder) for name, folder in PACKAGES.items()}
    return {name: _Builder(name, packages).table() for name in packages}


class _Builder:
    def __init__(self, name: str, packages: dict[str, GoPackage]) -> None:
        self._name = name
        self._packages = packages
        self._package = packages[name]

    def table(self) -> Table:
        table: Table = {}
        for struct in self._package.structs.values():
            if struct.name not in _SKIPPED and (
                not struct.fields or any("json" in member.tags for member in struct.fields)
            ):
                table[struct.name] = self._struct(struct)
        for alias, target in self._package.aliases.items():
            if alias in _SKIPPED or target not in ("string", "int32", "int64"):
                continue
            entry: Table = {"scalar": target}
            if alias in self._package.enum_types and self._package.constants.get(alias):
                entry["enum"] = sorted(self._package.constants[alias])
            table[alias] = entry
        return dict(sorted(table.items()))

    def _struct(self, struct: GoStruct) -> Table:
        fields: Table = {}
        inline: Table = {}
        result: Table = {"fields": fields}
        for member in struct.fields:
            if "inline" in member.json_options and not member.json_name:
                base = member.go_type.lstrip("*")
                if base.endswith("TypeMeta"):
                    result["object"] = True
                    continue
                reference = self._type(base)
                inline[reference] = member.number
            elif member.json_name and member.json_name != "-":
                fields[member.json_name] = self._field(member)
        if inline:
            result["inline"] = inline
        if any(marker == "structType=atomic" for marker in struct.markers):
            result["atomic"] = True
        return result

    def _field(self, member: GoField) -> list[Any]:
        options, markers = member.json_options, member.markers
        pointer = member.go_type.startswith("*")
        optional = "optional" in markers or ("omitempty" in options and "required" not in markers)
        flags = "".join(
            letter
            for letter, present in (
                ("p", pointer),
                ("o", "omitempty" in options),
                ("z", "omitzero" in options),
                ("r", not optional),
            )
            if present
        )
        kind = self._type(member.go_type.lstrip("*"))
        extra = self._extra(member)
        return [kind, flags, member.number, *([extra] if extra else [])]

    @staticmethod
    def _extra(member: GoField) -> Table:
        extra: Table = {}
        for marker in member.markers:
            key, _, value = marker.partition("=")
            if key in ("listType", "mapType"):
                extra["list" if key == "listType" else "map"] = value
            elif key == "structType":
                extra["map"] = value
            elif key == "listMapKey":
                extra.setdefault("keys", []).append(value)
            elif key == "default" and value.startswith('"'):
                extra["default"] = value.strip('"')
        if strategy := member.tags.get("patchStrategy"):
            extra["patch"] = strategy
        if merge_key := member.tags.get("patchMergeKey"):
            extra["key"] = merge_key
        return extra

    def _type(self, go: str) -> str:
        if go in _WORDS:
            return _WORDS[go]
        if go == "[]byte":
            return "bytes"
        if go.startswith("[]"):
            return "[]" + self._type(go[2:].lstrip("*"))
        if go.startswith("map["):
            return "{}" + self._type(go.split("]", 1)[1])
        package_prefix, _, local = go.rpartition(".")
        package_name = _PREFIXES[package_prefix] if package_prefix else self._name
        package = self._packages[package_name]
        alias = package.aliases.get(local, "")
        if alias.startswith(("map[", "[]")):
            return _Builder(package_name, self._packages)._type(alias)
        if package_name != self._name and f"metav1.{local}" in _WORDS and package_name == "meta.v1":
            return _WORDS[f"metav1.{local}"]
        if alias and alias not in ("string", "int32", "int64"):
            return _Builder(package_name, self._packages)._type(alias)
        if not alias and local not in package.structs:
            raise ValueError(f"unknown type {go} in {self._name}")
        return f"{package_name}.{local}"
