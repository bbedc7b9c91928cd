"""Each defect of PySyncObj stays covered: the test that passes with the cover fails without it."""

from __future__ import annotations

import pickle
import random
from typing import Any

import pysyncobj.syncobj
import pytest
from pysyncobj import SyncObj

from proto.raft import message_pb2 as pb
from store.raft.consensus import RaftCore
from tests.simulation.world import SimulatedDisk
from tests.store.raft.cores import Bench, log

HOOKS = {
    "raftState", "raftCurrentTerm", "raftLeader", "raftLog", "raftLastApplied", "raftCommitIndex", "raftNextIndex",
    "raftMatchIndex", "raftElectionDeadline", "newAppendEntriesTime", "connectedNodes", "otherNodes", "readonlyNodes",
    "lastResponseTime",
}  # fmt: skip
"""Private attributes that we read or set."""
METHODS = {
    "onMessageReceived", "sendAppendEntries", "applyLogEntries", "doApplyCommand", "getEntries", "onBecomeLeader",
    "setState", "setCurrentTerm", "generateRaftTimeout", "tryLogCompaction", "loadDumpFile", "onNodeConnected",
    "parseChangeClusterRequest", "onNodeDisconnected",
}  # fmt: skip
"""Private methods that we call or replace."""


def test_the_library_is_the_one_that_was_read() -> None:
    assert pysyncobj.syncobj.VERSION == "0.3.17"


@pytest.mark.parametrize("name", sorted(METHODS))
def test_the_private_method_exists(name: str) -> None:
    assert callable(SyncObj.__dict__[f"_SyncObj__{name}"])


@pytest.mark.parametrize("name", sorted(HOOKS))
def test_the_private_attribute_exists(name: str) -> None:
    assert hasattr(Bench().core, f"_SyncObj__{name}")


@pytest.mark.parametrize("name", ["monotonicTime", "createJournal", "createPoller", "pickle"])
def test_the_module_is_entered_where_we_enter_it(name: str) -> None:
    """The library must look these up in its module, or replacing them would do nothing."""
    assert name in SyncObj.__init__.__globals__
    assert SyncObj.__init__.__globals__[name].__class__.__module__ != "pysyncobj.pickle"


def test_every_replaced_method_is_one_of_the_listed() -> None:
    replaced = {name.removeprefix("_SyncObj__") for name in vars(RaftCore) if name.startswith("_SyncObj__")}
    assert replaced <= METHODS


# D1: acknowledged entries are cut by old messages.


class WithoutD1(RaftCore):
    def _without_known_prefix(self, message: dict[str, Any]) -> tuple[dict[str, Any], bool]:
        return message, True


def old_duplicate(core_class: type[RaftCore]) -> Bench:
    bench = Bench(core_class)
    bench.append(log(2, 21), commit=5)
    bench.core.tick()
    assert bench.take("acknowledgement")[-1].acknowledgement.next_index == 22
    bench.append(log(6, 7), previous=(5, 1), commit=5)
    bench.core.tick()
    return bench


def test_d1_an_old_duplicate_voids_nothing() -> None:
    bench = old_duplicate(RaftCore)
    assert bench.journal.last_index == 21
    # It is acknowledged for what it proves, not for the rest of the log.
    assert bench.take("acknowledgement")[-1].acknowledgement.next_index == 8


def test_d1_without_the_cover_acknowledged_entries_are_gone() -> None:
    assert old_duplicate(WithoutD1).journal.last_index == 7


def test_d1_a_true_conflict_is_cut() -> None:
    bench = Bench()
    bench.append(log(2, 10, term=1), commit=3)
    bench.core.tick()
    bench.append(log(5, 6, term=2), previous=(4, 1), term=2, commit=4)
    bench.core.tick()
    assert bench.journal.last_index == 6
    assert [bench.journal.term_at(index) for index in (4, 5, 6)] == [1, 2, 2]


def test_d1_committed_entries_are_never_cut() -> None:
    bench = Bench()
    bench.append(log(2, 10), commit=10)
    bench.core.tick()
    with pytest.raises(AssertionError, match="is committed"):
        bench.append(log(5, 6, term=2), previous=(4, 1), term=2, commit=4)


def test_a_heartbeat_acknowledges_only_what_it_proves() -> None:
    """A leftover of an old term after the verified prefix must not count as replicated."""
    bench = Bench()
    bench.append(log(2, 10, term=1), commit=1)
    bench.core.tick()
    bench.sent.clear()
    bench.append((), previous=(5, 1), term=2, leader=3)
    bench.core.tick()
    assert bench.take("acknowledgement")[-1].acknowledgement.next_index == 6


def test_a_message_from_before_the_base_is_taken_up_where_the_log_begins() -> None:
    bench = Bench()
    bench.append(log(2, 10), commit=10)
    bench.core.tick()
    bench.journal.move_base(8, 1)
    bench.append(log(4, 12), previous=(3, 1), commit=10)
    bench.core.tick()
    assert bench.journal.last_index == 12
    bench.sent.clear()
    bench.append(log(3, 5), previous=(2, 1), commit=10)
    bench.core.tick()
    assert bench.take("acknowledgement")[-1].acknowledgement.next_index == 9


# D2: commit over what was never compared with the leader's log.


class WithoutD2(RaftCore):
    def _commit_no_further_than_verified(self, message: dict[str, Any]) -> dict[str, Any]:
        return message


def commit_over_leftover(core_class: type[RaftCore]) -> Bench:
    bench = Bench(core_class)
    bench.append(log(2, 10, term=1), commit=1)
    bench.core.tick()
    bench.append((), previous=(5, 1), term=2, commit=9, leader=3)
    bench.core.tick()
    return bench


def test_d2_only_what_was_verified_is_applied() -> None:
    assert commit_over_leftover(RaftCore).applied[-1][0] == 5


def test_d2_without_the_cover_leftovers_are_applied() -> None:
    assert commit_over_leftover(WithoutD2).applied[-1][0] > 5


# D3: promises before the disk.


class WithoutD3(RaftCore):
    def hold(self, peer_id: int, frame: pb.Frame) -> None:
        self._send_frame(peer_id, frame)


def entries_after_power_loss(core_class: type[RaftCore]) -> tuple[int, int]:
    """Return what was acknowledged and what is there after a power loss at the worst moment."""
    bench = Bench(core_class)
    bench.append(log(2, 6))
    acknowledged = max((frame.acknowledgement.next_index - 1 for frame in bench.take("acknowledgement")), default=1)
    for content in bench.disk.files.values():
        del content.data[content.synced :]
    return acknowledged, Bench(disk=bench.disk).journal.last_index


def test_d3_no_acknowledgement_before_the_sync() -> None:
    acknowledged, kept = entries_after_power_loss(RaftCore)
    assert acknowledged <= kept


def test_d3_without_the_cover_acknowledged_entries_are_lost() -> None:
    acknowledged, kept = entries_after_power_loss(WithoutD3)
    assert acknowledged > kept


@pytest.mark.parametrize("core_class", [RaftCore, WithoutD3])
def test_d3_a_vote_is_on_disk_before_it_is_sent(core_class: type[RaftCore]) -> None:
    bench = Bench(core_class)
    bench.receive(2, vote_request=pb.VoteRequest(term=1, last_index=1))
    voted_early = bool(bench.take("vote"))
    assert voted_early == (core_class is WithoutD3)
    bench.core.sync()
    assert bool(bench.take("vote")) != voted_early
    again = Bench(disk=bench.disk)
    again.receive(3, vote_request=pb.VoteRequest(term=1, last_index=1))
    again.core.sync()
    assert not again.take("vote")


# D4: the leader counts itself before its own log is on disk.


class WithoutD4(RaftCore):
    def sync(self) -> None:
        pass


@pytest.mark.parametrize(("core_class", "durable"), [(RaftCore, True), (WithoutD4, False)])
def test_d4_nothing_is_committed_that_is_not_on_the_leaders_disk(core_class: type[RaftCore], durable: bool) -> None:
    bench = Bench()
    bench.lead()
    bench.core.__class__ = core_class
    index = bench.core.append(b"\x10command")
    bench.acknowledge(2, index + 1)
    bench.core.tick()
    assert bench.core.commit_index == index
    assert (bench.journal.durable_index == index) == durable


# D6: acknowledgements of another term.


class WithoutD6(RaftCore):
    def _belongs_to_this_leadership(self, reply: pb.Acknowledgement) -> bool:
        return self.is_leader


@pytest.mark.parametrize(("core_class", "commits"), [(RaftCore, False), (WithoutD6, True)])
def test_d6_an_acknowledgement_of_an_earlier_leadership_does_not_count(
    core_class: type[RaftCore], commits: bool
) -> None:
    bench = Bench(core_class)
    bench.append(log(2, 9), term=1)
    bench.core.tick()
    bench.clock.now += 5.0
    bench.core.tick()
    bench.receive(2, pre_vote=pb.PreVote(term=2, granted=True))
    bench.core.tick()
    bench.receive(2, vote=pb.Vote(term=2))
    bench.core.tick()
    assert bench.core.is_leader
    assert bench.core.term == 2
    index = bench.core.append(b"\x10command")
    bench.acknowledge(3, index + 1, term=1)
    bench.core.tick()
    assert (bench.core.commit_index >= index) == commits


def test_a_later_term_in_an_acknowledgement_ends_the_leadership() -> None:
    bench = Bench()
    bench.lead()
    bench.acknowledge(3, 2, term=9)
    assert not bench.core.is_leader
    assert bench.core.term == 9


def test_an_append_of_an_old_term_is_answered_with_the_present_one() -> None:
    bench = Bench()
    bench.append((), term=5)
    bench.core.sync()
    bench.sent.clear()
    bench.append((), term=3, leader=3)
    bench.core.sync()
    answer = bench.take("acknowledgement")[-1].acknowledgement
    assert answer.term == 5
    assert not answer.success


# D7, D9, D11, D13: nothing of the library's own commands, pieces or pickles is reachable.


@pytest.mark.parametrize("length", [130000, 131018, 131050, 131072, 140000])
def test_d7_commands_of_every_length_replicate_in_one_piece(length: int) -> None:
    leader, follower = Bench(), Bench()
    leader.lead()
    leader.core.append(b"\x10" + b"x" * length)
    # The follower lacks the leader's first entry too, so it asks for it and gets both.
    leader.receive(3, acknowledgement=pb.Acknowledgement(term=1, next_index=2, reset=True))
    for peer, frame in leader.sent:
        if peer == 3:
            follower.core.receive(2, frame)
    assert follower.journal[-1] == leader.journal[-1]


def test_d13_pickle_is_never_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_arguments: object, **_named: object) -> object:
        raise AssertionError("something was unpickled")

    monkeypatch.setattr(pickle, "loads", refuse)
    monkeypatch.setattr(pickle, "load", refuse)
    monkeypatch.setattr(pickle, "Unpickler", refuse)
    bench = Bench()
    hostile = [(bytes((kind,)) + pickle.dumps(["add", 9, 9]), 2 + kind, 1) for kind in range(4)]
    bench.append(hostile, commit=5)
    bench.core.tick()
    assert [command for _, command in bench.applied] == [b""] * 4
    with pytest.raises(RuntimeError, match="not used"):
        pysyncobj.syncobj.pickle.loads(b"")


def test_d10_every_entry_is_applied_once_whatever_it_holds() -> None:
    bench = Bench()
    bench.append([(b"\x03\xff", 2, 1), (b"\x02\xff", 3, 1), (b"\x00\xff", 4, 1), (b"\x10ok", 5, 1)], commit=5)
    bench.core.tick()
    assert bench.applied == [(2, b""), (3, b""), (4, b""), (5, b"ok")]
    assert bench.core.applied_index == 5


# D12: elections that disturb a working leader; and one vote a voter.


def test_d12_a_candidate_does_not_disturb_a_leader_that_is_heard() -> None:
    bench = Bench()
    bench.append((), term=3)
    bench.receive(3, vote_request=pb.VoteRequest(term=9, last_index=50, last_term=8))
    bench.receive(3, pre_vote_request=pb.PreVoteRequest(term=9, last_index=50, last_term=8))
    bench.core.sync()
    assert bench.core.term == 3
    assert not bench.take("vote")
    bench.clock.now += 1.5
    bench.receive(3, vote_request=pb.VoteRequest(term=9, last_index=50, last_term=8))
    bench.core.sync()
    assert [frame.vote.term for frame in bench.take("vote")] == [9]


def test_d12_a_transfer_is_voted_for_while_the_leader_is_heard() -> None:
    bench = Bench()
    bench.append((), term=3)
    bench.receive(3, vote_request=pb.VoteRequest(term=4, last_index=50, last_term=3, transfer=True))
    bench.core.sync()
    assert bench.take("vote")


def test_d12_a_member_that_would_not_win_changes_no_term() -> None:
    bench = Bench()
    for _ in range(5):
        bench.clock.now += 5.0
        bench.core.tick()
    assert bench.core.term == 0
    assert {frame.pre_vote_request.term for frame in bench.take("pre_vote_request")} == {1}


class WithoutVoters(RaftCore):
    def _first_vote_of(self, node: Any) -> bool:
        return True


@pytest.mark.parametrize(("core_class", "leads"), [(RaftCore, False), (WithoutVoters, True)])
def test_a_repeated_vote_counts_once(core_class: type[RaftCore], leads: bool) -> None:
    bench = Bench(core_class, peers=(2, 3, 4, 5))
    bench.clock.now += 5.0
    bench.core.tick()
    for peer in (2, 3):
        bench.receive(peer, pre_vote=pb.PreVote(term=1, granted=True))
    bench.core.tick()
    for _ in range(2):
        bench.receive(2, vote=pb.Vote(term=1))
    bench.core.tick()
    assert bench.core.is_leader == leads


def test_frames_of_strangers_change_nothing() -> None:
    bench = Bench()
    bench.append(log(2, 5), term=7, leader=99)
    assert bench.core.term == 0
    assert bench.journal.last_index == 1


def test_malformed_appends_change_nothing() -> None:
    bench = Bench()
    bench.append([(b"\x10a", 2, 1), (b"\x10b", 9, 1)], term=1)
    bench.append([(b"", 2, 1)], term=1)
    assert bench.journal.last_index == 1


def test_a_single_member_leads_and_commits_at_once_and_durably() -> None:
    bench = Bench(peers=())
    bench.core.tick()
    assert bench.core.is_leader
    index = bench.core.append(b"\x10alone")
    bench.core.tick()
    assert bench.applied[-1] == (index, b"alone")
    assert bench.journal.durable_index == index


def test_a_follower_far_behind_gets_everything_within_the_window() -> None:
    leader = Bench()
    leader.lead()
    for number in range(1000):
        leader.core.append(b"\x10%d" % number)
    leader.core.tick()
    follower = Bench()
    chance = random.Random(5)
    for _ in range(100):
        leader.clock.now += 0.11
        leader.core.tick()
        # Half of the frames are lost.
        for peer, frame in leader.sent:
            if peer == 3 and chance.random() < 0.5:
                follower.core.receive(2, frame)
        leader.sent.clear()
        follower.core.sync()
        for _, frame in follower.sent:
            leader.core.receive(3, frame)
        follower.sent.clear()
    assert follower.journal.last_index == leader.journal.last_index


def test_d5_installing_a_snapshot_keeps_the_log_that_matches_it() -> None:
    bench = Bench(disk=SimulatedDisk())
    bench.append(log(2, 21), commit=3)
    bench.core.tick()
    bench.core.install(15, 1)
    assert bench.journal.last_index == 21
    assert bench.core.applied_index == 15
    other = Bench()
    other.append(log(2, 21), commit=3)
    other.core.tick()
    other.core.install(15, 4)
    assert (other.journal.base_index, other.journal.last_index) == (15, 15)


def test_the_librarys_import_leaves_the_socket_module_whole() -> None:
    import socket

    assert socket.inet_ntop(socket.AF_INET, b"\x7f\0\0\1") == "127.0.0.1"
    assert socket.inet_pton(socket.AF_INET, "127.0.0.1") == b"\x7f\0\0\1"
