"""PURE: the pod's status as the API server is to show it, derived from its machine."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from node import pod_spec
from node.container_slot import Slot
from node.pod_machine import PodMachine
from node.runtime import ContainerInfo

Status = dict[str, Any]

INIT_PENDING = frozenset({"idle", "pulling", "image-backoff", "starting", "start-backoff"})
OWN_CONDITIONS = ("PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled")


def timestamp(seconds: float) -> str:
    """Return a time as the API writes it."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def pod_status(machine: PodMachine, host_ips: Sequence[str], now: float, before: Status | None = None) -> Status:
    """Return the whole status; `before` is the last one, for what must not be forgotten or moved."""
    pod, before = machine.pod, before or {}
    if machine.state == "new" or not machine.observed:
        return before
    groups = _container_statuses(machine, before)
    phase = _phase(machine, before)
    status: Status = {"phase": phase, "conditions": _conditions(machine, phase, groups, now, before)}
    if machine.termination == "DeadlineExceeded" and phase == "Failed":
        status["reason"] = "DeadlineExceeded"
        status["message"] = "Pod was active on the node longer than the specified deadline"
    for field in ("reason", "message", "nominatedNodeName", "resize"):
        if before.get(field) and field not in status and phase in pod_spec.PHASES_TERMINAL:
            status[field] = before[field]
    if host_ips:
        status["hostIP"], status["hostIPs"] = host_ips[0], [{"ip": ip} for ip in host_ips]
    ips = _pod_ips(machine, host_ips, before)
    if ips:
        status["podIP"], status["podIPs"] = ips[0], [{"ip": ip} for ip in ips]
    status["qosClass"] = pod_spec.qos_class(pod)
    if machine.started_at is not None:
        status["startTime"] = before.get("startTime") or timestamp(machine.started_at)
    for field, entries in groups.items():
        if entries:
            status[field] = entries
    if pod["metadata"].get("generation"):
        status["observedGeneration"] = pod["metadata"]["generation"]
    return status


def _pod_ips(machine: PodMachine, host_ips: Sequence[str], before: Status) -> list[str]:
    if pod_spec.host_network(machine.pod):
        return list(host_ips)
    if machine.sandbox is not None:
        return list(machine.sandbox.ips)
    if machine.termination:  # the address is told to the last, so that its going is seen as the pod's going
        return [entry["ip"] for entry in before.get("podIPs") or ()]
    return []


# --- containers -----------------------------------------------------------------------------------


def _container_statuses(machine: PodMachine, before: Status) -> dict[str, list[Status]]:
    fields = {
        "init": "initContainerStatuses",
        "sidecar": "initContainerStatuses",
        "main": "containerStatuses",
        "ephemeral": "ephemeralContainerStatuses",
    }
    groups: dict[str, list[Status]] = {
        "initContainerStatuses": [],
        "containerStatuses": [],
        "ephemeralContainerStatuses": [],
    }
    for slot in machine.slots.values():
        field = fields[slot.kind]
        old = next((entry for entry in before.get(field) or () if entry.get("name") == slot.name), None)
        groups[field].append(_container_status(machine, slot, old))
    return groups


def _container_status(machine: PodMachine, slot: Slot, before: Status | None) -> Status:
    current, previous = slot.current, slot.previous
    waiting = _waiting(machine, slot)
    if current is None and before is not None and machine.termination and "terminated" in before.get("state", {}):
        return before  # the instance was removed; what was told of it stays told
    state: Status
    last: ContainerInfo | None
    if waiting is not None:
        state, last = {"waiting": waiting}, current if current is not None and not current.live else previous
    elif current is not None and current.state == "running":
        state, last = {"running": {"startedAt": timestamp(current.started_at_ns / 1e9)}}, previous
    else:
        state, last = {"terminated": _terminated(current)}, previous
    shown = current or previous
    status: Status = {
        "name": slot.name,
        "state": state,
        "lastState": {"terminated": _terminated(last)} if last is not None and last.state == "exited" else {},
        "ready": _is_ready(slot),
        "restartCount": slot.restart_count,
        "image": (shown.image if shown else "") or slot.spec.image,
        "imageID": shown.image_ref if shown else "",
    }
    if shown is not None:
        status["containerID"] = f"containerd://{shown.id}"
    if slot.kind != "ephemeral":
        status["started"] = _is_started(slot)
    return status


def _is_started(slot: Slot) -> bool:
    return slot.state in ("running", "killing") and slot.started


def _is_ready(slot: Slot) -> bool:
    if slot.kind == "init":
        return slot.succeeded
    return slot.kind != "ephemeral" and slot.state in ("running", "killing") and slot.started and slot.ready


def _terminated(info: ContainerInfo | None) -> Status:
    if info is None:
        return {"exitCode": 137, "reason": "ContainerStatusUnknown", "startedAt": None, "finishedAt": None}
    state: Status = {
        "exitCode": info.exit_code,
        "reason": info.reason or ("Completed" if info.exit_code == 0 else "Error"),
        "startedAt": timestamp(info.started_at_ns / 1e9),
        "finishedAt": timestamp(info.finished_at_ns / 1e9),
        "containerID": f"containerd://{info.id}",
    }
    if info.message:
        state["message"] = info.message
    return state


def _waiting(machine: PodMachine, slot: Slot) -> Status | None:
    """Return the waiting state, or None where an instance runs or has ended for good."""
    if slot.state in ("image-backoff", "start-backoff", "crash-backoff"):
        if machine.termination and slot.current is not None:
            return None
        return {"reason": slot.waiting_reason, "message": slot.waiting_message}
    if slot.state in ("idle", "pulling", "starting"):
        if slot.current is not None:
            if machine.termination or machine.state == "running":
                return None  # between two instances the old one's end is still the truth
        elif machine.termination and machine.state in ("stopped", "cleaning", "cleaned", "gone"):
            return None
        inits = any(other.kind in ("init", "sidecar") for other in machine.slots.values())
        if slot.state != "idle" and slot.waiting_reason in ("ErrImagePull", "ImagePullBackOff"):
            return {"reason": "ImagePullBackOff", "message": f'Back-off pulling image "{slot.spec.image}"'}
        return {"reason": "PodInitializing" if inits else "ContainerCreating"}
    return None


# --- the pod --------------------------------------------------------------------------------------


def _phase(machine: PodMachine, before: Status) -> str:
    if before.get("phase") in pod_spec.PHASES_TERMINAL:
        return str(before["phase"])
    slots = list(machine.slots.values())
    ended = machine.termination and machine.state in ("stopped", "cleaning", "cleaned", "gone")
    if machine.termination == "DeadlineExceeded" and ended:
        return "Failed"
    if ended or machine.termination == "completed":
        return _last_phase(slots)
    mains = [slot for slot in slots if slot.kind == "main"]
    if not machine.initialized and not any(slot.current is not None for slot in mains):
        return "Pending"
    unstarted = [slot for slot in mains if slot.current is None]
    return "Pending" if unstarted else "Running"


def _last_phase(slots: Sequence[Slot]) -> str:
    counted = [slot for slot in slots if slot.kind in ("main", "init")]
    mains = [slot for slot in counted if slot.kind == "main"]
    if any(slot.kind == "init" and slot.current is not None and slot.current.exit_code for slot in counted):
        return "Failed"
    ended_well = all(slot.current is not None and slot.current.exit_code == 0 for slot in mains)
    return "Succeeded" if ended_well and mains else "Failed"


def _conditions(
    machine: PodMachine, phase: str, groups: dict[str, list[Status]], now: float, before: Status
) -> list[Status]:
    sandbox_ready = machine.sandbox is not None and machine.state not in ("stopped", "cleaning", "cleaned", "gone")
    ready = _containers_ready(phase, groups["containerStatuses"], groups["initContainerStatuses"], machine)
    gates = [gate["conditionType"] for gate in machine.pod["spec"].get("readinessGates") or ()]
    old = {entry["type"]: entry for entry in before.get("conditions") or ()}
    unmet = [gate for gate in gates if (old.get(gate) or {}).get("status") != "True"]
    pod_ready = ready
    if ready["status"] == "True" and unmet:
        message = f'the status of pod readiness gate "{unmet[0]}" is not "True", but '
        message += str((old.get(unmet[0]) or {}).get("status") or "Unknown")
        pod_ready = {"status": "False", "reason": "ReadinessGatesNotReady", "message": message}
    wanted = {
        "PodReadyToStartContainers": {"status": "True" if sandbox_ready else "False"},
        "Initialized": _initialized(machine, phase),
        "Ready": pod_ready,
        "ContainersReady": ready,
        "PodScheduled": {"status": "True"},
    }
    told: list[Status] = []
    for kind in OWN_CONDITIONS:
        entry: Status = {"type": kind, "lastProbeTime": None, **wanted[kind]}
        if machine.pod["metadata"].get("generation"):
            entry["observedGeneration"] = machine.pod["metadata"]["generation"]
        known = old.get(kind)
        same = known is not None and known.get("status") == entry["status"]
        kept = known.get("lastTransitionTime") if known is not None and same else None
        entry["lastTransitionTime"] = kept or timestamp(now)
        told.append(entry)
    foreign = [entry for kind, entry in old.items() if kind not in OWN_CONDITIONS]
    return told + foreign


def _initialized(machine: PodMachine, phase: str) -> Status:
    if phase == "Succeeded":
        return {"status": "True", "reason": "PodCompleted"}
    inits = [slot for slot in machine.slots.values() if slot.kind in ("init", "sidecar")]
    left = [
        slot.name
        for slot in inits
        if not (slot.succeeded if slot.kind == "init" else slot.ever_started) and not machine.initialized
    ]
    if not left:
        return {"status": "True"}
    text = f"containers with incomplete status: [{' '.join(left)}]"
    return {"status": "False", "reason": "ContainersNotInitialized", "message": text}


def _containers_ready(phase: str, mains: Sequence[Status], inits: Sequence[Status], machine: PodMachine) -> Status:
    if phase == "Succeeded":
        return {"status": "False", "reason": "PodCompleted"}
    if phase == "Failed":
        return {"status": "False", "reason": "PodFailed"}
    sidecars = {slot.name for slot in machine.slots.values() if slot.kind == "sidecar"}
    counted = [*(entry for entry in inits if entry["name"] in sidecars), *mains]
    unready = [entry["name"] for entry in counted if not entry["ready"]]
    if not unready:
        return {"status": "True"}
    text = f"containers with unready status: [{' '.join(unready)}]"
    return {"status": "False", "reason": "ContainersNotReady", "message": text}
