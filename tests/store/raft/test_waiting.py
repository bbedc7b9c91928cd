"""What waits on a member: numbered requests, groups, read barriers; and what was applied already."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proto.raft import command_pb2
from store.raft import members, sessions
from store.raft.contract import MemberRecord, NoLeaderError, OutcomeUnknownError
from store.raft.members import MembershipError
from store.raft.membership import Membership
from store.raft.proposals import BATCH_BYTES_MAX, Groups, Waiting
from store.raft.reads import Read, Reads
from store.raft.sessions import Session, Sessions, first_sequence
from tests.simulation.cluster import Cluster

# Sessions.


@given(st.lists(st.tuples(st.integers(1, 3), st.integers(1, 60)), max_size=200))
def test_a_request_is_applied_once_in_any_order(requests: list[tuple[int, int]]) -> None:
    session = Session()
    applied: list[int] = []
    for start, number in requests:
        sequence = first_sequence(start) + number
        if session.admit(sequence):
            applied.append(sequence)
        assert session.holds(sequence)
    assert len(set(applied)) == len(applied)
    newest = max((start for start, _ in requests), default=0)
    expected = {first_sequence(start) + number for start, number in requests if start == newest}
    assert expected <= set(applied)


def test_what_a_member_sent_before_it_was_started_again_is_refused() -> None:
    session = Session()
    assert session.admit(first_sequence(5))
    assert session.admit(first_sequence(6) + 3)
    assert not session.admit(first_sequence(5) + 1)
    assert session.admit(first_sequence(6))


def test_a_session_remembers_a_bounded_number_of_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "ABOVE_MAX", 10)
    session = Session()
    for number in range(2, 200, 2):
        assert session.admit(first_sequence(1) + number)
    assert len(session.above) <= 10
    assert not session.admit(first_sequence(1) + 2)


def test_sessions_come_back_from_a_snapshot() -> None:
    before = Sessions()
    for sequence in (1, 2, 5, 9):
        before.admit(7, first_sequence(1) + sequence)
    before.admit(8, first_sequence(2))
    before.advance(123)
    after = Sessions()
    after.load(before.dump())
    assert after.dump() == before.dump()
    assert after.holds(7, first_sequence(1) + 5)
    assert not after.holds(7, first_sequence(1) + 6)
    assert after.advance(100) == 123
    with pytest.raises(ValueError, match="damaged"):
        after.load(before.dump()[:-3])


# Proposals.


def waiting_with(*payloads: bytes) -> tuple[Waiting, list[tuple[object, object]]]:
    waiting = Waiting(1, 100)
    told: list[tuple[object, object]] = []
    for number, payload in enumerate(payloads):
        waiting.add(payload, 10.0 + number, lambda result, error: told.append((result, error)))
    return waiting, told


def taken(waiting: Waiting, leader: tuple[int, int], now: float, bytes_max: int) -> tuple[int, list[bytes]] | None:
    batch = waiting.take_unsent(leader, now, bytes_max)
    return None if batch is None else (batch.first_sequence, list(batch.payloads))


def test_requests_are_handed_over_once_to_each_leader() -> None:
    waiting, told = waiting_with(b"a", b"b", b"c")
    assert taken(waiting, (2, 1), 0.0, 2) == (100, [b"a", b"b"])
    assert taken(waiting, (2, 1), 0.0, 2) == (102, [b"c"])
    assert not waiting.has_unsent
    waiting.send_again((2, 1))
    assert taken(waiting, (2, 1), 1.0, 99) is None
    waiting.resolve(101, "result")
    waiting.send_again((3, 2))
    assert taken(waiting, (3, 2), 2.0, 99) == (100, [b"a"]), "the numbers of a batch follow each other"
    assert taken(waiting, (3, 2), 2.0, 99) == (102, [b"c"])
    assert told == [("result", None)]


def test_a_late_request_says_whether_it_may_take_effect() -> None:
    waiting, told = waiting_with(b"sent", b"unsent")
    waiting.take_unsent((2, 1), 0.0, 1)
    waiting.expire(10.5)
    assert len(told) == 1
    waiting.expire(11.5)
    assert [type(error) for _, error in told] == [OutcomeUnknownError, NoLeaderError]


def batch(number: int, size: int = 10, count: int = 1) -> command_pb2.Batch:
    return command_pb2.Batch(member_id=1, first_sequence=number, payloads=[bytes(size)] * count)


def test_a_group_takes_all_that_waits_within_its_size() -> None:
    groups = Groups(bytes_max=1000, requests_max=50)
    for number in range(10):
        groups.add(batch(number))
    assert len(groups.take()) == 10
    for number in range(5):
        groups.add(batch(number, 400))
    assert [len(groups.take()) for _ in range(3)] == [2, 2, 1]
    groups.add(batch(1, 5000))
    assert len(groups.take()) == 1, "a batch above the size goes alone"
    for number in range(0, 100, 5):
        groups.add(batch(number, count=5))
    assert len(groups) == 50
    groups.take()
    assert len(groups) == 0
    groups.add(batch(1, BATCH_BYTES_MAX))
    assert not groups.ready, "what no member hands over is not for the log"


def test_a_second_group_waits_until_it_is_as_large_as_the_first() -> None:
    groups = Groups(1 << 20, 50)
    groups.add(batch(1, count=10))
    groups.take()
    groups.started(5)
    groups.add(batch(11, count=9))
    assert not groups.ready
    groups.add(batch(20))
    assert groups.ready
    groups.take()
    groups.started(6)
    groups.add(batch(21))
    groups.applied(5)
    assert not groups.ready
    groups.applied(6)
    assert groups.ready, "nothing else is under way"


def test_two_groups_are_under_way_at_once() -> None:
    groups = Groups(1000, 50)
    for index in (5, 6):
        groups.add(batch(index))
        assert groups.ready
        groups.take()
        groups.started(index)
    groups.add(batch(7))
    assert not groups.ready
    groups.applied(5)
    assert groups.ready


# Reads.


def test_reads_that_come_during_a_round_wait_for_the_next() -> None:
    reads = Reads()
    told: list[str] = []
    reads.add(Read(10.0, lambda index: told.append(f"first {index}")))
    assert reads.begin(1, 0.0)
    reads.add(Read(10.0, lambda index: told.append(f"second {index}")))
    assert not reads.begin(2, 0.0)
    reads.confirm(9, 50)
    assert reads.under_way
    reads.confirm(1, 50)
    reads.applied(49)
    assert told == []
    reads.applied(50)
    assert told == ["first 50"]
    assert reads.begin(2, 0.0)
    reads.abandon()
    reads.confirm(2, 60)
    assert told == ["first 50"]
    assert reads.begin(3, 0.0)
    reads.confirm(3, 61)
    reads.applied(61)
    assert told[-1] == "second 61"


def test_a_read_that_finds_no_leader_is_told_so() -> None:
    reads = Reads()
    told: list[int | None] = []
    reads.add(Read(1.0, told.append))
    reads.expire(0.5)
    assert told == []
    reads.expire(1.0)
    assert told == [None]
    assert len(reads) == 0


def test_a_leader_that_is_cut_off_confirms_no_read() -> None:
    cluster = Cluster(11)
    cluster.start_all()
    old = cluster.elect()
    cluster.propose(old.member_id)
    cluster.run(0.5)
    cluster.isolate(old.member_id)
    told: list[int | None] = []
    old.read_index(told.append)
    cluster.run(0.5)
    assert told == []
    assert old.core.is_leader
    cluster.run(10.0)
    assert told == [None]


def test_an_answer_to_a_read_of_before_the_start_counts_for_nothing() -> None:
    cluster = Cluster(14)
    cluster.start_all()
    leader = cluster.elect()
    follower = next(one for one in cluster.members if one != leader.member_id)
    ids: set[int] = set()
    for _ in range(2):
        replica = cluster.members[follower].replica
        assert replica is not None
        asked: list[int] = []
        replica._send = lambda _peer, frame, asked=asked: asked.append(frame.read_request.id)  # type: ignore[misc]
        replica.read_index(lambda _index: None)
        replica.advance()
        ids.update(number for number in asked if number)
        cluster.crash(follower)
        cluster.start(follower)
        cluster.run(1.0)
    assert len(ids) == 2


def test_reads_share_a_round() -> None:
    cluster = Cluster(12)
    cluster.start_all()
    leader = cluster.elect()
    before = leader.core.read_round
    told: list[int | None] = []
    for member in cluster.members.values():
        assert member.replica is not None
        for _ in range(100):
            member.replica.read_index(told.append)
        member.touched = True
    cluster.run(0.5)
    assert len(told) == 300
    assert None not in told
    assert leader.core.read_round - before <= 3


# Leadership.


def test_leadership_goes_to_the_follower_that_is_asked() -> None:
    cluster = Cluster(13)
    cluster.start_all()
    old = cluster.elect()
    cluster.propose(old.member_id)
    cluster.run(0.5)
    heir = next(one for one in cluster.members if one != old.member_id)
    assert old.core.transfer_leadership(heir)
    cluster.members[old.member_id].touched = True
    cluster.run(0.3)
    leader = cluster.leader()
    assert leader is not None
    assert leader.member_id == heir


def test_a_write_under_way_when_the_leader_dies_takes_effect_once() -> None:
    for seed in range(20, 30):
        cluster = Cluster(seed)
        cluster.start_all()
        old = cluster.elect()
        follower = next(one for one in cluster.members if one != old.member_id)
        outcome = cluster.propose(follower)
        cluster.run(0.0005 * (seed - 19))
        cluster.crash(old.member_id)
        cluster.run(2.9)
        cluster.start(old.member_id)
        cluster.run(3.0)
        assert outcome.done
        assert outcome.error is None
        cluster.check_settled()


# Members.


def test_identities_are_those_of_etcd() -> None:
    """Values of etcd 3.5 for --initial-cluster-token tkn and http://10.0.1.10:2380 and so on."""
    assert members.member_id(["http://10.0.1.10:2380"], "tkn") == members.member_id(["http://10.0.1.10:2380"], "tkn")
    assert members.member_id(["b", "a"], "t") == members.member_id(["a", "b"], "t")
    # The default single member of an unconfigured etcd, as every fresh installation prints it.
    assert members.member_id(["http://localhost:2380"], "etcd-cluster") == 0x8E9E05C52164694D
    assert members.cluster_id([0x8E9E05C52164694D]) == 0xCDF818194E3A8C32


def test_a_log_of_version_1_goes_on_with_the_flags_that_it_was_made_with() -> None:
    recorded = b"".join(struct.pack("<QH", one, 2) + b"n%d" % one for one in (1, 2))
    records = [MemberRecord(1, "n1"), MemberRecord(2, "n2")]
    members.check_same_members(recorded, Membership.of(records))
    members.check_same_members(b"", Membership.of(records))
    with pytest.raises(MembershipError, match="n2"):
        members.check_same_members(recorded, Membership.of(records[:1]))
