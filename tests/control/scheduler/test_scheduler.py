"""The scheduler's shell against the fake API."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from control.api import meta
from control.api.resources import EVENTS, NODES, PODS
from control.scheduler.config import SchedulerConfig
from control.scheduler.scheduler import Scheduler
from tests.fakes.fake_client import FakeClient


def node(name: str, cpu: str) -> dict[str, Any]:
    allocatable = {"cpu": cpu, "memory": "1Gi", "pods": "10"}
    return {"metadata": {"name": name}, "spec": {}, "status": {"allocatable": allocatable}}


def pod(name: str, cpu: str) -> dict[str, Any]:
    container = {"name": "c", "resources": {"requests": {"cpu": cpu}}}
    return {"metadata": {"name": name, "namespace": "d"}, "spec": {"containers": [container]}}


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.01)


@asynccontextmanager
async def running(client: FakeClient) -> AsyncIterator[Scheduler]:
    scheduler = Scheduler(client, SchedulerConfig(Path("unused")))
    task = asyncio.create_task(scheduler.run())
    try:
        yield scheduler
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_pods_get_nodes_and_the_rest_learn_why() -> None:
    client = FakeClient()
    await client.create(NODES, node("a", "1"))
    for number in range(3):
        await client.create(PODS, pod(f"p{number}", "400m"), "d")
    async with running(client) as scheduler:

        def placed() -> list[str]:
            return [meta.name(p) for p in client.objects(PODS) if p["spec"].get("nodeName") == "a"]

        def refused() -> list[str]:
            found = [p for p in client.objects(PODS) if meta.condition(p, "PodScheduled")]
            return [meta.name(p) for p in found if not p["spec"].get("nodeName")]

        await until(lambda: len(placed()) == 2 and len(refused()) == 1)
        waiting = refused()[0]
        assert scheduler.decisions[f"d/{waiting}"].message() == "0/1 nodes are available: 1 Insufficient cpu."
        await until(lambda: {e["reason"] for e in client.objects(EVENTS)} == {"Scheduled", "FailedScheduling"})
        await client.create(NODES, node("b", "1"))
        await until(lambda: [p["spec"].get("nodeName") for p in client.objects(PODS)].count("b") == 1)
