"""Translates between the runtime's protobuf messages and our values; for the CRI door alone."""

from __future__ import annotations

from typing import Any

from node import runtime as rt
from proto.cri import api_pb2 as pb

NAMESPACE_MODES: dict[rt.NamespaceMode, pb.NamespaceMode.ValueType] = {
    "pod": pb.POD,
    "container": pb.CONTAINER,
    "node": pb.NODE,
    "target": pb.TARGET,
}
PROPAGATIONS: dict[rt.Propagation, pb.MountPropagation.ValueType] = {
    "None": pb.PROPAGATION_PRIVATE,
    "HostToContainer": pb.PROPAGATION_HOST_TO_CONTAINER,
    "Bidirectional": pb.PROPAGATION_BIDIRECTIONAL,
}
PROFILES = {
    "RuntimeDefault": pb.SecurityProfile.RuntimeDefault,
    "Unconfined": pb.SecurityProfile.Unconfined,
    "Localhost": pb.SecurityProfile.Localhost,
}
STATES: dict[int, rt.ContainerState] = {
    pb.CONTAINER_CREATED: "created",
    pb.CONTAINER_RUNNING: "running",
    pb.CONTAINER_EXITED: "exited",
    pb.CONTAINER_UNKNOWN: "unknown",
}
PROTOCOLS = {"TCP": pb.TCP, "UDP": pb.UDP, "SCTP": pb.SCTP}


def _profile(profile: rt.SecurityProfile) -> pb.SecurityProfile:
    return pb.SecurityProfile(profile_type=PROFILES[profile.type], localhost_ref=profile.localhost_ref)


def _namespaces(namespaces: rt.Namespaces) -> pb.NamespaceOption:
    return pb.NamespaceOption(
        network=NAMESPACE_MODES[namespaces.network],
        pid=NAMESPACE_MODES[namespaces.pid],
        ipc=NAMESPACE_MODES[namespaces.ipc],
        target_id=namespaces.target_id,
    )


def _identity(message: Any, security: rt.SecurityContext) -> None:
    if security.run_as_user is not None:
        message.run_as_user.value = security.run_as_user
    if security.run_as_group is not None:
        message.run_as_group.value = security.run_as_group
    message.supplemental_groups.extend(security.supplemental_groups)
    message.seccomp.CopyFrom(_profile(security.seccomp))
    if security.apparmor is not None:
        message.apparmor.CopyFrom(_profile(security.apparmor))


def sandbox_config(config: rt.SandboxConfig) -> pb.PodSandboxConfig:
    """Return the message of a sandbox's configuration."""
    security = pb.LinuxSandboxSecurityContext(
        namespace_options=_namespaces(config.security.namespaces),
        privileged=config.security.privileged,
        readonly_rootfs=config.security.readonly_rootfs,
    )
    _identity(security, config.security)
    return pb.PodSandboxConfig(
        metadata=pb.PodSandboxMetadata(
            name=config.name, uid=config.uid, namespace=config.namespace, attempt=config.attempt
        ),
        hostname=config.hostname,
        log_directory=config.log_directory,
        dns_config=pb.DNSConfig(servers=config.dns.servers, searches=config.dns.searches, options=config.dns.options),
        port_mappings=[
            pb.PortMapping(
                protocol=PROTOCOLS[port.protocol],
                container_port=port.container_port,
                host_port=port.host_port,
                host_ip=port.host_ip,
            )
            for port in config.ports
        ],
        labels=config.labels,
        annotations=config.annotations,
        linux=pb.LinuxPodSandboxConfig(
            cgroup_parent=config.cgroup_parent, security_context=security, sysctls=config.sysctls
        ),
    )


def linux_resources(resources: rt.LinuxResources) -> pb.LinuxContainerResources:
    """Return the message of cgroup values."""
    return pb.LinuxContainerResources(
        cpu_period=resources.cpu_period_us,
        cpu_quota=resources.cpu_quota_us,
        cpu_shares=resources.cpu_shares,
        memory_limit_in_bytes=resources.memory_limit_bytes,
        oom_score_adj=resources.oom_score_adj,
        unified=resources.unified,
    )


def container_config(config: rt.ContainerConfig) -> pb.ContainerConfig:
    """Return the message of a container's configuration."""
    wanted = config.security
    security = pb.LinuxContainerSecurityContext(
        capabilities=pb.Capability(
            add_capabilities=wanted.add_capabilities, drop_capabilities=wanted.drop_capabilities
        ),
        privileged=wanted.privileged,
        namespace_options=_namespaces(wanted.namespaces),
        run_as_username=wanted.run_as_username,
        readonly_rootfs=wanted.readonly_rootfs,
        no_new_privs=wanted.no_new_privs,
        masked_paths=wanted.masked_paths,
        readonly_paths=wanted.readonly_paths,
    )
    _identity(security, wanted)
    return pb.ContainerConfig(
        metadata=pb.ContainerMetadata(name=config.name, attempt=config.attempt),
        image=pb.ImageSpec(image=config.image),
        command=config.command,
        args=config.args,
        working_dir=config.working_dir,
        envs=[pb.KeyValue(key=key, value=value) for key, value in config.env],
        mounts=[
            pb.Mount(
                container_path=mount.container_path,
                host_path=mount.host_path,
                readonly=mount.readonly,
                propagation=PROPAGATIONS[mount.propagation],
            )
            for mount in config.mounts
        ],
        labels=config.labels,
        annotations=config.annotations,
        log_path=config.log_path,
        stdin=config.stdin,
        stdin_once=config.stdin_once,
        tty=config.tty,
        linux=pb.LinuxContainerConfig(resources=linux_resources(config.resources), security_context=security),
    )


def sandbox(message: pb.PodSandbox) -> rt.SandboxInfo:
    """Return a listed sandbox."""
    return rt.SandboxInfo(
        id=message.id,
        pod_uid=message.metadata.uid,
        name=message.metadata.name,
        namespace=message.metadata.namespace,
        attempt=message.metadata.attempt,
        ready=message.state == pb.SANDBOX_READY,
        created_at_ns=message.created_at,
    )


def sandbox_status(message: pb.PodSandboxStatus) -> rt.SandboxInfo:
    """Return a sandbox with its addresses."""
    addresses = [message.network.ip, *(entry.ip for entry in message.network.additional_ips)]
    return rt.SandboxInfo(
        id=message.id,
        pod_uid=message.metadata.uid,
        name=message.metadata.name,
        namespace=message.metadata.namespace,
        attempt=message.metadata.attempt,
        ready=message.state == pb.SANDBOX_READY,
        created_at_ns=message.created_at,
        ips=tuple(address for address in addresses if address),
    )


def _written(labels: Any, annotations: Any) -> dict[str, Any]:
    return {
        "pod_uid": labels.get(rt.LABEL_POD_UID, ""),
        "restart_count": int(annotations.get(rt.ANNOTATION_RESTART_COUNT, "0") or 0),
        "spec_hash": annotations.get(rt.ANNOTATION_HASH, ""),
    }


def container(message: pb.Container) -> rt.ContainerInfo:
    """Return a listed container."""
    return rt.ContainerInfo(
        id=message.id,
        sandbox_id=message.pod_sandbox_id,
        name=message.metadata.name,
        attempt=message.metadata.attempt,
        state=STATES[message.state],
        image=message.image.image,
        image_ref=message.image_ref,
        created_at_ns=message.created_at,
        **_written(message.labels, message.annotations),
    )


def container_status(message: pb.ContainerStatus) -> rt.ContainerInfo:
    """Return a container with times and exit code; its sandbox is only in listings."""
    return rt.ContainerInfo(
        id=message.id,
        sandbox_id="",
        name=message.metadata.name,
        attempt=message.metadata.attempt,
        state=STATES[message.state],
        image=message.image.image,
        image_ref=message.image_ref,
        created_at_ns=message.created_at,
        started_at_ns=message.started_at,
        finished_at_ns=message.finished_at,
        exit_code=message.exit_code,
        reason=message.reason,
        message=message.message,
        **_written(message.labels, message.annotations),
    )


def image(message: pb.Image) -> rt.ImageInfo:
    """Return an image."""
    return rt.ImageInfo(
        id=message.id,
        repo_tags=tuple(message.repo_tags),
        repo_digests=tuple(message.repo_digests),
        size_bytes=message.size,
        uid=message.uid.value if message.HasField("uid") else None,
        username=message.username,
        pinned=message.pinned,
    )


def usage(message: pb.ContainerStats) -> rt.ContainerUsage:
    """Return a container's use of the node."""
    labels = message.attributes.labels
    return rt.ContainerUsage(
        id=message.attributes.id,
        pod_uid=labels.get(rt.LABEL_POD_UID, ""),
        pod_name=labels.get(rt.LABEL_POD_NAME, ""),
        pod_namespace=labels.get(rt.LABEL_POD_NAMESPACE, ""),
        name=message.attributes.metadata.name,
        timestamp_ns=message.cpu.timestamp,
        cpu_core_nanoseconds=message.cpu.usage_core_nano_seconds.value,
        memory_working_set_bytes=message.memory.working_set_bytes.value,
        memory_usage_bytes=message.memory.usage_bytes.value,
        memory_rss_bytes=message.memory.rss_bytes.value,
        writable_layer_bytes=message.writable_layer.used_bytes.value,
    )
