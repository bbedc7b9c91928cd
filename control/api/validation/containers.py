"""Rules of containers: names, images, ports, environment, mounts, resources, probes and hooks."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from control.api import quantity
from control.api.validation import names
from control.api.validation.faults import NOT_NEGATIVE, Faults

_STANDARD_RESOURCES = ("cpu", "memory", "ephemeral-storage")
_QUOTA_RESOURCES = ("requests.", "limits.")
_HANDLERS = ("exec", "httpGet", "tcpSocket", "grpc")
_VALUE_SOURCES = ("fieldRef", "resourceFieldRef", "configMapKeyRef", "secretKeyRef", "fileKeyRef")
_NOT_EPHEMERAL = "cannot be set for an Ephemeral Container"
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
_RESOURCE_FIELDS = tuple(
    f"{kind}.{name}" for kind in ("limits", "requests") for name in ("cpu", "ephemeral-storage", "memory")
)


def check_containers(
    containers: list[dict[str, Any]], volumes: set[str], path: str, faults: Faults, taken: set[str]
) -> None:
    """Check a list of ordinary containers; ``taken`` gathers names over all lists."""
    for index, container in enumerate(containers):
        here = f"{path}[{index}]"
        _check_name(container, here, faults, taken)
        check_container(container, volumes, here, faults)
        _check_probes(container, here, faults)
        _check_lifecycle(container.get("lifecycle"), f"{here}.lifecycle", faults)


def check_init_containers(
    containers: list[dict[str, Any]], volumes: set[str], path: str, faults: Faults, taken: set[str]
) -> None:
    """Check init containers; those that restart always are sidecars and may have probes and hooks."""
    for index, container in enumerate(containers):
        here = f"{path}[{index}]"
        _check_name(container, here, faults, taken)
        check_container(container, volumes, here, faults)
        if container.get("restartPolicy") == "Always":
            _check_probes(container, here, faults)
            _check_lifecycle(container.get("lifecycle"), f"{here}.lifecycle", faults)
            continue
        for field in ("lifecycle", "livenessProbe", "readinessProbe", "startupProbe"):
            if container.get(field) is not None:
                faults.forbidden(f"{here}.{field}", "may not be set for init containers without restartPolicy=Always")


def check_ephemeral_containers(
    containers: list[dict[str, Any]], volumes: set[str], path: str, faults: Faults, taken: set[str], targets: set[str]
) -> None:
    """Check ephemeral containers: no ports, probes, hooks or resources, and a target that exists."""
    for index, container in enumerate(containers):
        here = f"{path}[{index}]"
        _check_name(container, here, faults, taken)
        check_container(container, volumes, here, faults)
        target = container.get("targetContainerName")
        if target and target not in targets:
            faults.not_found(f"{here}.targetContainerName", target)
        for field in ("ports", "lifecycle", "livenessProbe", "readinessProbe", "startupProbe", "resources"):
            if container.get(field):
                faults.forbidden(f"{here}.{field}", _NOT_EPHEMERAL)
        for position, mount in enumerate(container.get("volumeMounts") or []):
            for field in ("subPath", "subPathExpr"):
                if mount.get(field):
                    faults.forbidden(f"{here}.volumeMounts[{position}].{field}", _NOT_EPHEMERAL)


def _check_name(container: dict[str, Any], path: str, faults: Faults, taken: set[str]) -> None:
    name = container.get("name")
    if not name:
        faults.required(f"{path}.name")
        return
    faults.invalid_all(f"{path}.name", name, names.dns_label(name))
    if name in taken:
        faults.duplicate(f"{path}.name", name)
    taken.add(name)


def check_container(container: dict[str, Any], volumes: set[str], path: str, faults: Faults) -> None:
    """Check what all kinds of containers have in common."""
    image = container.get("image")
    if not image:
        faults.required(f"{path}.image")
    elif image != image.strip():
        faults.invalid(f"{path}.image", image, "must not have leading or trailing whitespace")
    _check_ports(container.get("ports") or [], f"{path}.ports", faults)
    _check_environment(container.get("env") or [], f"{path}.env", faults)
    _check_environment_sources(container.get("envFrom") or [], f"{path}.envFrom", faults)
    _check_mounts(container.get("volumeMounts") or [], volumes, f"{path}.volumeMounts", faults)
    check_resources(container.get("resources") or {}, f"{path}.resources", faults)
    _check_security(container.get("securityContext") or {}, f"{path}.securityContext", faults)


def _check_ports(ports: list[dict[str, Any]], path: str, faults: Faults) -> None:
    taken: set[str] = set()
    for index, port in enumerate(ports):
        here = f"{path}[{index}]"
        if name := port.get("name"):
            found = names.port_name(name)
            faults.invalid_all(f"{here}.name", name, found)
            if not found and name in taken:
                faults.duplicate(f"{here}.name", name)
            taken.add(name)
        if not port.get("containerPort"):
            faults.required(f"{here}.containerPort")
        else:
            faults.invalid_all(f"{here}.containerPort", port["containerPort"], names.port_number(port["containerPort"]))
        if port.get("hostPort"):
            faults.invalid_all(f"{here}.hostPort", port["hostPort"], names.port_number(port["hostPort"]))
        if not port.get("protocol"):
            faults.required(f"{here}.protocol")


def _check_environment(variables: list[dict[str, Any]], path: str, faults: Faults) -> None:
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
        if not given:
            sources = ", ".join(f"`{key}`" for key in _VALUE_SOURCES[:-2])
            faults.invalid(f"{here}.valueFrom", "", f"must specify one of: {sources} or `secretKeyRef`")
        elif variable.get("value"):
            faults.invalid(f"{here}.valueFrom", "", "may not be specified when `value` is not empty")
        elif len(given) > 1:
            faults.invalid(f"{here}.valueFrom", "", "may not have more than one field specified at a time")
        _check_value_source(source, f"{here}.valueFrom", faults)


def _check_value_source(source: dict[str, Any], path: str, faults: Faults) -> None:
    if (reference := source.get("fieldRef")) is not None:
        check_field_reference(reference, f"{path}.fieldRef", faults, _POD_FIELDS)
    if (reference := source.get("resourceFieldRef")) is not None:
        check_resource_field(reference, f"{path}.resourceFieldRef", faults)
    for key in ("configMapKeyRef", "secretKeyRef"):
        if (reference := source.get(key)) is not None:
            if not reference.get("name"):
                faults.required(f"{path}.{key}.name")
            if not reference.get("key"):
                faults.required(f"{path}.{key}.key")
            else:
                faults.invalid_all(f"{path}.{key}.key", reference["key"], names.config_key(reference["key"]))


def check_field_reference(reference: dict[str, Any], path: str, faults: Faults, known: Iterable[str]) -> None:
    """Check a reference to a field of the pod itself."""
    field = reference.get("fieldPath") or ""
    if not field:
        faults.required(f"{path}.fieldPath")
    elif field.startswith(("metadata.labels['", "metadata.annotations['")) and field.endswith("']"):
        key = field.partition("['")[2].removesuffix("']")
        faults.invalid_all(f"{path}.fieldPath", field, names.qualified_name(key.lower()))
    elif field.partition("[")[0] not in (*known, "metadata.labels", "metadata.annotations"):
        faults.invalid(f"{path}.fieldPath", field, f"error converting fieldPath: field label not supported: {field}")
    elif field not in known and field not in ("metadata.labels", "metadata.annotations"):
        faults.not_supported(f"{path}.fieldPath", field, sorted(known))


def check_resource_field(reference: dict[str, Any], path: str, faults: Faults) -> None:
    """Check a reference to a container's request or limit."""
    resource = reference.get("resource") or ""
    if not resource:
        faults.required(f"{path}.resource")
    elif resource not in _RESOURCE_FIELDS and not resource.startswith(("limits.hugepages-", "requests.hugepages-")):
        faults.not_supported(f"{path}.resource", resource, sorted(_RESOURCE_FIELDS))


def _check_environment_sources(sources: list[dict[str, Any]], path: str, faults: Faults) -> None:
    for index, source in enumerate(sources):
        here = f"{path}[{index}]"
        if prefix := source.get("prefix"):
            faults.invalid_all(f"{here}.prefix", prefix, names.environment_name(prefix))
        given = [key for key in ("configMapRef", "secretRef") if source.get(key) is not None]
        for key in given:
            if not source[key].get("name"):
                faults.required(f"{here}.{key}.name")
        if not given:
            faults.invalid(here, "", "must specify one of: `configMapRef` or `secretRef`")
        elif len(given) > 1:
            faults.invalid(here, "", "may not have more than one field specified at a time")


def _check_mounts(mounts: list[dict[str, Any]], volumes: set[str], path: str, faults: Faults) -> None:
    taken: set[str] = set()
    for index, mount in enumerate(mounts):
        here = f"{path}[{index}]"
        name, point = mount.get("name"), mount.get("mountPath")
        if not name:
            faults.required(f"{here}.name")
        elif name not in volumes:
            faults.not_found(f"{here}.name", name)
        if not point:
            faults.required(f"{here}.mountPath")
        elif point in taken:
            faults.invalid(f"{here}.mountPath", point, "must be unique")
        taken.add(point or "")
        if mount.get("subPath") and mount.get("subPathExpr"):
            faults.invalid(
                f"{here}.subPathExpr", mount["subPathExpr"], "subPathExpr and subPath are mutually exclusive"
            )
        for field in ("subPath", "subPathExpr"):
            check_inner_path(mount.get(field) or "", f"{here}.{field}", faults)


def check_inner_path(text: str, path: str, faults: Faults) -> None:
    """Check a path that must stay below another one."""
    if text.startswith("/"):
        faults.invalid(path, text, "must be a relative path")
    if ".." in text.split("/"):
        faults.invalid(path, text, "must not contain '..'")


def check_resource_name(name: str, path: str, faults: Faults) -> None:
    """Check a container's resource: a known short name, or a qualified one."""
    faults.invalid_all(path, name, names.qualified_name(name))
    known = name in _STANDARD_RESOURCES or name.startswith("hugepages-")
    if not known and "/" not in name:
        faults.invalid(path, name, "must be a standard resource type or fully qualified")
        faults.invalid(path, name, "must be a standard resource for containers")


def check_resources(resources: dict[str, Any], path: str, faults: Faults) -> None:
    """Check a container's requests and limits."""
    limits, requests = resources.get("limits") or {}, resources.get("requests") or {}
    for kind, amounts in (("limits", limits), ("requests", requests)):
        for name, amount in amounts.items():
            check_resource_name(name, f"{path}.{kind}", faults)
            check_amount(name, amount, f"{path}.{kind}[{name}]", faults)
    for name, amount in requests.items():
        limit = limits.get(name)
        if limit is None:
            if name not in _STANDARD_RESOURCES and "/" in name and "kubernetes.io/" not in name:
                faults.required(f"{path}.limits", "Limit must be set for non overcommitable resources")
            continue
        fixed = name.startswith("hugepages-") or name not in _STANDARD_RESOURCES
        if fixed and quantity.parse(amount) != quantity.parse(limit):
            faults.invalid(f"{path}.requests", amount, f"must be equal to {name} limit of {limit}")
        elif quantity.parse(amount) > quantity.parse(limit):
            faults.invalid(f"{path}.requests", amount, f"must be less than or equal to {name} limit of {limit}")


def check_amount(name: str, amount: Any, path: str, faults: Faults) -> None:
    """Check a quantity: not negative, and whole for what cannot be divided."""
    value = quantity.parse(amount)
    if value < 0:
        faults.invalid(path, str(amount), NOT_NEGATIVE)
    elif "/" in name and value != value.to_integral_value():
        faults.invalid(path, str(amount), "must be an integer")


def _check_probes(container: dict[str, Any], path: str, faults: Faults) -> None:
    for field in ("livenessProbe", "readinessProbe", "startupProbe"):
        probe = container.get(field)
        if probe is None:
            continue
        here = f"{path}.{field}"
        _check_handler(probe, here, faults)
        for number in (
            "initialDelaySeconds",
            "timeoutSeconds",
            "periodSeconds",
            "successThreshold",
            "failureThreshold",
        ):
            faults.not_negative(f"{here}.{number}", probe.get(number))
        if (grace := probe.get("terminationGracePeriodSeconds")) is not None:
            if field == "readinessProbe":
                faults.invalid(f"{here}.terminationGracePeriodSeconds", grace, "must not be set for readinessProbes")
            elif grace <= 0:
                faults.invalid(f"{here}.terminationGracePeriodSeconds", grace, "must be greater than 0")
        if field != "readinessProbe" and probe.get("successThreshold", 1) != 1:
            faults.invalid(f"{here}.successThreshold", probe["successThreshold"], "must be 1")


def _check_handler(handler: dict[str, Any], path: str, faults: Faults) -> None:
    given = [kind for kind in _HANDLERS if handler.get(kind) is not None]
    if not given:
        faults.required(path, "must specify a handler type")
    for kind in given[1:]:
        faults.forbidden(f"{path}.{kind}", "may not specify more than 1 handler type")
    kind = given[0] if given else ""
    action = handler.get(kind) or {}
    here = f"{path}.{kind}"
    if kind == "exec" and not action.get("command"):
        faults.required(f"{here}.command")
    if kind == "httpGet" and not action.get("path"):
        faults.required(f"{here}.path")
    if kind in ("httpGet", "tcpSocket"):
        check_port_or_name(action.get("port"), f"{here}.port", faults)
    if kind == "grpc":
        faults.invalid_all(f"{here}.port", action.get("port") or 0, names.port_number(action.get("port") or 0))


def check_port_or_name(port: Any, path: str, faults: Faults) -> None:
    """Check a port that may be given by name."""
    if isinstance(port, str):
        faults.invalid_all(path, port, names.port_name(port))
    else:
        faults.invalid_all(path, port or 0, names.port_number(port or 0))


def _check_lifecycle(lifecycle: dict[str, Any] | None, path: str, faults: Faults) -> None:
    for hook in ("postStart", "preStop"):
        handler = (lifecycle or {}).get(hook)
        if handler is None:
            continue
        if (sleep := handler.get("sleep")) is not None:
            if int(sleep.get("seconds") or 0) < 0:
                faults.invalid(f"{path}.{hook}.sleep", sleep.get("seconds"), "must be greater than or equal to 0")
            continue
        _check_handler(handler, f"{path}.{hook}", faults)


def _check_security(context: dict[str, Any], path: str, faults: Faults) -> None:
    for field in ("runAsUser", "runAsGroup"):
        value = context.get(field)
        if value is not None and not 0 <= value <= 2147483647:
            faults.invalid(f"{path}.{field}", value, "must be between 0 and 2147483647, inclusive")
    if context.get("allowPrivilegeEscalation") is False:
        if context.get("privileged"):
            faults.invalid(path, context, "cannot set `allowPrivilegeEscalation` to false and `privileged` to true")
        if "SYS_ADMIN" in ((context.get("capabilities") or {}).get("add") or []):
            faults.invalid(
                path, context, "cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN"
            )
