"""PURE: the life of one container name in a pod, over all its instances.

Theory of operation
-------------------
A slot is the place that a container's name takes in its pod. Instances come and go in it: each restart is a new
instance with the next attempt number, and at most one of them is alive. The slot's state says what the pod machine
may do next; ``MOVES`` lists every legal change and nothing else may happen::

    idle -> pulling -> starting -> [hooking ->] running -> [killing ->] exited -> crash-backoff -> pulling ...
               |           |                                               `----> done
         image-backoff  start-backoff

An observation may be older than what the slot knows. Instances only go forward (created, running, exited), so an
old one is harmless; that an instance is *missing* counts only in a listing begun after the slot learned of it.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

from node.pod_spec import ContainerSpec, spec_hash
from node.runtime import STATE_ORDER, ContainerInfo

SlotState = Literal[
    "idle",
    "pulling",
    "image-backoff",
    "starting",
    "start-backoff",
    "hooking",
    "running",
    "killing",
    "exited",
    "crash-backoff",
    "done",
]

MOVES: dict[SlotState, frozenset[SlotState]] = {
    "idle": frozenset({"pulling", "running", "exited", "done"}),
    "pulling": frozenset({"starting", "image-backoff", "idle", "exited"}),
    "image-backoff": frozenset({"pulling", "idle", "done"}),
    "starting": frozenset({"hooking", "running", "exited", "start-backoff"}),
    "start-backoff": frozenset({"pulling", "idle", "done"}),
    "hooking": frozenset({"running", "killing", "exited"}),
    "running": frozenset({"killing", "exited"}),
    "killing": frozenset({"exited"}),
    "exited": frozenset({"pulling", "crash-backoff", "done", "idle"}),
    "crash-backoff": frozenset({"pulling", "done", "idle"}),
    "done": frozenset({"idle"}),
}

LIVE: frozenset[SlotState] = frozenset({"starting", "hooking", "running", "killing"})

CRASH_FIRST_S, CRASH_MAX_S = 10.0, 300.0
IMAGE_FIRST_S, IMAGE_MAX_S = 10.0, 300.0
RETRY_FIRST_S, RETRY_MAX_S = 1.0, 10.0
CRASH_FORGIVEN_AFTER_S = 2 * CRASH_MAX_S


class InvalidMoveError(AssertionError):
    """A slot was asked for a change that its table does not hold; this is a bug."""


@dataclass(slots=True)
class Backoff:
    """A delay that doubles from the first to the greatest."""

    first_s: float
    most_s: float
    delay_s: float = 0.0

    def next(self) -> float:
        """Return the delay to wait now and double the one after it."""
        self.delay_s = min(self.most_s, self.delay_s * 2 if self.delay_s else self.first_s)
        return self.delay_s

    def reset(self) -> None:
        """Begin again at the first delay."""
        self.delay_s = 0.0


@dataclass(slots=True)
class CrashBackoff:
    """The delay of crash loops: the first restart is immediate, then 10 s, 20 s … 300 s; forgiven after ten minutes."""

    delay_s: float = 0.0
    counted_at: float = 0.0

    def wait_until(self, finished_at: float) -> float:
        """Return when a container that ended at this time may start again."""
        if self.delay_s and finished_at - self.counted_at > CRASH_FORGIVEN_AFTER_S:
            self.delay_s = 0.0
        return finished_at + self.delay_s

    def count(self, now: float) -> None:
        """Note a restart: the next one waits longer."""
        self.delay_s = min(CRASH_MAX_S, self.delay_s * 2) if self.delay_s else CRASH_FIRST_S
        self.counted_at = now


@dataclass(slots=True)
class Slot:
    """One container name and what has become of it."""

    spec: ContainerSpec
    state: SlotState = "idle"
    current: ContainerInfo | None = None
    """The newest instance, alive or dead."""
    previous: ContainerInfo | None = None
    """The instance before it, kept for its logs and for lastState."""
    known_since: float = 0.0
    restart_count: int = 0
    attempt_next: int = 0
    started: bool = False
    """The startup gate is open for the current instance."""
    ready: bool = False
    """The readiness probe's last word; without a probe, that it runs."""
    ever_started: bool = False
    waiting_reason: str = ""
    waiting_message: str = ""
    retry_at: float = 0.0
    kill_deadline: float = 0.0
    kill_retry_at: float = 0.0
    kill_message: str = ""
    crash: CrashBackoff = field(default_factory=CrashBackoff)
    image_backoff: Backoff = field(default_factory=lambda: Backoff(IMAGE_FIRST_S, IMAGE_MAX_S))
    start_backoff: Backoff = field(default_factory=lambda: Backoff(RETRY_FIRST_S, RETRY_MAX_S))

    @property
    def name(self) -> str:
        """The container's name."""
        return self.spec.name

    @property
    def kind(self) -> str:
        """The container's role in the pod."""
        return self.spec.kind

    @property
    def live(self) -> bool:
        """Say whether an instance lives, or is being brought to life."""
        return self.state in LIVE

    @property
    def succeeded(self) -> bool:
        """Say whether the last instance ended with exit code 0."""
        return self.state == "done" and self.current is not None and self.current.exit_code == 0

    @property
    def outdated(self) -> bool:
        """Say whether the instance was made from another definition than the pod now has."""
        return self.current is not None and self.current.spec_hash not in ("", spec_hash(self.spec))

    def move(self, to: SlotState) -> None:
        """Change the state, by the table alone."""
        if to not in MOVES[self.state]:
            raise InvalidMoveError(f"container {self.name}: {self.state} -> {to}")
        self.state = to
        if to not in ("running", "hooking", "killing"):
            self.started = self.ready = False

    def wait(self, to: SlotState, reason: str, message: str, until: float) -> None:
        """Go into a backing-off state until a time."""
        self.move(to)
        self.waiting_reason, self.waiting_message, self.retry_at = reason, message, until

    def take(self, info: ContainerInfo, now: float) -> None:
        """Make this instance the current one."""
        if self.current is not None and self.current.id != info.id:
            self.previous = self.current
        self.current = info
        self.known_since = now
        self.attempt_next = max(self.attempt_next, info.attempt + 1)
        self.restart_count = max(self.restart_count, info.restart_count)

    def learn(self, info: ContainerInfo) -> bool:
        """Merge an observation of the current instance; say whether it moved forward."""
        if self.current is None or self.current.id != info.id:
            return False
        if STATE_ORDER[info.state] <= STATE_ORDER[self.current.state]:
            return False
        self.current = info
        return True

    def lost(self, now: float) -> None:
        """Note that the runtime no longer knows the current instance."""
        assert self.current is not None
        self.current = replace(
            self.current,
            state="exited",
            exit_code=137,
            reason="ContainerStatusUnknown",
            message="The container could not be located when the pod was terminated",
            finished_at_ns=int(now * 1e9),
        )
