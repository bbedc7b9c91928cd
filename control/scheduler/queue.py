"""Pods that wait for a node: ready ones by priority and age, failed ones until something changes or time passes.

A pod is in one of three places, as upstream: *active* (will be tried), *backoff* (failed lately, waits out its delay),
*unschedulable* (no node fitted; waits for a change in the cluster that might help, at most ``UNSCHEDULABLE_MAX_S``).
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field

from control.api import meta
from control.api.meta import Object

BACKOFF_FIRST_S = 1.0
BACKOFF_MAX_S = 10.0
UNSCHEDULABLE_MAX_S = 300.0


@dataclass
class Waiting:
    """A pod in the queue."""

    pod: Object
    since: float
    attempts: int = 0
    ready_at: float = 0.0
    place: str = "active"


@dataclass
class SchedulingQueue:
    """The three places; every method gets the time as an argument."""

    _waiting: dict[str, Waiting] = field(default_factory=dict)
    _heap: list[tuple[int, float, int, str]] = field(default_factory=list)
    _count: int = 0
    _moves: int = 0
    """How often the cluster changed in a way that may help."""

    def __len__(self) -> int:
        return len(self._waiting)

    def __contains__(self, key: str) -> bool:
        return key in self._waiting

    @property
    def moves(self) -> int:
        """A number that grows with each change that may help a pod; see ``fail``."""
        return self._moves

    def put(self, pod: Object, now: float) -> None:
        """Add a pod, or take over a change of it, which may make it schedulable."""
        key = meta.key(pod)
        known = self._waiting.get(key)
        if known is None:
            self._waiting[key] = Waiting(pod, now)
            self._activate(key)
            return
        changed = known.pod.get("spec") != pod.get("spec") or meta.labels(known.pod) != meta.labels(pod)
        known.pod = pod
        if changed and known.place == "unschedulable":
            self._leave_unschedulable(key, now)

    def remove(self, key: str) -> None:
        """Forget a pod that is bound or gone."""
        self._waiting.pop(key, None)

    def take(self, now: float) -> Waiting | None:
        """Return the pod to try next and count the attempt; it stays known until ``remove`` or ``fail``."""
        self._move_due(now)
        while self._heap:
            *_, key = heapq.heappop(self._heap)
            found = self._waiting.get(key)
            if found is not None and found.place == "active":
                found.place = "trying"
                found.attempts += 1
                return found
        return None

    def fail(self, key: str, now: float, *, moves_before: int, unschedulable: bool) -> None:
        """Put a pod back; where the cluster changed during the attempt it only backs off."""
        found = self._waiting.get(key)
        if found is None:
            return
        found.ready_at = now + self.backoff_s(found.attempts)
        if unschedulable and self._moves == moves_before:
            found.place = "unschedulable"
            found.since = now
        else:
            found.place = "backoff"

    @staticmethod
    def backoff_s(attempts: int) -> float:
        """Return the delay after so many attempts: 1 s, doubled up to 10 s."""
        return min(BACKOFF_FIRST_S * 2.0 ** (attempts - 1), BACKOFF_MAX_S)

    def cluster_changed(self, now: float) -> None:
        """Give every unschedulable pod another try, after what is left of its delay."""
        self._moves += 1
        for key, waiting in self._waiting.items():
            if waiting.place == "unschedulable":
                self._leave_unschedulable(key, now)

    def next_due(self, now: float) -> float | None:
        """Return the moment at which a waiting pod becomes active by itself; None where none will."""
        moments = [waiting.ready_at for waiting in self._waiting.values() if waiting.place == "backoff"]
        moments += [w.since + UNSCHEDULABLE_MAX_S for w in self._waiting.values() if w.place == "unschedulable"]
        return min(moments, default=None)

    def _leave_unschedulable(self, key: str, now: float) -> None:
        waiting = self._waiting[key]
        if waiting.ready_at > now:
            waiting.place = "backoff"
        else:
            self._activate(key)

    def _activate(self, key: str) -> None:
        waiting = self._waiting[key]
        waiting.place = "active"
        self._count += 1
        priority = int(waiting.pod["spec"].get("priority") or 0)
        heapq.heappush(self._heap, (-priority, waiting.since, self._count, key))

    def _move_due(self, now: float) -> None:
        for key, waiting in self._waiting.items():
            due = waiting.place == "backoff" and waiting.ready_at <= now
            stale = waiting.place == "unschedulable" and waiting.since + UNSCHEDULABLE_MAX_S <= now
            if due or stale:
                self._activate(key)
