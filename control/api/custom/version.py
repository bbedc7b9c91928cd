"""One version of a custom resource, made ready: names, schema, columns, subresources, and how its objects are read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

from control.api import schema as facts
from control.api import status, times
from control.api.cel.errors import ENDLESS
from control.api.custom import jsonpath, shapes
from control.api.custom.checking import NOWHERE, check, check_lists
from control.api.custom.pruning import PRESERVES, Schema, fill_defaults, has_rules, prune
from control.api.decode import DecodeError, clean
from control.api.meta import Object
from control.api.printers.column import AGE, NAME, Column, Printer, name
from control.api.resources import Resource, Served, Subresource
from control.api.validation.faults import Faults, shown
from control.api.versionorder import preference

if TYPE_CHECKING:
    from control.api.custom.rules import Ruled

VERBS = ("delete", "deletecollection", "get", "list", "patch", "create", "update", "watch")
BLOCKING = (
    "FieldValueNotSupported",
    "FieldValueRequired",
    "FieldValueTooLong",
    "FieldValueTooMany",
    "FieldValueTypeInvalid",
)
"""Reasons of faults with which rules cannot be asked."""
NOT_CHECKED = (
    "some validation rules were not checked because the object was invalid; correct the existing errors to complete "
    "validation"
)
META_DEFINITION = "meta.v1.ObjectMeta"
REVIEW_VERSIONS = ("v1", "v1beta1")
"""Versions of ConversionReview that we speak."""


@dataclass(frozen=True)
class ScalePaths:
    """Where a custom object's replicas stand."""

    spec_replicas: tuple[str, ...]
    status_replicas: tuple[str, ...]
    label_selector: tuple[str, ...] | None


@dataclass(frozen=True)
class Webhook:
    """The program that converts a definition's objects from one version to another."""

    client: Mapping[str, Any]
    """clientConfig as it stands."""
    review_version: str
    """The version of ConversionReview that it is asked in."""


@dataclass(frozen=True, eq=False)
class CustomVersion:
    """One version of a CustomResourceDefinition, as the API server serves it."""

    served: Served
    schema: Schema
    is_served: bool
    is_storage: bool
    converts: bool
    """Whether stored objects may be of another version."""
    webhook: Webhook | None
    """Who converts between the versions; None where they differ by their names alone."""
    warning: str
    """What writers of a deprecated version are told."""
    has_status: bool
    scale: ScalePaths | None
    columns: tuple[Object, ...]
    terminating: bool
    """Whether the definition is being deleted: nothing new may come."""
    selectable: tuple[str, ...]
    """Fields that field selectors may name: ``spec.color``."""

    @cached_property
    def definitions(self) -> dict[str, facts.Definition]:
        """What server-side apply knows of the objects, to be added to the facts while the version is served."""
        return shapes.definitions(self.served.definition, self.schema)

    def complete(
        self, value: Object, validation: Literal["Strict", "Warn", "Ignore"], duplicates: list[str] | None = None
    ) -> tuple[Object, list[str]]:
        """Return the object pruned and with its defaults, and the warnings to send; raises BadRequest."""
        obj, told = self.read(value, validation, duplicates)
        fill_defaults(obj, self.schema)
        return obj, told

    def shape(self, obj: Object) -> Object:
        """Return an object that was stored, perhaps under an older schema, as this one has it, changed in place."""
        fill_defaults(self.cut(obj), self.schema)
        return obj

    def cut(self, obj: Object) -> Object:
        """Return an object that came from another version without what this one has not, changed in place.

        It gets no defaults: those of the stored version are there, and Kubernetes adds no others.
        """
        prune(obj, self.schema)
        return obj

    def read(
        self, value: Object, validation: Literal["Strict", "Warn", "Ignore"], duplicates: list[str] | None = None
    ) -> tuple[Object, list[str]]:
        """Return the object pruned, and the warnings to send; raises BadRequest."""
        resource = self.served.resource
        sent = (value.get("apiVersion") or resource.api_version, value.get("kind") or resource.kind)
        if sent[0] != resource.api_version:
            raise status.bad_request(
                f"the API version in the data ({sent[0]}) does not match the expected API version "
                f"({resource.api_version})"
            )
        about = f'{sent[1]} in version "{resource.version}" cannot be handled as a {resource.kind}'
        if sent[1] != resource.kind:
            wrong = Faults()
            wrong.invalid("kind", sent[1], f"must be {resource.kind}")
            metadata = value.get("metadata")
            called = metadata.get("name") if isinstance(metadata, dict) else ""
            raise status.invalid(str(sent[1]), str(called or ""), wrong.causes, resource.group)
        obj: Object = {**value, "apiVersion": resource.api_version, "kind": resource.kind}
        faults = list(duplicates or ())
        try:
            obj["metadata"], unknown = clean(obj.get("metadata") or {}, META_DEFINITION)
        except DecodeError as error:
            raise status.bad_request(f"{about}: {error}") from None
        faults += [fault.replace('"', '"metadata.', 1) for fault in unknown]
        faults += sorted(f'unknown field "{path}"' for path in prune(obj, self.schema))
        if faults and validation == "Strict":
            raise status.bad_request(f"{about}: strict decoding error: {', '.join(faults)}")
        return obj, faults if validation == "Warn" else []

    @cached_property
    def rules(self) -> Ruled | None:
        """The rules in the schema, None where there are none."""
        if not has_rules(self.schema):
            return None
        from control.api.custom.rules import compile_rules

        return compile_rules(self.schema)

    def check(self, obj: Object, old: Object | None = None, most: int = ENDLESS) -> list[status.Cause]:
        """Return the faults of an object, beside those of its metadata, where it is to take the place of ``old``.

        Raises TooLongError where its rules cost more than ``most``.
        """
        faults = Faults()
        rest = {name: value for name, value in obj.items() if name != "metadata"}
        check(rest, self.schema, "", faults)
        if faults and old is not None:
            faults = Faults()
            check(rest, self.schema, "", faults, {name: value for name, value in old.items() if name != "metadata"})
        duplicates = Faults()
        check_lists(rest, self.schema, "", duplicates)
        if duplicates and old is not None and self._holds_duplicates(old):
            duplicates = Faults()
        faults.causes += duplicates.causes
        if self.rules is not None:
            if any(cause.reason in BLOCKING for cause in faults.causes):
                faults.invalid(NOWHERE, None, NOT_CHECKED)
            else:
                from control.api.custom.rules import check_rules

                check_rules(self.rules, obj, old, faults, most)
        return faults.causes

    def _holds_duplicates(self, old: Object) -> bool:
        found = Faults()
        check_lists({name: value for name, value in old.items() if name != "metadata"}, self.schema, "", found)
        return bool(found)

    @cached_property
    def printer(self) -> Printer:
        """How the objects become rows."""
        if not self.columns:
            return Printer((NAME, AGE), lambda obj, now: [name(obj), _age(obj, now)])
        cells = [_cell(column) for column in self.columns]
        columns = tuple(
            Column(
                column["name"],
                column["type"],
                column.get("priority") or 0,
                column.get("format") or "",
                column.get("description")
                or f"Custom resource definition column (in JSONPath format): {column['jsonPath']}",
            )
            for column in self.columns
        )
        return Printer((NAME, *columns), lambda obj, now: [name(obj), *(cell(obj, now) for cell in cells)])


def _age(obj: Object, now: datetime) -> str:
    return times.age((obj.get("metadata") or {}).get("creationTimestamp"), now)


def _cell(column: Object) -> Callable[[Object, datetime], Any]:
    path = jsonpath.parse(column["jsonPath"])
    kind = column["type"]

    def cell(obj: Object, now: datetime) -> Any:
        found = path.find(obj)
        if not found or found[0] is None:
            return None
        value = found[0]
        match kind:
            case "date":
                return times.age(value, now) if isinstance(value, str) else "<invalid>"
            case "integer":
                return int(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
            case "number":
                return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
            case "boolean":
                return value if isinstance(value, bool) else None
            case _:
                return " ".join(item if isinstance(item, str) else shown(item) for item in found)

    return cell


def versions_of(definition: Object) -> list[CustomVersion]:
    """Return every version of a CustomResourceDefinition, the storage version among them, ready to be served."""
    spec, accepted = definition["spec"], (definition.get("status") or {}).get("acceptedNames") or {}
    names = accepted if accepted.get("plural") else spec["names"]
    several = len(spec["versions"]) > 1 or len((definition.get("status") or {}).get("storedVersions") or ()) > 1
    mark = f"{definition['metadata']['uid']}-{definition['metadata'].get('generation', 0)}"
    ending = bool(definition["metadata"].get("deletionTimestamp"))
    return [_version(spec, names, version, mark, converts=several, ending=ending) for version in spec["versions"]]


def _version(spec: Object, names: Object, version: Object, mark: str, *, converts: bool, ending: bool) -> CustomVersion:
    group, label = spec["group"], version["name"]
    resource = Resource(group, label, names["plural"], names["kind"], spec["scope"] == "Namespaced")
    offered = version.get("subresources") or {}
    scale = offered.get("scale")
    subresources = []
    if scale is not None:
        subresources.append(Subresource("scale", "autoscaling", "v1", "Scale", ("get", "patch", "update")))
    if offered.get("status") is not None:
        subresources.append(Subresource("status", group, label, names["kind"], ("get", "patch", "update")))
    served = Served(
        resource,
        names.get("singular") or names["kind"].lower(),
        VERBS,
        tuple(names.get("shortNames") or ()),
        tuple(names.get("categories") or ()),
        f"{group}.{label}.{names['kind']}@{mark}",
        tuple(subresources),
    )
    found = (version.get("schema") or {}).get("openAPIV3Schema") or {"type": "object", PRESERVES: True}
    if spec.get("preserveUnknownFields"):
        found = {**found, PRESERVES: True}
    warning = version.get("deprecationWarning") or _deprecation(spec, resource)
    return CustomVersion(
        served,
        found,
        bool(version["served"]),
        bool(version["storage"]),
        converts,
        _webhook(spec.get("conversion") or {}),
        warning if version.get("deprecated") else "",
        offered.get("status") is not None,
        _scale_paths(scale) if scale is not None else None,
        tuple(version.get("additionalPrinterColumns") or ()),
        ending,
        tuple(field["jsonPath"].lstrip(".") for field in version.get("selectableFields") or ()),
    )


def _deprecation(spec: Object, resource: Resource) -> str:
    """Return what users of a version are warned with where its definition has no words of its own."""
    text = f"{resource.api_version} {resource.kind} is deprecated"
    lasting = (found["name"] for found in spec["versions"] if found["served"] and not found.get("deprecated"))
    best = min(lasting, key=preference, default="")
    if not best or preference(best) >= preference(resource.version):
        return text
    return f"{text}; use {resource.group}/{best} {resource.kind}"


def _webhook(conversion: Object) -> Webhook | None:
    found = conversion.get("webhook")
    if conversion.get("strategy") != "Webhook" or not found:
        return None
    spoken = (version for version in found.get("conversionReviewVersions") or () if version in REVIEW_VERSIONS)
    return Webhook(found.get("clientConfig") or {}, next(spoken, "v1"))


def _scale_paths(scale: Object) -> ScalePaths:
    selector = scale.get("labelSelectorPath")
    return ScalePaths(
        jsonpath.parse(scale["specReplicasPath"]).fields or (),
        jsonpath.parse(scale["statusReplicasPath"]).fields or (),
        jsonpath.parse(selector).fields if selector else None,
    )
