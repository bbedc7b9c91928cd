"""Keep what has been allocated on disk; callers that wait at once share one write."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from pathlib import Path

from net.ipam import files
from net.ipam.allocator import Allocator

STATE_FILE = "addresses.state"


@dataclass(slots=True)
class StateKeeper:
    """Write the allocator's state to disk."""

    path: Path
    allocator: Allocator
    _lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    _asked: int = 0
    _written: int = 0

    async def persist(self) -> None:
        """Return once the state as it is now is on disk."""
        self._asked += 1
        wanted = self._asked
        async with self._lock:
            if self._written >= wanted:
                return
            covered, state = self._asked, self.allocator.to_state()
            await asyncio.to_thread(files.save, self.path, state)
            self._written = covered
