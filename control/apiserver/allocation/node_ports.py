"""Takes and frees node ports: one bitmap in the store, changed by compare-and-swap.

All who want to change it at the same time in this process share one swap, so that many new Services cost few.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from random import Random
from typing import Any, TypeVar, cast

import orjson

from control.api.status import server_timeout
from control.apiserver.allocation.ranges import PortBitmap, PortRange
from control.apiserver.group_commit import GroupCommit, Turn
from control.apiserver.request import RangeStore

KEY = "servicenodeports"
ATTEMPTS_MAX = 40
_PAUSE_S_MAX = 0.05
Answer = TypeVar("Answer")


class _Change:
    """One who changes the bitmap, and what came of it."""

    __slots__ = ("answer", "decide", "error")

    def __init__(self, decide: Callable[[PortBitmap], Any]) -> None:
        self.decide = decide
        self.answer: Any = None
        self.error: Exception | None = None

    def apply(self, bitmap: PortBitmap) -> PortBitmap:
        """Return the bitmap with the change, unchanged where it cannot be made."""
        trial = bitmap.copy()
        try:
            self.answer, self.error = self.decide(trial), None
        except Exception as error:  # noqa: BLE001  (it is raised again where the change was asked for)
            self.error = error
            return bitmap
        return trial


class NodePorts:
    """The node ports of one range."""

    def __init__(self, store: RangeStore, ports: PortRange, random: Random) -> None:
        self._store = store
        self._random = random
        self._line: GroupCommit[_Change] = GroupCommit(self._carry_out)
        self.range = ports

    async def change(self, decide: Callable[[PortBitmap], Answer]) -> Answer:
        """Let `decide` change the bitmap, and store it if nobody else was faster; else decide again."""
        wanted = _Change(decide)
        await self._line.do(wanted)
        return cast(Answer, wanted.answer)

    async def _carry_out(self, turns: Sequence[Turn[_Change]]) -> None:
        for attempt in range(ATTEMPTS_MAX):
            value, revision = await self._store.read(KEY)
            bitmap = (
                PortBitmap(self.range) if value is None else PortBitmap.from_object(self.range, orjson.loads(value))
            )
            for turn in turns:
                bitmap = turn.work.apply(bitmap)
            changed = orjson.dumps(bitmap.to_object())
            if changed == value or await self._store.swap(KEY, changed, revision):
                for turn in turns:
                    turn.finish(turn.work.error)
                return
            await asyncio.sleep(self._random.random() * min(_PAUSE_S_MAX, 0.002 * 2**attempt))
        raise server_timeout("services", "allocate node ports")

    async def free(self, ports: Iterable[int]) -> None:
        """Free ports; those outside the range were never taken."""
        owned = [port for port in ports if self.range.first <= port <= self.range.last]
        if owned:
            await self.change(lambda bitmap: bitmap.free_all(owned))
