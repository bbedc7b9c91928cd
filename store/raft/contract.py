"""What the state machine and the services may expect of consensus, and consensus of the state machine."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable


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


@dataclass(frozen=True)
class Peer:
    """One member of the cluster."""

    member_id: int
    """64-bit identity, made as etcd makes it."""
    name: str
    host: str
    port: int


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
    """The other voters."""
    data_dir: Path
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


class Consensus(Protocol):
    """One member's view of the replicated log."""

    member_id: int

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

    async def ask_leader(self, body: bytes) -> bytes:
        """Have the leader's handler answer ``body``; raises NoLeaderError or OutcomeUnknownError."""
        ...

    async def move_leader(self, member_id: int) -> None:
        """Have another member lead; raises NoLeaderError where this one does not, or the other is not up to date."""
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
