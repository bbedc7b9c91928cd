"""Carries out single instructions for a pod: volumes, sandbox, containers, hooks, cleaning up."""

from __future__ import annotations

import asyncio
import logging
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from control.api import meta
from control.api.meta import Object
from control.api.status import ApiError
from control.client.events import EventKind, EventRecorder
from node import dns, environment, last_words, mounts, pod_spec, resources
from node import runtime as rt
from node.cgroups import Cgroups
from node.config import KubeletConfig
from node.container_config import ContainerInputs, container_config, sandbox_config
from node.cri import Cri, CriError, CriNotFoundError
from node.environment import ConfigError
from node.handlers import HandlerError, Handlers
from node.images import ImageError, Images
from node.paths import PodPaths
from node.pod_spec import ContainerSpec
from node.sources import ApiSources
from node.volumes import manager as volumes
from node.volumes.context import VolumeContext, VolumeError

log = logging.getLogger(__name__)

FRESH_S = 2.0
"""How old a ConfigMap or Secret may be when a container starts."""
POST_START_TIMEOUT_S = 24 * 3600.0


class StartError(Exception):
    """A container could not be made or started; `info` is what is left of it in the runtime."""

    def __init__(self, reason: str, message: str, info: rt.ContainerInfo | None = None) -> None:
        self.reason = reason
        self.info = info
        super().__init__(message)


@dataclass(frozen=True)
class NodeServices:
    """What all pods of a node share."""

    config: KubeletConfig
    cri: Cri
    images: Images
    handlers: Handlers
    sources: ApiSources
    recorder: EventRecorder
    cgroups: Cgroups
    services: Callable[[], list[Object]]
    """Returns all Services, for their environment variables."""
    host_ips: Callable[[], list[str]]
    allocatable: Callable[[], Mapping[str, str]]
    memory_bytes: int
    node_dns: rt.DnsConfig


class PodRuntime:
    """One pod's hands: each method does one thing to the end or raises."""

    def __init__(self, node: NodeServices, pod: Object) -> None:
        self._node = node
        self.pod = pod
        self.paths = PodPaths(node.config.root_dir, node.config.pod_logs_dir, pod)
        self.ips: tuple[str, ...] = ()
        self._folders: dict[str, Path] = {}
        self._images: dict[str, rt.ImageInfo] = {}
        self._sandbox: rt.SandboxConfig | None = None

    # --- volumes ------------------------------------------------------------------------------------

    async def mount_volumes(self) -> None:
        """Set up all volumes; raises VolumeError."""
        try:
            self._folders = await volumes.set_up(self._context(FRESH_S))
        except ApiError as error:
            raise VolumeError(f"MountVolume.SetUp failed: {error}") from error

    async def refresh_volumes(self) -> None:
        """Write anew what has changed in the volumes' sources."""
        try:
            await volumes.refresh(self._context(self._node.config.sync_frequency_s / 2))
        except (ApiError, VolumeError, OSError) as error:
            log.info("cannot refresh volumes pod=%s error=%s", meta.key(self.pod), error)

    def _context(self, age_max_s: float) -> VolumeContext:
        return VolumeContext(
            pod=self.pod,
            paths=self.paths,
            source=self._node.sources,
            age_max_s=age_max_s,
            runtime_fields=self._fields(),
            node_allocatable=self._node.allocatable(),
            mount_tmpfs=mounts.mount_tmpfs,
        )

    def _fields(self) -> dict[str, str]:
        host_ips = self._node.host_ips()
        ips = host_ips if pod_spec.host_network(self.pod) else list(self.ips)
        return {
            "status.podIP": ips[0] if ips else "",
            "status.podIPs": ",".join(ips),
            "status.hostIP": host_ips[0] if host_ips else "",
            "status.hostIPs": ",".join(host_ips),
        }

    # --- the sandbox --------------------------------------------------------------------------------

    def _sandbox_config(self, attempt: int) -> rt.SandboxConfig:
        config = self._node.config
        resolver = dns.pod_dns(self.pod, config.cluster_dns, config.cluster_domain, self._node.node_dns)
        cgroup = resources.pod_cgroup(self.pod, config.cgroup_root, config.cgroup_driver)
        return sandbox_config(self.pod, attempt, self.paths, resolver, cgroup.path)

    async def run_sandbox(self, attempt: int) -> rt.SandboxInfo:
        """Make the sandbox and return it with its addresses; raises CriError."""
        config = self._node.config
        if config.enforce_pod_cgroups and config.cgroup_driver == "cgroupfs":
            cgroup = resources.pod_cgroup(self.pod, config.cgroup_root, config.cgroup_driver)
            await asyncio.to_thread(self._node.cgroups.ensure, cgroup)
        await asyncio.to_thread(self.paths.logs.mkdir, parents=True, exist_ok=True)
        self._sandbox = self._sandbox_config(attempt)
        sandbox_id = await self._node.cri.run_sandbox(self._sandbox)
        info = await self._node.cri.sandbox_status(sandbox_id)
        self.ips = info.ips
        return info

    # --- containers -----------------------------------------------------------------------------------

    async def pull(self, wanted: ContainerSpec) -> None:
        """Make sure of the image; raises ImageError."""
        secrets: list[Object] = []
        for reference in self.pod["spec"].get("imagePullSecrets") or ():
            try:
                found = await self._node.sources.secret(meta.namespace(self.pod), reference["name"], FRESH_S)
            except ApiError as error:
                raise ImageError("ErrImagePull", f"cannot read imagePullSecrets: {error}") from error
            if found is not None:
                secrets.append(found)
        policy = pod_spec.pull_policy(wanted)
        began = time.monotonic()
        image, pulled = await self._node.images.ensure(wanted.image, policy, secrets)
        self._images[wanted.name] = image
        if pulled:
            text = f'Successfully pulled image "{wanted.image}" in {time.monotonic() - began:.3g}s'
            text += f". Image size: {image.size_bytes} bytes."
        else:
            text = f'Container image "{wanted.image}" already present on machine'
        self.event("Normal", "Pulled", text, wanted)

    async def start(
        self, wanted: ContainerSpec, sandbox_id: str, attempt: int, restart_count: int, target_id: str
    ) -> rt.ContainerInfo:
        """Create and start an instance; raises StartError."""
        try:
            config = await self._container_config(wanted, attempt, restart_count, target_id)
        except (ConfigError, VolumeError, ApiError, OSError) as error:
            raise StartError("CreateContainerConfigError", str(error)) from error
        sandbox = self._sandbox or self._sandbox_config(0)
        try:
            container_id = await self._node.cri.create_container(sandbox_id, config, sandbox)
        except CriError as error:
            raise StartError("CreateContainerError", error.message) from error
        self.event("Normal", "Created", f"Created container: {wanted.name}", wanted)
        try:
            await self._node.cri.start_container(container_id)
            info = await self._node.cri.container_status(container_id)
        except CriError as error:
            raise StartError("RunContainerError", error.message, await self._left(container_id, sandbox_id)) from error
        info = replace(info, sandbox_id=sandbox_id)
        return await self.describe(info) if info.state == "exited" else info

    async def _left(self, container_id: str, sandbox_id: str) -> rt.ContainerInfo | None:
        """Return what a failed start left, removed where it never ran."""
        try:
            info = await self._node.cri.container_status(container_id)
            if info.state == "exited":
                return replace(info, sandbox_id=sandbox_id)
            await self._node.cri.remove_container(container_id)
        except CriError as error:
            log.info("cannot look at a container that failed to start id=%s error=%s", container_id, error)
        return None

    async def _container_config(
        self, wanted: ContainerSpec, attempt: int, restart_count: int, target_id: str
    ) -> rt.ContainerConfig:
        image = self._images[wanted.name]
        env = await self._environment(wanted)
        context = self._context(FRESH_S)
        found = volumes.mounts_of(context, wanted, self._folders, lambda text: environment.expand(text, env))
        found += await asyncio.to_thread(self._own_mounts, wanted, attempt, {mount.container_path for mount in found})
        inputs = ContainerInputs(
            attempt=attempt,
            restart_count=restart_count,
            image_ref=image.id,
            image_uid=image.uid,
            image_username=image.username,
            env=env,
            mounts=tuple(found),
            target_id=target_id,
            node_memory_bytes=self._node.memory_bytes,
        )
        config = container_config(self.pod, wanted, inputs)
        return replace(config, image=image.id or wanted.image)

    def _own_mounts(self, wanted: ContainerSpec, attempt: int, taken: set[str]) -> list[rt.MountConfig]:
        """Write the files that every container has, and return their mounts."""
        found: list[rt.MountConfig] = []
        if "/etc/hosts" not in taken:
            node_hosts = Path("/etc/hosts").read_text() if pod_spec.host_network(self.pod) else ""
            text = dns.hosts_file(self.pod, self.ips, self._node.config.cluster_domain, node_hosts)
            self.paths.etc_hosts.write_text(text)
            self.paths.etc_hosts.chmod(0o644)
            found.append(rt.MountConfig("/etc/hosts", str(self.paths.etc_hosts)))
        message_path = wanted.spec.get("terminationMessagePath") or "/dev/termination-log"
        file = self.paths.termination_log(wanted.name, attempt)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"")
        file.chmod(0o666)
        found.append(rt.MountConfig(message_path, str(file)))
        self.paths.log(wanted.name, attempt).parent.mkdir(parents=True, exist_ok=True)
        return found

    async def _environment(self, wanted: ContainerSpec) -> dict[str, str]:
        config_maps, secrets = await self._referenced(wanted)
        links = self.pod["spec"].get("enableServiceLinks") is not False
        return environment.environment(
            self.pod,
            wanted,
            config_map=config_maps.get,
            secret=secrets.get,
            services=environment.service_variables(self._node.services(), meta.namespace(self.pod), links=links),
            runtime_fields=self._fields(),
            node_allocatable=self._node.allocatable(),
        )

    async def _referenced(self, wanted: ContainerSpec) -> tuple[dict[str, Object | None], dict[str, Object | None]]:
        """Read every ConfigMap and Secret that the environment names."""
        config_maps: dict[str, Object | None] = {}
        secrets: dict[str, Object | None] = {}
        entries = [*(wanted.spec.get("envFrom") or ())]
        entries += [entry.get("valueFrom") or {} for entry in wanted.spec.get("env") or ()]
        namespace = meta.namespace(self.pod)
        for entry in entries:
            if reference := entry.get("configMapRef") or entry.get("configMapKeyRef"):
                name = reference.get("name", "")
                config_maps[name] = await self._node.sources.config_map(namespace, name, FRESH_S)
            if reference := entry.get("secretRef") or entry.get("secretKeyRef"):
                name = reference.get("name", "")
                secrets[name] = await self._node.sources.secret(namespace, name, FRESH_S)
        return config_maps, secrets

    # --- ending ---------------------------------------------------------------------------------------

    async def kill(
        self, wanted: ContainerSpec, container_id: str, grace_s: float, *, pre_stop: bool
    ) -> rt.ContainerInfo | None:
        """Run preStop, stop the instance, and return how it ended; raises CriError."""
        left_s = grace_s
        hook = pod_spec.hook(wanted, "preStop") if pre_stop else None
        if hook is not None and grace_s > 0:
            left_s = max(grace_s - await self._pre_stop(hook, wanted, container_id, grace_s), pod_spec.GRACE_LEAST_S)
        await self._node.cri.stop_container(container_id, left_s)
        try:
            info = await self._node.cri.container_status(container_id)
        except CriNotFoundError:
            return None
        return await self.describe(info)

    async def _pre_stop(self, hook: Object, wanted: ContainerSpec, container_id: str, grace_s: float) -> float:
        began = time.monotonic()
        try:
            ip = self.probe_ip()
            await self._node.handlers.run(hook, wanted, container_id, ip, grace_s)
        except HandlerError as error:
            self.event("Warning", "FailedPreStopHook", f"PreStopHook failed: {error}", wanted)
        return time.monotonic() - began

    async def post_start(self, wanted: ContainerSpec, container_id: str) -> None:
        """Run the postStart hook; raises HandlerError."""
        hook = pod_spec.hook(wanted, "postStart") or {}
        await self._node.handlers.run(hook, wanted, container_id, self.probe_ip(), POST_START_TIMEOUT_S)

    def probe_ip(self) -> str:
        """Return the address at which the pod's own ports are reached."""
        ips = self._node.host_ips() if pod_spec.host_network(self.pod) else list(self.ips)
        return ips[0] if ips else "127.0.0.1"

    async def describe(self, info: rt.ContainerInfo) -> rt.ContainerInfo:
        """Add the last words of an ended instance."""
        wanted = pod_spec.container(self.pod, info.name)
        policy = wanted.spec.get("terminationMessagePolicy") if wanted else None
        fall_back = policy == "FallbackToLogsOnError" and info.exit_code != 0
        words = await asyncio.to_thread(
            last_words.read,
            self.paths.termination_log(info.name, info.attempt),
            self.paths.log(info.name, info.attempt),
            fall_back_to_logs=fall_back,
        )
        return replace(info, message=words or info.message)

    async def remove_container(self, name: str, container_id: str, attempt: int) -> None:
        """Forget an instance with its log."""
        await self._node.cri.remove_container(container_id)
        for path in (self.paths.log(name, attempt), self.paths.termination_log(name, attempt)):
            await asyncio.to_thread(path.unlink, missing_ok=True)

    async def clean_up(self, sandbox_ids: tuple[str, ...]) -> None:
        """Remove sandboxes, volumes, folders and cgroups of the pod."""
        for sandbox_id in sandbox_ids:
            await self._node.cri.stop_sandbox(sandbox_id)
            await self._node.cri.remove_sandbox(sandbox_id)
        await volumes.tear_down(self.paths.root)
        await asyncio.to_thread(shutil.rmtree, self.paths.logs, True)
        config = self._node.config
        if config.enforce_pod_cgroups and config.cgroup_driver == "cgroupfs":
            cgroup = resources.pod_cgroup(self.pod, config.cgroup_root, config.cgroup_driver)
            await asyncio.to_thread(self._node.cgroups.remove, cgroup.path)
        self._node.sources.forget(meta.uid(self.pod))

    def event(self, kind: EventKind, reason: str, message: str, wanted: ContainerSpec | None = None) -> None:
        """Record an Event about the pod, or about one of its containers."""
        path = ""
        if wanted is not None:
            field = {"init": "initContainers", "sidecar": "initContainers", "ephemeral": "ephemeralContainers"}
            path = f"spec.{field.get(wanted.kind, 'containers')}{{{wanted.name}}}"
        # Objects out of a list do not say their own kind.
        self._node.recorder.event({**self.pod, "kind": "Pod", "apiVersion": "v1"}, kind, reason, message, path)
