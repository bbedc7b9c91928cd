"""Between requests and a place where events go: at once, or in batches by a task of their own."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Protocol

from control.apiserver.audit.auditor import AuditMetrics
from control.apiserver.config import BatchConfig

DRAIN_TIMEOUT_S = 5.0
"""What waits when the server ends has this long to be written."""


class Backend(Protocol):
    """Writes events."""

    name: str
    """What metrics call it."""

    async def write(self, events: list[bytes]) -> str:
        """Write events, all or none; return why that failed, empty where it did not."""
        ...

    async def close(self) -> None:
        """Let go of what is open."""
        ...


class Blocking:
    """Requests wait until their event is written."""

    def __init__(self, backend: Backend, metrics: AuditMetrics, *, strict: bool) -> None:
        self._backend = backend
        self._metrics = metrics
        self._strict = strict

    async def put(self, event: bytes) -> bool:
        """Write one event."""
        fault = await self._backend.write([event])
        if fault:
            self._metrics.lost(self._backend.name, 1, fault)
        return not (fault and self._strict)

    async def run(self) -> None:
        """Wait for the end."""
        try:
            await asyncio.Event().wait()
        finally:
            await self._backend.close()


class Batching:
    """Events wait in a bounded queue and go in batches."""

    def __init__(self, backend: Backend, metrics: AuditMetrics, config: BatchConfig, batch_bytes_max: int = 0) -> None:
        self._backend = backend
        self._metrics = metrics
        self._config = config
        self._batch_bytes_max = batch_bytes_max
        self._waiting: deque[bytes] = deque()
        self._arrived = asyncio.Event()
        self._full = asyncio.Event()
        self._tokens = float(config.burst)
        self._counted_at = 0.0

    async def put(self, event: bytes) -> bool:
        """Let one event wait; where too many do, it is lost."""
        if len(self._waiting) >= self._config.events_max:
            self._metrics.lost("buffered", 1, "audit buffer queue blocked")
            return True
        self._waiting.append(event)
        self._arrived.set()
        if len(self._waiting) >= self._config.batch_events_max:
            self._full.set()
        return True

    async def run(self) -> None:
        """Write batches until cancelled, then what is left."""
        try:
            while True:
                await self._arrived.wait()
                await self._until_worth_it()
                await self._throttle()
                await self._write_one()
        finally:
            try:
                async with asyncio.timeout(DRAIN_TIMEOUT_S):
                    while self._waiting:
                        await self._write_one()
            except TimeoutError:
                self._metrics.lost(self._backend.name, len(self._waiting), "the server ended before they were written")
            await self._backend.close()

    async def _until_worth_it(self) -> None:
        if len(self._waiting) >= self._config.batch_events_max or not self._config.wait_s:
            return
        self._full.clear()
        try:
            async with asyncio.timeout(self._config.wait_s):
                await self._full.wait()
        except TimeoutError:
            return

    async def _throttle(self) -> None:
        """Wait until another batch may go."""
        rate = self._config.batches_per_s
        if not rate:
            return
        now = asyncio.get_running_loop().time()
        self._tokens = min(self._config.burst, self._tokens + (now - self._counted_at) * rate)
        self._counted_at = now
        self._tokens -= 1
        if self._tokens < 0:
            await asyncio.sleep(-self._tokens / rate)

    async def _write_one(self) -> None:
        batch: list[bytes] = []
        size = 0
        while self._waiting and len(batch) < self._config.batch_events_max:
            size += len(self._waiting[0])
            if batch and self._batch_bytes_max and size > self._batch_bytes_max:
                break
            batch.append(self._waiting.popleft())
        if not self._waiting:
            self._arrived.clear()
        try:
            fault = await self._backend.write(batch)
        except asyncio.CancelledError:
            # Once more at the end: twice is better than never.
            self._waiting.extendleft(reversed(batch))
            raise
        if fault:
            self._metrics.lost(self._backend.name, len(batch), fault)
