"""Rules of a pod's volumes."""

from __future__ import annotations

from typing import Any

from control.api import schema
from control.api.validation import names
from control.api.validation.containers import check_field_reference, check_inner_path, check_resource_field
from control.api.validation.faults import Faults

_DOWNWARD_FIELDS = ("metadata.name", "metadata.namespace", "metadata.uid")
_MODE_RANGE = "must be a number between 0 and 0777 (octal), both inclusive"
_REQUIRED_NAMES = {"persistentVolumeClaim": "claimName", "secret": "secretName", "configMap": "name"}


def check_volumes(volumes: list[dict[str, Any]], path: str, faults: Faults) -> set[str]:
    """Check the volumes of a pod; return the names that containers may mount."""
    taken: set[str] = set()
    for index, volume in enumerate(volumes):
        here = f"{path}[{index}]"
        name = volume.get("name")
        if not name:
            faults.required(f"{here}.name")
        else:
            found = names.dns_label(name)
            faults.invalid_all(f"{here}.name", name, found)
            if name in taken:
                faults.duplicate(f"{here}.name", name)
            taken.add(name)
        check_source(volume, here, faults)
    return taken


def check_source(volume: dict[str, Any], path: str, faults: Faults) -> None:
    """Check that a volume has exactly one source, and that source."""
    sources = [key for key in schema.definition("core.v1.VolumeSource").fields if volume.get(key) is not None]
    sources.sort(key=lambda kind: kind != "emptyDir")
    if not sources:
        faults.required(path, "must specify a volume type")
    for extra in sources[1:]:
        faults.forbidden(f"{path}.{extra}", "may not specify more than 1 volume type")
    for kind in sources[:1]:
        _check_kind(kind, volume[kind], f"{path}.{kind}", faults)


def _check_kind(kind: str, source: dict[str, Any], path: str, faults: Faults) -> None:
    if (field := _REQUIRED_NAMES.get(kind)) and not source.get(field):
        faults.required(f"{path}.{field}")
    if kind in ("secret", "configMap"):
        _check_mode(source.get("defaultMode"), f"{path}.defaultMode", faults)
        _check_items(source.get("items") or [], f"{path}.items", faults)
    elif kind == "downwardAPI":
        _check_mode(source.get("defaultMode"), f"{path}.defaultMode", faults)
        _check_downward(source.get("items") or [], path, faults)
    elif kind == "projected":
        _check_mode(source.get("defaultMode"), f"{path}.defaultMode", faults)
        _check_projections(source.get("sources") or [], f"{path}.sources", faults)
    elif kind == "hostPath":
        if not source.get("path"):
            faults.required(f"{path}.path")
        elif ".." in source["path"].split("/"):
            faults.invalid(f"{path}.path", source["path"], "must not contain '..'")
    elif kind == "nfs":
        for field in ("server", "path"):
            if not source.get(field):
                faults.required(f"{path}.{field}")
        if source.get("path") and not source["path"].startswith("/"):
            faults.invalid(f"{path}.path", source["path"], "must be an absolute path")
    elif kind == "ephemeral" and source.get("volumeClaimTemplate") is None:
        faults.required(f"{path}.volumeClaimTemplate")
    elif kind == "emptyDir" and str(source.get("sizeLimit", "0")).startswith("-"):
        faults.forbidden(f"{path}.sizeLimit", "SizeLimit field must be a valid resource quantity")


def _check_mode(mode: int | None, path: str, faults: Faults) -> None:
    if mode is not None and not 0 <= mode <= 0o777:
        faults.invalid(path, mode, _MODE_RANGE)


def _check_items(items: list[dict[str, Any]], path: str, faults: Faults) -> None:
    for index, item in enumerate(items):
        here = f"{path}[{index}]"
        if not item.get("key"):
            faults.required(f"{here}.key")
        if not item.get("path"):
            faults.required(f"{here}.path")
        else:
            check_inner_path(item["path"], f"{here}.path", faults)
        _check_mode(item.get("mode"), f"{here}.mode", faults)


def _check_downward(items: list[dict[str, Any]], path: str, faults: Faults) -> None:
    for item in items:
        if not item.get("path"):
            faults.required(f"{path}.path")
        else:
            check_inner_path(item["path"], f"{path}.path", faults)
        if (reference := item.get("fieldRef")) is not None:
            check_field_reference(reference, f"{path}.fieldRef", faults, _DOWNWARD_FIELDS)
            if item.get("resourceFieldRef") is not None:
                faults.invalid(path, "resource", "fieldRef and resourceFieldRef can not be specified simultaneously")
        elif (resource := item.get("resourceFieldRef")) is not None:
            if not resource.get("containerName"):
                faults.required(f"{path}.resourceFieldRef.containerName")
            check_resource_field(resource, f"{path}.resourceFieldRef", faults)
        else:
            faults.required(f"{path}.fieldRef", "one of fieldRef and resourceFieldRef is required")
        _check_mode(item.get("mode"), f"{path}.mode", faults)


def _check_projections(sources: list[dict[str, Any]], path: str, faults: Faults) -> None:
    for index, source in enumerate(sources):
        here = f"{path}[{index}]"
        if len([key for key, value in source.items() if value is not None]) > 1:
            faults.forbidden(here, "may not specify more than 1 volume type")
        for kind in ("secret", "configMap"):
            if (projection := source.get(kind)) is not None:
                if not projection.get("name"):
                    faults.required(f"{here}.{kind}.name")
                _check_items(projection.get("items") or [], f"{here}.{kind}.items", faults)
        if (projection := source.get("downwardAPI")) is not None:
            _check_downward(projection.get("items") or [], f"{here}.downwardAPI", faults)
        if (token := source.get("serviceAccountToken")) is not None:
            _check_token(token, f"{here}.serviceAccountToken", faults)


def _check_token(token: dict[str, Any], path: str, faults: Faults) -> None:
    seconds = token.get("expirationSeconds")
    if seconds is not None and seconds < 600:
        faults.invalid(f"{path}.expirationSeconds", seconds, "may not specify a duration less than 10 minutes")
    if seconds is not None and seconds > 1 << 32:
        faults.invalid(f"{path}.expirationSeconds", seconds, "may not specify a duration larger than 2^32 seconds")
    if not token.get("path"):
        faults.required(f"{path}.path")
    else:
        check_inner_path(token["path"], f"{path}.path", faults)
