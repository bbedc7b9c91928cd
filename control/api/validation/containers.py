"""Rules of containers: names, images, ports, environment, mounts, restarts; each list of them has its own."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from control.api import quantity
from control.api.validation import names
from control.api.validation.amounts import check_resources
from control.api.validation.faults import Faults
from control.api.validation.probes import check_lifecycle, check_probes
from control.api.validation.security import check_container_context

_VALUE_SOURCES = ("fieldRef", "resourceFieldRef", "configMapKeyRef", "secretKeyRef", "fileKeyRef")
_NOT_EPHEMERAL = "cannot be set for an Ephemeral Container"
_NOT_INITIAL = "may not be set for init containers without restartPolicy=Always"
_PROTOCOLS = ("SCTP", "TCP", "UDP")
_PULL_POLICIES = ("Always", "IfNotPresent", "Never")
_RESTART_POLICIES = ("Always", "Never", "OnFailure")
_RESTART_ACTIONS = ("Restart", "RestartAllContainers")
_RULES_MAX, _EXIT_CODES_MAX = 20, 255
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
_BYTE_DIVISORS = ("1", "1k", "1M", "1G", "1T", "1P", "1E", "1Ki", "1Mi", "1Gi", "1Ti", "1Pi", "1Ei")


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a container's rules ask of the pod around it."""

    volumes: Mapping[str, str]
    """The kind of each volume that may be mounted, by name."""
    claims: frozenset[str] = frozenset()
    restart_policy: str = ""
    grace_s: int | None = None
    host_users: bool = True
    is_pod: bool = False
    """A pod itself; templates may hold what only a pod must not."""
    taken: set[str] = field(default_factory=set)
    """Names of containers of all lists so far."""


def check_containers(containers: list[dict[str, Any]], pod: Surroundings, path: str, faults: Faults) -> None:
    """Check a list of ordinary containers."""
    for index, container in enumerate(containers):
        here = f"{path}[{index}]"
        _check_name(container, here, faults, pod.taken)
        check_container(container, pod, here, faults)
        check_lifecycle(container.get("lifecycle"), f"{here}.lifecycle", faults, pod.grace_s)
        check_probes(container, here, faults)


def check_init_containers(containers: list[dict[str, Any]], pod: Surroundings, path: str, faults: Faults) -> None:
    """Check init containers; those that restart always are sidecars and may have probes and hooks."""
    for index, container in enumerate(containers):
        here = f"{path}[{index}]"
        _check_name(container, here, faults, pod.taken)
        check_container(container, pod, here, faults)
        if container.get("restartPolicy") == "Always":
            check_lifecycle(container.get("lifecycle"), f"{here}.lifecycle", faults, pod.grace_s)
            check_probes(container, here, faults)
            continue
        for name in ("lifecycle", "livenessProbe", "readinessProbe", "startupProbe"):
            if container.get(name) is not None:
                faults.forbidden(f"{here}.{name}", _NOT_INITIAL)


def check_ephemeral_containers(containers: list[dict[str, Any]], pod: Surroundings, path: str, faults: Faults) -> None:
    """Check ephemeral containers: no ports, probes, hooks or resources, and a target that exists."""
    targets = set(pod.taken)
    for index, container in enumerate(containers):
        here = f"{path}[{index}]"
        _check_name(container, here, faults, pod.taken)
        check_container(container, pod, here, faults)
        target = container.get("targetContainerName")
        if target and target not in targets:
            faults.not_found(f"{here}.targetContainerName", target)
        for name in ("ports", "resources", "resizePolicy", "restartPolicy", "restartPolicyRules", "livenessProbe",
                     "readinessProbe", "startupProbe", "lifecycle"):  # fmt: skip
            if container.get(name):
                faults.forbidden(f"{here}.{name}", _NOT_EPHEMERAL)
        for position, mount in enumerate(container.get("volumeMounts") or []):
            for name in ("subPath", "subPathExpr"):
                if mount.get(name):
                    faults.forbidden(f"{here}.volumeMounts[{position}].{name}", _NOT_EPHEMERAL)


def _check_name(container: dict[str, Any], path: str, faults: Faults, taken: set[str]) -> None:
    name = container.get("name")
    if not name:
        faults.required(f"{path}.name")
        return
    faults.invalid_all(f"{path}.name", name, names.dns_label(name))
    if name in taken:
        faults.duplicate(f"{path}.name", name)
    taken.add(name)


def check_container(container: dict[str, Any], pod: Surroundings, path: str, faults: Faults) -> None:
    """Check what all kinds of containers have in common."""
    image = container.get("image")
    if not image:
        faults.required(f"{path}.image")
    elif pod.is_pod and image != image.strip():
        faults.invalid(f"{path}.image", image, "must not have leading or trailing whitespace")
    if (policy := container.get("terminationMessagePolicy")) not in (None, "File", "FallbackToLogsOnError"):
        known = ["FallbackToLogsOnError", "File"]
        faults.not_supported(f"{path}.terminationMessagePolicy", policy, known)
    mounts, devices = container.get("volumeMounts") or (), container.get("volumeDevices") or ()
    if ports := container.get("ports"):
        _check_ports(ports, f"{path}.ports", faults)
    if variables := container.get("env"):
        _check_environment(variables, pod, f"{path}.env", faults)
    if sources := container.get("envFrom"):
        _check_environment_sources(sources, f"{path}.envFrom", faults)
    if mounts:
        _check_mounts(container, pod.volumes, f"{path}.volumeMounts", faults)
    if devices:
        _check_devices(container, pod.volumes, f"{path}.volumeDevices", faults)
    if (policy := container.get("imagePullPolicy")) is not None and policy not in _PULL_POLICIES:
        faults.one_of(f"{path}.imagePullPolicy", policy, _PULL_POLICIES)
    if resources := container.get("resources"):
        check_resources(resources, f"{path}.resources", faults, pod.claims)
    if policies := container.get("resizePolicy"):
        _check_resize_policies(policies, pod.restart_policy, f"{path}.resizePolicy", faults)
    if container.get("restartPolicy") is not None or container.get("restartPolicyRules"):
        _check_restarts(container, path, faults)
    if context := container.get("securityContext"):
        check_container_context(context, f"{path}.securityContext", faults, host_users=pod.host_users)


def _check_ports(ports: list[dict[str, Any]], path: str, faults: Faults) -> None:
    taken: set[str] = set()
    for index, port in enumerate(ports):
        here = f"{path}[{index}]"
        if name := port.get("name"):
            if found := names.port_name(name):
                faults.invalid_all(f"{here}.name", name, found)
            elif name in taken:
                faults.duplicate(f"{here}.name", name)
            taken.add(name)
        if not port.get("containerPort"):
            faults.required(f"{here}.containerPort")
        else:
            faults.invalid_all(f"{here}.containerPort", port["containerPort"], names.port_number(port["containerPort"]))
        if port.get("hostPort"):
            faults.invalid_all(f"{here}.hostPort", port["hostPort"], names.port_number(port["hostPort"]))
        faults.one_of(f"{here}.protocol", port.get("protocol"), _PROTOCOLS)


def _check_environment(variables: list[dict[str, Any]], pod: Surroundings, path: str, faults: Faults) -> None:
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
        _check_value_source(source, pod, f"{here}.valueFrom", faults)
        if not given:
            sources = ", ".join(f"`{key}`" for key in _VALUE_SOURCES[:-2])
            text = f"must specify one of: {sources}, `secretKeyRef` or `fileKeyRef`"
            faults.invalid(f"{here}.valueFrom", "", text)
        elif variable.get("value"):
            faults.invalid(f"{here}.valueFrom", "", "may not be specified when `value` is not empty")
        elif len(given) > 1:
            faults.invalid(f"{here}.valueFrom", "", "may not have more than one field specified at a time")


def _check_value_source(source: dict[str, Any], pod: Surroundings, path: str, faults: Faults) -> None:
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
        here = f"{path}.fileKeyRef"
        for name in ("key", "path", "volumeName"):
            if not reference.get(name):
                faults.required(f"{here}.{name}")
        check_inner_path(reference.get("path") or "", f"{here}.path", faults)
        volume = reference.get("volumeName")
        if volume and volume not in pod.volumes:
            faults.not_found(f"{here}.volumeName", volume)


def check_field_reference(reference: dict[str, Any], path: str, faults: Faults, known: Iterable[str]) -> None:
    """Check a reference to a field of the pod itself."""
    name = reference.get("fieldPath") or ""
    if not reference.get("apiVersion"):
        faults.required(f"{path}.apiVersion")
    elif not name:
        faults.required(f"{path}.fieldPath")
    elif name.endswith("']") and "['" in name:
        holder, _, key = name.removesuffix("']").partition("['")
        if holder == "metadata.annotations":
            faults.invalid_all(path, key.lower(), names.qualified_name(key.lower()))
        elif holder == "metadata.labels":
            faults.invalid_all(path, key, names.qualified_name(key))
        else:
            text = f"error converting fieldPath: field label does not support subscript: {name}"
            faults.invalid(f"{path}.fieldPath", name, text)
    elif name not in (*_POD_FIELDS, "metadata.labels", "metadata.annotations"):
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
    name = resource.partition(".")[2]
    word = "hugepages" if name.startswith("hugepages-") else name
    word = "local ephemeral storage" if name == "ephemeral-storage" else word
    if name == "cpu" and divisor not in ("1m", "1"):
        text = "only divisor's values 1m and 1 are supported with the cpu resource"
        faults.invalid(f"{path}.divisor", resource, text)
    elif word in ("memory", "local ephemeral storage", "hugepages") and divisor not in _BYTE_DIVISORS:
        text = f"only divisor's values {', '.join(_BYTE_DIVISORS)} are supported with the {word} resource"
        faults.invalid(f"{path}.divisor", resource, text)


def _check_environment_sources(sources: list[dict[str, Any]], path: str, faults: Faults) -> None:
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


def _check_mounts(container: dict[str, Any], volumes: Mapping[str, str], path: str, faults: Faults) -> None:
    taken: set[str] = set()
    devices = container.get("volumeDevices") or ()
    device_names = {device.get("name") for device in devices}
    device_paths = {device.get("devicePath") for device in devices}
    for index, mount in enumerate(container["volumeMounts"]):
        here = f"{path}[{index}]"
        name, point = mount.get("name") or "", mount.get("mountPath") or ""
        if not name:
            faults.required(f"{here}.name")
        if name not in volumes:
            faults.not_found(f"{here}.name", name)
        if not point:
            faults.required(f"{here}.mountPath")
        if point in taken:
            faults.invalid(f"{here}.mountPath", point, "must be unique")
        taken.add(point)
        if name in device_names:
            faults.invalid(f"{here}.name", name, "must not already exist in volumeDevices")
        if point in device_paths:
            faults.invalid(f"{here}.mountPath", point, "must not already exist as a path in volumeDevices")
        if mount.get("subPath") and mount.get("subPathExpr"):
            text = "subPathExpr and subPath are mutually exclusive"
            faults.invalid(f"{here}.subPathExpr", mount["subPathExpr"], text)
        for key in ("subPath", "subPathExpr"):
            if mount.get(key):
                if volumes.get(name) == "image":
                    faults.invalid(f"{here}.{key}", mount[key], "not allowed in image volume sources")
                # Kubernetes names the list of mounts here, not the one that is wrong.
                check_inner_path(mount[key], f"{path}.{key}", faults)
        _check_propagation(mount, container.get("securityContext") or {}, path, faults)


def _check_propagation(mount: dict[str, Any], context: dict[str, Any], path: str, faults: Faults) -> None:
    propagation, recursive = mount.get("mountPropagation"), mount.get("recursiveReadOnly")
    if propagation is not None:
        here, known = f"{path}.mountPropagation", ("Bidirectional", "HostToContainer", "None")
        if propagation not in known:
            faults.not_supported(here, propagation, known)
        elif propagation == "Bidirectional" and not context.get("privileged"):
            faults.forbidden(here, "Bidirectional mount propagation is available only to privileged containers")
    if recursive in (None, "Disabled"):
        return
    here, known = f"{path}.recursiveReadOnly", ("Disabled", "Enabled", "IfPossible")
    if recursive not in known:
        faults.not_supported(here, recursive, known)
        return
    if not mount.get("readOnly"):
        faults.forbidden(here, "may only be specified when readOnly is true")
    if propagation not in (None, "None"):
        faults.forbidden(here, "may only be specified when mountPropagation is None or not specified")


def _check_devices(container: dict[str, Any], volumes: Mapping[str, str], path: str, faults: Faults) -> None:
    mounts = container.get("volumeMounts") or ()
    mount_names, mount_paths = ({mount.get(key) for mount in mounts} for key in ("name", "mountPath"))
    taken_names: set[str] = set()
    taken_paths: set[str] = set()
    for index, device in enumerate(container["volumeDevices"]):
        here = f"{path}[{index}]"
        name, point = device.get("name") or "", device.get("devicePath") or ""
        if not name:
            faults.required(f"{here}.name")
        if name in taken_names:
            faults.invalid(f"{here}.name", name, "must be unique")
        if name not in volumes:
            faults.not_found(f"{here}.name", name)
        elif volumes[name] not in ("persistentVolumeClaim", "ephemeral"):
            text = "can only use volume source type of PersistentVolumeClaim or Ephemeral for block mode"
            faults.invalid(f"{here}.name", name, text)
        if not point:
            faults.required(f"{here}.devicePath")
        if point in taken_paths:
            faults.invalid(f"{here}.devicePath", point, "must be unique")
        if ".." in point.split("/"):
            faults.invalid(f"{here}.devicePath", point, "can not contain backsteps ('..')")
        if name in mount_names:
            faults.invalid(f"{here}.name", name, "must not already exist in volumeMounts")
        if point in mount_paths:
            faults.invalid(f"{here}.devicePath", point, "must not already exist as a path in volumeMounts")
        taken_names.add(name)
        taken_paths.add(point)


def check_inner_path(text: str, path: str, faults: Faults) -> None:
    """Check a path that must stay below another one."""
    if text.startswith("/"):
        faults.invalid(path, text, "must be a relative path")
    if ".." in text.split("/"):
        faults.invalid(path, text, "must not contain '..'")


def _check_resize_policies(policies: list[dict[str, Any]], restarts: str, path: str, faults: Faults) -> None:
    seen: set[str] = set()
    for index, entry in enumerate(policies):
        resource, policy = entry.get("resourceName") or "", entry.get("restartPolicy") or ""
        if resource in seen:
            faults.duplicate(f"{path}[{index}]", resource)
        seen.add(resource)
        faults.one_of(path, resource, ["cpu", "memory"])
        faults.one_of(path, policy, ["NotRequired", "RestartContainer"])
        if restarts == "Never" and policy != "NotRequired":
            faults.invalid(path, policy, "must be 'NotRequired' when `restartPolicy` is 'Never'")


def _check_restarts(container: dict[str, Any], path: str, faults: Faults) -> None:
    policy, rules = container.get("restartPolicy"), container.get("restartPolicyRules") or []
    if policy is None:
        faults.required(f"{path}.restartPolicy", "must specify restartPolicy when restart rules are used")
    elif policy not in _RESTART_POLICIES:
        faults.not_supported(f"{path}.restartPolicy", policy, _RESTART_POLICIES)
    if len(rules) > _RULES_MAX:
        faults.too_long(f"{path}.restartPolicyRules", _RULES_MAX)
    for index, rule in enumerate(rules):
        here, codes = f"{path}.restartPolicyRules[{index}]", rule.get("exitCodes")
        if (action := rule.get("action") or "") not in _RESTART_ACTIONS:
            faults.not_supported(f"{here}.action", action, _RESTART_ACTIONS)
        if codes is None:
            faults.required(f"{here}.exitCodes", "must be specified")
            continue
        if (operator := codes.get("operator") or "") not in ("In", "NotIn"):
            faults.not_supported(f"{here}.exitCodes.operator", operator, ["In", "NotIn"])
        if len(codes.get("values") or ()) > _EXIT_CODES_MAX:
            faults.too_long(f"{here}.exitCodes.values", _EXIT_CODES_MAX)
