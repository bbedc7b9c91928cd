"""The feed: listeners, losses, and reads that wait for it."""

from __future__ import annotations

import asyncio
from typing import Any

import orjson
import pytest

from control.api.resources import CONFIG_MAPS
from control.apiserver import feed
from tests.control.apiserver.harness import running
from tests.fakes.fake_store import FakeStore

PREFIX = "/registry/configmaps/"


def value(name: str, **data: str) -> bytes:
    obj = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "namespace": "d"}, "data": data}
    return orjson.dumps(obj)


async def until(condition: Any) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.005)


async def test_listeners_are_told_what_is_there_and_what_changes_also_across_a_loss() -> None:
    store = FakeStore()
    await store.create(PREFIX + "d/a", value("a"))
    seen: dict[str, str] = {}

    def listen(old: Any, new: Any) -> None:
        if new is None:
            del seen[old["metadata"]["name"]]
        else:
            seen[new["metadata"]["name"]] = new["metadata"]["resourceVersion"]

    async with running(store) as api:
        api.feed.subscribe(CONFIG_MAPS, listen)
        assert seen == {}
        await api.feed.warm(CONFIG_MAPS)
        assert seen == {"a": "2"}
        await store.create(PREFIX + "d/b", value("b"))
        await until(lambda: seen == {"a": "2", "b": "3"})
        store.held = True
        await store.delete(PREFIX + "d/a", 2)
        await store.update(PREFIX + "d/b", value("b", x="y"), 3)
        store.held = False
        store.compact(store.at)
        await until(lambda: seen == {"b": "5"})
        assert api.feed.get(CONFIG_MAPS, "a", "d") is None
        assert [obj["data"] for obj in api.feed.list(CONFIG_MAPS, "d")] == [{"x": "y"}]


async def test_what_changes_while_a_kind_is_loaded_is_not_lost() -> None:
    store = FakeStore()
    for number in range(5):
        await store.create(f"{PREFIX}d/{number}", value(str(number)))
    listing = store.everything

    async def slow(prefix: str) -> Any:
        found = await listing(prefix)
        await store.create(PREFIX + "d/late", value("late"))
        await asyncio.sleep(0.02)
        return found

    store.everything = slow  # type: ignore[method-assign]
    async with running(store) as api:
        await api.feed.warm(CONFIG_MAPS)
        assert len(list(api.feed.list(CONFIG_MAPS))) == 6


async def test_many_waiting_reads_ask_the_store_once() -> None:
    asked = 0
    store = FakeStore()
    original = store.revision

    async def counted() -> int:
        nonlocal asked
        asked += 1
        await asyncio.sleep(0.01)
        return await original()

    async with running(store) as api:
        store.revision = counted  # type: ignore[method-assign]
        await asyncio.gather(*(api.feed.fresh() for _ in range(50)))
        assert asked == 1
        await asyncio.gather(*(api.feed.fresh() for _ in range(50)))
        assert asked == 2


async def test_a_revision_that_does_not_come_is_not_waited_for_for_ever() -> None:
    async with running() as api:
        with pytest.raises(TimeoutError):
            await api.feed.reach(1_000_000, timeout_s=0.05)


async def test_reads_that_share_a_question_wait_for_a_watch_that_lags(monkeypatch: pytest.MonkeyPatch) -> None:
    store = FakeStore()
    async with running(store) as api:
        store.held = True
        await store.create(PREFIX + "d/a", value("a"))
        waiting = [asyncio.ensure_future(api.feed.fresh()) for _ in range(3)]
        await asyncio.wait(waiting, timeout=0.02)
        assert not any(each.done() for each in waiting)
        waiting.pop().cancel()
        store.held = False
        store.wake()
        assert set(await asyncio.gather(*waiting)) == {store.at}
        monkeypatch.setattr(feed, "REACH_TIMEOUT_S", 0.05)
        store.held = True
        await store.create(PREFIX + "d/b", value("b"))
        late = await asyncio.gather(*(api.feed.fresh() for _ in range(3)), return_exceptions=True)
        assert [type(each) for each in late] == [TimeoutError] * 3


async def test_a_get_does_not_answer_from_what_was_lost_while_it_waited() -> None:
    store = FakeStore()
    written = await store.create(PREFIX + "d/a", value("a"))
    async with running(store) as api:
        kind = api.feed.kinds.of(CONFIG_MAPS)
        cache = await api.feed.cache(kind)
        original = api.feed.fresh

        async def loses() -> int:
            revision = await original()
            store.held = True
            await store.update(PREFIX + "d/a", value("a", x="y"), written)
            cache.lose()
            return revision

        api.feed.fresh = loses  # type: ignore[method-assign]
        assert (await api.registry.get(kind, "d", "a")).object()["data"] == {"x": "y"}
