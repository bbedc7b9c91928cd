"""A pod machine's surroundings as values: runs its instructions, in any order and with any failure, and watches over it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from control.api.meta import Object
from node import pod_spec
from node import pod_words as w
from node.pod_machine import PodMachine
from node.runtime import ContainerInfo, SandboxInfo
from node.status import pod_status

UID = "uid-1"


def make_pod(*containers: Object, **spec: Any) -> Object:
    """A pod of these containers."""
    body = {"restartPolicy": "Always", "containers": list(containers) or [{"name": "main", "image": "i:1"}], **spec}
    return {"metadata": {"name": "web", "namespace": "default", "uid": UID, "resourceVersion": "1"}, "spec": body}


def deleted(pod: Object, grace_s: int = 30) -> Object:
    """The pod with its deletion begun."""
    metadata = {
        **pod["metadata"],
        "deletionTimestamp": "2026-01-01T00:00:00Z",
        "deletionGracePeriodSeconds": grace_s,
    }
    return {**pod, "metadata": metadata}


@dataclass
class Pending:
    """Something asked for that has not been answered."""

    instruction: w.Instruction
    finish: Callable[[bool], list[w.Event]]


class World:
    """The runtime, the disk and the clock around one machine."""

    def __init__(self, pod: Object) -> None:
        self.machine = PodMachine(UID)
        self.pod = pod
        self.now = 1000.0
        self.pending: list[Pending] = []
        self.containers: dict[str, ContainerInfo] = {}
        self.sandboxes: dict[str, SandboxInfo] = {}
        self.mounted = False
        self.removed = False
        self.probing: set[str] = set()
        self.events: list[w.RecordEvent] = []
        self.asked: list[w.Instruction] = []
        self.status: dict[str, Any] = {}
        self.exit_codes: dict[str, int] = {}
        self._ids = 0

    # --- the outside ------------------------------------------------------------------------------------

    def tell(self, event: w.Event) -> list[w.Instruction]:
        """Give the machine an event and take its instructions up."""
        if isinstance(event, w.PodUpdated):
            self.pod = event.pod
        instructions = self.machine.handle(event, self.now)
        for instruction in instructions:
            self._take(instruction)
        self.check()
        return instructions

    def begin(self) -> None:
        """Show the pod and an empty runtime."""
        self.tell(w.PodUpdated(self.pod))
        self.look()

    def look(self, taken_at: float | None = None) -> None:
        """Show the runtime as it is."""
        observed = w.Observed(
            self.now if taken_at is None else taken_at,
            tuple(self.sandboxes.values()),
            tuple(self.containers.values()),
        )
        self.tell(observed)

    def answer(self, index: int = 0, *, success: bool = True) -> None:
        """Let one pending operation end."""
        pending = self.pending.pop(index % len(self.pending))
        for event in pending.finish(success):
            self.tell(event)

    def settle(self, *, limit: int = 200) -> None:
        """Let everything pending end well, until nothing is asked any more."""
        for _ in range(limit):
            if not self.pending:
                return
            self.answer()
        raise AssertionError("it never comes to rest\n" + "\n".join(self.machine.story()[-40:]))

    def live(self, name: str) -> list[ContainerInfo]:
        """The live instances of a name."""
        return [info for info in self.containers.values() if info.name == name and info.state == "running"]

    def exit(self, name: str, code: int, *, look: bool = True) -> None:
        """End a container's process."""
        info = self.live(name)[0]
        self._end(info.id, code)
        if look:
            self.look()

    def advance(self, seconds: float) -> None:
        """Let time pass, ticking as often as the machine asks."""
        end = self.now + seconds
        for _ in range(1000):
            at = self.machine.wake_at()
            if at is None or at > end:
                break
            self.now = max(self.now, at) + 0.001
            self.tell(w.Tick())
            if at >= self.now:
                break
        self.now = max(self.now, end)
        self.tell(w.Tick())

    # --- the inside -------------------------------------------------------------------------------------

    def _id(self, kind: str) -> str:
        self._ids += 1
        return f"{kind}-{self._ids}"

    def _end(self, container_id: str, code: int) -> None:
        info = self.containers[container_id]
        if info.state != "exited":
            ended = replace(info, state="exited", exit_code=code, finished_at_ns=int(self.now * 1e9))
            self.containers[container_id] = ended

    def _take(self, instruction: w.Instruction) -> None:
        self.asked.append(instruction)
        match instruction:
            case w.RecordEvent():
                self.events.append(instruction)
            case w.StartProbes():
                assert instruction.id not in self.probing
                self.probing.add(instruction.id)
            case w.StopProbes():
                self.probing.discard(instruction.id)
            case w.RemoveContainer():
                self.containers.pop(instruction.id, None)
            case w.RemoveSandbox():
                self._drop_sandbox(instruction.id)
            case w.DeletePod():
                assert not self.sandboxes
                if not any(isinstance(entry.instruction, w.DeletePod) for entry in self.pending):
                    self.pending.append(Pending(instruction, self._deleted))
            case w.KillContainer():
                self._begin_kill(instruction)
            case _:
                self.pending.append(Pending(instruction, lambda ok: self._finish(instruction, ok)))

    def _deleted(self, success: bool) -> list[w.Event]:
        if success and not self.removed:
            self.removed = True
            return [w.PodRemoved()]
        return []

    def _begin_kill(self, instruction: w.KillContainer) -> None:
        kept: list[Pending] = []
        for other in self.pending:
            replaced = isinstance(other.instruction, w.KillContainer) and other.instruction.id == instruction.id
            if not replaced:
                kept.append(other)
        self.pending = [*kept, Pending(instruction, lambda ok: self._finish_kill(instruction, ok))]

    def _finish_kill(self, instruction: w.KillContainer, success: bool) -> list[w.Event]:
        if not success:
            return [w.ContainerStopFailed(instruction.container, instruction.id, "runtime is stuck")]
        if instruction.id not in self.containers:
            return [w.ContainerStopped(instruction.container, instruction.id, None)]
        self._end(instruction.id, self.exit_codes.get(instruction.container, 143))
        return [w.ContainerStopped(instruction.container, instruction.id, self.containers[instruction.id])]

    def _finish(self, instruction: w.Instruction, success: bool) -> list[w.Event]:
        match instruction:
            case w.MountVolumes():
                self.mounted = self.mounted or success
                return [w.VolumesMounted() if success else w.VolumesFailed("not found")]
            case w.RunSandbox():
                return self._run_sandbox(instruction, success)
            case w.StopSandbox():
                return self._stop_sandbox(instruction, success)
            case w.PullImage():
                name = instruction.container
                return [w.ImageReady(name) if success else w.ImageFailed(name, "ErrImagePull", "no such image")]
            case w.StartContainer():
                return self._start(instruction, success)
            case w.RunPostStart():
                name, container_id = instruction.container, instruction.id
                return [w.HookSucceeded(name, container_id) if success else w.HookFailed(name, container_id, "no")]
            case w.CleanUp():
                return self._clean_up(success)
        raise AssertionError(f"unknown {instruction}")

    def _run_sandbox(self, instruction: w.RunSandbox, success: bool) -> list[w.Event]:
        assert self.mounted
        if not success:
            return [w.SandboxFailed("no address")]
        taken = {info.attempt for info in self.sandboxes.values()}
        assert instruction.attempt not in taken, "the runtime holds this name already"
        assert not any(info.ready for info in self.sandboxes.values()), "two sandboxes of a pod at once"
        info = SandboxInfo(self._id("sandbox"), UID, "web", "default", instruction.attempt, True, ips=("10.0.0.1",))
        self.sandboxes[info.id] = info
        return [w.SandboxStarted(info)]

    def _stop_sandbox(self, instruction: w.StopSandbox, success: bool) -> list[w.Event]:
        if not success:
            return [w.SandboxStopFailed(instruction.id, "runtime is stuck")]
        if instruction.id in self.sandboxes:
            self.kill_sandbox(instruction.id)
        return [w.SandboxStopped(instruction.id)]

    def kill_sandbox(self, sandbox_id: str) -> None:
        """Let a sandbox die, with all that is in it."""
        self.sandboxes[sandbox_id] = replace(self.sandboxes[sandbox_id], ready=False)
        for info in list(self.containers.values()):
            if info.sandbox_id == sandbox_id:
                self._end(info.id, 137)

    def _start(self, instruction: w.StartContainer, success: bool) -> list[w.Event]:
        name = instruction.container
        if not success:
            return [w.ContainerStartFailed(name, "CreateContainerConfigError", 'configmap "x" not found')]
        if not self.sandboxes.get(instruction.sandbox_id, SandboxInfo("", "", "", "", 0, False)).ready:
            return [w.ContainerStartFailed(name, "CreateContainerError", "sandbox is not ready")]
        attempts = {info.attempt for info in self.containers.values() if info.name == name}
        assert instruction.attempt not in attempts, "the runtime holds this name already"
        wanted = pod_spec.container(self.pod, name)
        assert wanted is not None
        info = ContainerInfo(
            id=self._id(name),
            sandbox_id=instruction.sandbox_id,
            pod_uid=UID,
            name=name,
            attempt=instruction.attempt,
            state="running",
            image=wanted.image,
            created_at_ns=int(self.now * 1e9),
            started_at_ns=int(self.now * 1e9),
            restart_count=instruction.restart_count,
            spec_hash=pod_spec.spec_hash(wanted),
        )
        self.containers[info.id] = info
        return [w.ContainerStarted(name, info)]

    def _clean_up(self, success: bool) -> list[w.Event]:
        if not success:
            return [w.CleanUpFailed("busy")]
        assert not any(info.state == "running" for info in self.containers.values()), "cleaned up under a process"
        self.sandboxes.clear()
        self.containers.clear()
        self.mounted = False
        return [w.CleanedUp()]

    def _drop_sandbox(self, sandbox_id: str) -> None:
        self.sandboxes.pop(sandbox_id, None)
        self.containers = {key: info for key, info in self.containers.items() if info.sandbox_id != sandbox_id}

    # --- what must always hold --------------------------------------------------------------------------

    def check(self) -> None:
        """Check the invariants."""
        for name in self.machine.slots:
            assert len(self.live(name)) <= 1, f"two live containers {name}\n" + "\n".join(self.machine.story())
        operations = [
            (type(entry.instruction), getattr(entry.instruction, "container", getattr(entry.instruction, "id", "")))
            for entry in self.pending
        ]
        assert len(operations) == len(set(operations)), f"one thing asked twice: {operations}"
        before, self.status = self.status, pod_status(self.machine, ["192.0.2.1"], self.now, self.status)
        self._check_status(before)

    def _check_status(self, before: dict[str, Any]) -> None:
        if before.get("phase") in ("Succeeded", "Failed"):
            assert self.status["phase"] == before["phase"], "a last phase is the last"
        counts = {entry["name"]: entry["restartCount"] for entry in before.get("containerStatuses", ())}
        for entry in self.status.get("containerStatuses", ()):
            assert entry["restartCount"] >= counts.get(entry["name"], 0), "a restart was forgotten"
            assert len(entry["state"]) == 1
            if entry["ready"]:
                assert "running" in entry["state"]
