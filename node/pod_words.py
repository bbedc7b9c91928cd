"""PURE: what a pod machine hears (events) and what it asks for (instructions)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from node.runtime import ContainerInfo, SandboxInfo

ProbeKind = Literal["startup", "readiness", "liveness"]

# --- events: nouns, what happened -----------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class PodUpdated:
    """The API server shows this pod object."""

    pod: dict[str, Any]


@dataclass(frozen=True, slots=True)
class PodRemoved:
    """The pod object is gone from the API server."""


@dataclass(frozen=True, slots=True)
class Observed:
    """The runtime was listed; the listing began at `taken_at`."""

    taken_at: float
    sandboxes: tuple[SandboxInfo, ...]
    containers: tuple[ContainerInfo, ...]


@dataclass(frozen=True, slots=True)
class VolumesMounted:
    """All volumes of the pod stand."""


@dataclass(frozen=True, slots=True)
class VolumesFailed:
    """A volume could not be set up."""

    message: str


@dataclass(frozen=True, slots=True)
class SandboxStarted:
    """The sandbox that was asked for is ready."""

    sandbox: SandboxInfo


@dataclass(frozen=True, slots=True)
class SandboxFailed:
    """The sandbox could not be made."""

    message: str


@dataclass(frozen=True, slots=True)
class SandboxStopped:
    """A sandbox was stopped, or is not there any more."""

    id: str


@dataclass(frozen=True, slots=True)
class SandboxStopFailed:
    """A sandbox would not stop."""

    id: str
    message: str


@dataclass(frozen=True, slots=True)
class ImageReady:
    """The container's image is on the node."""

    container: str


@dataclass(frozen=True, slots=True)
class ImageFailed:
    """The container's image cannot be had; the reason is the one that the status shows."""

    container: str
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class ContainerStarted:
    """The container that was asked for runs, or has already ended."""

    container: str
    info: ContainerInfo


@dataclass(frozen=True, slots=True)
class ContainerStartFailed:
    """The container could not be made or started."""

    container: str
    reason: str
    message: str
    info: ContainerInfo | None = None


@dataclass(frozen=True, slots=True)
class HookSucceeded:
    """The postStart hook of this instance ended well."""

    container: str
    id: str


@dataclass(frozen=True, slots=True)
class HookFailed:
    """The postStart hook of this instance failed."""

    container: str
    id: str
    message: str


@dataclass(frozen=True, slots=True)
class ContainerStopped:
    """A kill has ended: the instance as it is now, or None where the runtime no longer knows it."""

    container: str
    id: str
    info: ContainerInfo | None


@dataclass(frozen=True, slots=True)
class ContainerStopFailed:
    """A kill did not work and has to be tried again."""

    container: str
    id: str
    message: str


@dataclass(frozen=True, slots=True)
class ProbeChanged:
    """A probe of this instance has crossed its threshold."""

    container: str
    id: str
    kind: ProbeKind
    success: bool
    message: str = ""


@dataclass(frozen=True, slots=True)
class CleanedUp:
    """Volumes, sandboxes, folders and cgroups of the pod are gone."""


@dataclass(frozen=True, slots=True)
class CleanUpFailed:
    """Something of the pod is still there."""

    message: str


@dataclass(frozen=True, slots=True)
class Tick:
    """Time has passed."""


Event = (
    PodUpdated
    | PodRemoved
    | Observed
    | VolumesMounted
    | VolumesFailed
    | SandboxStarted
    | SandboxFailed
    | SandboxStopped
    | SandboxStopFailed
    | ImageReady
    | ImageFailed
    | ContainerStarted
    | ContainerStartFailed
    | HookSucceeded
    | HookFailed
    | ContainerStopped
    | ContainerStopFailed
    | ProbeChanged
    | CleanedUp
    | CleanUpFailed
    | Tick
)

# --- instructions: imperatives, what the shell is to do ---------------------------------------------


@dataclass(frozen=True, slots=True)
class MountVolumes:
    """Set up all volumes; answer VolumesMounted or VolumesFailed."""


@dataclass(frozen=True, slots=True)
class RunSandbox:
    """Make the sandbox with this attempt number; answer SandboxStarted or SandboxFailed."""

    attempt: int


@dataclass(frozen=True, slots=True)
class StopSandbox:
    """Stop this sandbox; answer SandboxStopped or SandboxStopFailed."""

    id: str


@dataclass(frozen=True, slots=True)
class PullImage:
    """Make sure of the container's image; answer ImageReady or ImageFailed."""

    container: str


@dataclass(frozen=True, slots=True)
class StartContainer:
    """Create and start the container; answer ContainerStarted or ContainerStartFailed."""

    container: str
    sandbox_id: str
    attempt: int
    restart_count: int


@dataclass(frozen=True, slots=True)
class RunPostStart:
    """Run the postStart hook; answer HookSucceeded or HookFailed."""

    container: str
    id: str


@dataclass(frozen=True, slots=True)
class KillContainer:
    """Run preStop, then stop the container, all within the grace; answer ContainerStopped or ContainerStopFailed.

    A second one for the same id replaces the first (its grace is shorter).
    """

    container: str
    id: str
    grace_s: float
    pre_stop: bool
    message: str


@dataclass(frozen=True, slots=True)
class RemoveContainer:
    """Forget a dead instance with its log; no answer."""

    container: str
    id: str
    attempt: int


@dataclass(frozen=True, slots=True)
class RemoveSandbox:
    """Forget a stopped sandbox that a newer one has replaced; no answer."""

    id: str


@dataclass(frozen=True, slots=True)
class StartProbes:
    """Begin to probe this instance; answers are ProbeChanged."""

    container: str
    id: str
    startup_done: bool


@dataclass(frozen=True, slots=True)
class StopProbes:
    """Probe this instance no more."""

    container: str
    id: str


@dataclass(frozen=True, slots=True)
class CleanUp:
    """Remove sandboxes, volumes, folders and cgroups; answer CleanedUp or CleanUpFailed."""

    sandbox_ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class DeletePod:
    """Delete the pod object (grace 0, this UID only); the answer is PodRemoved."""


@dataclass(frozen=True, slots=True)
class RecordEvent:
    """Write a Kubernetes Event about the pod."""

    type: Literal["Normal", "Warning"]
    reason: str
    message: str
    container: str = ""


Instruction = (
    MountVolumes
    | RunSandbox
    | StopSandbox
    | PullImage
    | StartContainer
    | RunPostStart
    | KillContainer
    | RemoveContainer
    | RemoveSandbox
    | StartProbes
    | StopProbes
    | CleanUp
    | DeletePod
    | RecordEvent
)
