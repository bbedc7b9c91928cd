"""Requests on their way into the log: waiting here for their result, and queued at the leader for the next group."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import NamedTuple

from proto.raft import command_pb2
from store.raft.contract import Done, NoLeaderError, OutcomeUnknownError

BATCH_BYTES_MAX = 4 << 20
"""No member hands over more at once; what comes above it is not for the log."""


class Sent(NamedTuple):
    """To whom requests were handed."""

    leader: tuple[int, int]
    """Member and term."""
    at: float


class Proposal:
    """A request of this member that has no result yet."""

    __slots__ = ("deadline", "done", "payload", "sent")

    def __init__(self, payload: bytes, deadline: float, done: Done) -> None:
        self.payload = payload
        self.deadline = deadline
        self.done = done
        self.sent: Sent | None = None
        """Whom it was last handed to."""


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
        self._proposals[sequence] = Proposal(payload, deadline, done)
        self._unsent.append(sequence)

    @property
    def has_unsent(self) -> bool:
        """Whether some request is to be handed to the leader."""
        return bool(self._unsent)

    def take_unsent(self, leader: tuple[int, int], now: float, bytes_max: int) -> command_pb2.Batch | None:
        """Return the next requests for the leader, up to a size; None where no request waits for that."""
        payloads: list[bytes] = []
        sent = Sent(leader, now)
        first = total = 0
        unsent, proposals = self._unsent, self._proposals
        while unsent:
            sequence = unsent[0]
            proposal = proposals.get(sequence)
            if proposal is not None:
                total += len(proposal.payload)
                if payloads and (total > bytes_max or sequence != first + len(payloads)):
                    break
                if not payloads:
                    first = sequence
                proposal.sent = sent
                payloads.append(proposal.payload)
            unsent.popleft()
        if not payloads:
            return None
        return command_pb2.Batch(member_id=self._member_id, first_sequence=first, payloads=payloads)

    def send_again(self, leader: tuple[int, int] | None = None, before: float = float("-inf")) -> None:
        """Hand over again what another leader got (all, if none is given), or what was sent before a time.

        It is applied once all the same.
        """
        self._unsent = deque(
            sequence
            for sequence, proposal in self._proposals.items()
            if leader is None or proposal.sent is None or proposal.sent.leader != leader or proposal.sent.at < before
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
            if proposal.sent is None:
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
        self._queue: deque[command_pb2.Batch] = deque()
        self._requests = 0
        self._taken = 0
        self._under_way: deque[tuple[int, int]] = deque()
        """Index and requests of each group."""

    def __len__(self) -> int:
        return self._requests

    @property
    def ready(self) -> bool:
        """Whether a group is to be made now.

        Beside one under way another is worth its fixed cost once as many requests wait as are under way.
        """
        if not self._queue or len(self._under_way) >= self._depth:
            return False
        return self._requests >= sum(requests for _, requests in self._under_way)

    def add(self, batch: command_pb2.Batch) -> None:
        """Queue requests; beyond the bound they are left out and come again from where they wait."""
        if self._requests < self._requests_max and batch.ByteSize() <= BATCH_BYTES_MAX:
            self._queue.append(batch)
            self._requests += len(batch.payloads)

    def take(self) -> list[command_pb2.Batch]:
        """Return the next group: everything that waits, up to the group's size."""
        group: list[command_pb2.Batch] = []
        total, before = 0, self._requests
        while self._queue:
            total += self._queue[0].ByteSize()
            if group and total > self._bytes_max:
                break
            group.append(self._queue.popleft())
            self._requests -= len(group[-1].payloads)
        self._taken = before - self._requests
        return group

    def started(self, index: int) -> None:
        """Take note that the group last taken stands in the log."""
        self._under_way.append((index, self._taken))

    def applied(self, index: int) -> None:
        """Take note of what has been applied."""
        while self._under_way and self._under_way[0][0] <= index:
            self._under_way.popleft()

    def clear(self) -> None:
        """Forget everything: this member leads no longer, and each request comes again from where it waits."""
        self._queue.clear()
        self._requests = 0
        self._under_way.clear()
