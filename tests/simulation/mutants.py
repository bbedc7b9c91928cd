"""Covers that are taken away on purpose, so that what shall notice it can be seen to notice it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from pysyncobj import SyncObj

from store.machine import Machine
from store.raft import journal
from store.raft.consensus import RaftCore
from store.raft.journal import Journal
from store.raft.proposals import Waiting
from store.raft.replica import Replica
from store.raft.sessions import Sessions
from tests.store.raft import test_covers, test_membership, test_roster

Patch = tuple[object, str, Any]


@dataclass(frozen=True)
class Mutant:
    """One cover less."""

    name: str
    what: str
    """What goes wrong in words: the defect whose cover is gone."""
    patches: tuple[Patch, ...]
    kinds: tuple[str, ...] = ()
    """The kinds of lives that find it."""
    seeds_max: int = 0
    """After how many lives of these kinds the search ends; 0 where only its own test finds it.

    It is found much earlier, but where changes with everything that is simulated.
    """
    test: Callable[[], None] | None = None
    """The test that fails without the cover."""

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """Take the cover away for a while."""
        before = [(owner, name, _own(owner, name)) for owner, name, _ in self.patches]
        try:
            for owner, name, replacement in self.patches:
                setattr(owner, name, replacement)
            yield
        finally:
            for owner, name, original in before:
                if original is _INHERITED:
                    delattr(owner, name)
                else:
                    setattr(owner, name, original)


_INHERITED = object()


def _own(owner: object, name: str) -> Any:
    """Return what is to be put back; a cover that is not there any more is an error."""
    assert hasattr(owner, name), f"{owner} has no {name}: the mutant is out of date"
    return vars(owner).get(name, _INHERITED)


def _nothing(*_: object, **__: object) -> None:
    """Stand for a cover that does nothing."""


def _yes(*_: object) -> bool:
    return True


def _no(*_: object) -> bool:
    return False


def _send_at_once(core: Any, peer_id: int, frame: Any) -> None:
    core._send_frame(peer_id, frame)


def _tick_then_sync(core: RaftCore) -> None:
    """Commit before the own disk has what is committed."""
    sync: Callable[[], None] = core.sync
    core.sync = _nothing  # type: ignore[method-assign]
    try:
        _TICK(core)
    finally:
        core.sync = sync  # type: ignore[method-assign]
    core.sync()


_TICK = RaftCore.tick


def _set_term_in_memory(log: Any, term: int, vote: int | None) -> None:
    log._term, log._vote = term, vote or 0


def _confirm_at_once(replica: Any) -> None:
    replica._reads.confirm(replica._reads.round, replica._read_commit)


def _apply_unguarded(replica: Any, index: int, now_ns: int, payloads: Any) -> list[object]:
    return [replica._machine.apply(index, now_ns, payload) for payload in payloads]


def _change_any_time(core: Any) -> bool:
    """Let changes overlap, but no member be admitted again and again."""
    before = core._journal.memberships.current.index
    joining = any(one.is_joining for one in core.membership.members)
    return bool(core.is_leader and core.term_started and (before <= core.applied_index or not joining))


_REVOKE = Machine._revoke

MUTANTS = (
    Mutant(
        "d1",
        "an old message cuts the log",
        ((RaftCore, "_without_known_prefix", lambda _core, message: (message, True)),),
        ("plain",),
        100,
        test_covers.test_d1_an_old_duplicate_voids_nothing,
    ),
    Mutant(
        "d2",
        "a message commits what it does not prove",
        ((RaftCore, "_commit_no_further_than_verified", lambda _core, message: message),),
        test=test_covers.test_d2_only_what_was_verified_is_applied,
    ),
    Mutant(
        "d3",
        "promises leave before the sync",
        ((RaftCore, "hold", _send_at_once),),
        ("keys",),
        100,
        test_covers.test_d3_no_acknowledgement_before_the_sync,
    ),
    Mutant(
        "d3-vote",
        "term and vote are not on disk",
        ((Journal, "setCurrentTerm", _set_term_in_memory),),
        ("elections",),
        300,
    ),
    Mutant(
        "d4",
        "the leader counts itself before its sync",
        ((RaftCore, "tick", _tick_then_sync),),
        ("alone",),
        100,
    ),
    Mutant("d5", "a snapshot takes the log after it away", ((journal, "suffix_after", lambda *_: []),), ("keys",), 100),
    Mutant(
        "d6",
        "an acknowledgement of an earlier leadership counts",
        ((RaftCore, "_belongs_to_this_leadership", lambda core, _reply: core.is_leader),),
        test=lambda: test_covers.test_d6_an_acknowledgement_of_an_earlier_leadership_does_not_count(RaftCore, False),
    ),
    Mutant(
        "d7",
        "the library sends entries itself, in pieces",
        ((RaftCore, "_SyncObj__sendAppendEntries", SyncObj._SyncObj__sendAppendEntries),),
        ("plain",),
        20,
    ),
    Mutant(
        "d8",
        "changes of membership overlap",
        ((RaftCore, "change_is_possible", property(_change_any_time)),),
        test=lambda: test_roster.test_d8_two_changes_at_once_would_make_two_majorities(RaftCore, False),
    ),
    Mutant(
        "d9",
        "requests wait for ever",
        ((Waiting, "expire", _nothing), (Waiting, "send_again", _nothing)),
        ("disks",),
        100,
    ),
    Mutant("d10", "a failing request stops the member", ((Replica, "_one_by_one", _apply_unguarded),), ("disks",), 100),
    Mutant(
        "d11",
        "a repeated request is applied again",
        ((Sessions, "admit", _yes), (Sessions, "admit_run", _yes)),
        ("keys",),
        100,
    ),
    Mutant(
        "d12-read", "a leader confirms reads itself", ((Replica, "_check_round", _confirm_at_once),), ("stale",), 300
    ),
    Mutant(
        "d12-term", "a leader serves before its term has begun", ((RaftCore, "term_started", True),), ("keys",), 100
    ),
    Mutant(
        "d12-contact",
        "a candidate is listened to while the leader is heard",
        ((RaftCore, "_in_contact_with_leader", _no),),
        test=test_covers.test_d12_a_candidate_does_not_disturb_a_leader_that_is_heard,
    ),
    Mutant(
        "lease-term",
        "a leader that is deposed ends leases that its successor has lengthened",
        ((Machine, "_revoke", lambda machine, request, _term: _REVOKE(machine, request, 0)),),
        ("leases",),
        400,
    ),
    Mutant("votes", "a repeated vote counts again", ((RaftCore, "_first_vote_of", _yes),), ("elections",), 300),
    Mutant(
        "stand",
        "a member whose removal is not committed does not stand",
        ((RaftCore, "may_stand", property(lambda core: core.member_id in core.voters)),),
        test=test_membership.test_a_leader_whose_own_removal_nobody_else_has_can_be_elected_again,
    ),
)
