"""What takes long is run beside the event loop, one at a time, so that others are answered meanwhile.

Expressions that users store are cheap nearly always, and run where they are met. One that costs more than INLINE_COST
is begun again here, in a thread: it takes turns with the loop, and what it may cost at most bounds how long it lasts.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from functools import cache
from typing import TypeVar

from control.api import status

INLINE_COST = 20_000
"""About ten milliseconds."""
WAITING_MAX = 64
SWITCH_S = 0.0005
"""How long the thread may keep the loop from going on; Python's own figure is ten times that."""
T = TypeVar("T")
_waiting = 0


@cache
def _worker() -> ThreadPoolExecutor:
    sys.setswitchinterval(min(sys.getswitchinterval(), SWITCH_S))
    return ThreadPoolExecutor(max_workers=1, thread_name_prefix="aside")


async def run(function: Callable[[], T]) -> T:
    """Return what a function returns that may take long; raises ApiError where too many wait for their turn."""
    global _waiting
    if _waiting >= WAITING_MAX:
        raise status.too_many_requests("too many expensive expressions are being evaluated: try again later")
    _waiting += 1
    try:
        return await asyncio.get_running_loop().run_in_executor(_worker(), copy_context().run, function)
    finally:
        _waiting -= 1
