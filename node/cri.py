"""The only door to the container runtime: CRI v1 over a unix socket, typed values out, errors mapped."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import grpc
import grpc.aio

from node import cri_words
from node import runtime as rt
from proto.cri import api_pb2 as pb
from proto.cri import api_pb2_grpc

if TYPE_CHECKING:
    from collections.abc import Awaitable

MESSAGE_MAX_BYTES = 16 * 1024 * 1024
CALL_TIMEOUT_S = 120.0
SANDBOX_TIMEOUT_S = 240.0
PULL_TIMEOUT_S = 600.0
RELIST_TIMEOUT_S = 30.0

T = TypeVar("T")


class CriError(Exception):
    """The runtime refused or failed a call."""

    def __init__(self, code: grpc.StatusCode, message: str) -> None:
        self.code = code
        self.message = message
        super().__init__(message)


class CriNotFoundError(CriError):
    """The runtime does not know the thing named."""


class CriUnavailableError(CriError):
    """The runtime does not answer."""


class CriTimeoutError(CriError):
    """The runtime did not finish in time; whether it did the work is not known."""


class CriUnimplementedError(CriError):
    """The runtime is too old for this call."""


ERRORS: dict[grpc.StatusCode, type[CriError]] = {
    grpc.StatusCode.NOT_FOUND: CriNotFoundError,
    grpc.StatusCode.UNAVAILABLE: CriUnavailableError,
    grpc.StatusCode.DEADLINE_EXCEEDED: CriTimeoutError,
    grpc.StatusCode.UNIMPLEMENTED: CriUnimplementedError,
}


def _mapped(error: grpc.aio.AioRpcError) -> CriError:
    code = error.code()
    return ERRORS.get(code, CriError)(code, error.details() or code.name)


async def _call(call: Awaitable[T]) -> T:
    try:
        return await call
    except grpc.aio.AioRpcError as error:
        raise _mapped(error) from error


class Cri:
    """A connection to one container runtime."""

    def __init__(self, endpoint: str) -> None:
        target = endpoint if "://" in endpoint else f"unix://{endpoint}"
        options: list[tuple[str, Any]] = [
            ("grpc.default_authority", "localhost"),  # Go's server refuses a path as authority
            ("grpc.max_receive_message_length", MESSAGE_MAX_BYTES),
            ("grpc.max_send_message_length", MESSAGE_MAX_BYTES),
            ("grpc.initial_reconnect_backoff_ms", 100),
            ("grpc.max_reconnect_backoff_ms", 2000),
            ("grpc.use_local_subchannel_pool", 1),
        ]
        self._channel = grpc.aio.insecure_channel(target, options=options)
        self._runtime: Any = api_pb2_grpc.RuntimeServiceStub(self._channel)
        self._images: Any = api_pb2_grpc.ImageServiceStub(self._channel)

    async def close(self) -> None:
        """Close the connection."""
        await self._channel.close()

    # --- the runtime --------------------------------------------------------------------------------

    async def version(self) -> rt.RuntimeVersion:
        """Return what the runtime says it is."""
        reply = await _call(self._runtime.Version(pb.VersionRequest(version="v1"), timeout=5))
        return rt.RuntimeVersion(reply.runtime_name, reply.runtime_version, reply.runtime_api_version)

    async def conditions(self) -> list[rt.RuntimeCondition]:
        """Return the runtime's own conditions: RuntimeReady and NetworkReady at least."""
        reply = await _call(self._runtime.Status(pb.StatusRequest(), timeout=10))
        return [rt.RuntimeCondition(c.type, c.status, c.reason, c.message) for c in reply.status.conditions]

    # --- sandboxes ----------------------------------------------------------------------------------

    async def run_sandbox(self, config: rt.SandboxConfig) -> str:
        """Make a sandbox with its network and return its id."""
        request = pb.RunPodSandboxRequest(
            config=cri_words.sandbox_config(config), runtime_handler=config.runtime_handler
        )
        reply = await _call(self._runtime.RunPodSandbox(request, timeout=SANDBOX_TIMEOUT_S))
        return str(reply.pod_sandbox_id)

    async def stop_sandbox(self, sandbox_id: str) -> None:
        """Stop a sandbox, its containers and its network; nothing to do is success."""
        request = pb.StopPodSandboxRequest(pod_sandbox_id=sandbox_id)
        try:
            await _call(self._runtime.StopPodSandbox(request, timeout=CALL_TIMEOUT_S))
        except CriNotFoundError:
            return

    async def remove_sandbox(self, sandbox_id: str) -> None:
        """Remove a sandbox and its containers; nothing to do is success."""
        request = pb.RemovePodSandboxRequest(pod_sandbox_id=sandbox_id)
        try:
            await _call(self._runtime.RemovePodSandbox(request, timeout=CALL_TIMEOUT_S))
        except CriNotFoundError:
            return

    async def sandbox_status(self, sandbox_id: str) -> rt.SandboxInfo:
        """Return a sandbox with its addresses."""
        request = pb.PodSandboxStatusRequest(pod_sandbox_id=sandbox_id)
        reply = await _call(self._runtime.PodSandboxStatus(request, timeout=RELIST_TIMEOUT_S))
        return cri_words.sandbox_status(reply.status)

    async def list_sandboxes(self) -> list[rt.SandboxInfo]:
        """Return all sandboxes, without addresses."""
        reply = await _call(self._runtime.ListPodSandbox(pb.ListPodSandboxRequest(), timeout=RELIST_TIMEOUT_S))
        return [cri_words.sandbox(item) for item in reply.items]

    # --- containers ---------------------------------------------------------------------------------

    async def create_container(self, sandbox_id: str, config: rt.ContainerConfig, sandbox: rt.SandboxConfig) -> str:
        """Create a container in a sandbox and return its id."""
        request = pb.CreateContainerRequest(
            pod_sandbox_id=sandbox_id,
            config=cri_words.container_config(config),
            sandbox_config=cri_words.sandbox_config(sandbox),
        )
        reply = await _call(self._runtime.CreateContainer(request, timeout=CALL_TIMEOUT_S))
        return str(reply.container_id)

    async def start_container(self, container_id: str) -> None:
        """Start a created container."""
        request = pb.StartContainerRequest(container_id=container_id)
        await _call(self._runtime.StartContainer(request, timeout=CALL_TIMEOUT_S))

    async def stop_container(self, container_id: str, grace_s: float) -> None:
        """Send the stop signal, then after the grace kill; returns when it has ended."""
        request = pb.StopContainerRequest(container_id=container_id, timeout=max(0, round(grace_s)))
        try:
            await _call(self._runtime.StopContainer(request, timeout=grace_s + CALL_TIMEOUT_S))
        except CriNotFoundError:
            return

    async def remove_container(self, container_id: str) -> None:
        """Remove a container, by force where it runs; nothing to do is success."""
        request = pb.RemoveContainerRequest(container_id=container_id)
        try:
            await _call(self._runtime.RemoveContainer(request, timeout=CALL_TIMEOUT_S))
        except CriNotFoundError:
            return

    async def list_containers(self) -> list[rt.ContainerInfo]:
        """Return all containers, without times and exit codes."""
        reply = await _call(self._runtime.ListContainers(pb.ListContainersRequest(), timeout=RELIST_TIMEOUT_S))
        return [cri_words.container(item) for item in reply.containers]

    async def container_status(self, container_id: str) -> rt.ContainerInfo:
        """Return a container with times and exit code."""
        request = pb.ContainerStatusRequest(container_id=container_id)
        reply = await _call(self._runtime.ContainerStatus(request, timeout=RELIST_TIMEOUT_S))
        return cri_words.container_status(reply.status)

    async def container_annotations(self, container_id: str) -> dict[str, str]:
        """Return what the kubelet wrote on a container when it was made."""
        request = pb.ContainerStatusRequest(container_id=container_id)
        reply = await _call(self._runtime.ContainerStatus(request, timeout=RELIST_TIMEOUT_S))
        return dict(reply.status.annotations)

    async def container_pid(self, container_id: str) -> int | None:
        """Return the container's first process as the node sees it, where the runtime tells."""
        request = pb.ContainerStatusRequest(container_id=container_id, verbose=True)
        reply = await _call(self._runtime.ContainerStatus(request, timeout=RELIST_TIMEOUT_S))
        info = json.loads(reply.info.get("info") or "{}")
        return int(info["pid"]) if info.get("pid") else None

    async def update_resources(self, container_id: str, resources: rt.LinuxResources) -> None:
        """Change the limits of a running container."""
        request = pb.UpdateContainerResourcesRequest(
            container_id=container_id, linux=cri_words.linux_resources(resources)
        )
        await _call(self._runtime.UpdateContainerResources(request, timeout=CALL_TIMEOUT_S))

    async def reopen_log(self, container_id: str) -> None:
        """Make the runtime open the log file anew after it was moved away."""
        request = pb.ReopenContainerLogRequest(container_id=container_id)
        await _call(self._runtime.ReopenContainerLog(request, timeout=CALL_TIMEOUT_S))

    # --- commands and streams -----------------------------------------------------------------------

    async def exec_sync(self, container_id: str, command: Sequence[str], timeout_s: float) -> rt.ExecResult:
        """Run a command in a container; CriTimeoutError when it takes longer."""
        request = pb.ExecSyncRequest(container_id=container_id, cmd=command, timeout=max(1, round(timeout_s)))
        reply = await _call(self._runtime.ExecSync(request, timeout=timeout_s + 10))
        return rt.ExecResult(reply.exit_code, reply.stdout, reply.stderr)

    async def exec_url(
        self, container_id: str, command: Sequence[str], *, stdin: bool, stdout: bool, stderr: bool, tty: bool
    ) -> str:
        """Return where the runtime streams a command's input and output."""
        request = pb.ExecRequest(
            container_id=container_id, cmd=command, stdin=stdin, stdout=stdout, stderr=stderr, tty=tty
        )
        return str((await _call(self._runtime.Exec(request, timeout=CALL_TIMEOUT_S))).url)

    async def attach_url(self, container_id: str, *, stdin: bool, stdout: bool, stderr: bool, tty: bool) -> str:
        """Return where the runtime streams a container's own input and output."""
        request = pb.AttachRequest(container_id=container_id, stdin=stdin, stdout=stdout, stderr=stderr, tty=tty)
        return str((await _call(self._runtime.Attach(request, timeout=CALL_TIMEOUT_S))).url)

    async def port_forward_url(self, sandbox_id: str, ports: Sequence[int]) -> str:
        """Return where the runtime streams to ports of a sandbox."""
        request = pb.PortForwardRequest(pod_sandbox_id=sandbox_id, port=ports)
        return str((await _call(self._runtime.PortForward(request, timeout=CALL_TIMEOUT_S))).url)

    async def stats(self) -> list[rt.ContainerUsage]:
        """Return the use of all running containers."""
        request = pb.ListContainerStatsRequest()
        reply = await _call(self._runtime.ListContainerStats(request, timeout=RELIST_TIMEOUT_S))
        return [cri_words.usage(entry) for entry in reply.stats]

    async def changed_pods(self) -> AsyncIterator[str]:
        """Yield the UID of each pod whose containers change; CriUnimplementedError from an old runtime."""
        call = self._runtime.GetContainerEvents(pb.GetEventsRequest())
        try:
            async for event in call:
                yield str(event.pod_sandbox_status.metadata.uid)
        except grpc.aio.AioRpcError as error:
            raise _mapped(error) from error
        finally:
            call.cancel()

    # --- images -------------------------------------------------------------------------------------

    async def list_images(self) -> list[rt.ImageInfo]:
        """Return the images on the node."""
        reply = await _call(self._images.ListImages(pb.ListImagesRequest(), timeout=RELIST_TIMEOUT_S))
        return [cri_words.image(entry) for entry in reply.images]

    async def image_status(self, image: str) -> rt.ImageInfo | None:
        """Return an image, or None where the node has it not."""
        request = pb.ImageStatusRequest(image=pb.ImageSpec(image=image))
        reply = await _call(self._images.ImageStatus(request, timeout=RELIST_TIMEOUT_S))
        return cri_words.image(reply.image) if reply.HasField("image") and reply.image.id else None

    async def pull_image(self, image: str, credentials: tuple[str, str] | None = None) -> str:
        """Fetch an image and return its reference."""
        request = pb.PullImageRequest(image=pb.ImageSpec(image=image))
        if credentials is not None:
            request.auth.CopyFrom(pb.AuthConfig(username=credentials[0], password=credentials[1]))
        return str((await _call(self._images.PullImage(request, timeout=PULL_TIMEOUT_S))).image_ref)

    async def remove_image(self, image: str) -> None:
        """Remove an image from the node."""
        request = pb.RemoveImageRequest(image=pb.ImageSpec(image=image))
        await _call(self._images.RemoveImage(request, timeout=CALL_TIMEOUT_S))

    async def image_bytes_used(self) -> int:
        """Return the bytes that images take."""
        reply = await _call(self._images.ImageFsInfo(pb.ImageFsInfoRequest(), timeout=RELIST_TIMEOUT_S))
        return sum(int(entry.used_bytes.value) for entry in reply.image_filesystems)
