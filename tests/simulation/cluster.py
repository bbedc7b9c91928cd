"""A cluster of replicas in a simulated world, with the invariants that must hold after every event."""

from __future__ import annotations

import hashlib
import random
import struct
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from proto.raft import message_pb2 as pb
from store.raft.contract import OutcomeUnknownError, ProposalError, StateMachine
from store.raft.elections import Timing
from store.raft.environment import Identity, Limits
from store.raft.membership import Membership
from store.raft.replica import Replica
from tests.simulation.invariants import Invariants
from tests.simulation.machines import Agreement, ListMachine, Recorder, recorded
from tests.simulation.network import Agenda, SimulatedNetwork, Weather
from tests.simulation.world import KilledError, MemberClock, PowerLossError, SimulatedDisk, VirtualClock

CLUSTER_ID = 0xC1
IDLE_ADVANCES_MAX = 1000
"""Passes in a row that nobody asked for, each within a millisecond: the owner would spin."""
_SHORTLY_S = 1e-5


@dataclass
class Member:
    """One place of the cluster: a disk and a clock, and while it runs a replica and its machine."""

    member_id: int
    disk: SimulatedDisk
    clock: MemberClock
    wake: Callable[[], None]
    machine: Recorder
    replica: Replica | None = None
    joins: Membership | None = None
    """What a member that came later was told of the cluster."""
    starts: int = 0
    inbox: deque[Callable[[Replica], object]] = field(default_factory=deque)
    busy_until: float = 0.0
    """It waits for its disk, or does not run, until then."""
    wake_at: float = float("inf")
    served_at: float = 0.0
    idle_advances: int = 0

    @property
    def running(self) -> Replica:
        assert self.replica is not None, f"member {self.member_id} does not run"
        return self.replica

    @property
    def touched(self) -> bool:
        """Whether it has input that it has not dealt with."""
        return bool(self.inbox)

    @touched.setter
    def touched(self, _: bool) -> None:
        self.wake()


@dataclass
class Outcome:
    """What a client was told of one request."""

    payload: bytes
    result: object = None
    error: ProposalError | None = None
    done: bool = False


class Cluster:
    """Members, world and checks; everything follows from the seed."""

    def __init__(
        self,
        seed: int,
        size: int = 3,
        weather: Weather | None = None,
        limits: Limits | None = None,
        make_machine: Callable[[], StateMachine] = ListMachine,
    ) -> None:
        self.seed = seed
        self.chance = random.Random(seed)
        self.clock = VirtualClock()
        self.limits = limits or Limits(request_timeout_s=3.0, snapshot_entries=10_000)
        self.timing = Timing(0.1, 1.0)
        self.agenda = Agenda(self.clock)
        self.network = SimulatedNetwork(self.agenda, random.Random(seed + 1), self._deliver, weather or Weather())
        self.make_machine = make_machine
        self.make_replica: Callable[..., Replica] = Replica
        self.agreement = Agreement(seed)
        self.invariants = Invariants(seed)
        self.first_ids = tuple(range(1, size + 1))
        self.members: dict[int, Member] = {}
        for member_id in range(1, size + 1):
            self.add_member(member_id)
        self.outcomes: list[Outcome] = []
        self.acknowledged: set[bytes] = set()
        self.trace = hashlib.sha256()
        self.narrate: Callable[[str], None] | None = None
        """Takes one line for each thing that happens, for those who replay a seed."""
        self.on_frame: Callable[[int, int, pb.Frame], None] = lambda _source, _target, _frame: None
        """Told of each frame that a member sends."""
        self.on_start: list[Callable[[Member], None]] = []
        self._proposed = 0

    def add_member(self, member_id: int) -> Member:
        """Give a new member a place; it does not run yet."""
        disk = SimulatedDisk(chance=random.Random(self.seed * 31 + member_id))
        clock = MemberClock(self.clock)
        machine = recorded(self.make_machine(), self.agreement)
        member = Member(member_id, disk, clock, lambda: self._wake(member, self.clock.now), machine)
        self.members[member_id] = member
        return member

    def fingerprint(self) -> str:
        """Return what is the same whenever a seed is lived, wherever: all frames, and all that was applied."""
        whole = self.trace.copy()
        whole.update(self.agreement.fingerprint())
        return whole.hexdigest()

    def tell(self, what: str) -> None:
        """Narrate, where somebody listens."""
        if self.narrate is not None:
            self.narrate(f"{self.clock.now:10.5f} {what}")

    # Running.

    def start_all(self) -> None:
        for member_id in self.members:
            self.start(member_id)

    def start(self, member_id: int) -> None:
        member = self.members[member_id]
        member.machine = recorded(self.make_machine(), self.agreement)
        member.starts += 1
        member.busy_until = member.clock.spent_s = 0.0
        self.tell(f"member {member_id} starts")
        if not self._guarded(member, lambda: self._make(member)) or member.replica is None:
            return
        self.invariants.started(member_id)
        for callback in self.on_start:
            callback(member)
        for peer in self.peers_of(member_id):
            self.connect(member_id, peer)
        self.invariants.check(member_id, member.running)
        self._took_time(member)
        self._wake(member, self.clock.now)

    def _make(self, member: Member) -> None:
        member_id = member.member_id
        member.replica = self.make_replica(
            Identity(CLUSTER_ID, member_id, tuple(one for one in self.first_ids if one != member_id)),
            member.machine,
            member.disk,
            member.clock,
            random.Random(self.seed * 1000 + member_id * 100 + member.starts),
            lambda peer, frame: self._send(member, peer, frame),
            self.timing,
            self.limits,
            **({"membership": member.joins} if member.joins is not None else {}),
        )

    def peers_of(self, member_id: int) -> Iterable[int]:
        """Whom a member exchanges frames with."""
        return [one for one in self.members if one != member_id]

    def crash(self, member_id: int) -> None:
        """Take the power away: what was not synced is lost, and all frames under way from here may still arrive."""
        self.tell(f"member {member_id} loses its power")
        self._ended(member_id)
        self.members[member_id].disk.lose_power(self.chance)

    def kill(self, member_id: int) -> None:
        """End the process alone: the kernel keeps what it was given."""
        self.tell(f"member {member_id} is killed")
        self._ended(member_id)
        self.members[member_id].disk.end_process()

    def give_up(self, member_id: int, error: OSError) -> None:
        """End a member as the program ends after a failure of its disk."""
        self.tell(f"member {member_id} gives up: {error}")
        member = self.members[member_id]
        replica, member.replica = member.replica, None
        if replica is not None:
            try:
                replica.stop()
            except OSError as again:
                if again.errno != error.errno:
                    raise AssertionError(f"the end fails by itself; seed={self.seed}") from again
            except (PowerLossError, KilledError):
                self.tell(f"member {member_id} is ended while it ends")
        self._ended(member_id)

    def _ended(self, member_id: int) -> None:
        member = self.members[member_id]
        member.replica = None
        member.disk.revive()
        member.inbox.clear()
        member.wake_at = float("inf")
        member.clock.spent_s = 0.0
        for other in self.members.values():
            if other.replica is not None and member_id in self.peers_of(other.member_id):
                other.replica.disconnected(member_id)

    def run(self, seconds: float, until: Callable[[], bool] | None = None) -> None:
        """Let events happen until a time has gone by."""
        end = self.clock.now + seconds
        agenda = self.agenda
        while until is None or not until():
            if agenda.next_at() > end:
                self.clock.now = end
                return
            agenda.step()

    def _wake(self, member: Member, at: float) -> None:
        at = max(at, member.busy_until, self.clock.now)
        if member.replica is not None and at < member.wake_at:
            member.wake_at = at
            self.agenda.at(at, lambda: self._woken(member, at))

    def _woken(self, member: Member, at: float) -> None:
        if member.wake_at != at or member.replica is None:
            return
        member.wake_at = float("inf")
        if self.clock.now < member.busy_until:
            self._wake(member, member.busy_until)
            return
        self._count_idle(member)
        if self._guarded(member, lambda: self._serve(member)):
            self.invariants.check(member.member_id, member.running)
            deadline = member.clock.world_time(member.running.next_deadline())
            self._took_time(member)
            self._wake(member, max(deadline, self.clock.now + _SHORTLY_S))

    def _serve(self, member: Member) -> None:
        replica = member.running
        if len(member.inbox) > 1 and self.chance.random() < 0.1:
            # A timer that is due runs before the sockets are read.
            replica.advance()
            self.invariants.check(member.member_id, replica)
        spared = bool(member.inbox)
        for _ in range(len(member.inbox)):
            spared &= member.inbox.popleft()(replica) is False  # as the real loop does after an idle cluster's frames
        if not spared or replica.next_deadline() <= member.clock.monotonic():
            replica.advance()

    def _count_idle(self, member: Member) -> None:
        soon = self.clock.now - member.served_at < 0.001
        member.idle_advances = member.idle_advances + 1 if soon and not member.inbox else 0
        member.served_at = self.clock.now
        assert member.idle_advances < IDLE_ADVANCES_MAX, f"member {member.member_id} spins; seed={self.seed}"

    def _took_time(self, member: Member) -> None:
        """Have the member do nothing else for as long as its disk took."""
        if member.clock.spent_s:
            member.busy_until = self.clock.now + member.clock.spent_s
            member.clock.spent_s = 0.0

    def _guarded(self, member: Member, call: Callable[[], None]) -> bool:
        """Do something that may end the member; tell whether it lives."""
        try:
            call()
        except PowerLossError:
            self.crash(member.member_id)
        except KilledError:
            self.kill(member.member_id)
        except OSError as error:
            self.give_up(member.member_id, error)
        else:
            return True
        return False

    def do(self, member: Member, call: Callable[[Replica], object]) -> None:
        """Have a member do something in its next pass."""
        member.inbox.append(call)
        self._wake(member, self.clock.now)

    def pause(self, member_id: int, seconds: float) -> None:
        """Stop a member's process for a while."""
        self.tell(f"member {member_id} is stopped for {seconds:.2f} s")
        member = self.members[member_id]
        member.busy_until = max(member.busy_until, self.clock.now + seconds)

    # Frames.

    def connect(self, member_id: int, peer_id: int) -> None:
        """Let two members notice that there is a link between them."""
        here, there = self.members[member_id].replica, self.members[peer_id].replica
        if (member_id, peer_id) in self.network.cut and (peer_id, member_id) in self.network.cut:
            return
        if here is not None and there is not None:
            here.connected(peer_id)
            there.connected(member_id)
            self.members[member_id].wake()
            self.members[peer_id].wake()

    def disconnect(self, member_id: int, peer_id: int) -> None:
        """Let both members notice that a link is gone."""
        for one, other in ((member_id, peer_id), (peer_id, member_id)):
            replica = self.members[one].replica
            if replica is not None:
                replica.disconnected(other)
                self.members[one].wake()

    def _send(self, member: Member, target: int, frame: pb.Frame) -> bool:
        data = frame.SerializeToString(deterministic=True)
        source = member.member_id
        self.trace.update(struct.pack("<dQQ", self.clock.now, source, target) + data)
        if self.narrate is not None:
            self.tell(f"{source} -> {target} {frame_said(frame)}")
        self.network.send(source, target, data, member.clock.spent_s)
        self.on_frame(source, target, frame)
        return True

    def _deliver(self, source: int, target: int, data: bytes) -> None:
        member = self.members[target]
        if member.replica is not None:
            self.do(member, lambda replica: replica.receive(source, pb.Frame.FromString(data)))

    # Faults.

    def isolate(self, member_id: int) -> None:
        for peer in self.members:
            if peer != member_id:
                self.network.separate(member_id, peer)

    def heal(self) -> None:
        self.network.heal()
        for member_id in self.members:
            for peer in self.peers_of(member_id):
                if peer > member_id:
                    self.connect(member_id, peer)

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

    def choose(self, member_id: int | None = None) -> Member | None:
        """Return a member that runs, or a certain one if it does."""
        living = [one for one in self.members.values() if one.replica is not None]
        if member_id is not None:
            living = [one for one in living if one.member_id == member_id]
        return self.chance.choice(living) if living else None

    def propose(self, member_id: int | None = None, payload: bytes = b"") -> Outcome:
        self._proposed += 1
        outcome = Outcome(payload or b"write-%d" % self._proposed)
        self.outcomes.append(outcome)
        member = self.choose(member_id)
        if member is None:
            outcome.done, outcome.error = True, OutcomeUnknownError("down")
            return outcome

        def done(result: object, error: ProposalError | None) -> None:
            outcome.result, outcome.error, outcome.done = result, error, True
            if error is None:
                self.acknowledged.add(outcome.payload)

        self.do(member, lambda replica: replica.propose(outcome.payload, done))
        return outcome

    def read(self, member_id: int | None = None) -> None:
        """Read through a barrier, and check that everything acknowledged before is seen."""
        member = self.choose(member_id)
        if member is None:
            return
        expected = set(self.acknowledged)

        def done(index: int | None) -> None:
            if index is not None:
                assert isinstance(member.machine.inner, ListMachine)
                missing = expected - member.machine.inner.seen
                assert not missing, f"stale read of member {member.member_id}; seed={self.seed} missing={missing}"

        self.do(member, lambda replica: replica.read_index(done))

    # Checks.

    def is_settled(self, members: Iterable[int]) -> bool:
        """Tell whether members have applied everything that any did, and none waits for anything."""
        count = len(self.agreement.payloads)
        return all(self.members[one].machine.count == count for one in members) and not any(
            len(replica._waiting) or replica._room.is_full
            for member in self.members.values()
            if (replica := member.replica) is not None
        )

    def check_settled(self, members: Iterable[int] | None = None) -> None:
        """After all faults: everything acknowledged is there once, on every member."""
        present = set(self.agreement.payloads)
        lost = self.acknowledged - present
        assert not lost, f"acknowledged writes are lost: {lost}; seed={self.seed}"
        states = set()
        for member_id in self.members if members is None else members:
            machine = self.members[member_id].machine
            behind = f"member {member_id} applied {machine.count} of {len(self.agreement.payloads)}"
            assert machine.count == len(self.agreement.payloads), f"{behind}; seed={self.seed}"
            states.add(machine.state())
        assert len(states) <= 1, f"members that applied the same have different states; seed={self.seed}"


def frame_said(frame: pb.Frame) -> str:
    """Put a frame into one line."""
    kind = frame.WhichOneof("body") or "nothing"
    if kind == "append_entries":
        body = frame.append_entries
        entries = f" entries {body.entries[0].index}..{body.entries[-1].index}" if body.entries else ""
        after = f"after {body.previous_index}/{body.previous_term}"
        return f"append term {body.term} {after}{entries} commit {body.commit_index} round {body.read_round}"
    return f"{kind} {' '.join(str(getattr(frame, kind)).split())[:160]}"
