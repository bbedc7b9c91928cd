"""An idle cluster's heartbeats are answered without a pass, and nothing that needs one goes without."""

import random
from collections import deque

import pytest

from proto.raft import message_pb2 as pb
from store.raft.elections import Timing
from store.raft.environment import Identity
from store.raft.replica import Replica
from tests.simulation.machines import ListMachine
from tests.simulation.world import SimulatedDisk, VirtualClock


class Three:
    """Three members whose frames arrive at once and in order."""

    def __init__(self) -> None:
        self.clock = VirtualClock(100.0)
        self.frames: deque[tuple[int, int, pb.Frame]] = deque()
        self.replicas = {
            one: Replica(
                Identity(0xC1, one, tuple(peer for peer in (1, 2, 3) if peer != one)), ListMachine(), SimulatedDisk(),
                self.clock, random.Random(one), lambda to, frame, own=one: self.frames.append((own, to, frame)),  # type: ignore[misc]
                Timing(0.1, 1.0),
            )
            for one in (1, 2, 3)
        }  # fmt: skip
        for one, replica in self.replicas.items():
            for peer in self.replicas:
                if peer != one:
                    replica.connected(peer)

    def carry(self) -> list[tuple[str, bool]]:
        """Deliver until nothing is under way; return each frame's kind and whether a pass was asked for."""
        seen = []
        while self.frames:
            source, target, frame = self.frames.popleft()
            wanted = self.replicas[target].receive(source, frame)
            seen.append((str(frame.WhichOneof("body")), wanted))
            if wanted:
                self.replicas[target].advance()
        return seen

    def settle(self) -> Replica:
        """Let a leader be found and everything applied everywhere; return the leader."""
        for _ in range(200):
            self.clock.now += 0.05
            for replica in self.replicas.values():
                replica.advance()
            self.carry()
        return next(replica for replica in self.replicas.values() if replica.serving)


@pytest.fixture
def three() -> Three:
    return Three()


def test_an_idle_heartbeat_wants_no_pass(three: Three) -> None:
    leader = three.settle()
    three.clock.now += 0.15
    leader.advance()
    seen = three.carry()
    assert sorted(kind for kind, _ in seen) == ["acknowledgement"] * 2 + ["append_entries"] * 2
    assert not any(wanted for _, wanted in seen)


def test_heartbeats_alone_keep_the_leader_for_long(three: Three) -> None:
    leader = three.settle()
    term = leader.core.term
    for _ in range(100):
        three.clock.now += 0.11
        for replica in three.replicas.values():
            if replica.next_deadline() <= three.clock.now:
                replica.advance()
        three.carry()
    assert leader.serving
    assert leader.core.term == term


@pytest.mark.parametrize("what", ["proposal here", "proposal there", "read here", "read there"])
def test_what_waits_gets_its_passes(three: Three, what: str) -> None:
    leader = three.settle()
    chosen = leader if what.endswith("here") else next(one for one in three.replicas.values() if one is not leader)
    done: list[object] = []
    if what.startswith("proposal"):
        chosen.propose(b"x", lambda result, error: done.append(error or result))
    else:
        chosen.read_index(done.append)
    chosen.advance()
    three.carry()
    for _ in range(3):
        three.clock.now += 0.11
        leader.advance()
        three.carry()
    assert len(done) == 1
    assert len({replica.core.applied_index for replica in three.replicas.values()}) == 1
