"""PURE: the state machine of one pod: events in, instructions out.

Theory of operation
-------------------
``handle(event, now)`` first notes what the event says, then decides what is to be done *from the whole state*. It
never waits and never acts; the shell runs the instructions and each answers with an event. Because decisions come
from state and not from the event, an event may be lost, late or doubled: the next one repairs it. At most one
operation is in flight per sandbox and per container, which is what keeps two instances of a name from living at once.

The pod's own states (``POD_MOVES``)::

    new -> setup -> running -> terminating -> stopping -> stopped -> cleaning -> cleaned -> gone
             ^---------'  (the sandbox died)                 `- a pod that ended by itself waits here for deletion

The example that explains most: a kubelet restarts while containers run. The machine is *new*; it hears PodUpdated,
then Observed. Only with both does it decide: it adopts the sandbox and the running containers and asks for nothing but
volumes (idempotent) and probes. `story()` tells it afterwards.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Literal

from control.api.meta import Object
from node import pod_observe, pod_spec
from node import pod_words as w
from node.container_slot import Backoff, Slot
from node.pod_spec import GRACE_LEAST_S
from node.runtime import SandboxInfo

PodState = Literal["new", "setup", "running", "terminating", "stopping", "stopped", "cleaning", "cleaned", "gone"]

POD_MOVES: dict[PodState, frozenset[PodState]] = {
    "new": frozenset({"setup", "running", "terminating"}),
    "setup": frozenset({"running", "terminating"}),
    "running": frozenset({"setup", "terminating"}),
    "terminating": frozenset({"stopping"}),
    "stopping": frozenset({"stopped", "terminating"}),
    "stopped": frozenset({"cleaning", "terminating"}),
    "cleaning": frozenset({"cleaned"}),
    "cleaned": frozenset({"gone"}),
    "gone": frozenset(),
}

HISTORY_MAX = 200
DELETE_RETRY_S = 10.0
BACKING_OFF_MESSAGE = "back-off {delay:.0f}s restarting failed container={container} pod={pod}_{namespace}({uid})"


class InvalidPodMoveError(AssertionError):
    """The pod was asked for a change that its table does not hold; this is a bug."""


class PodMachine:
    """Everything that the node knows and wants of one pod."""

    def __init__(self, uid: str) -> None:
        self.uid = uid
        self.pod: Object = {}
        self.state: PodState = "new"
        self.slots: dict[str, Slot] = {}
        self.sandboxes: dict[str, SandboxInfo] = {}
        self.sandbox: SandboxInfo | None = None
        self.sandbox_since = 0.0
        self.stopped_sandboxes: set[str] = set()
        self.observed = False
        self.initialized = False
        self.removed = False
        self.started_at: float | None = None
        self.termination: str = ""
        """Why the pod ends: deleted, removed, completed, DeadlineExceeded; empty while it is to run."""
        self.grace_s = 0.0
        self.terminating_since = 0.0
        self.volumes_ready = False
        self._busy: set[str] = set()
        """Pod-wide operations in flight: volumes, sandbox, stop:<id>, cleanup."""
        self._retry_at: dict[str, float] = {}
        self._backoff: dict[str, Backoff] = {}
        self._delete_at: float | None = None
        self._history: deque[str] = deque(maxlen=HISTORY_MAX)
        self._out: list[w.Instruction] = []
        self._now = 0.0

    # --- the two entrances ------------------------------------------------------------------------

    def handle(self, event: w.Event, now: float) -> list[w.Instruction]:
        """Note the event, decide, and return what is to be done."""
        self._now, self._out = now, []
        if self.state == "gone":
            return []
        self._note(f"<- {_brief(event)}")
        self._hear(event)
        if self.pod and self.observed:
            self._decide()
        for instruction in self._out:
            if not isinstance(instruction, w.RecordEvent):
                self._note(f"-> {_brief(instruction)}")
        return self._out

    def story(self) -> list[str]:
        """Tell how the pod came to be where it is, oldest first."""
        return list(self._history)

    def wake_at(self) -> float | None:
        """Return when time alone may change something; None when only events can."""
        times = [at for name, at in self._retry_at.items() if name not in self._busy]
        if self.state == "running":
            waiting = ("image-backoff", "start-backoff", "crash-backoff")
            times += [slot.retry_at for slot in self.slots.values() if slot.state in waiting]
        times += [slot.kill_retry_at for slot in self.slots.values() if slot.state == "killing" and slot.kill_retry_at]
        if self._delete_at is not None:
            times.append(self._delete_at)
        deadline = self._deadline()
        if deadline is not None and not self.termination:
            times.append(deadline)
        return min(times, default=None)

    # --- hearing ----------------------------------------------------------------------------------

    def _hear(self, event: w.Event) -> None:
        match event:
            case w.PodUpdated():
                self._pod_updated(event.pod)
            case w.PodRemoved():
                # Only force takes an object away before its pod has ended: nobody waits for it any more.
                self.removed = True
                self._request_termination("removed", GRACE_LEAST_S)
            case w.Observed():
                pod_observe.observe(self, event)
            case w.VolumesMounted():
                self.volumes_ready = True
                self._finished("volumes")
            case w.VolumesFailed():
                self._failed("volumes", "FailedMount", event.message)
            case w.SandboxStarted():
                self._finished("sandbox")
                self.sandboxes[event.sandbox.id] = event.sandbox
                self.sandbox, self.sandbox_since = event.sandbox, self._now
            case w.SandboxFailed():
                text = f"Failed to create pod sandbox: {event.message}"
                self._failed("sandbox", "FailedCreatePodSandBox", text)
            case w.SandboxStopped():
                self._finished(f"stop:{event.id}")
                self._sandbox_stopped(event.id)
            case w.SandboxStopFailed():
                self._failed(f"stop:{event.id}", "FailedKillPod", f"error killing pod: {event.message}")
            case w.CleanedUp():
                self._finished("cleanup")
                if self.state == "cleaning":
                    self._move("cleaned")
            case w.CleanUpFailed():
                self._failed("cleanup", "FailedKillPod", event.message)
            case w.Tick():
                pass
            case _:
                pod_observe.hear_container(self, event)

    def _pod_updated(self, pod: Object) -> None:
        first = not self.pod
        self.pod = pod
        for spec in pod_spec.containers(pod):
            slot = self.slots.get(spec.name)
            if slot is None:
                self.slots[spec.name] = Slot(spec)
            else:
                slot.spec = spec
        if first:
            pod_observe.recall(self, pod)
        if pod["metadata"].get("deletionTimestamp"):
            self._request_termination("deleted", pod_spec.grace_period_s(pod))
        elif first and pod_spec.is_static_terminal(pod):
            self._request_termination("completed", pod_spec.grace_period_s(pod))

    def _request_termination(self, why: str, grace_s: float) -> None:
        if not self.termination:
            self.termination, self.grace_s, self.terminating_since = why, grace_s, self._now
            return
        if self.termination in ("completed", "DeadlineExceeded") and why in ("deleted", "removed"):
            if self.state in ("stopping", "stopped"):
                self.terminating_since = self._now
            self.grace_s = min(self.grace_s, grace_s) if self.state == "terminating" else grace_s
            return
        if grace_s < self.grace_s:
            self._note(f"grace shortened to {grace_s:g} s")
            self.grace_s = grace_s

    @property
    def deletion_requested(self) -> bool:
        """Say whether the object is being deleted or is already gone."""
        return self.removed or bool(self.pod.get("metadata", {}).get("deletionTimestamp"))

    # --- deciding ---------------------------------------------------------------------------------

    def _decide(self) -> None:
        deadline = self._deadline()
        if deadline is not None and self._now >= deadline and not self.termination:
            self._request_termination("DeadlineExceeded", pod_spec.grace_period_s(self.pod))
            self.event("Warning", "DeadlineExceeded", "Pod was active on the node longer than the specified deadline")
        if self.state == "new":
            self._move("running" if self.sandbox is not None else "setup")
        if self.termination and self.state in ("setup", "running"):
            self._move("terminating")
        deciders: dict[PodState, Callable[[], None]] = {
            "setup": self._decide_setup,
            "running": self._decide_running,
            "terminating": self._decide_terminating,
            "stopping": self._decide_stopping,
            "stopped": self._decide_stopped,
            "cleaning": self._decide_cleaning,
            "cleaned": self._decide_cleaned,
        }
        before: PodState | None = None
        while before != self.state and self.state != "gone":
            before = self.state
            deciders[self.state]()

    def _decide_setup(self) -> None:
        if self.started_at is None:
            self.started_at = self._now
        if not self.volumes_ready:
            self._once("volumes", w.MountVolumes())
        left = [slot for slot in self.slots.values() if slot.live]
        for slot in left:
            self.kill(slot, self.grace_of_pod(), pre_stop=False, message="Pod sandbox changed")
        if left:
            return
        if not self._stop_sandboxes():
            return
        if self.sandbox is not None:
            self._enter_running()
        elif self.volumes_ready:
            attempt = max((known.attempt + 1 for known in self.sandboxes.values()), default=0)
            self._once("sandbox", w.RunSandbox(attempt))

    def _enter_running(self) -> None:
        self._move("running")
        for old in [known for known in self.sandboxes.values() if known is not self.sandbox]:
            self._out.append(w.RemoveSandbox(old.id))
            del self.sandboxes[old.id]

    def _decide_running(self) -> None:
        if self.sandbox is None:
            self._sandbox_lost()
            return
        if not self.volumes_ready:  # after an adoption: mounting is idempotent and restarts the refreshing
            self._once("volumes", w.MountVolumes())
            if any(slot.state == "idle" for slot in self.slots.values()) and "volumes" in self._busy:
                return
        self._advance_inits()
        mains = [slot for slot in self.slots.values() if slot.kind == "main"]
        if self.initialized:
            for slot in mains:
                self._advance(slot)
        for slot in self.slots.values():
            if slot.kind == "ephemeral":
                self._advance(slot)
        init_failed = any(slot.kind == "init" and slot.state == "done" and not slot.succeeded for slot in self._all())
        if init_failed or (self.initialized and mains and all(slot.state == "done" for slot in mains)):
            self._request_termination("completed", self.grace_of_pod())
            self._move("terminating")

    def _advance_inits(self) -> None:
        for slot in self._all():
            if slot.kind not in ("init", "sidecar"):
                continue
            if self.initialized and slot.kind == "init":
                continue
            self._advance(slot)
            passed = slot.succeeded if slot.kind == "init" else slot.ever_started
            if not self.initialized and not passed:
                return
        self.initialized = True

    def _advance(self, slot: Slot) -> None:
        """Bring one container a step further, if it may go one."""
        if slot.state == "exited":
            self._decide_restart(slot)
        backing_off = slot.state in ("image-backoff", "start-backoff", "crash-backoff")
        if slot.state == "idle" or (backing_off and self._now >= slot.retry_at):
            if slot.state == "crash-backoff" or (slot.current is not None and slot.state == "idle"):
                slot.crash.count(self._now)
            slot.move("pulling")
            self._out.append(w.PullImage(slot.name))
        elif slot.state == "killing" and slot.kill_retry_at and self._now >= slot.kill_retry_at:
            self.kill(slot, 0, pre_stop=False, message=slot.kill_message, again=True)
        elif slot.state == "running" and slot.outdated:
            text = f"Container {slot.name} definition changed, will be restarted"
            self.kill(slot, self.grace_of_pod(), pre_stop=True, message=text)

    def _decide_restart(self, slot: Slot) -> None:
        ended = slot.current
        assert ended is not None
        policy = pod_spec.restart_policy(self.pod, slot.spec)
        again = policy == "Always" or (policy == "OnFailure" and ended.exit_code != 0)
        if not again and not pod_spec.rule_restarts(slot.spec, ended.exit_code):
            slot.move("done")
            return
        finished_at = ended.finished_at_ns / 1e9 or self._now
        until = slot.crash.wait_until(finished_at)
        metadata = self.pod["metadata"]
        text = BACKING_OFF_MESSAGE.format(
            delay=slot.crash.delay_s,
            container=slot.name,
            pod=metadata["name"],
            namespace=metadata["namespace"],
            uid=self.uid,
        )
        slot.wait("crash-backoff", "CrashLoopBackOff", text, until)
        if until > self._now:
            name = f"{metadata['name']}_{metadata['namespace']}({self.uid})"
            self.event("Warning", "BackOff", f"Back-off restarting failed container {slot.name} in pod {name}", slot)

    def _sandbox_lost(self) -> None:
        """Decide which containers run again in a new sandbox."""
        self.event("Normal", "SandboxChanged", "Pod sandbox changed, it will be killed and re-created.")
        never = self.pod["spec"].get("restartPolicy") == "Never"
        ran = any(slot.kind == "main" and slot.current is not None for slot in self._all())
        for slot in self._all():
            if slot.live:
                continue
            if never and ran:
                self._give_up(slot)
            elif slot.kind == "main" and slot.succeeded:
                continue
            elif slot.state not in ("idle", "pulling"):
                slot.move("idle")
        self.initialized = False
        if never and ran:
            self._request_termination("completed", self.grace_of_pod())
            self._move("terminating")
            return
        self._move("setup")

    def _give_up(self, slot: Slot) -> None:
        if slot.state in ("idle", "image-backoff", "start-backoff", "exited", "crash-backoff"):
            slot.move("done")

    # --- the end ----------------------------------------------------------------------------------

    def _decide_terminating(self) -> None:
        live = [slot for slot in self._all() if slot.live]
        ordered = [slot for slot in live if slot.kind != "sidecar"]
        # Sidecars serve the others to the last: they go after them, in the reverse order of their start.
        targets = ordered or [slot for slot in live if slot.kind == "sidecar"][-1:]
        spent = self._now - self.terminating_since if not ordered else 0.0
        grace = self.grace_s if self.grace_s == 0 else max(self.grace_s - spent, GRACE_LEAST_S)
        for slot in targets:
            self.kill(slot, grace, pre_stop=grace > 0, message=f"Stopping container {slot.name}")
        for slot in self._all():
            if slot.state == "exited":
                slot.move("done")
        if not live and "sandbox" not in self._busy:
            self._move("stopping")

    def _decide_stopping(self) -> None:
        if any(slot.live for slot in self._all()):
            self._move("terminating")
        elif self._stop_sandboxes(everything=True):
            self._move("stopped")

    def _decide_stopped(self) -> None:
        if any(slot.live for slot in self._all()):
            self._move("terminating")
        elif self.deletion_requested:
            self._move("cleaning")

    def _decide_cleaning(self) -> None:
        if "volumes" not in self._busy:
            self._once("cleanup", w.CleanUp(tuple(self.sandboxes)))

    def _decide_cleaned(self) -> None:
        if self.removed:
            self._delete_at = None
            self._move("gone")
        elif self._delete_at is None or self._now >= self._delete_at:
            self._delete_at = self._now + DELETE_RETRY_S
            self._out.append(w.DeletePod())

    # --- small tools --------------------------------------------------------------------------------

    def kill(self, slot: Slot, grace_s: float, *, pre_stop: bool, message: str, again: bool = False) -> None:
        """Ask for the end of a live container; a kill under way is only replaced by a shorter one."""
        if slot.state == "starting" or slot.current is None:
            return  # its answer is on the way, and then it is killed
        deadline = self._now + grace_s
        if slot.state == "killing":
            retry = bool(slot.kill_retry_at) and self._now >= slot.kill_retry_at
            if not (again or retry) and deadline >= slot.kill_deadline - 0.5:
                return
            pre_stop = False
        else:
            self._out.append(w.StopProbes(slot.name, slot.current.id))
            self.event("Normal", "Killing", message, slot)
            slot.move("killing")
            slot.kill_message = message
        slot.kill_deadline, slot.kill_retry_at = deadline, 0.0
        self._out.append(w.KillContainer(slot.name, slot.current.id, grace_s, pre_stop, message))

    def grace_of_pod(self) -> float:
        """Return the grace that the pod's spec gives."""
        return pod_spec.grace_period_s(self.pod)

    def emit(self, instruction: w.Instruction) -> None:
        """Add an instruction to those of this event."""
        self._out.append(instruction)

    def event(self, kind: Literal["Normal", "Warning"], reason: str, message: str, slot: Slot | None = None) -> None:
        """Ask for a Kubernetes Event."""
        self._out.append(w.RecordEvent(kind, reason, message, slot.name if slot else ""))

    def forget_sandbox(self) -> None:
        """Note that the sandbox is dead."""
        if self.sandbox is not None:
            self.sandboxes[self.sandbox.id] = replace(self.sandbox, ready=False)
            self.sandbox = None

    def sandbox_busy(self) -> bool:
        """Say whether a sandbox is being made."""
        return "sandbox" in self._busy

    def _sandbox_stopped(self, sandbox_id: str) -> None:
        self.stopped_sandboxes.add(sandbox_id)
        if self.sandbox is not None and self.sandbox.id == sandbox_id:
            self.forget_sandbox()

    def _stop_sandboxes(self, *, everything: bool = False) -> bool:
        """Ask for the end of dead sandboxes, or of all; say whether none is left."""
        keep = None if everything or self.sandbox is None else self.sandbox.id
        left = [known for known in self.sandboxes if known != keep and known not in self.stopped_sandboxes]
        for sandbox_id in left:
            self._once(f"stop:{sandbox_id}", w.StopSandbox(sandbox_id))
        return not left

    def _all(self) -> Iterable[Slot]:
        return self.slots.values()

    def _deadline(self) -> float | None:
        seconds = self.pod.get("spec", {}).get("activeDeadlineSeconds") if self.pod else None
        return None if seconds is None or self.started_at is None else self.started_at + seconds

    def _once(self, operation: str, instruction: w.Instruction) -> None:
        """Ask for a pod-wide operation unless it is in flight or backing off."""
        if operation in self._busy or self._now < self._retry_at.get(operation, 0.0):
            return
        self._busy.add(operation)
        self._out.append(instruction)

    def _finished(self, operation: str) -> None:
        self._busy.discard(operation)
        self._retry_at.pop(operation, None)
        self._backoff.pop(operation, None)

    def _failed(self, operation: str, reason: str, message: str) -> None:
        self._busy.discard(operation)
        backoff = self._backoff.setdefault(operation, Backoff(0.5, 10.0))
        self._retry_at[operation] = self._now + backoff.next()
        self.event("Warning", reason, message)

    def _move(self, to: PodState) -> None:
        if to not in POD_MOVES[self.state]:
            raise InvalidPodMoveError(f"pod {self.uid}: {self.state} -> {to}\n" + "\n".join(self.story()))
        self._note(f"{self.state} -> {to}")
        self.state = to

    def _note(self, text: str) -> None:
        self._history.append(f"{self._now:.3f} {text}")


def _brief(word: w.Event | w.Instruction) -> str:
    if isinstance(word, w.PodUpdated):
        return f"PodUpdated(resourceVersion={word.pod['metadata'].get('resourceVersion', '')})"
    if isinstance(word, w.Observed):
        alive = [info.name for info in word.containers if info.live]
        return f"Observed(sandboxes={len(word.sandboxes)}, live={alive})"
    return repr(word)
