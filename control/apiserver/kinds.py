"""The kinds: what is served under which path, and under which key it is stored."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from control.api import schema, status
from control.api.custom.version import CustomVersion, ScalePaths
from control.api.resources import Resource, Served, Subresource, catalog


@dataclass(frozen=True)
class Kind:
    """One kind as one version serves it."""

    served: Served
    custom: CustomVersion | None = field(default=None, compare=False)
    """What its CustomResourceDefinition says; None for built-in kinds."""

    @cached_property
    def resource(self) -> Resource:
        """Its names."""
        return self.served.resource

    @cached_property
    def verbs(self) -> frozenset[str]:
        """What may be done with it."""
        return frozenset(self.served.verbs)

    @cached_property
    def key_prefix(self) -> str:
        """Where its objects stand below the store's prefix, as kube-apiserver puts them."""
        if self.custom is not None:
            return f"{self.resource.group}/{self.resource.plural}"
        return _KEY_PREFIXES.get((self.resource.group, self.resource.plural), self.resource.plural)

    @cached_property
    def has_status(self) -> bool:
        """Whether status is written by a subresource alone."""
        return self.subresource("status") is not None

    @cached_property
    def fields(self) -> Mapping[str, Callable[[dict[str, Any]], str]]:
        """Fields that field selectors may name beside metadata.name and metadata.namespace."""
        if self.custom is not None:
            return {path: _reader(path) for path in self.custom.selectable}
        name = (self.resource.group, self.resource.plural)
        paths = STORED_FIELDS.get(name) or dict.fromkeys(_FIELDS.get(name, ()), "")
        return {path: _reader(stored or path) for path, stored in paths.items()}

    @cached_property
    def deprecation(self) -> str:
        """What everybody who uses it is warned with; empty for most."""
        if self.custom is not None:
            return self.custom.warning
        return _DEPRECATIONS.get((self.resource.group, self.resource.plural), "")

    @property
    def scale_paths(self) -> ScalePaths | None:
        """Where a custom object's replicas stand."""
        return self.custom.scale if self.custom is not None else None

    def subresource(self, name: str) -> Subresource | None:
        """Return the subresource of this name."""
        return self.served.subresource(name)


_DEPRECATIONS = {
    ("", "componentstatuses"): "v1 ComponentStatus is deprecated in v1.19+",
    ("", "endpoints"): "v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice",
}
_KEY_PREFIXES = {
    ("", "services"): "services/specs",
    ("", "endpoints"): "services/endpoints",
    ("", "nodes"): "minions",
    ("", "replicationcontrollers"): "controllers",
    ("networking.k8s.io", "ingresses"): "ingress",
    ("events.k8s.io", "events"): "events",
    ("apiextensions.k8s.io", "customresourcedefinitions"): "apiextensions.k8s.io/customresourcedefinitions",
    ("apiregistration.k8s.io", "apiservices"): "apiregistration.k8s.io/apiservices",
}
_EVENT_FIELDS = (
    "involvedObject.kind", "involvedObject.namespace", "involvedObject.name", "involvedObject.uid",
    "involvedObject.apiVersion", "involvedObject.resourceVersion", "involvedObject.fieldPath", "reason",
    "reportingComponent", "source", "type",
)  # fmt: skip
STORED_FIELDS: dict[tuple[str, str], dict[str, str]] = {
    ("events.k8s.io", "events"): {
        **{path.replace("involvedObject", "regarding"): path for path in _EVENT_FIELDS if path.startswith("involved")},
        "reason": "reason", "reportingController": "reportingComponent", "type": "type",
    },
}  # fmt: skip
"""Fields that selectors name in one version, and their names in the stored one."""
_FIELDS: dict[tuple[str, str], tuple[str, ...]] = {
    ("", "pods"): (
        "spec.nodeName", "spec.restartPolicy", "spec.schedulerName", "spec.serviceAccountName", "spec.hostNetwork",
        "status.phase", "status.podIP", "status.nominatedNodeName",
    ),
    ("", "events"): _EVENT_FIELDS,
    ("", "nodes"): ("spec.unschedulable",),
    ("", "namespaces"): ("status.phase",),
    ("", "secrets"): ("type",),
    ("", "services"): ("spec.clusterIP", "spec.type"),
    ("", "replicationcontrollers"): ("status.replicas",),
    ("apps", "replicasets"): ("status.replicas",),
    ("batch", "jobs"): ("status.successful",),
    ("certificates.k8s.io", "certificatesigningrequests"): ("spec.signerName",),
    ("networking.k8s.io", "ipaddresses"): ("spec.parentRef.resource",),
    ("resource.k8s.io", "resourceslices"): ("spec.nodeName", "spec.driver"),
}  # fmt: skip
_FALSE_WHEN_ABSENT = frozenset({"spec.unschedulable", "spec.hostNetwork"})
_ZERO_WHEN_ABSENT = frozenset({"status.replicas", "status.successful"})


def _reader(path: str) -> Callable[[dict[str, Any]], str]:
    parts = path.split(".")
    if path == "source":
        return lambda obj: str((obj.get("source") or {}).get("component") or obj.get("reportingComponent") or "")
    if path == "status.successful":
        parts = ["status", "succeeded"]
    absent = "false" if path in _FALSE_WHEN_ABSENT else "0" if path in _ZERO_WHEN_ABSENT else ""

    def text(value: Any) -> str:
        if isinstance(value, str):
            return value
        if isinstance(value, bool):
            return "true" if value else "false"
        return absent if value is None else str(value)

    def read(obj: dict[str, Any]) -> str:
        value: Any = obj
        for part in parts:
            value = value.get(part) if isinstance(value, dict) else None
        return text(value)

    if len(parts) != 2:
        return read
    outer, inner = parts

    def read_two(obj: dict[str, Any]) -> str:
        """Read what nearly all paths are: a field of a field."""
        around = obj.get(outer)
        value = around.get(inner) if isinstance(around, dict) else None
        return value if isinstance(value, str) else text(value)

    return read_two


_STORAGE_VERSIONS = {("", "events"): ("", "v1"), ("autoscaling", "horizontalpodautoscalers"): ("autoscaling", "v2")}
_SAME_OBJECTS = {("events.k8s.io", "events"): ("", "events")}


class Kinds:
    """All kinds that are served, by path, and stored, by key; custom ones come and go."""

    def __init__(self, served: Iterable[Served], prefix: str = "/registry") -> None:
        self.prefix = prefix
        self.generation = 0
        """Grows with every change: documents made of the kinds are outdated then."""
        self._built_in = tuple(Kind(each) for each in served)
        self._custom: dict[str, tuple[Kind, ...]] = {}
        """All versions of each definition, by its name."""
        self._arrange()

    def _arrange(self) -> None:
        custom = [kind for name in sorted(self._custom) for kind in self._custom[name]]
        served = [kind for kind in custom if kind.custom is not None and kind.custom.is_served]
        self.all = (*self._built_in, *served)
        self._by_path = {(kind.resource.group, kind.resource.version, kind.resource.plural): kind for kind in self.all}
        self._by_name = {(kind.resource.group, kind.resource.plural): kind for kind in reversed(self.all)}
        self._storage = {
            (kind.resource.group, kind.resource.plural): kind
            for kind in custom
            if kind.custom is not None and kind.custom.is_storage
        }
        self.generation += 1

    def set_custom(self, definition: str, versions: Iterable[CustomVersion]) -> None:
        """Serve these versions of a definition in place of those before, none of them where there are none."""
        before = self._custom.pop(definition, ())
        for kind in before:
            assert kind.custom is not None
            schema.drop(kind.custom.definitions)
        made = tuple(Kind(version.served, version) for version in versions)
        for kind in made:
            assert kind.custom is not None
            schema.add(kind.custom.definitions)
        if made:
            self._custom[definition] = made
        if made or before:
            self._arrange()

    def custom(self, definition: str) -> tuple[Kind, ...]:
        """Return all versions of a definition."""
        return self._custom.get(definition, ())

    def find(self, group: str, version: str, plural: str) -> Kind | None:
        """Return the kind served under this path."""
        return self._by_path.get((group, version, plural))

    def of(self, resource: Resource) -> Kind:
        """Return the kind of a resource; raise NotFound where it is not served."""
        kind = self.find(resource.group, resource.version, resource.plural)
        kind = kind or self._by_name.get((resource.group, resource.plural))
        if kind is None:
            raise status.failure(404, "NotFound", "the server could not find the requested resource")
        return kind

    def storage(self, kind: Kind) -> Kind:
        """Return the kind in the group and version that objects are stored in."""
        name = (kind.resource.group, kind.resource.plural)
        if kind.custom is not None:
            return self._storage.get(name, kind)
        name = _SAME_OBJECTS.get(name, name)
        if name in _STORAGE_VERSIONS:
            return self._by_path.get((*_STORAGE_VERSIONS[name], name[1]), kind)
        return kind

    def converts(self, kind: Kind) -> bool:
        """Tell whether stored objects may be of another version than the one that is served."""
        return self.storage(kind) is not kind or (kind.custom is not None and kind.custom.converts)

    def key_prefix(self, kind: Kind) -> str:
        """Return the prefix of all keys of a kind, with its slash."""
        return f"{self.prefix}/{kind.key_prefix}/"

    def key(self, kind: Kind, namespace: str, name: str) -> str:
        """Return the key of one object."""
        return self.key_prefix(kind) + (f"{namespace}/{name}" if kind.resource.namespaced else name)

    def group_versions(self) -> list[tuple[str, str]]:
        """Return the served group versions in the order of discovery, the core group first."""
        return list(dict.fromkeys((kind.resource.group, kind.resource.version) for kind in self.all))


def load(prefix: str = "/registry") -> Kinds:
    """Return the built-in kinds."""
    return Kinds(catalog(), prefix)
