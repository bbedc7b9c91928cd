"""What one server's health is made of, under the names that kube-apiserver's checks have."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from control.apiserver.config import ApiServerConfig
from control.apiserver.etcd import Etcd, StoreError
from control.apiserver.feed import Feed
from control.apiserver.rest.health import Check, Health, fine, hook

STORE_ANSWER_S = 1.0
"""The store is not asked more often than this, whoever asks us."""


@dataclass(slots=True)
class Life:
    """How far an instance is between its start and its end."""

    born: float = field(default_factory=time.monotonic)
    prepared: bool = False
    """Whether everything is there that must be before the first request."""
    ending: bool = False


class StoreCheck:
    """Asks the store whether it answers."""

    def __init__(self, store: Etcd, timeout_s: float) -> None:
        self._store = store
        self._timeout_s = timeout_s
        self._asking: asyncio.Lock = asyncio.Lock()
        self._asked_at = float("-inf")
        self._fault = ""

    async def __call__(self) -> str:
        """Return what is wrong with the store; many askers share an answer."""
        async with self._asking:
            if time.monotonic() - self._asked_at >= STORE_ANSWER_S:
                self._fault = await self._ask()
                self._asked_at = time.monotonic()
            return self._fault

    async def _ask(self) -> str:
        try:
            async with asyncio.timeout(self._timeout_s):
                await self._store.revision()
        except TimeoutError:
            return "etcd failed: context deadline exceeded"
        except StoreError as error:
            return f"etcd failed: {error}"
        return ""


def _within_grace(check: Check, life: Life, grace_s: float) -> Check:
    """Return a check that finds nothing wrong while the start may still be going on."""
    if not grace_s:
        return check

    async def lenient() -> str:
        return "" if time.monotonic() - life.born < grace_s else await check()

    return lenient


def health_of(
    config: ApiServerConfig,
    store: Etcd,
    feed: Feed,
    life: Life,
    hooks: dict[str, Callable[[], bool]],
    more: dict[str, Check] | None = None,
) -> Health:
    """Return the checks of one server, ``more`` among them; ``hooks`` tells of what happens once after its start."""

    async def informers() -> str:
        return "" if feed.following else "the store's changes are not being followed"

    async def shutdown() -> str:
        return "process is shutting down" if life.ending else ""

    started = {name: hook(done) for name, done in hooks.items()}
    live: dict[str, Check] = {
        "ping": fine,
        "log": fine,
        "etcd": StoreCheck(store, config.etcd_healthcheck_timeout_s),
        **{
            f"poststarthook/{name}": _within_grace(check, life, config.livez_grace_period_s)
            for name, check in started.items()
        },
        **(more or {}),
    }
    ready: dict[str, Check] = {
        "etcd-readiness": StoreCheck(store, config.etcd_readycheck_timeout_s),
        "informer-sync": informers,
        **{f"poststarthook/{name}": check for name, check in started.items()},
        "shutdown": shutdown,
    }
    return Health(live, ready)
