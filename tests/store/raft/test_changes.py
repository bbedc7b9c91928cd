"""Changes of membership on their way to the leader."""

from __future__ import annotations

import pytest

from proto.raft import message_pb2 as pb
from store.raft.changes import RETRY_S, Changes, Health
from store.raft.contract import ChangeKind, ChangeRefusal, ChangeRefusedError, MemberChange, NoLeaderError
from tests.store.raft.cores import Bench

LEADER = 2
REMOVAL = MemberChange(ChangeKind.REMOVE, 3)


class Asking:
    """A follower that asks its leader for one change."""

    def __init__(self) -> None:
        self.sent: list[pb.ChangeRequest] = []
        self.results: list[object] = []
        core = Bench().core
        self.changes = Changes(core, Health(1.0), 7, lambda _peer, frame: self.sent.append(frame.change_request))
        self.changes.ask(REMOVAL, 5.0, lambda result, error: self.results.append(error or result))

    def advance(self, now: float) -> None:
        self.changes.advance(now, LEADER, serving=False)

    def refuse(self, reason: str = "", peer: int = LEADER) -> None:
        self.changes.receive_reply(peer, pb.ChangeReply(sequence=7, refusal=reason))


def test_who_does_not_lead_is_asked_again_after_a_pause() -> None:
    """Without the pause two members that disagree on who leads would exchange frames without end."""
    asking = Asking()
    for _ in range(10):
        asking.advance(0.0)
        asking.refuse()
    assert len(asking.sent) == 1
    asking.advance(RETRY_S)
    assert len(asking.sent) == 2
    assert not asking.results


def test_a_change_that_is_under_way_is_asked_for_once() -> None:
    asking = Asking()
    for now in (0.0, 1.0, 2.0):
        asking.advance(now)
    assert [request.sequence for request in asking.sent] == [7]


@pytest.mark.parametrize(
    ("reason", "peer", "ends"),
    [("MEMBER_NOT_FOUND", LEADER, True), ("MEMBER_NOT_FOUND", 3, False), ("NO_SUCH_REASON", LEADER, False)],
    ids=["the leader's", "another member's", "of an unknown kind"],
)
def test_a_refusal_counts_when_it_is_the_leaders(reason: str, peer: int, ends: bool) -> None:
    asking = Asking()
    asking.advance(0.0)
    asking.refuse(reason, peer)
    assert len(asking.results) == ends
    if ends:
        (refused,) = asking.results
        assert isinstance(refused, ChangeRefusedError)
        assert refused.reason is ChangeRefusal.MEMBER_NOT_FOUND


def test_a_change_that_no_leader_took_was_certainly_not_made() -> None:
    asking = Asking()
    asking.advance(0.0)
    asking.refuse()
    asking.changes.advance(5.0, 0, serving=False)
    (error,) = asking.results
    assert isinstance(error, NoLeaderError)
    assert len(asking.changes) == 0
