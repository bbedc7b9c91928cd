"""PURE: the container runtime's words as values; what the pod machine and the CRI door both speak."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

ContainerState = Literal["created", "running", "exited", "unknown"]
NamespaceMode = Literal["pod", "container", "node", "target"]
Propagation = Literal["None", "HostToContainer", "Bidirectional"]

# A container's life only goes forward, so that a stale listing can never undo a newer observation.
STATE_ORDER: Mapping[ContainerState, int] = {"unknown": 0, "created": 1, "running": 2, "exited": 3}

LABEL_POD_NAME = "io.kubernetes.pod.name"
LABEL_POD_NAMESPACE = "io.kubernetes.pod.namespace"
LABEL_POD_UID = "io.kubernetes.pod.uid"
LABEL_CONTAINER_NAME = "io.kubernetes.container.name"
ANNOTATION_HASH = "io.kubernetes.container.hash"
ANNOTATION_RESTART_COUNT = "io.kubernetes.container.restartCount"
ANNOTATION_POD_GRACE = "io.kubernetes.pod.terminationGracePeriod"
ANNOTATION_MESSAGE_PATH = "io.kubernetes.container.terminationMessagePath"
ANNOTATION_MESSAGE_POLICY = "io.kubernetes.container.terminationMessagePolicy"


@dataclass(frozen=True, slots=True)
class SandboxInfo:
    """A pod sandbox as the runtime shows it."""

    id: str
    pod_uid: str
    name: str
    namespace: str
    attempt: int
    ready: bool
    created_at_ns: int = 0
    ips: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ContainerInfo:
    """A container as the runtime shows it."""

    id: str
    sandbox_id: str
    pod_uid: str
    name: str
    attempt: int
    state: ContainerState
    image: str = ""
    image_ref: str = ""
    created_at_ns: int = 0
    started_at_ns: int = 0
    finished_at_ns: int = 0
    exit_code: int = 0
    reason: str = ""
    message: str = ""
    restart_count: int = 0
    spec_hash: str = ""

    @property
    def live(self) -> bool:
        """Say whether the runtime still holds a process, or may."""
        return self.state in ("running", "unknown")


@dataclass(frozen=True, slots=True)
class ImageInfo:
    """An image on the node."""

    id: str
    repo_tags: tuple[str, ...]
    repo_digests: tuple[str, ...]
    size_bytes: int
    uid: int | None = None
    username: str = ""
    pinned: bool = False


@dataclass(frozen=True, slots=True)
class RuntimeCondition:
    """One condition of the runtime's own status."""

    type: str
    status: bool
    reason: str = ""
    message: str = ""


@dataclass(frozen=True, slots=True)
class RuntimeVersion:
    """What the runtime says it is."""

    name: str
    version: str
    api_version: str


@dataclass(frozen=True, slots=True)
class ExecResult:
    """What a command in a container answered."""

    exit_code: int
    stdout: bytes
    stderr: bytes


@dataclass(frozen=True, slots=True)
class ContainerUsage:
    """A container's use of the node."""

    id: str
    pod_uid: str
    pod_name: str
    pod_namespace: str
    name: str
    timestamp_ns: int
    cpu_core_nanoseconds: int
    memory_working_set_bytes: int
    memory_usage_bytes: int
    memory_rss_bytes: int
    writable_layer_bytes: int


@dataclass(frozen=True, slots=True)
class DnsConfig:
    """The resolv.conf of a sandbox."""

    servers: tuple[str, ...] = ()
    searches: tuple[str, ...] = ()
    options: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class PortMapping:
    """A port of the node that leads into a sandbox."""

    protocol: str
    container_port: int
    host_port: int
    host_ip: str = ""


@dataclass(frozen=True, slots=True)
class SecurityProfile:
    """A seccomp or AppArmor profile: RuntimeDefault, Unconfined or Localhost with its reference."""

    type: str
    localhost_ref: str = ""


@dataclass(frozen=True, slots=True)
class Namespaces:
    """Which namespaces a container or sandbox shares."""

    network: NamespaceMode = "pod"
    pid: NamespaceMode = "container"
    ipc: NamespaceMode = "pod"
    target_id: str = ""


@dataclass(frozen=True, slots=True)
class LinuxResources:
    """The cgroup values of a container; zero leaves a value unset."""

    cpu_period_us: int = 0
    cpu_quota_us: int = 0
    cpu_shares: int = 0
    memory_limit_bytes: int = 0
    oom_score_adj: int = 0
    unified: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class SecurityContext:
    """The security settings of a container or a sandbox."""

    namespaces: Namespaces = field(default_factory=Namespaces)
    privileged: bool = False
    run_as_user: int | None = None
    run_as_group: int | None = None
    run_as_username: str = ""
    supplemental_groups: tuple[int, ...] = ()
    readonly_rootfs: bool = False
    no_new_privs: bool = False
    add_capabilities: tuple[str, ...] = ()
    drop_capabilities: tuple[str, ...] = ()
    masked_paths: tuple[str, ...] = ()
    readonly_paths: tuple[str, ...] = ()
    seccomp: SecurityProfile = field(default_factory=lambda: SecurityProfile("Unconfined"))
    apparmor: SecurityProfile | None = None


@dataclass(frozen=True, slots=True)
class MountConfig:
    """A path of the node seen in a container."""

    container_path: str
    host_path: str
    readonly: bool = False
    propagation: Propagation = "None"


@dataclass(frozen=True, slots=True)
class SandboxConfig:
    """What the runtime needs to make a sandbox."""

    name: str
    namespace: str
    uid: str
    attempt: int
    hostname: str
    log_directory: str
    dns: DnsConfig
    labels: Mapping[str, str]
    annotations: Mapping[str, str]
    cgroup_parent: str
    security: SecurityContext
    sysctls: Mapping[str, str] = field(default_factory=dict)
    ports: tuple[PortMapping, ...] = ()
    runtime_handler: str = ""


@dataclass(frozen=True, slots=True)
class ContainerConfig:
    """What the runtime needs to make a container."""

    name: str
    attempt: int
    image: str
    command: tuple[str, ...]
    args: tuple[str, ...]
    working_dir: str
    env: tuple[tuple[str, str], ...]
    mounts: tuple[MountConfig, ...]
    labels: Mapping[str, str]
    annotations: Mapping[str, str]
    log_path: str
    resources: LinuxResources
    security: SecurityContext
    stdin: bool = False
    stdin_once: bool = False
    tty: bool = False
