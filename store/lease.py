"""Leases as plain data: grant, revoke, keep alive, expire at a given time.

What is granted and which keys hang on it is replicated state. *When* a lease ends is not: only the leader keeps
deadlines, in its own clock's seconds, and a new leader gives every lease its full time again, so that a change of
leader makes no lease end early. The end itself is a revocation that goes through the log like any other; it names the
leader's term, and ``term`` is that of the newest leader that began to keep time, so that the revocation of an earlier
one, on its way for too long, ends nothing. There are no checkpoints of what is left of a lease: they would only shorten
the full time that a change of leader gives.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field

from store.refusal import Reason, Refused

TTL_MAX_S = 9_000_000_000
"""The longest time that etcd grants."""

_REVOKE_RETRY_S = 3.0


@dataclass(eq=False, slots=True)
class Lease:
    """One lease, and at the leader the time at which it ends."""

    lease_id: int
    ttl_s: int
    keys: set[bytes] = field(default_factory=set)
    deadline_s: float | None = None
    """None where this member is not the leader, or has not yet looked at the lease as one."""
    due_s: float = 0.0
    """When the leader looks at the lease next: the one entry of the queue of deadlines that counts."""


class Lessor:
    """All leases of the store."""

    def __init__(self) -> None:
        self._leases: dict[int, Lease] = {}
        self._lease_of: dict[bytes, int] = {}
        self.granted = 0
        self.ended = 0
        self.term = 0
        """Term of the newest leader that began to keep the leases' time."""
        self._is_primary = False
        self._fresh: list[int] = []
        self._deadlines: list[tuple[float, int]] = []

    # Replicated state

    def __len__(self) -> int:
        return len(self._leases)

    def leases(self) -> list[Lease]:
        """All leases by id."""
        return [self._leases[lease_id] for lease_id in sorted(self._leases)]

    def by_remaining_time(self, now_s: float) -> list[Lease]:
        """All leases, the one that ends first in front."""
        return sorted(self.leases(), key=lambda lease: self.remaining_s(lease.lease_id, now_s))

    def get(self, lease_id: int) -> Lease | None:
        """A lease, if it lives."""
        return self._leases.get(lease_id)

    def has(self, lease_id: int) -> bool:
        """Whether a lease lives."""
        return lease_id in self._leases

    def require(self, lease_id: int) -> Lease:
        """A lease that must live."""
        found = self._leases.get(lease_id)
        if found is None:
            raise Refused(Reason.LEASE_NOT_FOUND)
        return found

    def grant(self, lease_id: int, ttl_s: int) -> Lease:
        """Add a lease under an id that the proposer has chosen."""
        if not lease_id:
            raise Refused(Reason.LEASE_NOT_FOUND)
        if ttl_s > TTL_MAX_S:
            raise Refused(Reason.LEASE_TTL_TOO_LARGE)
        if lease_id in self._leases:
            raise Refused(Reason.LEASE_EXISTS)
        self.granted += 1
        granted = self._leases[lease_id] = Lease(lease_id, ttl_s)
        if self._is_primary:
            self._fresh.append(lease_id)
        return granted

    def forget(self, lease_id: int) -> None:
        """Take a lease away whose keys are deleted already."""
        assert not self._leases[lease_id].keys, "keys go before their lease"
        del self._leases[lease_id]
        self.ended += 1

    def attach(self, lease_id: int, key: bytes) -> None:
        """Bind a key to a lease, freeing it from any other."""
        if self._lease_of.get(key) == lease_id:
            return
        self.detach(key)
        self._leases[lease_id].keys.add(key)
        self._lease_of[key] = lease_id

    def detach(self, key: bytes) -> None:
        """Free a key from its lease, if it has one."""
        lease_id = self._lease_of.pop(key, None)
        if lease_id is not None:
            self._leases[lease_id].keys.discard(key)

    def replace(self, other: Lessor) -> None:
        """Take over the leases of a snapshot."""
        self._leases = other._leases
        self._lease_of = other._lease_of
        self.term = other.term
        self._deadlines.clear()
        self._fresh = list(self._leases) if self._is_primary else []

    # The leader's clock

    def promote(self, now_s: float) -> None:
        """Begin to watch the clock: every lease gets its full time from now on."""
        self._is_primary = True
        self._fresh.clear()
        self._deadlines.clear()
        for lease in self._leases.values():
            self._schedule(lease, now_s)

    def demote(self) -> None:
        """Stop watching the clock: another member does."""
        self._is_primary = False
        self._fresh.clear()
        self._deadlines.clear()
        for lease in self._leases.values():
            lease.deadline_s = None

    def renew(self, lease_id: int, now_s: float) -> int:
        """Give a lease its full time again and return that; one that has ended already is not found."""
        lease = self.require(lease_id)
        if lease.deadline_s is not None and lease.deadline_s <= now_s:
            raise Refused(Reason.LEASE_NOT_FOUND)
        self._schedule(lease, now_s)
        return lease.ttl_s

    def remaining_s(self, lease_id: int, now_s: float) -> float:
        """The time that a lease has left."""
        lease = self.require(lease_id)
        return lease.ttl_s if lease.deadline_s is None else lease.deadline_s - now_s

    def expired(self, now_s: float, limit: int) -> list[int]:
        """Leases that have ended and wait to be revoked; one whose revocation fails is named again later."""
        if not self._is_primary:
            return []
        for lease_id in self._fresh:
            lease = self._leases.get(lease_id)
            if lease is not None and lease.deadline_s is None:
                self._schedule(lease, now_s)
        self._fresh.clear()
        ended: list[int] = []
        while self._deadlines and self._deadlines[0][0] <= now_s and len(ended) < limit:
            due_s, lease_id = heapq.heappop(self._deadlines)
            lease = self._leases.get(lease_id)
            if lease is None or lease.due_s != due_s:
                continue  # revoked, or renewed since this entry was made
            ended.append(lease_id)
            self._look_at(lease, now_s + _REVOKE_RETRY_S)
        return ended

    def _schedule(self, lease: Lease, now_s: float) -> None:
        lease.deadline_s = now_s + lease.ttl_s
        self._look_at(lease, lease.deadline_s)

    def _look_at(self, lease: Lease, due_s: float) -> None:
        lease.due_s = due_s
        heapq.heappush(self._deadlines, (due_s, lease.lease_id))
        if len(self._deadlines) > 64 + 4 * len(self._leases):
            # Renewals leave old entries behind; a lease renewed every second must not grow the heap for hours.
            live = (other for other in self._leases.values() if other.deadline_s is not None)
            self._deadlines = [(other.due_s, other.lease_id) for other in live]
            heapq.heapify(self._deadlines)
