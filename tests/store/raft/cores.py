"""One Raft core with a disk in memory, and its frames caught."""

from __future__ import annotations

import random
from collections.abc import Sequence

from proto.raft import message_pb2 as pb
from store.raft.consensus import RaftCore
from store.raft.elections import Timing
from store.raft.journal import Journal
from store.raft.membership import Membership, encode
from store.raft.wal import Entry, Wal
from tests.simulation.world import SimulatedDisk, VirtualClock


class Bench:
    """A core under test as member 1 of three; the others are the test."""

    def __init__(
        self,
        core_class: type[RaftCore] = RaftCore,
        peers: Sequence[int] = (2, 3),
        disk: SimulatedDisk | None = None,
        membership: Membership | None = None,
    ) -> None:
        self.disk = disk or SimulatedDisk()
        self.clock = VirtualClock(100.0)
        wal = Wal(self.disk, 0xC1, 1)
        self.journal = Journal(wal, wal.open(encode(membership) if membership is not None else b""))
        self.sent: list[tuple[int, pb.Frame]] = []
        self.applied: list[tuple[int, bytes]] = []
        self.core = core_class(
            1,
            peers,
            self.journal,
            self.clock.monotonic,
            random.Random(1),
            Timing(),
            lambda peer, frame: self.sent.append((peer, frame)),
            lambda index, command: self.applied.append((index, command)),
        )
        for peer in peers:
            self.core.connected(peer)

    def receive(self, peer: int, **body: object) -> None:
        self.core.receive(peer, pb.Frame(**body))  # type: ignore[arg-type]

    def append(
        self,
        entries: Sequence[Entry] = (),
        previous: tuple[int, int] = (1, 0),
        term: int = 1,
        commit: int = 1,
        leader: int = 2,
    ) -> None:
        body = pb.AppendEntries(
            term=term,
            previous_index=previous[0],
            previous_term=previous[1],
            commit_index=commit,
            entries=[pb.Entry(index=index, term=at, command=command) for command, index, at in entries],
        )
        self.receive(leader, append_entries=body)

    def lead(self) -> None:
        """Make the core the leader of term 1, its no-operation committed."""
        self.clock.now += 5.0
        self.core.tick()
        self.receive(2, pre_vote=pb.PreVote(term=1, granted=True))
        self.core.tick()
        self.receive(2, vote=pb.Vote(term=1))
        assert self.core.is_leader
        self.core.sync()
        self.acknowledge(2, self.journal.last_index + 1)
        self.core.tick()
        assert self.core.term_started
        self.sent.clear()

    def acknowledge(self, peer: int, next_index: int, term: int = 0) -> None:
        body = pb.Acknowledgement(term=term or self.core.term, next_index=next_index, success=True)
        self.receive(peer, acknowledgement=body)

    def take(self, kind: str) -> list[pb.Frame]:
        """Return what was sent of a kind, and forget everything sent."""
        frames = [frame for _, frame in self.sent if frame.WhichOneof("body") == kind]
        self.sent.clear()
        return frames


def log(first: int, last: int, term: int = 1) -> list[Entry]:
    return [(b"\x10entry-%d-%d" % (index, term), index, term) for index in range(first, last + 1)]
