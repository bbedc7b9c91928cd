"""Whatever a peer sends, a member neither breaks its promises nor fails."""

from __future__ import annotations

from google.protobuf.message import Message
from hypothesis import given, settings
from hypothesis import strategies as st

from proto.raft import command_pb2, membership_pb2
from proto.raft import message_pb2 as pb
from tests.simulation.cluster import Cluster
from tests.simulation.world import SimulatedDisk

SMALL = st.integers(0, 8)
ANY = st.one_of(SMALL, st.integers(0, (1 << 64) - 1))
DATA = st.binary(max_size=20)


def built(kind: type[Message], **fields: st.SearchStrategy[object]) -> st.SearchStrategy[Message]:
    return st.builds(kind, **fields)


BATCH = built(command_pb2.Batch, member_id=ANY, first_sequence=ANY, payloads=st.lists(DATA, max_size=3))
CHANGE = st.builds(
    membership_pb2.MemberChange,
    kind=st.integers(0, 9),
    member_id=SMALL,
    name=st.sampled_from(["", "n"]),
    peer_urls=st.lists(st.sampled_from(["http://x:1", "x"]), max_size=2),
    is_learner=st.booleans(),
)
MEMBERS = st.builds(
    lambda ids, removed: (
        b"\x11"
        + membership_pb2.MembershipEntry(
            membership=membership_pb2.Membership(
                members=[membership_pb2.MemberRecord(member_id=one) for one in ids], removed=removed
            )
        ).SerializeToString()
    ),
    st.lists(SMALL, max_size=4),
    st.lists(SMALL, max_size=2),
)
ENTRY = built(pb.Entry, index=ANY, term=ANY, command=st.one_of(DATA, MEMBERS))
FRAMES = st.one_of(
    st.builds(
        lambda body: pb.Frame(append_entries=body),
        built(
            pb.AppendEntries,
            term=SMALL,
            previous_index=ANY,
            previous_term=SMALL,
            # What is committed is a leader's word, which a follower has to take.
            commit_index=st.just(1),
            entries=st.lists(ENTRY, max_size=3),
            read_round=ANY,
        ),
    ),
    st.builds(
        lambda body: pb.Frame(acknowledgement=body),
        built(
            pb.Acknowledgement,
            term=SMALL,
            next_index=ANY,
            reset=st.booleans(),
            success=st.booleans(),
            read_round=ANY,
        ),
    ),
    st.builds(
        lambda body: pb.Frame(vote_request=body),
        built(pb.VoteRequest, term=SMALL, last_index=ANY, last_term=ANY, transfer=st.booleans()),
    ),
    st.builds(lambda body: pb.Frame(vote=body), built(pb.Vote, term=SMALL)),
    st.builds(
        lambda body: pb.Frame(pre_vote_request=body),
        built(pb.PreVoteRequest, term=SMALL, last_index=ANY, last_term=ANY),
    ),
    st.builds(lambda body: pb.Frame(pre_vote=body), built(pb.PreVote, term=SMALL, granted=st.booleans())),
    st.builds(lambda body: pb.Frame(timeout_now=body), built(pb.TimeoutNow, term=SMALL)),
    st.builds(
        lambda body: pb.Frame(snapshot_piece=body),
        built(pb.SnapshotPiece, term=SMALL, index=ANY, index_term=ANY, offset=ANY, size=ANY, data=DATA),
    ),
    st.builds(
        lambda body: pb.Frame(snapshot_progress=body),
        built(pb.SnapshotProgress, term=SMALL, index=ANY, offset=ANY),
    ),
    st.builds(lambda body: pb.Frame(forward=body), built(pb.Forward, batches=st.lists(BATCH, max_size=3))),
    st.builds(
        lambda body: pb.Frame(change_request=body),
        built(pb.ChangeRequest, sequence=ANY, change=CHANGE),
    ),
    st.builds(
        lambda body: pb.Frame(change_reply=body),
        built(pb.ChangeReply, sequence=SMALL, refusal=st.sampled_from(["", "UNHEALTHY", "x"])),
    ),
    st.builds(lambda body: pb.Frame(read_request=body), built(pb.ReadRequest, id=ANY)),
    st.builds(lambda body: pb.Frame(read_reply=body), built(pb.ReadReply, id=ANY, index=ANY)),
    st.just(pb.Frame()),
)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 4), FRAMES, st.sampled_from([0.0, 0.0, 0.2, 2.5])), max_size=25))
def test_no_frame_makes_a_member_fail(frames: list[tuple[int, pb.Frame, float]]) -> None:
    cluster = Cluster(1)
    cluster.start(1)
    member = cluster.members[1]
    replica = member.replica
    assert replica is not None
    for peer in (2, 3):
        replica.connected(peer)
    applied = 0
    for peer, frame, seconds in frames:
        cluster.clock.now += seconds
        replica.receive(peer, frame)
        replica.advance()
        assert replica.core.applied_index >= applied
        applied = replica.core.applied_index
        assert replica.core.commit_index <= replica.core._journal.last_index
    # What it kept is a log that opens again.
    term = replica.core.term
    replica.stop()
    again = Cluster(1)
    again.members[1].disk = SimulatedDisk(member.disk.files)
    again.start(1)
    reopened = again.members[1].replica
    assert reopened is not None
    assert reopened.core.term == term
