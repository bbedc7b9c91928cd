"""PURE: builds what the runtime is told of a sandbox and of a container from the pod and resolved values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from control.api import meta
from control.api.meta import Object
from node import dns, environment, pod_spec
from node import runtime as rt
from node.environment import ConfigError
from node.paths import PodPaths, log_path
from node.pod_spec import ContainerSpec
from node.resources import container_resources

MASKED_PATHS = (
    "/proc/asound",
    "/proc/acpi",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
)
READONLY_PATHS = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")


@dataclass(frozen=True)
class ContainerInputs:
    """Everything that a container's configuration needs beside the pod."""

    attempt: int
    restart_count: int
    image_ref: str
    image_uid: int | None
    image_username: str
    env: Mapping[str, str]
    mounts: tuple[rt.MountConfig, ...]
    target_id: str
    node_memory_bytes: int


def sandbox_config(
    pod: Object, attempt: int, paths: PodPaths, dns_config: rt.DnsConfig, cgroup_parent: str
) -> rt.SandboxConfig:
    """Return the configuration of a pod's sandbox."""
    metadata = pod["metadata"]
    host_network = pod_spec.host_network(pod)
    return rt.SandboxConfig(
        name=metadata["name"],
        namespace=metadata["namespace"],
        uid=metadata["uid"],
        attempt=attempt,
        hostname="" if host_network else dns.hostname(pod),
        log_directory=str(paths.logs),
        dns=dns_config,
        labels={
            **meta.labels(pod),
            rt.LABEL_POD_NAME: metadata["name"],
            rt.LABEL_POD_NAMESPACE: metadata["namespace"],
            rt.LABEL_POD_UID: metadata["uid"],
        },
        annotations=dict(meta.annotations(pod)),
        cgroup_parent=cgroup_parent,
        security=rt.SecurityContext(
            namespaces=_namespaces(pod, ""),
            privileged=any(_is_privileged(entry) for entry in pod_spec.containers(pod)),
            run_as_user=_pod_security(pod).get("runAsUser"),
            run_as_group=_pod_security(pod).get("runAsGroup") if "runAsUser" in _pod_security(pod) else None,
            supplemental_groups=_groups(pod),
            seccomp=_seccomp(_pod_security(pod).get("seccompProfile")),
        ),
        sysctls={entry["name"]: entry["value"] for entry in _pod_security(pod).get("sysctls") or ()},
        ports=() if host_network else _ports(pod),
    )


def _ports(pod: Object) -> tuple[rt.PortMapping, ...]:
    return tuple(
        rt.PortMapping(port.get("protocol") or "TCP", port["containerPort"], port["hostPort"], port.get("hostIP") or "")
        for entry in pod_spec.containers(pod)
        for port in entry.spec.get("ports") or ()
        if port.get("hostPort")
    )


def container_config(pod: Object, wanted: ContainerSpec, inputs: ContainerInputs) -> rt.ContainerConfig:
    """Return the configuration of a container; raises ConfigError where it may not run so."""
    spec, metadata = wanted.spec, pod["metadata"]
    command, args = environment.command_line(wanted, inputs.env)
    return rt.ContainerConfig(
        name=wanted.name,
        attempt=inputs.attempt,
        image=inputs.image_ref,
        command=command,
        args=args,
        working_dir=spec.get("workingDir") or "",
        env=tuple(inputs.env.items()),
        mounts=inputs.mounts,
        labels={
            rt.LABEL_CONTAINER_NAME: wanted.name,
            rt.LABEL_POD_NAME: metadata["name"],
            rt.LABEL_POD_NAMESPACE: metadata["namespace"],
            rt.LABEL_POD_UID: metadata["uid"],
        },
        annotations={
            rt.ANNOTATION_HASH: pod_spec.spec_hash(wanted),
            rt.ANNOTATION_RESTART_COUNT: str(inputs.restart_count),
            rt.ANNOTATION_POD_GRACE: f"{pod_spec.grace_period_s(pod):g}",
            rt.ANNOTATION_MESSAGE_PATH: spec.get("terminationMessagePath") or "/dev/termination-log",
            rt.ANNOTATION_MESSAGE_POLICY: spec.get("terminationMessagePolicy") or "File",
        },
        log_path=log_path(wanted.name, inputs.attempt),
        resources=container_resources(pod, wanted, inputs.node_memory_bytes),
        security=_security(pod, wanted, inputs),
        stdin=bool(spec.get("stdin")),
        stdin_once=bool(spec.get("stdinOnce")),
        tty=bool(spec.get("tty")),
    )


def _security(pod: Object, wanted: ContainerSpec, inputs: ContainerInputs) -> rt.SecurityContext:
    own: dict[str, Any] = wanted.spec.get("securityContext") or {}
    merged = {**_pod_security(pod), **own}
    privileged = bool(own.get("privileged"))
    user, username = merged.get("runAsUser"), ""
    if user is None:
        user, username = inputs.image_uid, inputs.image_username
        if user is None and not username:
            user = 0
    if merged.get("runAsNonRoot"):
        _check_not_root(wanted, merged.get("runAsUser"), user, username)
    capabilities = own.get("capabilities") or {}
    plain = privileged or own.get("procMount") == "Unmasked"
    return rt.SecurityContext(
        namespaces=_namespaces(pod, inputs.target_id),
        privileged=privileged,
        run_as_user=user,
        run_as_username=username if user is None else "",
        run_as_group=merged.get("runAsGroup"),
        supplemental_groups=_groups(pod),
        readonly_rootfs=bool(own.get("readOnlyRootFilesystem")),
        no_new_privs=own.get("allowPrivilegeEscalation") is False and not privileged,
        add_capabilities=tuple(capabilities.get("add") or ()),
        drop_capabilities=tuple(capabilities.get("drop") or ()),
        masked_paths=() if plain else MASKED_PATHS,
        readonly_paths=() if plain else READONLY_PATHS,
        seccomp=rt.SecurityProfile("Unconfined") if privileged else _seccomp(merged.get("seccompProfile")),
    )


def _check_not_root(wanted: ContainerSpec, asked: int | None, user: int | None, username: str) -> None:
    if user is None:
        text = f"container has runAsNonRoot and image has non-numeric user ({username}), cannot verify user is non-root"
        raise ConfigError(text)
    if user == 0:
        why = "container's runAsUser breaks non-root policy" if asked == 0 else None
        raise ConfigError(why or f"container has runAsNonRoot and image will run as root (container: {wanted.name})")


def _pod_security(pod: Object) -> dict[str, Any]:
    return pod["spec"].get("securityContext") or {}


def _is_privileged(entry: ContainerSpec) -> bool:
    return bool((entry.spec.get("securityContext") or {}).get("privileged"))


def _groups(pod: Object) -> tuple[int, ...]:
    security = _pod_security(pod)
    groups = [*(security.get("supplementalGroups") or ())]
    if security.get("fsGroup") is not None:
        groups.append(security["fsGroup"])
    return tuple(dict.fromkeys(groups))


def _seccomp(profile: Mapping[str, Any] | None) -> rt.SecurityProfile:
    if not profile:
        return rt.SecurityProfile("Unconfined")
    return rt.SecurityProfile(profile["type"], profile.get("localhostProfile") or "")


def _namespaces(pod: Object, target_id: str) -> rt.Namespaces:
    spec = pod["spec"]
    pid: rt.NamespaceMode = "container"
    if target_id:
        pid = "target"
    elif spec.get("hostPID"):
        pid = "node"
    elif spec.get("shareProcessNamespace"):
        pid = "pod"
    return rt.Namespaces(
        network="node" if pod_spec.host_network(pod) else "pod",
        pid=pid,
        ipc="node" if spec.get("hostIPC") else "pod",
        target_id=target_id,
    )
