"""Rules of a container's environment: where its variables get their values from."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from control.api import quantity
from control.api.validation import names
from control.api.validation.faults import Faults
from control.api.validation.paths import check_no_backsteps
from control.api.validation.security import all_containers

_VALUE_SOURCES = ("fieldRef", "resourceFieldRef", "configMapKeyRef", "secretKeyRef", "fileKeyRef")
_POD_FIELDS = (
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
)
_CONVERTIBLE_FIELDS = frozenset({
    *_POD_FIELDS, "metadata.labels", "metadata.annotations", "spec.restartPolicy", "spec.schedulerName", "status.phase",
})  # fmt: skip
"""Fields by which pods may be told of, if not everywhere."""
_RESOURCE_FIELDS = tuple(
    f"{kind}.{name}" for kind in ("limits", "requests") for name in ("cpu", "ephemeral-storage", "memory")
)
_BYTE_DIVISORS = ("1", "1k", "1M", "1G", "1T", "1P", "1E", "1Ki", "1Mi", "1Gi", "1Ti", "1Pi", "1Ei")


def check_environment(variables: list[dict[str, Any]], path: str, faults: Faults) -> None:
    """Check the variables of a container."""
    for index, variable in enumerate(variables):
        here = f"{path}[{index}]"
        if not variable.get("name"):
            faults.required(f"{here}.name")
        else:
            faults.invalid_all(f"{here}.name", variable["name"], names.environment_name(variable["name"]))
        source = variable.get("valueFrom")
        if source is None:
            continue
        given = [key for key in _VALUE_SOURCES if source.get(key) is not None]
        _check_value_source(source, f"{here}.valueFrom", faults)
        if not given:
            sources = ", ".join(f"`{key}`" for key in _VALUE_SOURCES[:-2])
            text = f"must specify one of: {sources}, `secretKeyRef` or `fileKeyRef`"
            faults.invalid(f"{here}.valueFrom", "", text)
        elif variable.get("value"):
            faults.invalid(f"{here}.valueFrom", "", "may not be specified when `value` is not empty")
        elif len(given) > 1:
            faults.invalid(f"{here}.valueFrom", "", "may not have more than one field specified at a time")


def _check_value_source(source: dict[str, Any], path: str, faults: Faults) -> None:
    if (reference := source.get("fieldRef")) is not None:
        check_field_reference(reference, f"{path}.fieldRef", faults, _POD_FIELDS)
    if (reference := source.get("resourceFieldRef")) is not None:
        check_resource_field(reference, f"{path}.resourceFieldRef", faults)
    for key in ("configMapKeyRef", "secretKeyRef"):
        if (reference := source.get(key)) is not None:
            name = reference.get("name") or ""
            faults.invalid_all(f"{path}.{key}.name", name, names.dns_subdomain(name))
            if not reference.get("key"):
                faults.required(f"{path}.{key}.key")
            else:
                faults.invalid_all(f"{path}.{key}.key", reference["key"], names.config_key(reference["key"]))
    if (reference := source.get("fileKeyRef")) is not None:
        _check_file_key(reference, f"{path}.fileKeyRef", faults)


def _check_file_key(reference: dict[str, Any], path: str, faults: Faults) -> None:
    key, volume, file = (reference.get(field) or "" for field in ("key", "volumeName", "path"))
    if not key:
        faults.required(f"{path}.key")
    else:
        faults.invalid_all(f"{path}.key", key, names.environment_name(key))
    if not volume:
        faults.required(f"{path}.volumeName")
    else:
        faults.invalid_all(f"{path}.volumeName", volume, names.dns_label(volume))
    if not file:
        faults.required(f"{path}.path")
    else:
        check_no_backsteps(file, f"{path}.path", faults)


def check_file_volumes(spec: dict[str, Any], path: str, faults: Faults) -> None:
    """Check that files of variables lie in volumes that a pod's own containers write."""
    volumes: dict[str, dict[str, Any]] | None = None
    for here, container in all_containers(spec, path):
        for index, variable in enumerate(container.get("env") or ()):
            reference = (variable.get("valueFrom") or {}).get("fileKeyRef")
            if reference is None:
                continue
            if volumes is None:
                volumes = {volume.get("name") or "": volume for volume in spec.get("volumes") or ()}
            name, told = reference.get("volumeName") or "", f"{here}.env[{index}].valueFrom.fileKeyRef.volumeName"
            if name not in volumes:
                faults.not_found(told, name)
            elif volumes[name].get("emptyDir") is None:
                faults.invalid(told, name, "referenced volume must be of type emptyDir")


def check_field_reference(reference: dict[str, Any], path: str, faults: Faults, known: Iterable[str]) -> None:
    """Check a reference to a field of the pod itself."""
    name = reference.get("fieldPath") or ""
    if not reference.get("apiVersion"):
        faults.required(f"{path}.apiVersion")
    elif not name:
        faults.required(f"{path}.fieldPath")
    elif reference["apiVersion"] != "v1":
        text = f"error converting fieldPath: unsupported pod version: {reference['apiVersion']}"
        faults.invalid(f"{path}.fieldPath", name, text)
    elif name.endswith("']") and name.find("['") > 0:
        holder, _, key = name.removesuffix("']").partition("['")
        if holder == "metadata.annotations":
            faults.invalid_all(path, key.lower(), names.qualified_name(key.lower()))
        elif holder == "metadata.labels":
            faults.invalid_all(path, key, names.qualified_name(key))
        else:
            text = f"error converting fieldPath: field label does not support subscript: {name}"
            faults.invalid(f"{path}.fieldPath", name, text)
    elif name not in _CONVERTIBLE_FIELDS:
        faults.invalid(f"{path}.fieldPath", name, f"error converting fieldPath: field label not supported: {name}")
    elif name not in known:
        faults.not_supported(f"{path}.fieldPath", name, sorted(known))


def check_resource_field(reference: dict[str, Any], path: str, faults: Faults, *, in_volume: bool = False) -> None:
    """Check a reference to a container's request or limit, and the unit that it is told in."""
    resource = reference.get("resource") or ""
    if in_volume and not reference.get("containerName"):
        faults.required(f"{path}.containerName")
    elif not resource:
        faults.required(f"{path}.resource")
    elif resource not in _RESOURCE_FIELDS and not resource.startswith(("limits.hugepages-", "requests.hugepages-")):
        faults.not_supported(f"{path}.resource", resource, sorted(_RESOURCE_FIELDS))
    divisor = reference.get("divisor")
    if divisor is None or not quantity.parse(divisor):
        return
    part, _, name = resource.partition(".")
    if part not in ("limits", "requests"):
        return
    divisor = quantity.canonical(str(divisor))
    word = "hugepages" if name.startswith("hugepages-") else name
    word = "local ephemeral storage" if name == "ephemeral-storage" else word
    if name == "cpu" and divisor not in ("1m", "1"):
        text = "only divisor's values 1m and 1 are supported with the cpu resource"
        faults.invalid(f"{path}.divisor", resource, text)
    elif word in ("memory", "local ephemeral storage", "hugepages") and divisor not in _BYTE_DIVISORS:
        text = f"only divisor's values {', '.join(_BYTE_DIVISORS)} are supported with the {word} resource"
        faults.invalid(f"{path}.divisor", resource, text)


def check_environment_sources(sources: list[dict[str, Any]], path: str, faults: Faults) -> None:
    """Check the maps and secrets that variables are taken from as a whole."""
    for index, source in enumerate(sources):
        here = f"{path}[{index}]"
        if prefix := source.get("prefix"):
            faults.invalid_all(f"{here}.prefix", prefix, names.environment_name(prefix))
        given = [key for key in ("configMapRef", "secretRef") if source.get(key) is not None]
        for key in given:
            if not (name := source[key].get("name")):
                faults.required(f"{here}.{key}.name")
            else:
                faults.invalid_all(f"{here}.{key}.name", name, names.dns_subdomain(name))
        if not given:
            faults.invalid(path, "", "must specify one of: `configMapRef` or `secretRef`")
        elif len(given) > 1:
            faults.invalid(path, "", "may not have more than one field specified at a time")
