"""Requests on their way into the log: waiting here for their result, and queued at the leader for the next group."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from proto.raft import command_pb2
from store.raft.contract import Done, NoLeaderError, OutcomeUnknownError


@dataclass
class Proposal:
    """A request of this member that has no result yet."""

    request: command_pb2.Request
    deadline: float
    done: Done
    sent_to: tuple[int, int] | None = None
    """The leader and term that it was last handed to."""
    sent_at: float = 0.0


class Waiting:
    """The requests of this member that have no result yet, oldest first."""

    def __init__(self, member_id: int, first_sequence: int) -> None:
        self._member_id = member_id
        self._next = first_sequence
        self._proposals: dict[int, Proposal] = {}
        self._unsent: deque[int] = deque()

    def __len__(self) -> int:
        return len(self._proposals)

    def add(self, payload: bytes, deadline: float, done: Done) -> None:
        """Number a request and have it wait."""
        sequence = self._next
        self._next += 1
        request = command_pb2.Request(member_id=self._member_id, sequence=sequence, payload=payload)
        self._proposals[sequence] = Proposal(request, deadline, done)
        self._unsent.append(sequence)

    @property
    def has_unsent(self) -> bool:
        """Whether some request is to be handed to the leader."""
        return bool(self._unsent)

    def take_unsent(self, leader: tuple[int, int], now: float, bytes_max: int) -> list[command_pb2.Request]:
        """Return requests for the leader, in order, up to a size; at least one where any waits."""
        taken: list[command_pb2.Request] = []
        total = 0
        while self._unsent:
            proposal = self._proposals.get(self._unsent[0])
            if proposal is not None:
                total += len(proposal.request.payload)
                if taken and total > bytes_max:
                    break
                proposal.sent_to, proposal.sent_at = leader, now
                taken.append(proposal.request)
            self._unsent.popleft()
        return taken

    def send_again(self, leader: tuple[int, int] | None = None, before: float = float("-inf")) -> None:
        """Hand over again what another leader got (all, if none is given), or what was sent before a time.

        It is applied once all the same.
        """
        self._unsent = deque(
            sequence
            for sequence, proposal in self._proposals.items()
            if leader is None or proposal.sent_to != leader or proposal.sent_at < before
        )

    def resolve(self, sequence: int, result: object) -> None:
        """Give a request its result."""
        proposal = self._proposals.pop(sequence, None)
        if proposal is not None:
            proposal.done(result, None)

    def forget(self, applied: Callable[[int], bool]) -> None:
        """End the requests whose effect came with a snapshot: they were applied, but the result is not known here."""
        for sequence in [sequence for sequence in self._proposals if applied(sequence)]:
            self._proposals.pop(sequence).done(None, OutcomeUnknownError("applied within a snapshot: result not known"))

    def expire(self, now: float) -> None:
        """End the requests whose time is over."""
        if self.next_deadline() > now:
            return
        late = [sequence for sequence, proposal in self._proposals.items() if proposal.deadline <= now]
        for sequence in late:
            proposal = self._proposals.pop(sequence)
            if proposal.sent_to is None:
                proposal.done(None, NoLeaderError("no leader was found in time"))
            else:
                proposal.done(None, OutcomeUnknownError("no result in time"))

    def end(self) -> None:
        """End everything: this member stops."""
        self.expire(float("inf"))

    def next_deadline(self) -> float:
        """Return when the first request gives up; they are in the order of their deadlines."""
        for proposal in self._proposals.values():
            return proposal.deadline
        return float("inf")


class Groups:
    """The leader's queue of requests and its groups under way."""

    def __init__(self, bytes_max: int, requests_max: int, depth: int = 2) -> None:
        self._bytes_max = bytes_max
        self._requests_max = requests_max
        self._depth = depth
        self._queue: deque[command_pb2.Request] = deque()
        self._under_way: deque[int] = deque()

    def __len__(self) -> int:
        return len(self._queue)

    @property
    def ready(self) -> bool:
        """Whether a group can be made now."""
        return bool(self._queue) and len(self._under_way) < self._depth

    def add(self, requests: Iterable[command_pb2.Request]) -> None:
        """Queue requests; those above the bound are left out and come again from where they wait."""
        for request in requests:
            if len(self._queue) >= self._requests_max:
                return
            self._queue.append(request)

    def take(self) -> list[command_pb2.Request]:
        """Return the next group: everything that waits, up to the group's size."""
        group: list[command_pb2.Request] = []
        total = 0
        while self._queue:
            total += len(self._queue[0].payload) + 32
            if group and total > self._bytes_max:
                break
            group.append(self._queue.popleft())
        return group

    def started(self, index: int) -> None:
        """Take note that a group stands in the log."""
        self._under_way.append(index)

    def applied(self, index: int) -> None:
        """Take note of what has been applied."""
        while self._under_way and self._under_way[0] <= index:
            self._under_way.popleft()

    def clear(self) -> None:
        """Forget everything: this member leads no longer, and each request comes again from where it waits."""
        self._queue.clear()
        self._under_way.clear()
