"""Who counts: voters alone, in the membership that the log holds; and one change at a time (D8)."""

from __future__ import annotations

import pytest

from proto.raft import message_pb2 as pb
from store.raft.consensus import RaftCore
from store.raft.contract import ChangeKind, ChangeRefusal, ChangeRefusedError, MemberChange, MemberRecord
from store.raft.membership import Membership, entry_of
from tests.store.raft.cores import Bench, log

LEARNER = Membership.of([MemberRecord(1), MemberRecord(2), MemberRecord(3), MemberRecord(4, is_learner=True)])
JOINING = Membership.of([MemberRecord(1), MemberRecord(2, is_joining=True)])
OWN_LEARNER = Membership.of([MemberRecord(1, is_learner=True), MemberRecord(2), MemberRecord(3)])


def remove(member_id: int) -> MemberChange:
    return MemberChange(ChangeKind.REMOVE, member_id)


# D8: overlapping changes.


class WithoutD8(RaftCore):
    @property
    def change_is_possible(self) -> bool:
        return self.is_leader


@pytest.mark.parametrize(("core_class", "commits_alone"), [(RaftCore, False), (WithoutD8, True)])
def test_d8_two_changes_at_once_would_make_two_majorities(core_class: type[RaftCore], commits_alone: bool) -> None:
    """Removing 2 and then 3 before 2 or 3 know of it: 1 decides alone, and so do 2 and 3."""
    bench = Bench(core_class)
    bench.lead()
    for member_id in (2, 3):
        if bench.core.change_is_possible:
            bench.core.append_change(remove(member_id))
    index = bench.core.append(b"\x10alone")
    bench.core.tick()
    assert (bench.core.commit_index >= index) == commits_alone


def test_a_change_waits_until_the_one_before_is_applied() -> None:
    bench = Bench()
    bench.lead()
    assert bench.core.change_is_possible
    bench.core.append_change(remove(2))
    assert bench.core.voters == {1, 3}, "it takes effect at once"
    assert not bench.core.change_is_possible
    bench.core.tick()
    bench.acknowledge(2, bench.journal.last_index + 1)
    bench.core.tick()
    assert not bench.core.change_is_possible, "who leaves does not decide"
    bench.acknowledge(3, bench.journal.last_index + 1)
    bench.core.tick()
    assert bench.core.change_is_possible


def test_a_new_leader_changes_nothing_before_its_term_has_begun() -> None:
    bench = Bench(peers=(2, 3, 4, 5))
    begun = bench.journal.memberships.current.changed(remove(5), 2)
    bench.append([(entry_of(begun, remove(5)), 2, 1)], term=1)
    bench.core.tick()
    assert bench.core.voters == {1, 2, 3, 4}
    bench.clock.now += 5.0
    bench.core.tick()
    for peer in (2, 3):
        bench.receive(peer, pre_vote=pb.PreVote(term=2, granted=True))
    bench.core.tick()
    for peer in (2, 3):
        bench.receive(peer, vote=pb.Vote(term=2))
    bench.core.tick()
    assert bench.core.is_leader
    assert not bench.core.change_is_possible
    for peer in (2, 3):
        bench.acknowledge(peer, bench.journal.last_index + 1)
    bench.core.tick()
    assert bench.core.change_is_possible


def test_a_change_is_undone_with_its_entry() -> None:
    bench = Bench(peers=(2, 3, 4))
    before = bench.core.voters
    changed = bench.journal.memberships.current.changed(remove(4), 3)
    bench.append([*log(2, 2), (entry_of(changed, remove(4)), 3, 1)], term=1)
    bench.core.tick()
    assert bench.core.voters == {1, 2, 3}
    bench.append(log(3, 4, term=2), previous=(2, 1), term=2, leader=3)
    bench.core.tick()
    assert bench.core.voters == before
    again = Bench(peers=(2, 3, 4), disk=bench.disk)
    assert again.core.voters == before


def test_a_change_survives_a_restart() -> None:
    bench = Bench(peers=(2, 3, 4))
    changed = bench.journal.memberships.current.changed(remove(4), 2)
    bench.append([(entry_of(changed, remove(4)), 2, 1), *log(3, 5)], term=1, commit=5)
    bench.core.tick()
    bench = Bench(peers=(2, 3, 4), disk=bench.disk)
    assert bench.core.voters == {1, 2, 3}
    bench.journal.move_base(4, 1)
    bench.journal.sync()
    reopened = Bench(peers=(2, 3, 4), disk=bench.disk)
    assert reopened.journal.base_index == 4
    assert reopened.core.voters == {1, 2, 3}
    assert reopened.core.membership.removed == {4}


# Learners, and members that join.


def test_a_learners_acknowledgement_commits_nothing() -> None:
    bench = Bench(peers=(2, 3, 4), membership=LEARNER)
    bench.lead()
    index = bench.core.append(b"\x10entry")
    bench.acknowledge(4, index + 1)
    bench.core.tick()
    assert bench.core.commit_index < index
    bench.acknowledge(3, index + 1)
    bench.core.tick()
    assert bench.core.commit_index == index


def test_a_learners_answer_confirms_no_read() -> None:
    bench = Bench(peers=(2, 3, 4), membership=LEARNER)
    assert not bench.core.is_quorum({4})
    assert bench.core.is_quorum({3})
    assert bench.core.quorum == 2


def test_a_learners_vote_elects_nobody() -> None:
    bench = Bench(peers=(2, 3, 4), membership=LEARNER)
    bench.clock.now += 5.0
    bench.core.tick()
    assert not [peer for peer, _ in bench.sent if peer == 4], "it is not even asked"
    bench.receive(4, pre_vote=pb.PreVote(term=1, granted=True))
    bench.core.tick()
    assert bench.core.term == 0
    bench.receive(2, pre_vote=pb.PreVote(term=1, granted=True))
    bench.core.tick()
    bench.receive(4, vote=pb.Vote(term=1))
    bench.core.tick()
    assert not bench.core.is_leader
    bench.receive(3, vote=pb.Vote(term=1))
    bench.core.tick()
    assert bench.core.is_leader


def test_a_learner_never_stands_but_answers_who_does() -> None:
    """It may have been promoted without knowing so yet, and its vote may be needed."""
    bench = Bench(membership=OWN_LEARNER)
    for _ in range(5):
        bench.clock.now += 5.0
        bench.core.tick()
    assert not bench.take("pre_vote_request")
    assert bench.core.term == 0
    bench.receive(2, timeout_now=pb.TimeoutNow(term=0))
    bench.core.tick()
    assert not bench.take("vote_request")
    bench.receive(2, vote_request=pb.VoteRequest(term=1, last_index=1))
    bench.core.sync()
    assert bench.take("vote")


def test_a_leader_loses_its_leadership_without_voters_however_many_learners_answer() -> None:
    bench = Bench(peers=(2, 3, 4), membership=LEARNER)
    bench.lead()
    for _ in range(20):
        bench.clock.now += 0.2
        bench.acknowledge(4, bench.journal.last_index + 1)
        bench.core.tick()
    assert not bench.core.is_leader


def test_one_that_joins_stops_nobody() -> None:
    bench = Bench(peers=(2,), membership=JOINING)
    bench.core.tick()
    assert bench.core.is_leader
    index = bench.core.append(b"\x10alone")
    bench.core.tick()
    assert bench.core.commit_index == index


def test_a_leader_that_removes_itself_does_not_count_itself() -> None:
    bench = Bench()
    bench.lead()
    bench.core.append_change(remove(1))
    bench.core.tick()
    bench.acknowledge(2, bench.journal.last_index + 1)
    bench.core.tick()
    assert bench.core.commit_index < bench.journal.last_index
    bench.acknowledge(3, bench.journal.last_index + 1)
    bench.core.tick()
    assert bench.core.commit_index == bench.journal.last_index
    told = [peer for peer, frame in bench.sent if frame.append_entries.commit_index == bench.core.commit_index]
    assert {2, 3} <= set(told)


# Those whom the log does not name.


def test_a_guest_may_lead_but_never_counts() -> None:
    bench = Bench()
    bench.core.connected(9)
    bench.append(log(2, 4), term=3, leader=9)
    bench.core.sync()
    assert bench.journal.last_index == 4
    assert bench.core.leader_id == 9
    bench.receive(9, vote=pb.Vote(term=3))
    bench.receive(9, acknowledgement=pb.Acknowledgement(term=99, next_index=3))
    assert bench.core.term == 3
    bench.core.disconnected(9)
    bench.append(log(5, 6), previous=(4, 1), term=3, leader=9)
    assert bench.journal.last_index == 4


# Where logs differ.


def test_whole_terms_are_passed_over() -> None:
    """A follower with a long tail of another term is brought back in a few messages, not one for each entry."""
    leader = Bench()
    leader.append(log(2, 2), term=1)
    leader.clock.now += 5.0
    leader.core.tick()
    leader.receive(2, pre_vote=pb.PreVote(term=2, granted=True))
    leader.core.tick()
    leader.receive(2, vote=pb.Vote(term=2))
    leader.core.tick()
    for number in range(500):
        leader.core.append(b"\x10%d" % number)
    follower = Bench()
    follower.append(log(2, 400), term=1, leader=3)
    follower.core.sync()
    follower.sent.clear()
    leader.sent.clear()
    resets = 0
    while follower.journal.last_index != leader.journal.last_index or follower.journal[-1] != leader.journal[-1]:
        leader.clock.now += 0.11
        leader.core.tick()
        for peer, frame in leader.sent:
            if peer == 3:
                follower.core.receive(2, frame)
        leader.sent.clear()
        follower.core.sync()
        for _, frame in follower.sent:
            resets += frame.acknowledgement.reset
            leader.core.receive(3, frame)
        follower.sent.clear()
        assert resets < 5


# Changes as values.

FIRST = Membership.of([MemberRecord(1, "a", ("http://a:1",)), MemberRecord(2, "b", ("http://b:1",))])

REFUSED = {
    "exists": (MemberChange(ChangeKind.ADD, 2, peer_urls=("http://c:1",)), ChangeRefusal.MEMBER_EXISTS),
    "same url": (MemberChange(ChangeKind.ADD, 3, peer_urls=("http://b:1",)), ChangeRefusal.PEER_URL_EXISTS),
    "update to another's": (
        MemberChange(ChangeKind.UPDATE, 1, peer_urls=("http://b:1",)),
        ChangeRefusal.PEER_URL_EXISTS,
    ),
    "update of nobody": (
        MemberChange(ChangeKind.UPDATE, 9, peer_urls=("http://c:1",)),
        ChangeRefusal.MEMBER_NOT_FOUND,
    ),
    "remove nobody": (MemberChange(ChangeKind.REMOVE, 9), ChangeRefusal.MEMBER_NOT_FOUND),
    "promote a voter": (MemberChange(ChangeKind.PROMOTE, 2), ChangeRefusal.MEMBER_NOT_LEARNER),
    "publish another's name": (MemberChange(ChangeKind.PUBLISH, 2, name="a"), ChangeRefusal.NAME_TAKEN),
    "publish a second name": (MemberChange(ChangeKind.PUBLISH, 2, name="c"), ChangeRefusal.NAME_TAKEN),
    "publish no name": (MemberChange(ChangeKind.PUBLISH, 2), ChangeRefusal.NAME_TAKEN),
}


@pytest.mark.parametrize(("change", "reason"), REFUSED.values(), ids=REFUSED.keys())
def test_changes_that_cannot_be_are_refused(change: MemberChange, reason: ChangeRefusal) -> None:
    with pytest.raises(ChangeRefusedError) as refused:
        FIRST.changed(change, 5)
    assert refused.value.reason is reason


def test_one_learner_at_a_time() -> None:
    with_learner = FIRST.changed(MemberChange(ChangeKind.ADD, 3, is_learner=True), 5)
    with pytest.raises(ChangeRefusedError) as refused:
        with_learner.changed(MemberChange(ChangeKind.ADD, 4, is_learner=True), 6)
    assert refused.value.reason is ChangeRefusal.TOO_MANY_LEARNERS
    promoted = with_learner.changed(MemberChange(ChangeKind.PROMOTE, 3), 6)
    assert promoted.voters == {1, 2}, "it counts as soon as the leader finds that it has the log"
    assert promoted.changed(MemberChange(ChangeKind.ADMIT, 3), 7).voters == {1, 2, 3}
