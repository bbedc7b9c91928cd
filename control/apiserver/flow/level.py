"""One level of priority at work: its seats, its queues, and what has been counted of it."""

from __future__ import annotations

from bisect import bisect_left
from hashlib import blake2b

from control.apiserver.flow.fairness import FairQueues, State, Ticket, deal
from control.apiserver.flow.levels import Demand, Limits, RetryAfter, Wish

HANDS_MAX = 4096
"""Flows whose hands are remembered; then all are forgotten and dealt anew, the same."""
UNLIMITED = 1 << 40
WAIT_BOUNDS = (0, 0.005, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30)
EXECUTION_BOUNDS = WAIT_BOUNDS


class FlowCounts:
    """What is counted of one schema's requests in one level."""

    __slots__ = ("dispatched", "execution", "rejected", "wait_executed", "wait_rejected")

    def __init__(self) -> None:
        self.dispatched = 0
        self.rejected: dict[str, int] = {}
        self.wait_executed = [0.0] * (len(WAIT_BOUNDS) + 2)
        self.wait_rejected = [0.0] * (len(WAIT_BOUNDS) + 2)
        self.execution = [0.0] * (len(EXECUTION_BOUNDS) + 2)


def observe(series: list[float], bounds: tuple[float, ...], value: float) -> None:
    """Count a value in its bucket, and add it to the sum behind the buckets."""
    series[bisect_left(bounds, value)] += 1
    series[-1] += value


class Level:
    """A priority level."""

    def __init__(self, wish: Wish, limits: Limits, now: float) -> None:
        self.wish = wish
        self.limits = limits
        self.demand = Demand()
        self.current = limits.nominal
        self.quiescing = False
        """Whether its object is gone: it lives on until its last request has ended."""
        self.retry_after = RetryAfter()
        self.counts: dict[str, FlowCounts] = {}
        self.tickets: set[Ticket] = set()
        """Requests that wait or are served."""
        self.seats_max = limits.seats_max(wish.queuing)
        self.queues = FairQueues(wish.queuing, self._limit, now)
        self._hands: dict[tuple[str, str], tuple[int, ...]] = {}

    @property
    def name(self) -> str:
        """The name of its object."""
        return self.wish.name

    @property
    def _limit(self) -> int:
        # A level that may take nothing could never be emptied.
        return UNLIMITED if self.wish.exempt else max(self.current, 1)

    @property
    def idle(self) -> bool:
        """Whether no request is here."""
        return self.queues.idle

    def configure(self, wish: Wish, limits: Limits, now: float) -> None:
        """Go on under another configuration."""
        if wish.queuing != self.wish.queuing:
            self._hands.clear()
        current = self.current if limits == self.limits else limits.nominal
        self.wish, self.limits = wish, limits
        self.seats_max = limits.seats_max(wish.queuing)
        self.set_current(current, now)

    def set_current(self, seats: int, now: float) -> None:
        """Have this many seats from now on."""
        self.current = min(max(seats, self.limits.lower), self.limits.upper)
        self.queues.configure(self.wish.queuing, self._limit, now)

    def hand(self, schema: str, flow: str) -> tuple[int, ...]:
        """Return the queues that a flow's requests may wait in."""
        queuing = self.wish.queuing
        if queuing is None:
            return ()
        key = (schema, flow)
        found = self._hands.get(key)
        if found is None:
            digest = blake2b(f"{schema}\0{flow}".encode(), digest_size=8).digest()
            if len(self._hands) >= HANDS_MAX:
                self._hands.clear()
            found = self._hands[key] = deal(int.from_bytes(digest), queuing.queues, queuing.hand_size)
        return found

    def count_of(self, schema: str) -> FlowCounts:
        """Return what is counted of a schema's requests."""
        found = self.counts.get(schema)
        if found is None:
            found = self.counts[schema] = FlowCounts()
        return found

    # For people and programs that ask how it stands.

    @property
    def waiting(self) -> list[Ticket]:
        """The requests that wait."""
        return [ticket for ticket in self.tickets if ticket.state is State.WAITING]

    @property
    def dispatched(self) -> int:
        """How many requests were served."""
        return sum(counts.dispatched for counts in self.counts.values())

    def rejected(self, *reasons: str) -> int:
        """Return how many requests were rejected, for any reason where none is named."""
        return sum(
            number
            for counts in self.counts.values()
            for reason, number in counts.rejected.items()
            if not reasons or reason in reasons
        )
