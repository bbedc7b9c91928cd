"""A cluster of replicas in a simulated world, with the invariants that must hold after every event."""

from __future__ import annotations

import hashlib
import random
import struct
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from proto.raft import message_pb2 as pb
from store.raft.contract import OutcomeUnknownError, ProposalError
from store.raft.elections import Timing
from store.raft.replica import Identity, Limits, Replica
from tests.simulation.world import PowerLossError, SimulatedDisk, SimulatedNetwork, VirtualClock, Weather

CLUSTER_ID = 0xC1


class ListMachine:
    """A state machine that keeps everything it was given, in order."""

    def __init__(self) -> None:
        self.applied: list[tuple[int, bytes]] = []

    def apply(self, index: int, now_ns: int, payload: bytes) -> object:
        self.applied.append((index, payload))
        return len(self.applied)

    def snapshot(self) -> Iterator[bytes]:
        kept = list(self.applied)
        for start in range(0, len(kept), 10):
            parts = [struct.pack("<QI", index, len(payload)) + payload for index, payload in kept[start : start + 10]]
            yield b"".join(parts)

    def restore(self, chunks: Iterable[bytes]) -> None:
        self.applied = []
        for chunk in chunks:
            at = 0
            while at < len(chunk):
                index, length = struct.unpack_from("<QI", chunk, at)
                at += 12
                self.applied.append((index, chunk[at : at + length]))
                at += length


@dataclass
class Member:
    member_id: int
    disk: SimulatedDisk
    machine: ListMachine = field(default_factory=ListMachine)
    replica: Replica | None = None
    starts: int = 0
    touched: bool = False
    """It has input that it has not dealt with."""
    deadline: float = 0.0


@dataclass
class Outcome:
    """What a client was told of one request."""

    payload: bytes
    result: object = None
    error: ProposalError | None = None
    done: bool = False


class Cluster:
    """Members, world and checks; everything follows from the seed."""

    def __init__(self, seed: int, size: int = 3, weather: Weather | None = None, limits: Limits | None = None) -> None:
        self.seed = seed
        self.chance = random.Random(seed)
        self.clock = VirtualClock()
        self.limits = limits or Limits(request_timeout_s=3.0, snapshot_entries=10_000)
        self.timing = Timing(0.1, 1.0)
        self.network = SimulatedNetwork(self.clock, random.Random(seed + 1), self._deliver, weather or Weather())
        self.members = {one: Member(one, SimulatedDisk()) for one in range(1, size + 1)}
        self.make_replica: Callable[..., Replica] = Replica
        self.leaders: dict[int, int] = {}
        self.history: dict[int, list[bytes]] = {}
        self.outcomes: list[Outcome] = []
        self.trace = hashlib.sha256()
        self._proposed = 0

    # Running.

    def start_all(self) -> None:
        for member_id in self.members:
            self.start(member_id)

    def start(self, member_id: int) -> None:
        member = self.members[member_id]
        member.machine = ListMachine()
        member.starts += 1
        peers = tuple(one for one in self.members if one != member_id)
        try:
            member.replica = self.make_replica(
                Identity(CLUSTER_ID, member_id, peers),
                member.machine,
                member.disk,
                self.clock,
                random.Random(self.seed * 1000 + member_id * 100 + member.starts),
                lambda peer, frame: self._send(member_id, peer, frame),
                self.timing,
                self.limits,
            )
        except PowerLossError:
            self.crash(member_id)
            return
        for peer in peers:
            self._connect(member_id, peer)
        self._check_member(member)

    def crash(self, member_id: int) -> None:
        """Take the power away: what was not synced is lost, and all frames under way from here may still arrive."""
        member = self.members[member_id]
        member.replica = None
        member.disk.lose_power(self.chance)
        for other in self.members.values():
            if other.replica is not None:
                other.replica.disconnected(member_id)

    def run(self, seconds: float, until: Callable[[], bool] | None = None) -> None:
        """Let events happen until a time has gone by."""
        end = self.clock.now + seconds
        while until is None or not until():
            at = min([self.network.next_at(), *(self._deadline(member) for member in self.members.values())])
            if at > end:
                self.clock.now = end
                return
            self.clock.now = max(self.clock.now, at)
            self.network.deliver_due()
            for member in self.members.values():
                if member.replica is not None and self._deadline(member) <= self.clock.now:
                    member.touched = False
                    self._guarded(member, member.replica.advance)
                    if member.replica is not None:
                        member.deadline = member.replica.next_deadline()
                    self._check_member(member)

    def _deadline(self, member: Member) -> float:
        if member.replica is None:
            return float("inf")
        return self.clock.now if member.touched else member.deadline

    def _guarded(self, member: Member, call: Callable[[], None]) -> None:
        try:
            call()
        except PowerLossError:
            self.crash(member.member_id)

    def _connect(self, member_id: int, peer_id: int) -> None:
        here, there = self.members[member_id].replica, self.members[peer_id].replica
        if here is not None and there is not None:
            here.connected(peer_id)
            there.connected(member_id)
            self.members[member_id].touched = self.members[peer_id].touched = True

    def _send(self, source: int, target: int, frame: pb.Frame) -> bool:
        data = frame.SerializeToString(deterministic=True)
        self.trace.update(struct.pack("<dQQ", self.clock.now, source, target) + data)
        self.network.send(source, target, data)
        return True

    def _deliver(self, source: int, target: int, data: bytes) -> None:
        member = self.members[target]
        replica = member.replica
        if replica is not None:
            member.touched = True
            self._guarded(member, lambda: replica.receive(source, pb.Frame.FromString(data)))

    # Faults.

    def isolate(self, member_id: int) -> None:
        for peer in self.members:
            if peer != member_id:
                self.network.cut.add(frozenset((member_id, peer)))

    def heal(self) -> None:
        self.network.cut.clear()
        for member_id in self.members:
            for peer in self.members:
                if peer > member_id:
                    self._connect(member_id, peer)

    # Clients.

    def leader(self) -> Replica | None:
        serving = [one.replica for one in self.members.values() if one.replica is not None and one.replica.serving]
        return max(serving, key=lambda replica: replica.core.term, default=None)

    def elect(self) -> Replica:
        """Run until a leader serves."""
        self.run(30.0, until=lambda: self.leader() is not None)
        leader = self.leader()
        assert leader is not None, f"no leader; seed={self.seed}"
        return leader

    def propose(self, member_id: int | None = None, payload: bytes = b"") -> Outcome:
        self._proposed += 1
        outcome = Outcome(payload or b"write-%d" % self._proposed)
        self.outcomes.append(outcome)
        living = [one for one in self.members.values() if one.replica is not None]
        if member_id is not None:
            living = [one for one in living if one.member_id == member_id]
        if not living:
            outcome.done, outcome.error = True, OutcomeUnknownError("down")
            return outcome
        replica = self.chance.choice(living).replica
        assert replica is not None

        def done(result: object, error: ProposalError | None) -> None:
            outcome.result, outcome.error, outcome.done = result, error, True

        replica.propose(outcome.payload, done)
        self.members[replica.member_id].touched = True
        return outcome

    def read(self, member_id: int | None = None) -> None:
        """Read through a barrier, and check that everything acknowledged before is seen."""
        living = [one for one in self.members.values() if one.replica is not None]
        if member_id is not None:
            living = [one for one in living if one.member_id == member_id]
        if not living:
            return
        member = self.chance.choice(living)
        assert member.replica is not None
        expected = {outcome.payload for outcome in self.outcomes if outcome.done and outcome.error is None}

        def done(index: int | None) -> None:
            if index is not None:
                seen = {payload for _, payload in member.machine.applied}
                assert expected <= seen, f"stale read; seed={self.seed} missing={sorted(expected - seen)}"

        member.replica.read_index(done)
        member.touched = True

    # Checks.

    def _check_member(self, member: Member) -> None:
        replica = member.replica
        if replica is None:
            return
        core = replica.core
        if core.is_leader:
            other = self.leaders.setdefault(core.term, member.member_id)
            assert other == member.member_id, f"two leaders in term {core.term}; seed={self.seed}"
        applied = [payload for _, payload in member.machine.applied]
        longest = self.history.setdefault(0, [])
        common = min(len(applied), len(longest))
        # Only what is new is compared: what was compared once cannot change in the list.
        start = min(member.machine.__dict__.setdefault("checked", 0), common)
        assert applied[start:common] == longest[start:common], f"members differ; seed={self.seed}"
        member.machine.__dict__["checked"] = common
        if len(applied) > len(longest):
            longest.extend(applied[len(longest) :])

    def check_settled(self) -> None:
        """After all faults: everything acknowledged is there once, on every member."""
        longest = self.history.get(0, [])
        assert len(set(longest)) == len(longest), f"a write took effect twice; seed={self.seed}"
        present = set(longest)
        lost = [one.payload for one in self.outcomes if one.done and one.error is None and one.payload not in present]
        assert not lost, f"acknowledged writes are lost: {lost}; seed={self.seed}"
        for member in self.members.values():
            applied = [payload for _, payload in member.machine.applied]
            assert applied == longest, f"member {member.member_id} is behind or differs; seed={self.seed}"
