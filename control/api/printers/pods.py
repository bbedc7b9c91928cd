"""The row of a pod: READY, STATUS and RESTARTS follow from all its containers' states."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from control.api import times
from control.api.meta import Object
from control.api.printers.column import NONE, Printer, age, columns, field, has_condition, name

_COLUMNS = columns(
    "Ready", "Status", "Restarts", "Age", "wide:IP", "wide:Node", "wide:Nominated Node", "wide:Readiness Gates"
)


@dataclass
class _Tally:
    reason: str
    ready: int = 0
    restarts: int = 0
    last_restart: str = ""

    def count(self, status: dict[str, Any]) -> None:
        self.restarts += int(status.get("restartCount") or 0)
        finished = field(status, "lastState", "terminated", "finishedAt")
        if finished and finished > self.last_restart:
            self.last_restart = finished


def _is_sidecar(container: dict[str, Any] | None) -> bool:
    return (container or {}).get("restartPolicy") == "Always"


def _ended(terminated: dict[str, Any], prefix: str = "") -> str:
    if terminated.get("reason"):
        return prefix + str(terminated["reason"])
    if terminated.get("signal"):
        return f"{prefix}Signal:{terminated['signal']}"
    return f"{prefix}ExitCode:{terminated.get('exitCode') or 0}"


def _starting_reason(status: dict[str, Any], position: int, total: int) -> str:
    """Return what holds the pod at this init container."""
    state = status.get("state") or {}
    if state.get("terminated") is not None:
        return _ended(state["terminated"], "Init:")
    waiting = field(state, "waiting", "reason")
    if waiting and waiting != "PodInitializing":
        return f"Init:{waiting}"
    return f"Init:{position}/{total}"


def _init_containers(pod: Object, tally: _Tally, sidecars: _Tally) -> bool:
    """Count the init containers; tell whether one of them still holds the pod."""
    specs = {container.get("name"): container for container in field(pod, "spec", "initContainers") or []}
    for position, status in enumerate(field(pod, "status", "initContainerStatuses") or []):
        sidecar = _is_sidecar(specs.get(status.get("name")))
        tally.count(status)
        if sidecar:
            sidecars.count(status)
        terminated = field(status, "state", "terminated")
        if terminated is not None and not terminated.get("exitCode"):
            continue
        if sidecar and status.get("started"):
            tally.ready += bool(status.get("ready"))
            continue
        tally.reason = _starting_reason(status, position, len(specs))
        return True
    return False


def _containers(pod: Object, tally: _Tally) -> None:
    running = False
    for status in reversed(field(pod, "status", "containerStatuses") or []):
        tally.count(status)
        state = status.get("state") or {}
        if field(state, "waiting", "reason"):
            tally.reason = state["waiting"]["reason"]
        elif state.get("terminated") is not None:
            tally.reason = _ended(state["terminated"])
        elif status.get("ready") and state.get("running") is not None:
            running = True
            tally.ready += 1
    if tally.reason == "Completed" and running:
        tally.reason = "Running" if has_condition(pod, "Ready") else "NotReady"


def _tally(pod: Object) -> _Tally:
    status = pod.get("status") or {}
    phase = str(status.get("phase") or "")
    tally = _Tally(str(status.get("reason") or phase))
    conditions = status.get("conditions") or []
    if any(c.get("type") == "PodScheduled" and c.get("reason") == "SchedulingGated" for c in conditions):
        tally.reason = "SchedulingGated"
    sidecars = _Tally("")
    initializing = _init_containers(pod, tally, sidecars)
    if not initializing or has_condition(pod, "Initialized"):
        tally.restarts, tally.last_restart = sidecars.restarts, sidecars.last_restart
        _containers(pod, tally)
    if field(pod, "metadata", "deletionTimestamp"):
        if status.get("reason") == "NodeLost":
            tally.reason = "Unknown"
        elif phase not in ("Succeeded", "Failed"):
            tally.reason = "Terminating"
    return tally


def status_text(pod: Object) -> str:
    """Return the STATUS cell: the pod's phase, or what its containers tell instead."""
    return _tally(pod).reason


def _readiness_gates(pod: Object) -> str:
    gates = field(pod, "spec", "readinessGates") or []
    if not gates:
        return NONE
    met = sum(has_condition(pod, gate.get("conditionType", "")) for gate in gates)
    return f"{met}/{len(gates)}"


def _cells(pod: Object, now: datetime) -> list[Any]:
    tally = _tally(pod)
    spec, status = pod.get("spec") or {}, pod.get("status") or {}
    total = len(spec.get("containers") or []) + sum(_is_sidecar(c) for c in spec.get("initContainers") or [])
    restarts = str(tally.restarts)
    if tally.restarts and tally.last_restart:
        restarts += f" ({times.age(tally.last_restart, now)} ago)"
    addresses = status.get("podIPs") or [{"ip": status.get("podIP")}]
    return [
        name(pod),
        f"{tally.ready}/{total}",
        tally.reason,
        restarts,
        age(pod, now),
        addresses[0].get("ip") or NONE,
        spec.get("nodeName") or NONE,
        status.get("nominatedNodeName") or NONE,
        _readiness_gates(pod),
    ]


def row_conditions(pod: Object) -> list[dict[str, Any]]:
    """Return the conditions of a finished pod's row."""
    texts = {"Succeeded": "The pod has completed successfully.", "Failed": "The pod failed."}
    phase = field(pod, "status", "phase")
    if phase not in texts:
        return []
    return [{"type": "Completed", "status": "True", "reason": phase, "message": texts[phase]}]


POD = Printer(_COLUMNS, _cells)
