"""Compaction by itself: keep so much time, or so many revisions, of history."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from dataclasses import dataclass
from typing import Literal

from proto.etcd.rpc_pb2 import CompactionRequest
from proto.raft.command_pb2 import InternalRequest
from store.api.backend import STORE_ITSELF, Backend
from store.api.errors import Code, EtcdError

log = logging.getLogger(__name__)

_REVISION_INTERVAL_S = 300.0
_PERIOD_MAX_S = 3600.0
_SAMPLES_OF_A_PERIOD = 10


@dataclass(frozen=True)
class Retention:
    """How much history stays."""

    mode: Literal["periodic", "revision"]
    amount: float
    """Seconds, or revisions; 0 keeps everything."""

    def interval_s(self) -> float:
        """How often there is something to do."""
        if self.mode == "revision":
            return _REVISION_INTERVAL_S
        return min(self.amount, _PERIOD_MAX_S) / _SAMPLES_OF_A_PERIOD


class Compactor:
    """Decides which revision to compact at; told of the newest revision and the time, it knows nothing else."""

    def __init__(self, retention: Retention) -> None:
        self._retention = retention
        self._seen: deque[tuple[float, int]] = deque()

    def look(self, now_s: float, revision: int) -> int | None:
        """Note the newest revision and return the one to compact at, if it is time."""
        if self._retention.mode == "revision":
            return max(revision - int(self._retention.amount), 0) or None
        self._seen.append((now_s, revision))
        due: int | None = None
        while self._seen and self._seen[0][0] <= now_s - self._retention.amount:
            due = self._seen.popleft()[1]
        return due


async def keep_compacting(backend: Backend, retention: Retention) -> None:
    """Compact while this member leads; runs as long as the member serves."""
    if retention.amount <= 0:
        return
    compactor = Compactor(retention)
    while True:
        await asyncio.sleep(retention.interval_s())
        store = backend.machine.store
        due = compactor.look(backend.clock(), store.current_revision)
        if due is None or due <= store.compact_revision or not backend.consensus.is_leader:
            continue
        try:
            await backend.propose(InternalRequest(compaction=CompactionRequest(revision=due)), STORE_ITSELF)
        except EtcdError as error:
            if error.code != Code.OUT_OF_RANGE:  # somebody else was faster
                log.warning("history not compacted revision=%d reason=%s", due, error.text)
        else:
            log.info("history compacted revision=%d", due)
