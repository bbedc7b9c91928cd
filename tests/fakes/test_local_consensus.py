"""The fake consensus keeps the contract."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import pytest

from store.raft.contract import (
    Consensus,
    NoLeaderError,
    OutcomeUnknownError,
    ProposalDroppedError,
    ProposalError,
    RequestTooLargeError,
)
from tests.fakes.local_consensus import LocalConsensus


class Log:
    """A state machine that keeps what it is given."""

    def __init__(self) -> None:
        self.applied: list[tuple[int, bytes]] = []

    def apply(self, index: int, now_ns: int, payload: bytes) -> object:
        self.applied.append((index, payload))
        return payload.upper()

    def snapshot(self) -> Iterator[bytes]:
        return iter(())

    def restore(self, chunks: Iterable[bytes]) -> None:
        self.applied = [(0, chunk) for chunk in chunks]


async def test_proposals_are_applied_in_order_and_told_of() -> None:
    log, told = Log(), list[int]()
    consensus: Consensus = LocalConsensus(log)
    consensus.on_applied(told.append)
    await consensus.start()
    assert [await consensus.propose(payload) for payload in (b"a", b"b")] == [b"A", b"B"]
    assert (log.applied, told) == ([(1, b"a"), (2, b"b")], [1, 2])
    assert await consensus.read_index() == 2


@pytest.mark.parametrize(
    ("outcome", "error", "is_applied"),
    [
        ("dropped", ProposalDroppedError, False),
        ("lost", OutcomeUnknownError, False),
        ("unknown", OutcomeUnknownError, True),
    ],
)
async def test_outcomes_on_request(outcome: str, error: type[ProposalError], is_applied: bool) -> None:
    log = Log()
    consensus = LocalConsensus(log)
    await consensus.start()
    consensus.next_outcomes = [outcome]
    with pytest.raises(error):
        await consensus.propose(b"x")
    assert bool(log.applied) is is_applied


async def test_without_a_leader_nothing_is_certain() -> None:
    consensus = LocalConsensus(Log(), payload_bytes_max=3)
    await consensus.start()
    with pytest.raises(RequestTooLargeError):
        await consensus.propose(b"long")
    consensus.has_leader = False
    assert consensus.leader_id == 0
    for attempt in (consensus.propose(b"x"), consensus.read_index(), consensus.ask_leader(b"x")):
        with pytest.raises(NoLeaderError):
            await attempt


async def test_leadership_is_told_and_questions_are_answered() -> None:
    consensus = LocalConsensus(Log())
    told: list[tuple[bool, int]] = []
    consensus.on_leadership(lambda is_leader, term: told.append((is_leader, term)))
    consensus.handle_questions(lambda body: body * 2)
    await consensus.start()
    consensus.change_leader()
    assert told == [(True, 2), (False, 2), (True, 3)]
    assert await consensus.ask_leader(b"x") == b"xx"
