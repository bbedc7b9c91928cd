"""A queue of keys that are worked on one at a time each, retried with growing delays.

Theory of operation. A key is in at most one of three places: *ready* (waits its turn), *working* (a worker
holds it) or *delayed* (waits for a moment). Adding a key that is ready changes nothing; adding one that is
being worked on marks it *again*, and it becomes ready when its worker is done:

    queue.add("a"); queue.add("a")      ready: a
    queue.take(now)                     → "a", working: a
    queue.add("a")                      working: a (again)
    queue.done("a")                     ready: a

Since keys are deduplicated, the queue is never longer than the number of distinct keys, that is, of objects in
the informers' caches; nothing else bounds it, because a dropped key would be a lost change.
"""

from __future__ import annotations

import asyncio
import heapq
from collections import deque
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)


@dataclass(frozen=True)
class RetryPolicy:
    """How long a failing key waits; the numbers are upstream's default controller rate limiter."""

    base_delay_s: float = 0.005
    """The delay after the first failure; doubled by each further one."""
    delay_max_s: float = 1000.0
    """The longest delay of one key."""
    overall_per_s: float = 10.0
    """How many retries a second all keys together may use."""
    overall_burst: int = 100
    """How many retries may come at once before `overall_per_s` holds."""


class TokenBucket:
    """Reserve moments so that no more than `rate_per_s` are given out after a burst."""

    def __init__(self, rate_per_s: float, burst: int) -> None:
        self._rate_per_s = rate_per_s
        self._burst = burst
        self._tokens = float(burst)
        self._last = 0.0
        self._started = False

    def reserve(self, now: float) -> float:
        """Take one token and return how many seconds to wait for it."""
        if not self._started:
            self._started, self._last = True, now
        self._tokens = min(float(self._burst), self._tokens + max(0.0, now - self._last) * self._rate_per_s)
        self._last = max(self._last, now)
        self._tokens -= 1.0
        return 0.0 if self._tokens >= 0.0 else -self._tokens / self._rate_per_s

    def give_back(self) -> None:
        """Return a token that was reserved and not used."""
        self._tokens += 1.0


class QueueCore(Generic[K]):
    """The queue's state and rules, without a clock or a loop."""

    def __init__(self, policy: RetryPolicy | None = None) -> None:
        self._policy = policy or RetryPolicy()
        self._bucket = TokenBucket(self._policy.overall_per_s, self._policy.overall_burst)
        self._ready: deque[K] = deque()
        self._waiting: set[K] = set()
        self._working: set[K] = set()
        self._delayed: list[tuple[float, int, K]] = []
        self._due: dict[K, float] = {}
        self._order = 0
        self._failures: dict[K, int] = {}

    def __len__(self) -> int:
        return len(self._ready)

    @property
    def working(self) -> frozenset[K]:
        """The keys that workers hold now."""
        return frozenset(self._working)

    def add(self, key: K) -> None:
        """Make a key ready, or have it worked on again when its worker is done."""
        if key in self._waiting:
            return
        self._waiting.add(key)
        if key not in self._working:
            self._ready.append(key)

    def add_at(self, key: K, moment: float, now: float) -> None:
        """Add a key when `moment` comes; of several moments for one key the earliest counts."""
        if moment <= now:
            self.add(key)
            return
        due = self._due.get(key)
        if due is not None and due <= moment:
            return
        self._due[key] = moment
        self._order += 1
        heapq.heappush(self._delayed, (moment, self._order, key))

    def add_rate_limited(self, key: K, now: float) -> float:
        """Add a key that failed after its back-off, and return that delay in seconds."""
        failures = self._failures.get(key, 0)
        self._failures[key] = failures + 1
        own = min(self._policy.base_delay_s * 2.0 ** min(failures, 60), self._policy.delay_max_s)
        delay = max(own, self._bucket.reserve(now))
        self.add_at(key, now + delay, now)
        return delay

    def forget(self, key: K) -> None:
        """Say that a key went well: its next failure waits the base delay again."""
        self._failures.pop(key, None)

    def failures(self, key: K) -> int:
        """Return how often a key has failed since it last went well."""
        return self._failures.get(key, 0)

    def next_due(self) -> float | None:
        """Return the moment of the earliest delayed key."""
        while self._delayed and self._due.get(self._delayed[0][2]) != self._delayed[0][0]:
            heapq.heappop(self._delayed)  # overtaken by an earlier moment for the same key
        return self._delayed[0][0] if self._delayed else None

    def advance(self, now: float) -> None:
        """Make every delayed key ready whose moment has come."""
        while (due := self.next_due()) is not None and due <= now:
            _, _, key = heapq.heappop(self._delayed)
            del self._due[key]
            self.add(key)

    def take(self, now: float) -> K | None:
        """Hand out the next ready key, or None."""
        self.advance(now)
        if not self._ready:
            return None
        key = self._ready.popleft()
        self._waiting.discard(key)
        self._working.add(key)
        return key

    def done(self, key: K) -> None:
        """Give a key back; it is ready again at once if it was added meanwhile."""
        self._working.discard(key)
        if key in self._waiting:
            self._ready.append(key)


class WorkQueue(Generic[K]):
    """The queue for asyncio workers: `get` waits, everything else returns at once."""

    def __init__(self, policy: RetryPolicy | None = None, clock: Callable[[], float] | None = None) -> None:
        self._core: QueueCore[K] = QueueCore(policy)
        self._given_clock = clock
        self._wake = asyncio.Event()

    def _now(self) -> float:
        return self._given_clock() if self._given_clock else asyncio.get_running_loop().time()

    def __len__(self) -> int:
        return len(self._core)

    def add(self, key: K) -> None:
        """Make a key ready."""
        self._core.add(key)
        self._wake.set()

    def add_after(self, key: K, delay_s: float) -> None:
        """Make a key ready after a delay."""
        now = self._now()
        self._core.add_at(key, now + delay_s, now)
        self._wake.set()

    def add_rate_limited(self, key: K) -> float:
        """Make a failed key ready after its back-off, and return the delay in seconds."""
        delay = self._core.add_rate_limited(key, self._now())
        self._wake.set()
        return delay

    def forget(self, key: K) -> None:
        """Say that a key went well."""
        self._core.forget(key)

    def failures(self, key: K) -> int:
        """Return how often a key has failed in a row."""
        return self._core.failures(key)

    def done(self, key: K) -> None:
        """Give a key back after work."""
        self._core.done(key)
        self._wake.set()

    @property
    def idle(self) -> bool:
        """True when nothing is ready and no worker holds a key; delayed keys do not count."""
        self._core.advance(self._now())
        return len(self._core) == 0 and not self._core.working

    async def get(self) -> K:
        """Wait for the next key; the caller gives it back with `done`."""
        while True:
            now = self._now()
            key = self._core.take(now)
            if key is not None:
                if len(self._core):
                    self._wake.set()  # several workers wait on one event: pass it on
                return key
            self._wake.clear()
            due = self._core.next_due()
            try:
                async with asyncio.timeout(None if due is None else max(0.0, due - now)):
                    await self._wake.wait()
            except TimeoutError:
                continue  # a delayed key has come due
