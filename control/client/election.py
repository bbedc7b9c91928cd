"""Leader election by a Lease, with the rules of Kubernetes' own components.

Theory of operation. The Lease names its holder and how long a candidate must wait after the last renewal before
taking it. Nobody trusts another machine's clock: a candidate measures the wait by its own clock from the moment
when it *saw* the record change. A leader that cannot renew within the renew deadline, which is shorter than the
lease, stops leading before anyone else may start.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from control.api import meta
from control.api.meta import Object
from control.api.resources import LEASES
from control.api.status import ApiError
from control.client.client import Client

log = logging.getLogger(__name__)

JITTER_FACTOR = 1.2


@dataclass(frozen=True)
class ElectionConfig:
    """Which Lease, who we are, and the timers; the defaults are upstream's."""

    name: str
    identity: str
    namespace: str = "kube-system"
    lease_duration_s: float = 15.0
    """How long candidates wait after the last renewal that they saw."""
    renew_deadline_s: float = 10.0
    """How long the leader tries to renew before it gives up."""
    retry_period_s: float = 2.0
    """How long everyone waits between two tries."""

    def __post_init__(self) -> None:
        """Refuse timers under which two could lead at once."""
        if not self.lease_duration_s > self.renew_deadline_s > self.retry_period_s * JITTER_FACTOR > 0:
            raise ValueError("lease duration > renew deadline > 1.2 × retry period > 0 must hold")


@dataclass(frozen=True)
class Observed:
    """The Lease's record as last seen to change, and when that was by our clock."""

    spec: dict[str, object]
    since: float


def microtime(now: datetime) -> str:
    """Return a time as Kubernetes' MicroTime."""
    return now.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def may_take(spec: dict[str, object], observed: Observed, identity: str, now: float) -> bool:
    """Tell whether the record lets `identity` lead: it does, nobody does, or the holder was silent too long."""
    holder = str(spec.get("holderIdentity") or "")
    duration = float(str(spec.get("leaseDurationSeconds") or 0))
    return holder in ("", identity) or observed.since + duration < now


def record(config: ElectionConfig, old: dict[str, object] | None, now: datetime) -> dict[str, object]:
    """Return the record that makes us the holder or renews it."""
    transitions = int(str((old or {}).get("leaseTransitions") or 0))
    acquired = microtime(now)
    if old is not None and old.get("holderIdentity") == config.identity:
        acquired = str(old.get("acquireTime") or acquired)
    elif old is not None:
        transitions += 1
    return {
        **(old or {}),
        "holderIdentity": config.identity,
        "leaseDurationSeconds": max(1, round(config.lease_duration_s)),
        "acquireTime": acquired,
        "renewTime": microtime(now),
        "leaseTransitions": transitions,
    }


class Elector:
    """Runs work while it holds the Lease."""

    def __init__(self, client: Client, config: ElectionConfig, jitter: random.Random | None = None) -> None:
        self._client = client
        self._config = config
        self._random = jitter or random.Random()
        self._observed = Observed({}, 0.0)
        self._lease: Object | None = None
        self.is_leader = False

    @property
    def leader(self) -> str:
        """The holder as last seen."""
        return str(self._observed.spec.get("holderIdentity") or "")

    async def run(self, work: Callable[[], Awaitable[None]]) -> None:
        """Wait to lead, do `work`, and begin again when leading is lost; ends when `work` ends or on cancellation."""
        while True:
            await self._acquire()
            log.info("leading lease=%s identity=%s", self._config.name, self._config.identity)
            self.is_leader = True
            try:
                if await self._lead(work):
                    return
            finally:
                self.is_leader = False
            log.error("leading was lost lease=%s identity=%s", self._config.name, self._config.identity)

    async def _lead(self, work: Callable[[], Awaitable[None]]) -> bool:
        """Work until it ends (True) or the Lease is lost (False)."""
        ended = False

        async def do_work() -> None:
            nonlocal ended
            await work()
            ended = True
            renewing.cancel()

        async def renew() -> None:
            await self._renew()
            working.cancel()

        try:
            async with asyncio.TaskGroup() as group:
                working = group.create_task(do_work())
                renewing = group.create_task(renew())
        finally:
            if self._may_still_hold():
                await self._release()
        return ended

    def _may_still_hold(self) -> bool:
        return self._observed.spec.get("holderIdentity") == self._config.identity

    async def _acquire(self) -> None:
        while True:
            if await self._try_once():
                return
            await asyncio.sleep(self._config.retry_period_s * (1 + self._random.random() * (JITTER_FACTOR - 1)))

    async def _renew(self) -> None:
        """Renew until the deadline passes without success."""
        while True:
            try:
                async with asyncio.timeout(self._config.renew_deadline_s):
                    await self._acquire()
            except TimeoutError:
                return
            await asyncio.sleep(self._config.retry_period_s)

    async def _try_once(self) -> bool:
        """Take or renew the Lease if its record allows it; False for any reason not to lead now."""
        config = self._config
        if self.is_leader and self._lease is not None and self._may_still_hold():
            # The leader alone writes the record, so that what it wrote last is what stands there.
            renewed = record(config, self._lease.get("spec") or {}, datetime.now(UTC))
            if await self._write(renewed):
                return True
        try:
            self._lease = await self._client.get(LEASES, config.name, config.namespace)
        except ApiError as error:
            if error.code == 404:
                return await self._create()
            self._note(error)
            return False
        spec = self._lease.get("spec") or {}
        now = asyncio.get_running_loop().time()
        if spec != self._observed.spec:
            self._observed = Observed(spec, now)
        if not may_take(spec, self._observed, config.identity, now):
            return False
        return await self._write(record(config, spec, datetime.now(UTC)))

    async def _create(self) -> bool:
        spec = record(self._config, None, datetime.now(UTC))
        body = {
            "apiVersion": LEASES.api_version,
            "kind": LEASES.kind,
            "metadata": {"name": self._config.name, "namespace": self._config.namespace},
            "spec": spec,
        }
        try:
            self._lease = await self._client.create(LEASES, body, self._config.namespace)
        except ApiError as error:
            self._note(error)
            return False
        self._observed = Observed(self._lease.get("spec") or spec, asyncio.get_running_loop().time())
        return True

    async def _write(self, spec: dict[str, object]) -> bool:
        assert self._lease is not None
        try:
            self._lease = await self._client.update(LEASES, {**self._lease, "spec": spec})
        except ApiError as error:
            self._note(error)
            return False
        self._observed = Observed(self._lease.get("spec") or spec, asyncio.get_running_loop().time())
        return True

    async def _release(self) -> None:
        """Let the next candidate start at once: the record names nobody and runs out in a second."""
        try:
            async with asyncio.timeout(self._config.retry_period_s):
                await self._give_up()
        except (ApiError, TimeoutError) as error:
            log.warning("the lease was not released lease=%s error=%s", self._config.name, error)

    async def _give_up(self) -> None:
        assert self._lease is not None
        while True:
            now = microtime(datetime.now(UTC))
            free = {**(self._lease.get("spec") or {}), "holderIdentity": "", "leaseDurationSeconds": 1}
            free |= {"renewTime": now, "acquireTime": now}
            try:
                await self._client.update(LEASES, {**self._lease, "spec": free})
            except ApiError as error:
                if error.reason != "Conflict":
                    raise
                # A renewal that was cancelled on its way has arrived all the same.
                self._lease = await self._client.get(LEASES, self._config.name, self._config.namespace)
                if (self._lease.get("spec") or {}).get("holderIdentity") == self._config.identity:
                    continue
            return

    def _note(self, error: ApiError) -> None:
        if error.code != 409:  # losing a race is the normal case
            log.warning("lease not reached lease=%s error=%s", meta.name(self._lease or {}) or self._config.name, error)
