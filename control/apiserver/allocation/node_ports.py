"""Takes and frees node ports: one bitmap in the store, changed by compare-and-swap."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from random import Random
from typing import TypeVar

import orjson

from control.api.status import server_timeout
from control.apiserver.allocation.ranges import PortBitmap, PortRange
from control.apiserver.request import RangeStore

KEY = "servicenodeports"
ATTEMPTS_MAX = 40
_PAUSE_S_MAX = 0.05
Answer = TypeVar("Answer")


class NodePorts:
    """The node ports of one range."""

    def __init__(self, store: RangeStore, ports: PortRange, random: Random) -> None:
        self._store = store
        self._random = random
        self.range = ports

    async def change(self, decide: Callable[[PortBitmap], Answer]) -> Answer:
        """Let `decide` change the bitmap, and store it if nobody else was faster; else decide again."""
        for attempt in range(ATTEMPTS_MAX):
            value, revision = await self._store.read(KEY)
            bitmap = (
                PortBitmap(self.range) if value is None else PortBitmap.from_object(self.range, orjson.loads(value))
            )
            answer = decide(bitmap)
            changed = orjson.dumps(bitmap.to_object())
            if changed == value or await self._store.swap(KEY, changed, revision):
                return answer
            await asyncio.sleep(self._random.random() * min(_PAUSE_S_MAX, 0.002 * 2**attempt))
        raise server_timeout("services", "allocate node ports")

    async def free(self, ports: Iterable[int]) -> None:
        """Free ports; those outside the range were never taken."""
        owned = [port for port in ports if self.range.first <= port <= self.range.last]
        if owned:
            await self.change(lambda bitmap: bitmap.free_all(owned))
