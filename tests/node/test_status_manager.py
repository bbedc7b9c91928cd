"""The writer of pod statuses against an API server in memory."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from control.api import meta
from control.api.meta import Object
from control.api.resources import PODS
from node.status_manager import StatusManager
from tests.fakes.fake_client import FakeClient


async def until(condition: Callable[[], Any]) -> None:
    """Poll until a condition holds."""
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)


@pytest.fixture
def api() -> FakeClient:
    """An API server with one pod."""
    client = FakeClient()
    client.put(PODS, {"metadata": {"name": "web", "namespace": "default", "uid": "u-1"}, "spec": {}, "status": {}})
    return client


@pytest.fixture
async def manager(api: FakeClient) -> AsyncIterator[StatusManager]:
    """A manager at work."""

    def latest(pod: Object) -> Object | None:
        found = api.find(PODS, "web", "default")
        return found if found is not None and meta.uid(found) == meta.uid(pod) else None

    found = StatusManager(api, latest)
    task = asyncio.create_task(found.run())
    yield found
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def phase(api: FakeClient) -> str | None:
    """The stored phase."""
    found = (api.find(PODS, "web", "default") or {}).get("status") or {}
    return found.get("phase")


async def test_the_newest_status_is_written(api: FakeClient, manager: StatusManager) -> None:
    pod = api.objects(PODS)[0]
    for name in ("Pending", "Running"):
        manager.set(pod, {"phase": name})
    await until(lambda: phase(api) == "Running")
    assert api.verbs(PODS) == ["patch"]
    manager.set(pod, {"phase": "Running"})
    await asyncio.sleep(0.05)
    assert api.verbs(PODS) == ["patch"], "what is told already is not told again"


async def test_a_failure_is_tried_again(api: FakeClient, manager: StatusManager) -> None:
    api.fail_next("patch", PODS)
    manager.set(api.objects(PODS)[0], {"phase": "Running"})
    await until(lambda: phase(api) == "Running")


async def test_the_object_is_deleted_after_its_last_status(api: FakeClient, manager: StatusManager) -> None:
    pod = api.objects(PODS)[0]
    api.fail_next("patch", PODS)
    manager.set(pod, {"phase": "Failed"})
    manager.delete(pod)
    await until(lambda: not api.objects(PODS))
    assert api.verbs(PODS) == ["patch", "patch", "delete"]


async def test_another_pod_of_the_name_is_left_alone(api: FakeClient, manager: StatusManager) -> None:
    old = api.objects(PODS)[0]
    api.remove(PODS, "web", "default")
    api.put(PODS, {**old, "metadata": {**old["metadata"], "uid": "u-2"}})
    manager.set(old, {"phase": "Failed"})
    manager.delete(old)
    await until(lambda: "patch" in api.verbs(PODS))
    await asyncio.sleep(0.3)
    assert phase(api) is None
    assert len(api.verbs(PODS)) <= 2, "it is not tried for ever"
