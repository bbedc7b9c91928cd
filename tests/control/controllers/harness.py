"""Runs controllers against the fake API, step by step, with the caches as current as the test wants."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

from control.api.meta import Object
from control.api.resources import PODS
from control.client.events import EventRecorder
from control.client.informer import Informers
from control.client.runner import Context, Controller, run_controllers
from tests.fakes.fake_client import FakeClient

START = datetime(2026, 1, 1, tzinfo=UTC)


class World:
    """A fake API, a clock that tests move, and the controllers' context."""

    def __init__(self) -> None:
        self.time = START
        self.client = FakeClient(now=lambda: self.time)
        self.context = Context(
            self.client,
            Informers(self.client),
            EventRecorder(self.client, "test", clock=lambda: self.time.timestamp()),
            now=lambda: self.time,
        )

    def pass_time(self, seconds: float) -> None:
        """Move the clock."""
        self.time += timedelta(seconds=seconds)

    def make_ready(self, pod: Object, node: str = "n1") -> None:
        """Do what scheduler and kubelet do for a pod."""
        ready = {"type": "Ready", "status": "True", "lastTransitionTime": self.time.strftime("%Y-%m-%dT%H:%M:%SZ")}
        status = {"phase": "Running", "conditions": [ready], "podIP": "10.0.0.1", "podIPs": [{"ip": "10.0.0.1"}]}
        self.client.put(PODS, {**pod, "spec": {**pod["spec"], "nodeName": node}, "status": status})

    @asynccontextmanager
    async def running(self, make: Callable[[Context], Sequence[Controller]]) -> AsyncIterator[Sequence[Controller]]:
        """Run controllers for the time of a block."""
        controllers = make(self.context)
        async with asyncio.TaskGroup() as group:
            task = group.create_task(run_controllers(self.context, controllers))
            try:
                yield controllers
            finally:
                task.cancel()

    async def settle(self, controllers: Sequence[Controller], *, rounds: int = 4) -> None:
        """Wait until the informers have seen everything and no key waits, several looks in a row."""
        calm = 0
        async with asyncio.timeout(10):
            await self.context.informers.wait_synced()
            while calm < rounds:
                await asyncio.sleep(0.001)
                idle = all(controller.queue.idle for controller in controllers)
                calm = calm + 1 if idle and await self._caught_up() else 0

    async def _caught_up(self) -> bool:
        before = self.client.revision
        for _ in range(5):
            await asyncio.sleep(0)
        return before == self.client.revision


async def until(condition: Callable[[], Any], timeout_s: float = 30.0) -> None:
    """Wait for a condition with a deadline."""
    async with asyncio.timeout(timeout_s):
        while not condition():
            await asyncio.sleep(0.002)
