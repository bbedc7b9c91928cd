"""Keeps the garbage collector from walking a large state while requests wait.

Nearly everything here is freed without the collector; what it is needed for is cycles, such as closed connections and
exceptions leave behind. Young ones it finds as ever. The walk through all objects, which at a million keys stops the
loop for long, is made when the member has had nothing to do for a moment, and at the latest after an hour: so the
garbage that waits for it is bounded by what an hour makes.
"""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Callable

YOUNG_OBJECTS = 10_000
YOUNG_COLLECTIONS = 20
NEVER = 1 << 30
LOOK_INTERVAL_S = 5.0
IDLE_AFTER_S = 300.0
AT_LATEST_AFTER_S = 3600.0


def hold() -> None:
    """Collect nothing while a state is loaded: it makes many objects and no garbage."""
    gc.disable()


def calm() -> None:
    """Collect again, but leave what has been loaded alone, and do not walk through everything."""
    gc.enable()
    gc.freeze()
    gc.set_threshold(YOUNG_OBJECTS, YOUNG_COLLECTIONS, NEVER)


def is_due(since_s: float, changes: int) -> bool:
    """Whether to walk through everything: so long after the last time, and with so many changes since the last look."""
    return since_s >= AT_LATEST_AFTER_S or (since_s >= IDLE_AFTER_S and changes == 0)


async def keep_collecting(progress: Callable[[], int], clock: Callable[[], float] = time.monotonic) -> None:
    """Collect in quiet moments; ``progress`` counts what the member does. Runs as long as it serves."""
    calm()
    collected_at, seen = clock(), progress()
    while True:
        await asyncio.sleep(LOOK_INTERVAL_S)
        now, before = progress(), seen
        seen = now
        if is_due(clock() - collected_at, now - before):
            gc.collect()
            collected_at = clock()
