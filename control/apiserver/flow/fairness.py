"""Fair queues of one priority level: which request gets a free seat next. No clock, no waiting: times are given.

Theory of operation. A flow is dealt a hand of queues, and each of its requests goes to the emptiest of them: two flows
rarely share all of their queues, so that a heavy flow fills its own and leaves others' alone. Queues take turns by
virtual time: ``progress`` says how many seat-seconds each busy queue was due since the beginning, and the queue whose
next request would be finished first by that count is served. What a request really took is charged when it ends.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum

SERVICE_S = 0.003
"""How long a request is taken to last until it has ended."""
IDLE_QUEUES_MAX = 256
"""Queues that are kept although nobody is in them; they are made when they are dealt."""


@dataclass(frozen=True, slots=True)
class Work:
    """How much of the server a request takes."""

    seats: int = 1
    final_seats: int = 0
    """Seats that stay taken for ``final_s`` after the answer: for what the write makes others do."""
    final_s: float = 0.0
    width: int = field(init=False, compare=False)
    """Seats that must be free for it to begin."""
    total: float = field(init=False, compare=False)
    """Seat-seconds that it is expected to take."""

    def __post_init__(self) -> None:
        """Compute once what is asked for often."""
        object.__setattr__(self, "width", max(self.seats, self.final_seats))
        object.__setattr__(self, "total", self.seats * SERVICE_S + self.final_seats * self.final_s)


ONE_SEAT = Work()


@dataclass(frozen=True, slots=True)
class Queuing:
    """How a level queues."""

    queues: int
    hand_size: int
    length_limit: int


class State(Enum):
    """What has become of a request."""

    WAITING = "waiting"
    EXECUTING = "executing"
    FINISHING = "finishing"
    """Answered, while seats are still taken for it."""
    REJECTED = "rejected"
    ENDED = "ended"


class Ticket:
    """One request's place in a level; ``admit`` is called when it may begin, at once or after a wait."""

    __slots__ = ("arrived", "held", "queue", "started_at", "state", "work")

    def __init__(self, work: Work) -> None:
        self.work = work
        self.state = State.WAITING
        self.queue: Queue | None = None
        self.arrived = 0.0
        self.started_at = 0.0
        self.held = 0
        """Seats that it has now."""

    def admit(self) -> None:
        """Be told that it may begin."""


class Queue:
    """Requests that wait, and how many of this queue's are being served."""

    __slots__ = ("executing", "index", "next_start", "seats", "waiting", "waiting_work")

    def __init__(self, index: int) -> None:
        self.index = index
        self.waiting: deque[Ticket] = deque()
        self.waiting_work = 0.0
        self.executing = 0
        self.seats = 0
        self.next_start = 0.0
        """The virtual time from which the next request is counted."""


def deal(entropy: int, deck: int, hand_size: int) -> tuple[int, ...]:
    """Return ``hand_size`` different numbers below ``deck``, each hand as likely as any other."""
    hand: list[int] = []
    for held in range(hand_size):
        entropy, card = divmod(entropy, deck - held)
        # ``card`` counts those left over: step over each one that is gone already.
        for gone in sorted(hand):
            if card >= gone:
                card += 1
        hand.append(card)
    return tuple(hand)


class FairQueues:
    """The seats of one level and who waits for them."""

    def __init__(self, queuing: Queuing | None, limit: int, now: float) -> None:
        self.queuing = queuing
        self.limit = limit
        self.queues: dict[int, Queue] = {}
        self.executing = 0
        self.seats = 0
        """Seats that are taken."""
        self.waiting = 0
        self.waiting_seats = 0
        self.progress = 0.0
        self.peak = 0
        """The most seats that were wanted at once since ``take_demand``."""
        self._area = self._area_of_squares = self._span = 0.0
        self._busy = 0
        """Queues that serve or hold requests."""
        self._arrivals = 0
        self._last = 0
        """The queue that was served last: ties go to those behind it."""
        self._now = now

    @property
    def idle(self) -> bool:
        """Whether nothing is served and nothing waits."""
        return not self.seats and not self.executing and not self.waiting

    @property
    def has_room(self) -> bool:
        """Whether a request of one seat would be served at once."""
        return not self.waiting and self._fits(ONE_SEAT)

    def _pass_time(self, now: float) -> None:
        elapsed = now - self._now
        if elapsed <= 0:
            return
        self._now = now
        wanted = self.seats + self.waiting_seats
        self._span += elapsed
        if wanted:
            self._area += wanted * elapsed
            self._area_of_squares += wanted * wanted * elapsed
            if self._busy:
                self.progress += elapsed * min(wanted, self.limit) / self._busy

    def take_demand(self, now: float) -> tuple[float, float, int]:
        """Return mean, deviation and peak of the seats wanted since the last call."""
        self._pass_time(now)
        mean = self._area / self._span if self._span else float(self.seats + self.waiting_seats)
        square = self._area_of_squares / self._span if self._span else mean * mean
        peak = self.peak
        self._area = self._area_of_squares = self._span = 0.0
        self.peak = self.seats + self.waiting_seats
        return mean, max(square - mean * mean, 0.0) ** 0.5, peak

    def configure(self, queuing: Queuing | None, limit: int, now: float) -> None:
        """Go on with another configuration; queues that are no longer dealt are emptied as all are."""
        self._pass_time(now)
        self.queuing = queuing
        self.limit = limit
        self.dispatch()

    def _fits(self, work: Work) -> bool:
        if work.width > self.limit:
            return self.executing == 0
        return self.seats + work.width <= self.limit

    # Coming and going.

    def enter(self, ticket: Ticket, hand: Sequence[int], now: float) -> str:
        """Take a request: it executes, waits, or is rejected for the reason that is returned."""
        self._pass_time(now)
        if self.queuing is None:
            if not self._fits(ticket.work):
                ticket.state = State.REJECTED
                return "concurrency-limit"
            self._start(ticket)
            return ""
        queue = self._choose(hand)
        if self.seats >= self.limit and len(queue.waiting) >= self.queuing.length_limit:
            ticket.state = State.REJECTED
            return "queue-full"
        ticket.queue = queue
        ticket.arrived = self.progress
        if not queue.executing and not queue.waiting:
            self._busy += 1
            queue.next_start = self.progress
        if not self.waiting and self._fits(ticket.work):
            queue.next_start = max(queue.next_start, self.progress)
            self._start(ticket)
            return ""
        queue.waiting.append(ticket)
        queue.waiting_work += ticket.work.total
        self.waiting += 1
        self.waiting_seats += ticket.work.width
        self._note_peak()
        self._bound(queue)
        self.dispatch()
        return ""

    def _note_peak(self) -> None:
        wanted = self.seats + self.waiting_seats
        if wanted > self.peak:
            self.peak = wanted

    def _choose(self, hand: Sequence[int]) -> Queue:
        """Return the queue of the hand with the least work, another first each time."""
        self._arrivals += 1
        count = len(hand)
        first = self._arrivals % count
        best = hand[first]
        if self.waiting:
            least = self._work_in(best)
            for step in range(1, count):
                index = hand[(first + step) % count]
                work = self._work_in(index)
                if work < least:
                    best, least = index, work
        queue = self.queues.get(best)
        if queue is None:
            queue = self.queues[best] = Queue(best)
        return queue

    def _work_in(self, index: int) -> float:
        queue = self.queues.get(index)
        return queue.waiting_work if queue is not None else 0.0

    def _start(self, ticket: Ticket) -> None:
        ticket.state = State.EXECUTING
        ticket.started_at = self._now
        ticket.held = ticket.work.width
        self.executing += 1
        self.seats += ticket.held
        self._note_peak()
        queue = ticket.queue
        if queue is not None:
            queue.executing += 1
            queue.seats += ticket.held
            queue.next_start += ticket.work.total
        ticket.admit()

    def dispatch(self) -> None:
        """Give free seats to those whose turn it is."""
        while self.waiting and self.seats < self.limit:
            queue = self._next()
            if not self._fits(queue.waiting[0].work):
                return
            ticket = queue.waiting.popleft()
            self._unwait(queue, ticket)
            self._last = queue.index
            self._start(ticket)
            self._bound(queue)

    def _next(self) -> Queue:
        """Return the queue whose next request would be done first; equals take turns."""

        def order(queue: Queue) -> tuple[float, bool, int]:
            return queue.next_start + queue.waiting[0].work.total, queue.index <= self._last, queue.index

        return min((queue for queue in self.queues.values() if queue.waiting), key=order)

    def _unwait(self, queue: Queue, ticket: Ticket) -> None:
        queue.waiting_work = queue.waiting_work - ticket.work.total if queue.waiting else 0.0
        self.waiting -= 1
        self.waiting_seats -= ticket.work.width

    @staticmethod
    def _bound(queue: Queue) -> None:
        """Let nobody save up turns: time before the oldest request came does not count."""
        if queue.waiting:
            queue.next_start = max(queue.next_start, queue.waiting[0].arrived)

    def abandon(self, ticket: Ticket, now: float) -> None:
        """Let a waiting request go unserved."""
        self._pass_time(now)
        queue = ticket.queue
        assert queue is not None
        assert ticket.state is State.WAITING
        queue.waiting.remove(ticket)
        self._unwait(queue, ticket)
        ticket.state = State.REJECTED
        self._rest(queue)
        self._bound(queue)
        self.dispatch()

    def _rest(self, queue: Queue) -> None:
        if not queue.executing and not queue.waiting:
            self._busy -= 1
            if len(self.queues) > IDLE_QUEUES_MAX:
                self.queues.pop(queue.index, None)

    def answered(self, ticket: Ticket, now: float) -> bool:
        """Take back a served request's seats; tell whether it keeps some until ``finish``."""
        self._pass_time(now)
        work = ticket.work
        queue = ticket.queue
        kept = work.final_seats if work.final_s > 0 else 0
        self.executing -= 1
        self.seats -= ticket.held - kept
        if queue is not None:
            queue.executing -= 1
            queue.seats -= ticket.held - kept
            queue.next_start += work.seats * (now - ticket.started_at - SERVICE_S)
            self._rest(queue)
            self._bound(queue)
        ticket.held = kept
        ticket.state = State.FINISHING if kept else State.ENDED
        self.dispatch()
        return kept > 0

    def finish(self, ticket: Ticket, now: float) -> None:
        """Take back what a request kept after its answer."""
        self._pass_time(now)
        self.seats -= ticket.held
        if ticket.queue is not None:
            ticket.queue.seats -= ticket.held
        ticket.held = 0
        ticket.state = State.ENDED
        self.dispatch()
