"""Rules of containers: names, images, ports, environment, mounts, restarts; each list of them has its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from control.api.validation import names
from control.api.validation.amounts import check_resources
from control.api.validation.environment import check_environment, check_environment_sources
from control.api.validation.faults import Faults
from control.api.validation.paths import check_inner_path
from control.api.validation.probes import check_lifecycle, check_probes
from control.api.validation.security import check_container_context

_HANDLED = ("livenessProbe", "readinessProbe", "startupProbe", "lifecycle")
_NOT_EPHEMERAL = "cannot be set for an Ephemeral Container"
_NOT_INITIAL = "may not be set for init containers without restartPolicy=Always"
_PROTOCOLS = ("SCTP", "TCP", "UDP")
_PULL_POLICIES = ("Always", "IfNotPresent", "Never")
_RESTART_POLICIES = ("Always", "Never", "OnFailure")
_RESTART_ACTIONS = ("Restart", "RestartAllContainers")
_RULES_MAX, _EXIT_CODES_MAX = 20, 255


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a container's rules ask of the pod around it."""

    volumes: Mapping[str, str]
    """The kind of each volume that may be mounted, by name."""
    claims: frozenset[str] = frozenset()
    restart_policy: str = ""
    grace_s: int | None = None
    host_users: bool = True
    taken: set[str] = field(default_factory=set)
    """Names of containers of all lists so far."""


def check_containers(containers: list[dict[str, Any]], pod: Surroundings, path: str, faults: Faults) -> None:
    """Check a list of ordinary containers."""
    taken: set[str] = set()
    for index, container in enumerate(containers):
        here = f"{path}[{index}]"
        check_container(container, pod, here, faults)
        _check_unique(container, here, taken, faults)
        taken.add(container.get("name") or "")
        if (lifecycle := container.get("lifecycle")) is not None:
            check_lifecycle(lifecycle, f"{here}.lifecycle", faults, pod.grace_s)
        check_probes(container, here, faults)
        check_restarts(container, here, faults)
    pod.taken.update(taken)
    check_host_ports(containers, path, faults)


def check_init_containers(containers: list[dict[str, Any]], pod: Surroundings, path: str, faults: Faults) -> None:
    """Check init containers; those that restart always are sidecars and may have probes and hooks."""
    for index, container in enumerate(containers):
        here = f"{path}[{index}]"
        check_container(container, pod, here, faults)
        check_restarts(container, here, faults)
        _check_unique(container, here, pod.taken, faults)
        if name := container.get("name"):
            pod.taken.add(name)
        # They run one after the other; Kubernetes looks at each alone, and calls each the first.
        check_host_ports([container], path, faults)
        if container.get("restartPolicy") == "Always":
            if (lifecycle := container.get("lifecycle")) is not None:
                check_lifecycle(lifecycle, f"{here}.lifecycle", faults, pod.grace_s)
            check_probes(container, here, faults)
            continue
        for name in ("lifecycle", "livenessProbe", "readinessProbe", "startupProbe"):
            if container.get(name) is not None:
                faults.forbidden(f"{here}.{name}", _NOT_INITIAL)
        for position, entry in enumerate(container.get("resizePolicy") or ()):
            if (policy := entry.get("restartPolicy")) == "RestartContainer":
                text = "must not be set to 'RestartContainer' for non-sidecar initContainers"
                faults.invalid(f"{here}.resizePolicy[{position}].restartPolicy", policy, text)


def check_ephemeral_containers(containers: list[dict[str, Any]], pod: Surroundings, path: str, faults: Faults) -> None:
    """Check ephemeral containers: no ports, probes, hooks or resources, and a target that exists."""
    targets = set(pod.taken)
    for index, container in enumerate(containers):
        here = f"{path}[{index}]"
        check_container(container, pod, here, faults)
        check_image(container, here, faults)
        _check_unique(container, here, pod.taken, faults)
        pod.taken.add(container.get("name") or "")
        target = container.get("targetContainerName")
        if target and target not in targets:
            faults.not_found(f"{here}.targetContainerName", target)
        for name in ("ports", "resources", "resizePolicy", "restartPolicy", "restartPolicyRules", "livenessProbe",
                     "readinessProbe", "startupProbe", "lifecycle"):  # fmt: skip
            if container.get(name) or (name in _HANDLED and container.get(name) is not None):
                faults.forbidden(f"{here}.{name}", _NOT_EPHEMERAL)
        for position, mount in enumerate(container.get("volumeMounts") or []):
            for name in ("subPath", "subPathExpr"):
                if mount.get(name):
                    faults.forbidden(f"{here}.volumeMounts[{position}].{name}", _NOT_EPHEMERAL)


def _check_unique(container: dict[str, Any], path: str, taken: set[str], faults: Faults) -> None:
    if (name := container.get("name") or "") in taken:
        faults.duplicate(f"{path}.name", name)


def check_image(container: dict[str, Any], path: str, faults: Faults) -> None:
    """Check what only a pod must not hold: an image's name with space around it."""
    image = container.get("image") or ""
    if image != image.strip():
        faults.invalid(f"{path}.image", image, "must not have leading or trailing whitespace")


def check_host_ports(containers: list[dict[str, Any]], path: str, faults: Faults) -> None:
    """Check that containers that run together take different ports of their host."""
    taken: set[str] = set()
    for index, container in enumerate(containers):
        for position, port in enumerate(container.get("ports") or ()):
            if host := port.get("hostPort"):
                key = f"{port.get('protocol')}/{port.get('hostIP') or ''}/{host}"
                if key in taken:
                    faults.duplicate(f"{path}[{index}].ports[{position}].hostPort", key)
                taken.add(key)


def check_container(container: dict[str, Any], pod: Surroundings, path: str, faults: Faults) -> None:
    """Check what all kinds of containers have in common."""
    if not (name := container.get("name")):
        faults.required(f"{path}.name")
    elif found := names.dns_label(name):
        faults.invalid_all(f"{path}.name", name, found)
    if not container.get("image"):
        faults.required(f"{path}.image")
    if (policy := container.get("terminationMessagePolicy")) not in (None, "File", "FallbackToLogsOnError"):
        known = ["File", "FallbackToLogsOnError"]
        faults.not_supported(f"{path}.terminationMessagePolicy", policy, known)
    mounts, devices = container.get("volumeMounts") or (), container.get("volumeDevices") or ()
    if ports := container.get("ports"):
        _check_ports(ports, f"{path}.ports", faults)
    if variables := container.get("env"):
        check_environment(variables, f"{path}.env", faults)
    if sources := container.get("envFrom"):
        check_environment_sources(sources, f"{path}.envFrom", faults)
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
        if not (number := port.get("containerPort")):
            faults.required(f"{here}.containerPort")
        elif found := names.port_number(number):
            faults.invalid_all(f"{here}.containerPort", number, found)
        if (number := port.get("hostPort")) and (found := names.port_number(number)):
            faults.invalid_all(f"{here}.hostPort", number, found)
        if (protocol := port.get("protocol")) not in _PROTOCOLS:
            faults.one_of(f"{here}.protocol", protocol, _PROTOCOLS)


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
        # Kubernetes names the list of mounts here, not the one that is wrong.
        if mount.get("subPath"):
            check_inner_path(mount["subPath"], f"{path}.subPath", faults)
        if expression := mount.get("subPathExpr"):
            if mount.get("subPath"):
                faults.invalid(f"{here}.subPathExpr", expression, "subPathExpr and subPath are mutually exclusive")
            check_inner_path(expression, f"{path}.subPathExpr", faults)
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
        else:
            taken_paths.add(point)
        if name in mount_names:
            faults.invalid(f"{here}.name", name, "must not already exist in volumeMounts")
        if point in mount_paths:
            faults.invalid(f"{here}.devicePath", point, "must not already exist as a path in volumeMounts")
        if name:
            taken_names.add(name)


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
            faults.invalid(path, policy, "must be 'NotRequired' when pod `restartPolicy` is 'Never'")


def check_restarts(container: dict[str, Any], path: str, faults: Faults) -> None:
    """Check when a container is started again, where it says so itself."""
    policy, rules = container.get("restartPolicy"), container.get("restartPolicyRules") or []
    if policy is None and not rules:
        return
    if policy is None:
        faults.required(f"{path}.restartPolicy", "must specify restartPolicy when restart rules are used")
    elif policy not in _RESTART_POLICIES:
        faults.not_supported(f"{path}.restartPolicy", policy, _RESTART_POLICIES)
    if len(rules) > _RULES_MAX:
        faults.too_many(f"{path}.restartPolicyRules", len(rules), _RULES_MAX)
    for index, rule in enumerate(rules):
        here, codes = f"{path}.restartPolicyRules[{index}]", rule.get("exitCodes")
        if (action := rule.get("action") or "") not in _RESTART_ACTIONS:
            faults.not_supported(f"{here}.action", action, _RESTART_ACTIONS)
        if codes is None:
            faults.required(f"{here}.exitCodes", "must be specified")
            continue
        if (operator := codes.get("operator") or "") not in ("In", "NotIn"):
            faults.not_supported(f"{here}.exitCodes.operator", operator, ["In", "NotIn"])
        if (count := len(codes.get("values") or ())) > _EXIT_CODES_MAX:
            faults.too_many(f"{here}.exitCodes.values", count, _EXIT_CODES_MAX)
