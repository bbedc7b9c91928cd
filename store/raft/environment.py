"""What a replica is given: who it is, its bounds, and where time comes from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from store.raft.wal import SEGMENT_BYTES


class Clock(Protocol):
    """Where time comes from."""

    def monotonic(self) -> float:
        """Return seconds that never go back."""
        ...

    def time_ns(self) -> int:
        """Return the wall clock."""
        ...


@dataclass(frozen=True)
class Limits:
    """Bounds of one member; see ConsensusConfig."""

    queue_requests_max: int = 20_000
    group_bytes_max: int = 1 << 20
    payload_bytes_max: int = 1_600_000
    request_timeout_s: float = 7.0
    snapshot_entries: int = 10_000
    snapshot_bytes: int = 64 << 20
    segment_bytes: int = SEGMENT_BYTES
    strict_reconfiguration: bool = False
    """Whether changes of membership are refused while members are not connected, as etcd does."""


@dataclass(frozen=True)
class Identity:
    """Who a member is."""

    cluster_id: int
    member_id: int
    peer_ids: tuple[int, ...]
