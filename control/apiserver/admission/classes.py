"""DefaultStorageClass, DefaultIngressClass, PersistentVolumeClaimResize, RuntimeClass: what classes say of objects."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from control.api import quantity
from control.api.meta import Object
from control.api.resources import (
    INGRESS_CLASSES,
    INGRESSES,
    PERSISTENT_VOLUME_CLAIMS,
    PODS,
    RUNTIME_CLASSES,
    STORAGE_CLASSES,
    Resource,
)
from control.apiserver.admission.plugin import Plugin, concerns, denied, spec_of
from control.apiserver.request import AdmissionRequest, Lookup


def default_class(classes: Iterable[Object], *annotations: str) -> Object | None:
    """Return the default among classes: of several the newest, and of those the first by name."""
    marked = [
        entry
        for entry in classes
        if any((entry["metadata"].get("annotations") or {}).get(name) == "true" for name in annotations)
    ]
    by_name = sorted(marked, key=lambda entry: str(entry["metadata"]["name"]))
    return max(by_name, key=lambda entry: str(entry["metadata"].get("creationTimestamp") or ""), default=None)


class _DefaultClass(Plugin):
    """Gives a new object that names no class the default one."""

    resource: Resource
    classes: Resource
    field: str
    """Where in its spec the object names its class."""
    marks: tuple[str, ...]
    """Annotations that make a class the default."""
    annotation = ""
    """By which an object names its class, too."""

    def __init__(self, lookup: Lookup) -> None:
        self._lookup = lookup

    async def mutate(self, request: AdmissionRequest) -> None:
        """Complete a new object."""
        if not concerns(request, self.resource, "CREATE") or request.object is None:
            return
        spec = request.object.setdefault("spec", {})
        annotations = request.object["metadata"].get("annotations") or {}
        if spec.get(self.field) is not None or self.annotation in annotations:
            return
        found = default_class(self._lookup.list(self.classes), *self.marks)
        if found is not None:
            spec[self.field] = found["metadata"]["name"]


class DefaultStorageClass(_DefaultClass):
    """Gives a claim that names no class the default one."""

    resource, classes, field = PERSISTENT_VOLUME_CLAIMS, STORAGE_CLASSES, "storageClassName"
    marks = ("storageclass.kubernetes.io/is-default-class", "storageclass.beta.kubernetes.io/is-default-class")


class DefaultIngressClass(_DefaultClass):
    """Gives an Ingress that names no class the default one."""

    resource, classes, field = INGRESSES, INGRESS_CLASSES, "ingressClassName"
    marks = ("ingressclass.kubernetes.io/is-default-class",)
    annotation = "kubernetes.io/ingress.class"


class PersistentVolumeClaimResize(Plugin):
    """Lets a claim grow only where its class says that volumes can."""

    about = (PERSISTENT_VOLUME_CLAIMS,)

    def __init__(self, lookup: Lookup) -> None:
        self._lookup = lookup

    async def validate(self, request: AdmissionRequest) -> None:
        """Refuse to let a claim grow that cannot."""
        if not concerns(request, PERSISTENT_VOLUME_CLAIMS, "UPDATE") or not request.object or not request.old_object:
            return
        if _storage(request.object) <= _storage(request.old_object):
            return
        if (request.old_object.get("status") or {}).get("phase") != "Bound":
            raise denied(request, "Only bound persistent volume claims can be expanded")
        name = spec_of(request.object).get("storageClassName") or ""
        found = self._lookup.get(STORAGE_CLASSES, name) if name else None
        if found is None or not found.get("allowVolumeExpansion"):
            text = (
                "only dynamically provisioned pvc can be resized and the storageclass that provisions the pvc must "
                "support resize"
            )
            raise denied(request, text)


def _storage(claim: Object) -> Any:
    return quantity.parse(((spec_of(claim).get("resources") or {}).get("requests") or {}).get("storage") or "0")


class RuntimeClass(Plugin):
    """Gives a pod its RuntimeClass's overhead, node selector and tolerations."""

    about = (PODS,)

    def __init__(self, lookup: Lookup) -> None:
        self._lookup = lookup

    async def mutate(self, request: AdmissionRequest) -> None:
        """Complete a new pod."""
        if not concerns(request, PODS, "CREATE") or request.object is None:
            return
        spec = request.object.setdefault("spec", {})
        if (found := self._found(request)) is None:
            return
        scheduling = found.get("scheduling") or {}
        selector = spec.get("nodeSelector") or {}
        for key, value in (scheduling.get("nodeSelector") or {}).items():
            if selector.get(key, value) != value:
                where = f"nodeSelector[{key}] = "
                text = f"conflict: runtimeClass.scheduling.{where}{value}; pod.spec.{where}{selector[key]}"
                raise denied(request, text)
            selector[key] = value
        if selector:
            spec["nodeSelector"] = selector
        tolerations = spec.get("tolerations") or []
        added = [entry for entry in scheduling.get("tolerations") or () if entry not in tolerations]
        if added:
            spec["tolerations"] = [*tolerations, *added]
        overhead = (found.get("overhead") or {}).get("podFixed")
        if overhead:
            if spec.get("overhead") not in (None, overhead):
                raise denied(request, "pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead")
            spec["overhead"] = dict(overhead)

    async def validate(self, request: AdmissionRequest) -> None:
        """Refuse an overhead that no class gave."""
        if (
            concerns(request, PODS, "CREATE")
            and self._found(request) is None
            and spec_of(request.object).get("overhead")
        ):
            raise denied(request, "pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead")

    def _found(self, request: AdmissionRequest) -> Object | None:
        name = spec_of(request.object).get("runtimeClassName")
        if not name:
            return None
        found = self._lookup.get(RUNTIME_CLASSES, name)
        if found is None:
            raise denied(request, f"pod rejected: RuntimeClass {name!r} not found".replace("'", '"'))
        return found
