"""PURE: what a pod machine learns: of its containers from answers, of everything from listings of the runtime."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

from control.api.meta import Object
from node import pod_spec
from node import pod_words as w
from node.container_slot import Slot
from node.runtime import ContainerInfo

if TYPE_CHECKING:
    from node.pod_machine import PodMachine


def recall(machine: PodMachine, pod: Object) -> None:
    """Take from the stored status what outlives a kubelet: start time and restart counts."""
    status = pod.get("status") or {}
    if status.get("startTime"):
        machine.started_at = datetime.fromisoformat(status["startTime"]).timestamp()
    for field in ("initContainerStatuses", "containerStatuses", "ephemeralContainerStatuses"):
        for entry in status.get(field) or ():
            slot = machine.slots.get(entry.get("name", ""))
            if slot is not None:
                slot.restart_count = int(entry.get("restartCount") or 0)


def observe(machine: PodMachine, event: w.Observed) -> None:
    """Merge a listing of the runtime; the first one adopts what an earlier kubelet left."""
    now = machine._now
    if not machine.observed:
        machine.observed = True
        _adopt(machine, event, now)
        return
    _observe_sandboxes(machine, event)
    listed = {info.id: info for info in event.containers}
    for slot in machine.slots.values():
        info = slot.current
        if info is None or slot.state not in ("hooking", "running", "killing"):
            continue
        seen = listed.get(info.id)
        if seen is not None:
            if slot.learn(seen) and seen.state == "exited":
                _exited(machine, slot)
        elif event.taken_at > slot.known_since:
            slot.lost(now)
            _exited(machine, slot)
    _remove_strays(machine, event)


def _observe_sandboxes(machine: PodMachine, event: w.Observed) -> None:
    listed = {info.id: info for info in event.sandboxes}
    current = machine.sandbox
    if current is not None:
        seen = listed.get(current.id)
        gone = seen is None and event.taken_at > machine.sandbox_since
        if gone or (seen is not None and not seen.ready):
            machine.forget_sandbox()
            if gone:
                machine.stopped_sandboxes.add(current.id)
    for info in event.sandboxes:
        if info.id not in machine.sandboxes and not machine.sandbox_busy():
            machine.sandboxes[info.id] = info  # left by an attempt that was thought to have failed


def _adopt(machine: PodMachine, event: w.Observed, now: float) -> None:
    machine.sandboxes = {info.id: info for info in event.sandboxes}
    ready = sorted((info for info in event.sandboxes if info.ready), key=lambda info: info.attempt)
    if ready:
        machine.sandbox, machine.sandbox_since = ready[-1], now
    newest = sorted(event.containers, key=lambda info: (info.created_at_ns, info.attempt))
    for info in newest:
        slot = machine.slots.get(info.name)
        if slot is not None:
            slot.take(info, now)
            slot.known_since = event.taken_at
    for slot in machine.slots.values():
        if slot.current is not None:
            _adopt_slot(machine, slot, slot.current, now)
    inside = [slot for slot in machine.slots.values() if slot.kind == "main" and slot.current is not None]
    if machine.sandbox is not None:
        machine.initialized = any(
            slot.current is not None and slot.current.sandbox_id == machine.sandbox.id for slot in inside
        )
        if machine.initialized:
            for slot in machine.slots.values():
                if slot.kind == "sidecar":
                    slot.ever_started = True
    _remove_strays(machine, event)


def _adopt_slot(machine: PodMachine, slot: Slot, info: ContainerInfo, now: float) -> None:
    if info.state == "running":
        slot.move("running")
        slot.ever_started = True
        slot.started = _was(machine.pod, slot, "started") or pod_spec.probe(slot.spec, "startup") is None
        slot.ready = _was(machine.pod, slot, "ready") or pod_spec.probe(slot.spec, "readiness") is None
        machine.emit(w.StartProbes(slot.name, info.id, slot.started))
        return
    if info.state != "exited":  # created and never started, or unknown: it is not to be trusted
        machine.emit(w.RemoveContainer(slot.name, info.id, info.attempt))
        slot.lost(now)
    slot.move("exited")
    elsewhere = machine.sandbox is None or info.sandbox_id != machine.sandbox.id
    if elsewhere and not machine.termination:
        again = not (slot.kind == "main" and info.exit_code == 0)
        never = machine.pod["spec"].get("restartPolicy") == "Never"
        if again and not never:
            slot.move("idle")


def _was(pod: Object, slot: Slot, field: str) -> bool:
    """Tell what the stored status says of this very instance."""
    status = pod.get("status") or {}
    entries = [*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())]
    for entry in entries:
        if entry.get("name") == slot.name and slot.current is not None:
            return str(entry.get("containerID", "")).endswith(slot.current.id) and bool(entry.get(field))
    return False


def _remove_strays(machine: PodMachine, event: w.Observed) -> None:
    """Remove instances that no slot holds: left by an answer that was lost, or older than the last but one."""
    if machine.termination:
        return  # the end removes all of them with the sandbox
    for info in event.containers:
        slot = machine.slots.get(info.name)
        if slot is None:
            continue
        kept = {held.id for held in (slot.current, slot.previous) if held is not None}
        if info.id not in kept and slot.state != "starting":
            machine.emit(w.RemoveContainer(info.name, info.id, info.attempt))


def hear_container(machine: PodMachine, event: w.Event) -> None:
    """Note an answer or a probe's word about one container."""
    slot = machine.slots.get(getattr(event, "container", ""))
    if slot is None:
        return
    match event:
        case w.ImageReady():
            _image_ready(machine, slot)
        case w.ImageFailed():
            _image_failed(machine, slot, event)
        case w.ContainerStarted():
            _started(machine, slot, event.info)
        case w.ContainerStartFailed():
            _start_failed(machine, slot, event)
        case w.ContainerStopped():
            _stopped(machine, slot, event)
        case w.ContainerStopFailed():
            if slot.state == "killing" and slot.current is not None and slot.current.id == event.id:
                slot.kill_retry_at = machine._now + slot.start_backoff.next()
                machine.event("Warning", "FailedKillContainer", event.message, slot)
        case w.HookSucceeded() | w.HookFailed() | w.ProbeChanged():
            if slot.current is not None and slot.current.id == event.id:
                _hook_or_probe(machine, slot, event)


def _image_ready(machine: PodMachine, slot: Slot) -> None:
    if slot.state != "pulling":
        return
    slot.image_backoff.reset()
    if machine.termination or machine.sandbox is None or machine.state != "running":
        slot.move("idle")
        return
    slot.move("starting")
    again = slot.current is not None or slot.attempt_next > 0
    count = slot.restart_count + 1 if again else slot.restart_count  # it counts once the instance is there
    machine.emit(w.StartContainer(slot.name, machine.sandbox.id, slot.attempt_next, count))


def _image_failed(machine: PodMachine, slot: Slot, event: w.ImageFailed) -> None:
    if slot.state != "pulling":
        return
    if machine.termination:
        slot.move("idle")
        return
    again = slot.image_backoff.delay_s > 0
    delay_s = slot.image_backoff.next()
    reason, message = event.reason, event.message
    if again and reason == "ErrImagePull":
        reason = "ImagePullBackOff"
        message = f'Back-off pulling image "{slot.spec.image}": {event.reason}: {event.message}'
        machine.event("Normal", "BackOff", f'Back-off pulling image "{slot.spec.image}"', slot)
    slot.wait("image-backoff", reason, message, machine._now + delay_s)
    machine.event("Warning", "Failed", event.message, slot)
    machine.event("Warning", "Failed", f"Error: {reason}", slot)


def _started(machine: PodMachine, slot: Slot, info: ContainerInfo) -> None:
    if slot.state != "starting":
        machine.emit(w.RemoveContainer(slot.name, info.id, info.attempt))
        return
    if slot.previous is not None:
        machine.emit(w.RemoveContainer(slot.name, slot.previous.id, slot.previous.attempt))
        slot.previous = None
    slot.take(info, machine._now)
    slot.start_backoff.reset()
    if info.state == "exited":
        slot.ever_started = True
        _exited(machine, slot)
        return
    hook = pod_spec.hook(slot.spec, "postStart")
    slot.move("hooking" if hook else "running")
    machine.event("Normal", "Started", "Container started", slot)
    slot.started = pod_spec.probe(slot.spec, "startup") is None
    slot.ready = pod_spec.probe(slot.spec, "readiness") is None
    if hook:
        machine.emit(w.RunPostStart(slot.name, info.id))
    else:
        slot.ever_started = slot.ever_started or slot.started
    machine.emit(w.StartProbes(slot.name, info.id, slot.started))


def _start_failed(machine: PodMachine, slot: Slot, event: w.ContainerStartFailed) -> None:
    if slot.state != "starting":
        return
    machine.event("Warning", "Failed", f"Error: {event.message}", slot)
    if event.info is not None:
        if slot.previous is not None:
            machine.emit(w.RemoveContainer(slot.name, slot.previous.id, slot.previous.attempt))
            slot.previous = None
        slot.take(event.info, machine._now)
        slot.move("exited")
        return
    delay_s = slot.start_backoff.next()
    slot.wait("start-backoff", event.reason, event.message, machine._now + delay_s)


def _stopped(machine: PodMachine, slot: Slot, event: w.ContainerStopped) -> None:
    if slot.current is None or slot.current.id != event.id or slot.state not in ("running", "hooking", "killing"):
        return
    if event.info is None:
        slot.lost(machine._now)
    elif not slot.learn(event.info):
        return
    slot.start_backoff.reset()
    _exited(machine, slot)


def _exited(machine: PodMachine, slot: Slot) -> None:
    assert slot.current is not None
    if slot.state != "killing":
        machine.emit(w.StopProbes(slot.name, slot.current.id))
    slot.kill_retry_at = 0.0
    slot.move("exited")


def _hook_or_probe(machine: PodMachine, slot: Slot, event: w.HookSucceeded | w.HookFailed | w.ProbeChanged) -> None:
    if isinstance(event, w.HookSucceeded):
        if slot.state == "hooking":
            slot.move("running")
            slot.ever_started = slot.ever_started or slot.started
        return
    if slot.state not in ("hooking", "running"):
        return
    if isinstance(event, w.HookFailed):
        machine.event("Warning", "FailedPostStartHook", event.message, slot)
        machine.kill(slot, machine.grace_of_pod(), pre_stop=True, message="FailedPostStartHook")
        return
    if event.kind == "readiness":
        slot.ready = event.success
    elif event.kind == "startup" and event.success:
        slot.started = True
        slot.ever_started = slot.ever_started or slot.state == "running"
    elif not event.success:
        probe = pod_spec.probe(slot.spec, event.kind) or {}
        grace = probe.get("terminationGracePeriodSeconds")
        text = f"Container {slot.name} failed {event.kind} probe, will be restarted"
        machine.kill(slot, machine.grace_of_pod() if grace is None else float(grace), pre_stop=True, message=text)
