"""Members come and go while writes go on: one change at a time, and only voters count."""

from __future__ import annotations

from functools import partial

import pytest

from store.raft.contract import ChangeKind, ChangeRefusal, ChangeRefusedError, MemberChange, MemberRecord
from store.raft.membership import Membership, Memberships, decode, encode, entry_of
from store.raft.replica import Replica
from tests.simulation.cluster import Cluster, Outcome


def change(cluster: Cluster, kind: ChangeKind, member_id: int, through: int | None = None, **fields: object) -> Outcome:
    """Ask a member, by default the leader, for a change."""
    outcome = Outcome(b"")
    asked = cluster.members[through].replica if through else cluster.elect()
    assert asked is not None

    def done(result: object, error: object) -> None:
        outcome.result, outcome.error, outcome.done = result, error, True  # type: ignore[assignment]

    asked.change_members(MemberChange(kind, member_id, **fields), done)  # type: ignore[arg-type]
    cluster.members[asked.member_id].touched = True
    return outcome


def join(cluster: Cluster, member_id: int) -> None:
    """Start a new member with what it would be told by its peers."""
    membership = cluster.elect().membership
    cluster.add_member(member_id)
    make, cluster.make_replica = cluster.make_replica, partial(Replica, membership=membership)
    cluster.start(member_id)
    cluster.make_replica = make


def voters(cluster: Cluster) -> set[int]:
    return set(cluster.elect().core.voters)


def write(cluster: Cluster, count: int = 5) -> None:
    for _ in range(count):
        cluster.propose(cluster.elect().member_id)
        cluster.run(0.05)


def grown(seed: int, first: int, last: int) -> Cluster:
    cluster = Cluster(seed, size=first)
    cluster.start_all()
    cluster.elect()
    write(cluster)
    for member_id in range(first + 1, last + 1):
        added = change(cluster, ChangeKind.ADD, member_id)
        cluster.run(1.0)
        assert added.error is None
        join(cluster, member_id)
        cluster.run(3.0, until=lambda one=member_id: one in voters(cluster))  # type: ignore[misc]
        assert member_id in voters(cluster)
        write(cluster)
    return cluster


def test_a_cluster_grows_from_one_to_five_and_shrinks_to_three() -> None:
    cluster = grown(1, 1, 5)
    assert voters(cluster) == {1, 2, 3, 4, 5}
    for member_id in (2, 4):
        removed = change(cluster, ChangeKind.REMOVE, member_id)
        cluster.run(2.0)
        assert removed.error is None
        gone = cluster.members[member_id].replica
        assert gone is not None
        assert gone.removed, "it heard that it was removed"
        assert not gone.core.is_leader
        del cluster.members[member_id]
        cluster.members = dict(cluster.members)
        write(cluster)
    assert voters(cluster) == {1, 3, 5}
    cluster.run(2.0)
    cluster.check_settled()


def test_adding_a_member_that_never_starts_stops_nobody() -> None:
    cluster = Cluster(2, size=1)
    cluster.start_all()
    added = change(cluster, ChangeKind.ADD, 2)
    cluster.run(1.0)
    assert added.error is None
    assert voters(cluster) == {1}
    write(cluster)
    cluster.check_settled()


def test_a_change_through_a_follower_reaches_the_leader() -> None:
    cluster = Cluster(3)
    cluster.start_all()
    leader = cluster.elect()
    cluster.run(0.5)
    follower = next(one for one in cluster.members if one != leader.member_id)
    added = change(cluster, ChangeKind.ADD, 9, through=follower, is_learner=True)
    cluster.run(1.0)
    assert added.error is None
    assert [one.member_id for one in added.result] == [1, 2, 3, 9]  # type: ignore[attr-defined]
    again = change(cluster, ChangeKind.ADD, 9, through=follower, is_learner=True)
    cluster.run(1.0)
    assert isinstance(again.error, ChangeRefusedError)
    assert again.error.reason is ChangeRefusal.MEMBER_EXISTS


def test_a_removed_leader_hands_over() -> None:
    cluster = Cluster(4)
    cluster.start_all()
    old = cluster.elect().member_id
    write(cluster)
    removed = change(cluster, ChangeKind.REMOVE, old)
    cluster.run(3.0)
    assert removed.error is None
    replica = cluster.members[old].replica
    assert replica is not None
    assert replica.removed
    assert not replica.core.is_leader
    leader = cluster.elect()
    assert leader.member_id != old
    assert old not in leader.core.voters
    back = change(cluster, ChangeKind.ADD, old)
    cluster.run(1.0)
    assert isinstance(back.error, ChangeRefusedError)


def test_a_leader_whose_own_removal_nobody_else_has_can_be_elected_again() -> None:
    cluster = Cluster(5, size=2)
    cluster.start_all()
    old = cluster.elect().member_id
    write(cluster)
    cluster.isolate(old)
    change(cluster, ChangeKind.REMOVE, old)
    cluster.run(0.2)
    cluster.crash(old)
    cluster.heal()
    cluster.start(old)
    cluster.run(10.0)
    assert cluster.elect().member_id != old
    assert voters(cluster) == {3 - old}


def test_a_member_that_was_away_meets_none_that_it_knows() -> None:
    cluster = grown(6, 3, 3)
    cluster.crash(3)
    for member_id in (4, 5):
        change(cluster, ChangeKind.ADD, member_id)
        cluster.run(1.0)
        join(cluster, member_id)
        cluster.run(3.0)
    for member_id in (1, 2):
        change(cluster, ChangeKind.REMOVE, member_id)
        cluster.run(3.0)
        cluster.kill(member_id)
    assert voters(cluster) == {3, 4, 5}
    write(cluster)
    # Its own log names 1, 2 and itself; whoever leads is a guest to it, and without its vote nobody would.
    cluster.start(3)
    cluster.crash(cluster.elect().member_id)
    cluster.run(10.0)
    write(cluster)
    assert voters(cluster) == {3, 4, 5}
    returned = cluster.members[3].replica
    assert returned is not None
    assert returned.membership.removed == {1, 2}


def test_memberships_follow_the_log() -> None:
    first = Membership.of([MemberRecord(1), MemberRecord(2)])
    memberships = Memberships(first)
    second = first.changed(MemberChange(ChangeKind.ADD, 3), 5)
    assert memberships.add(5, entry_of(second, MemberChange(ChangeKind.ADD, 3)))
    third = second.changed(MemberChange(ChangeKind.REMOVE, 1), 8)
    assert memberships.add(8, entry_of(third, MemberChange(ChangeKind.REMOVE, 1)))
    assert [memberships.at(index) for index in (4, 5, 7, 8)] == [first, second, second, third]
    assert memberships.cut(8)
    assert memberships.current == second
    memberships.rebase(6, memberships.at(6))
    assert memberships.base == second
    assert not memberships.cut(3)
    assert decode(encode(third)) == third


def test_a_removed_id_is_never_used_again() -> None:
    membership = Membership.of([MemberRecord(1), MemberRecord(2)]).changed(MemberChange(ChangeKind.REMOVE, 2), 5)
    with pytest.raises(ChangeRefusedError):
        membership.changed(MemberChange(ChangeKind.ADD, 2), 6)
