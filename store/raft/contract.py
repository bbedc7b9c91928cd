"""What the state machine and the services may expect of consensus, and consensus of the state machine."""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from store.raft.membership import Membership

from store.raft.statistics import Statistics


class StateMachine(Protocol):
    """The replicated state: a pure function of the log.

    ``apply`` is total: a request that cannot be carried out yields an error value, never an exception, so that every
    member stays at the same point whatever it is given.
    """

    def apply(self, index: int, now_ns: int, payload: bytes) -> object:
        """Apply one request of the log entry at ``index`` and return its result."""
        ...

    def snapshot(self) -> Iterator[bytes]:
        """Yield the state as of this call in chunks; later applies do not change what is yielded."""
        ...

    def restore(self, chunks: Iterable[bytes]) -> None:
        """Replace the whole state by that of a snapshot; raise ValueError where it is damaged."""
        ...


@runtime_checkable
class RunStateMachine(StateMachine, Protocol):
    """A state machine that takes several requests at once, which is the same as one after the other."""

    def apply_run(self, index: int, now_ns: int, payloads: Sequence[bytes]) -> list[object]:
        """Apply requests and return their results in the same order; total like ``apply``."""
        ...


class ProposalError(Exception):
    """A proposal came to no result on this member."""


Done = Callable[[object, ProposalError | None], None]
"""Takes the state machine's result, or why there is none."""


class NoLeaderError(ProposalError):
    """No leader is known; the request was certainly not proposed."""


class ProposalDroppedError(ProposalError):
    """The request was certainly not applied and may be sent again."""


class OutcomeUnknownError(ProposalError):
    """Leadership or time ran out: the request may or may not take effect."""


class TooManyRequestsError(ProposalError):
    """The queue of waiting proposals is full; nothing was proposed."""


class DiskIsFullError(ProposalError):
    """This member has no room for its log, and takes no part until it has; nothing was proposed."""


class RequestTooLargeError(ProposalError):
    """The payload is above the limit of one command; nothing was proposed."""


class ChangeRefusal(enum.Enum):
    """Why a change of membership is not carried out; the services have a text for each."""

    MEMBER_EXISTS = enum.auto()
    MEMBER_NOT_FOUND = enum.auto()
    """No such member, or one that was removed: its id is never used again."""
    PEER_URL_EXISTS = enum.auto()
    MEMBER_NOT_LEARNER = enum.auto()
    LEARNER_NOT_READY = enum.auto()
    TOO_MANY_LEARNERS = enum.auto()
    MEMBER_NOT_ENOUGH_STARTED = enum.auto()
    UNHEALTHY = enum.auto()
    NAME_TAKEN = enum.auto()
    """Another member has the name, or this one has another name already."""


class ChangeRefusedError(ProposalError):
    """The change of membership was not carried out and will not be."""

    def __init__(self, reason: ChangeRefusal) -> None:
        super().__init__(reason.name)
        self.reason = reason


class MemberRemovedError(Exception):
    """This member does not belong to the cluster any more, and never will again."""

    def __init__(self) -> None:
        super().__init__("the member has been permanently removed from the cluster")


@dataclass(frozen=True)
class MemberRecord:
    """What the cluster knows of one member."""

    member_id: int
    """64-bit identity, made as etcd makes it."""
    name: str = ""
    """Empty until the member has started for the first time."""
    peer_urls: tuple[str, ...] = ()
    client_urls: tuple[str, ...] = ()
    is_learner: bool = False
    """It gets the log and does not vote until it is promoted."""
    is_joining: bool = False
    """It is a voter for those who ask, but counts in no quorum before it has the log."""

    @property
    def votes(self) -> bool:
        """Whether it counts in quorums."""
        return not self.is_learner and not self.is_joining


class ChangeKind(enum.Enum):
    """What a change does to a member."""

    ADD = enum.auto()
    REMOVE = enum.auto()
    UPDATE = enum.auto()
    """Gives it other peer addresses."""
    PROMOTE = enum.auto()
    PUBLISH = enum.auto()
    """Makes its name and client addresses known; asked for by the member itself."""
    ADMIT = enum.auto()
    """Gives a joining member its vote; done by the leader itself."""


@dataclass(frozen=True)
class MemberChange:
    """One step from one membership to the next; what its kind does not need is left empty."""

    kind: ChangeKind
    member_id: int
    name: str = ""
    peer_urls: tuple[str, ...] = ()
    client_urls: tuple[str, ...] = ()
    is_learner: bool = False


@dataclass(frozen=True)
class Peer:
    """One member of the first hour."""

    member_id: int
    """64-bit identity, made as etcd makes it."""
    name: str
    host: str
    port: int
    peer_urls: tuple[str, ...] = ()
    """Where the others dial it; without any, host and port."""


@dataclass(frozen=True)
class TLSFiles:
    """PEM files of one side of mutual TLS between members."""

    cert_file: Path
    key_file: Path
    trusted_ca_file: Path


@dataclass(frozen=True)
class ConsensusConfig:
    """Everything that one member's consensus needs to know."""

    cluster_id: int
    member: Peer
    """This member; host and port are where it listens."""
    peers: tuple[Peer, ...]
    """The other voters of the first hour."""
    data_dir: Path
    membership: Membership | None = None
    """What a member that joins an existing cluster was told of it, in place of the first hour's."""
    tls: TLSFiles | None = None
    heartbeat_interval_s: float = 0.1
    election_timeout_s: float = 1.0
    request_timeout_s: float = 7.0
    """After this a proposal or a read barrier ends with OutcomeUnknownError."""
    snapshot_entries: int = 10_000
    """Log entries between two snapshots."""
    queue_requests_max: int = 20_000
    group_bytes_max: int = 1 << 20
    payload_bytes_max: int = 1_600_000
    unsafe_no_fsync: bool = False
    """Promise what may not be on disk: what was acknowledged does not survive a power cut."""
    strict_reconfiguration: bool = True
    """Refuse changes of membership while members are not started or not connected, as etcd does."""


class Consensus(Protocol):
    """One member's view of the replicated log."""

    member_id: int
    statistics: Statistics

    @property
    def leader_id(self) -> int:
        """The known leader's member id, 0 for none."""
        ...

    @property
    def is_leader(self) -> bool:
        """Whether this member leads in the current term."""
        ...

    @property
    def term(self) -> int:
        """The current Raft term."""
        ...

    @property
    def commit_index(self) -> int:
        """Highest index known to be committed."""
        ...

    @property
    def applied_index(self) -> int:
        """Highest index that the state machine has applied here."""
        ...

    @property
    def proposals_pending(self) -> int:
        """Proposals of this member that have no result yet."""
        ...

    async def start(self) -> None:
        """Recover from disk, listen for peers and take part in elections."""
        ...

    async def stop(self) -> None:
        """Leave cleanly; waiting proposals end with OutcomeUnknownError."""
        ...

    async def propose(self, payload: bytes) -> object:
        """Replicate one request and return what the state machine answered on this member.

        Raises a ProposalError: OutcomeUnknownError where the request may have taken effect, another where it did not.
        """
        ...

    def propose_direct(self, payload: bytes, done: Done) -> None:
        """Do what ``propose`` does, without a task: ``done`` takes the result, or the reason why there is none.

        Raises a ProposalError where the request was certainly not proposed.
        """
        ...

    async def read_index(self) -> int:
        """Wait until this member has applied all that was committed when the call was made, and return that index."""
        ...

    def when_read_index(self, done: Callable[[int | None], None]) -> None:
        """Call back as soon as ``read_index`` would return, with None where it would raise."""
        ...

    async def ask_leader(self, body: bytes) -> bytes:
        """Have the leader's handler answer ``body``, as soon as a quorum has confirmed that it leads.

        Raises NoLeaderError or OutcomeUnknownError.
        """
        ...

    @property
    def is_learner(self) -> bool:
        """Whether this member is a learner, as far as it has applied the log."""
        ...

    def members(self) -> tuple[MemberRecord, ...]:
        """Return the members as of the applied index, by id."""
        ...

    async def change_members(self, change: MemberChange) -> tuple[MemberRecord, ...]:
        """Have the cluster carry out one change and return the members after it.

        Changes that overlap are carried out one after another. Raises ChangeRefusedError where the change cannot be,
        OutcomeUnknownError where it may have taken effect, another ProposalError where it did not.
        """
        ...

    async def move_leader(self, member_id: int) -> None:
        """Have another voter lead, once it has the whole log.

        Raises NoLeaderError where this member does not lead, OutcomeUnknownError where it takes too long.
        """
        ...

    def handle_questions(self, handler: Callable[[bytes], bytes]) -> None:
        """Set what this member answers to ``ask_leader`` while it leads."""
        ...

    def on_leadership(self, callback: Callable[[bool, int], None]) -> None:
        """Call back with (is_leader, term) whenever this member gains or loses leadership."""
        ...

    def on_applied(self, callback: Callable[[int], None]) -> None:
        """Call back with the applied index after each applied log entry (watchers are woken here)."""
        ...
