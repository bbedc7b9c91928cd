"""One task per pod: feeds its machine with events and runs what the machine asks for."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine
from typing import Any

from control.api import meta
from control.api.meta import Object
from node import pod_words as w
from node.cri import CriError
from node.handlers import HandlerError
from node.images import ImageError
from node.pod_machine import PodMachine
from node.pod_runtime import NodeServices, PodRuntime, StartError
from node.pod_spec import ContainerSpec
from node.probes import ContainerProbes
from node.status import OWN_CONDITIONS, pod_status
from node.status_manager import StatusManager
from node.volumes import manager as volumes
from node.volumes.context import VolumeError

log = logging.getLogger(__name__)

QUEUE_MAX = 1000
BATCH_MAX = 100


class PodWorker:
    """Runs one pod from its first sight to its last trace."""

    def __init__(self, node: NodeServices, pod: Object, status: StatusManager, observe: Callable[[str], None]) -> None:
        self.uid = meta.uid(pod)
        self.machine = PodMachine(self.uid)
        self.runtime = PodRuntime(node, pod)
        self._node = node
        self._status = status
        self._observe = observe
        """Asks for a look at this pod in the runtime."""
        self._events: asyncio.Queue[w.Event] = asyncio.Queue(QUEUE_MAX)
        self._observed: w.Observed | None = None
        self._pod: w.PodUpdated | None = None
        self._wake = asyncio.Event()
        self._kills: dict[str, asyncio.Task[None]] = {}
        self._probes: dict[str, asyncio.Task[None]] = {}
        self._refresher: asyncio.Task[None] | None = None
        self.tell(w.PodUpdated(pod))

    def tell(self, event: w.Event) -> None:
        """Give the pod an event; of listings and of pod objects only the newest is kept."""
        if isinstance(event, w.Observed):
            self._observed = event
        elif isinstance(event, w.PodUpdated):
            self._pod = event
        else:
            self._events.put_nowait(event)
        self._wake.set()

    async def run(self) -> None:
        """Run until the pod is gone."""
        self._observe(self.uid)
        async with asyncio.TaskGroup() as group:
            while self.machine.state != "gone":
                await self._wait()
                for event in self._drain():
                    if isinstance(event, w.PodUpdated):
                        self.runtime.pod = event.pod
                    for instruction in self.machine.handle(event, time.time()):
                        self._perform(group, instruction)
                if self.machine.sandbox is not None:
                    self.runtime.ips = self.machine.sandbox.ips
                self._publish()
            for task in [*self._probes.values(), *self._kills.values()]:
                task.cancel()
            if self._refresher is not None:
                self._refresher.cancel()
        log.info("pod is gone pod=%s uid=%s", meta.key(self.runtime.pod), self.uid)

    async def _wait(self) -> None:
        at = self.machine.wake_at()
        try:
            async with asyncio.timeout(None if at is None else max(0.0, at - time.time()) + 0.01):
                await self._wake.wait()
        except TimeoutError:
            self._events.put_nowait(w.Tick())
        self._wake.clear()

    def _drain(self) -> list[w.Event]:
        found: list[w.Event] = []
        if self._pod is not None:
            found.append(self._pod)
            self._pod = None
        while not self._events.empty() and len(found) < BATCH_MAX:
            found.append(self._events.get_nowait())
        if self._observed is not None:
            found.append(self._observed)
            self._observed = None
        if not self._events.empty():
            self._wake.set()
        return found

    def _publish(self) -> None:
        if self.machine.state in ("new", "gone") or self.machine.removed:
            return
        stored = self.runtime.pod.get("status") or {}
        before = dict(self._status.last(self.uid) or stored)
        own = [entry for entry in before.get("conditions") or () if entry["type"] in OWN_CONDITIONS]
        foreign = [entry for entry in stored.get("conditions") or () if entry["type"] not in OWN_CONDITIONS]
        before["conditions"] = own + foreign
        self._status.set(self.runtime.pod, pod_status(self.machine, self._node.host_ips(), time.time(), before))

    # --- performing -----------------------------------------------------------------------------------

    def _perform(self, group: asyncio.TaskGroup, instruction: w.Instruction) -> None:
        """Begin what the machine asks for; whatever takes time becomes a task that answers with an event."""
        match instruction:
            case w.RecordEvent():
                wanted = self._spec(instruction.container) if instruction.container else None
                self.runtime.event(instruction.type, instruction.reason, instruction.message, wanted)
            case w.DeletePod():
                self._status.delete(self.runtime.pod)
            case w.StartProbes():
                self._start_probes(group, instruction)
            case w.StopProbes():
                if (task := self._probes.pop(instruction.id, None)) is not None:
                    task.cancel()
            case w.KillContainer():
                if (task := self._kills.pop(instruction.id, None)) is not None:
                    task.cancel()
                self._kills[instruction.id] = self._begin(group, self._kill(instruction))
            case w.RemoveContainer() | w.RemoveSandbox():
                self._begin(group, self._remove(instruction))
            case _:
                self._begin(group, self._answered(group, instruction))

    def _begin(self, group: asyncio.TaskGroup, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        return group.create_task(work)

    async def _answered(self, group: asyncio.TaskGroup, instruction: w.Instruction) -> None:
        match instruction:
            case w.MountVolumes():
                self.tell(await self._mount(group))
            case w.RunSandbox():
                self.tell(await self._run_sandbox(instruction))
            case w.StopSandbox():
                self.tell(await self._stop_sandbox(instruction))
            case w.PullImage():
                self.tell(await self._pull(instruction))
            case w.StartContainer():
                self.tell(await self._start(instruction))
            case w.RunPostStart():
                self.tell(await self._post_start(instruction))
            case w.CleanUp():
                self.tell(await self._clean_up(instruction))
            case _:
                raise AssertionError(f"no way to perform {instruction}")

    async def _mount(self, group: asyncio.TaskGroup) -> w.Event:
        try:
            await self.runtime.mount_volumes()
        except (VolumeError, OSError) as error:
            return w.VolumesFailed(str(error))
        if self._refresher is None and volumes.needs_refresh(self.runtime.pod):
            self._refresher = self._begin(group, self._refresh())
        return w.VolumesMounted()

    async def _refresh(self) -> None:
        while True:
            await asyncio.sleep(self._node.config.sync_frequency_s)
            if self.machine.state not in ("setup", "running"):
                return
            await self.runtime.refresh_volumes()

    async def _run_sandbox(self, instruction: w.RunSandbox) -> w.Event:
        try:
            return w.SandboxStarted(await self.runtime.run_sandbox(instruction.attempt))
        except (CriError, OSError) as error:
            self._observe(self.uid)
            return w.SandboxFailed(str(error))

    async def _stop_sandbox(self, instruction: w.StopSandbox) -> w.Event:
        try:
            await self._node.cri.stop_sandbox(instruction.id)
        except CriError as error:
            return w.SandboxStopFailed(instruction.id, error.message)
        return w.SandboxStopped(instruction.id)

    async def _pull(self, instruction: w.PullImage) -> w.Event:
        try:
            await self.runtime.pull(self._spec(instruction.container))
        except ImageError as error:
            return w.ImageFailed(instruction.container, error.reason, str(error))
        except CriError as error:
            return w.ImageFailed(instruction.container, "ErrImagePull", error.message)
        return w.ImageReady(instruction.container)

    async def _start(self, instruction: w.StartContainer) -> w.Event:
        wanted = self._spec(instruction.container)
        target = self.machine.slots.get(wanted.spec.get("targetContainerName") or "")
        target_id = target.current.id if target is not None and target.current is not None else ""
        try:
            info = await self.runtime.start(
                wanted, instruction.sandbox_id, instruction.attempt, instruction.restart_count, target_id
            )
        except StartError as error:
            self._observe(self.uid)
            return w.ContainerStartFailed(wanted.name, error.reason, str(error), error.info)
        return w.ContainerStarted(wanted.name, info)

    async def _post_start(self, instruction: w.RunPostStart) -> w.Event:
        try:
            await self.runtime.post_start(self._spec(instruction.container), instruction.id)
        except HandlerError as error:
            return w.HookFailed(instruction.container, instruction.id, f"PostStartHook failed: {error}")
        return w.HookSucceeded(instruction.container, instruction.id)

    async def _kill(self, instruction: w.KillContainer) -> None:
        wanted, container_id = self._spec(instruction.container), instruction.id
        try:
            info = await self.runtime.kill(wanted, container_id, instruction.grace_s, pre_stop=instruction.pre_stop)
        except CriError as error:
            self.tell(w.ContainerStopFailed(wanted.name, container_id, error.message))
            return
        self._kills.pop(container_id, None)
        if info is not None and info.state != "exited":
            self.tell(w.ContainerStopFailed(wanted.name, container_id, f"container is still {info.state}"))
            return
        self.tell(w.ContainerStopped(wanted.name, container_id, info))

    async def _remove(self, instruction: w.RemoveContainer | w.RemoveSandbox) -> None:
        try:
            if isinstance(instruction, w.RemoveSandbox):
                await self._node.cri.stop_sandbox(instruction.id)
                await self._node.cri.remove_sandbox(instruction.id)
            else:
                await self.runtime.remove_container(instruction.container, instruction.id, instruction.attempt)
        except (CriError, OSError) as error:
            log.info("cannot remove, will be seen again instruction=%s error=%s", instruction, error)

    async def _clean_up(self, instruction: w.CleanUp) -> w.Event:
        try:
            await self.runtime.clean_up(instruction.sandbox_ids)
        except (CriError, OSError) as error:
            return w.CleanUpFailed(str(error))
        return w.CleanedUp()

    def _start_probes(self, group: asyncio.TaskGroup, instruction: w.StartProbes) -> None:
        wanted = self._spec(instruction.container)
        slot = self.machine.slots[instruction.container]
        probes = ContainerProbes(
            self._node.handlers,
            wanted,
            instruction.id,
            self.runtime.probe_ip,
            self.tell,
            lambda kind, message: self.runtime.event(
                "Warning", "Unhealthy", f"{kind.capitalize()} probe failed: {message}", wanted
            ),
        )
        work = probes.run(startup_done=instruction.startup_done, ready=slot.ready)
        self._probes[instruction.id] = self._begin(group, work)

    def _spec(self, name: str) -> ContainerSpec:
        return self.machine.slots[name].spec
