"""The watch cache against a model: what a watch has been told always adds up to what is there."""

from __future__ import annotations

import asyncio
from typing import Any

import orjson
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from control.api import selectors
from control.api.resources import CONFIG_MAPS
from control.apiserver import cache as cache_module
from control.apiserver import kinds
from control.apiserver.cache import Filter, ResourceCache
from control.apiserver.etcd import Change, KeyValue

KINDS = kinds.load()
KIND = KINDS.of(CONFIG_MAPS)
PREFIX = KINDS.key_prefix(KIND)
NAMES = st.sampled_from(["a/x", "a/y", "b/x"])
LABELS = st.sampled_from([{}, {"app": "web"}, {"app": "db"}])
FILTERS = (Filter(), Filter("a"), Filter("", selectors.parse("app=web")), Filter("b", selectors.parse("app!=db")))


def value(key: str, labels: dict[str, str]) -> bytes:
    namespace, name = key.split("/")
    return orjson.dumps({"kind": "ConfigMap", "metadata": {"name": name, "namespace": namespace, "labels": labels}})


class Watcher:
    """A watch that reads now and then, and what it believes."""

    def __init__(self, cache: ResourceCache, chosen: Filter) -> None:
        self.chosen = chosen
        self.cache = cache
        self.restart()

    def restart(self) -> None:
        self.known = {entry.key: entry.revision for entry in self.cache.select(self.chosen)}
        self.position = self.cache.next_position
        self.epoch = self.cache.epoch

    def read(self) -> None:
        events = self.cache.since(self.position) if self.epoch == self.cache.epoch else None
        if events is None:
            self.restart()
            return
        told = self.cache.told(self.position, self.chosen)
        assert told == [made for event in events if (made := event.delivery(self.chosen)) is not None]
        self.position += len(events)
        for event in events:
            if (delivery := event.delivery(self.chosen)) is None:
                continue
            metadata: dict[str, Any] = orjson.loads(delivery.data)["metadata"]
            key, revision = f"{metadata['namespace']}/{metadata['name']}", int(metadata["resourceVersion"])
            if delivery.type == "DELETED":
                assert key in self.known
                assert revision == event.revision
                del self.known[key]
            else:
                assert (delivery.type == "ADDED") == (key not in self.known)
                self.known[key] = revision


class CacheMachine(RuleBasedStateMachine):
    """Random changes, losses and slow watches."""

    def __init__(self) -> None:
        super().__init__()
        self.revision = 1
        self.model: dict[str, KeyValue] = {}
        self.cache = ResourceCache(KIND, PREFIX)
        self.cache.load([], 1)
        self.watchers = [Watcher(self.cache, chosen) for chosen in FILTERS]

    def change(self, key: str, data: bytes | None) -> None:
        self.revision += 1
        if data is None:
            del self.model[key]
        else:
            self.model[key] = KeyValue(PREFIX + key, data, self.revision)
        self.cache.apply(Change(PREFIX + key, data, self.revision))

    @rule(key=NAMES, labels=LABELS)
    def put(self, key: str, labels: dict[str, str]) -> None:
        self.change(key, value(key, labels))

    @rule(key=NAMES)
    def delete(self, key: str) -> None:
        if key in self.model:
            self.change(key, None)

    @rule(index=st.integers(0, len(FILTERS) - 1))
    def read(self, index: int) -> None:
        self.watchers[index].read()

    @rule(key=NAMES, labels=LABELS)
    def lose(self, key: str, labels: dict[str, str]) -> None:
        self.cache.lose()
        self.revision += 1
        self.model[key] = KeyValue(PREFIX + key, value(key, labels), self.revision)
        self.cache.load(list(self.model.values()), self.revision)
        # What the list held already may arrive by the watch once more.
        assert self.cache.apply(Change(PREFIX + key, value(key, labels), self.revision)) is None

    @invariant()
    def holds_what_is_there(self) -> None:
        held = {key: entry.revision for key, entry in self.cache.entries.items()}
        assert held == {key: item.revision for key, item in self.model.items()}

    @invariant()
    def remembers_all_after_the_floor(self) -> None:
        assert all(event.revision > self.cache.floor for event in self.cache.events)
        assert self.cache.position(self.cache.floor) == self.cache.first
        assert self.cache.position(self.revision) == self.cache.next_position

    def teardown(self) -> None:
        for watcher in self.watchers:
            watcher.read()
            expected = {entry.key: entry.revision for entry in self.cache.select(watcher.chosen)}
            assert watcher.known == expected


CacheMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestCache = CacheMachine.TestCase


def test_old_events_are_forgotten_and_slow_watches_told() -> None:
    cache = ResourceCache(KIND, PREFIX)
    cache.load([], 1)
    start = cache.next_position
    for revision in range(2, cache_module.EVENTS_MAX + 3):
        cache.apply(Change(PREFIX + "a/x", value("a/x", {}), revision))
    assert len(cache.events) <= cache_module.EVENTS_MAX
    assert cache.since(start) is None
    assert cache.floor > 1
    assert cache.since(cache.next_position) == []


def test_what_is_unreadable_is_left_out_and_named() -> None:
    cache = ResourceCache(KIND, PREFIX)
    cache.load([KeyValue(PREFIX + "a/x", b"k8s\0", 2), KeyValue(PREFIX + "a/y", value("a/y", {}), 3)], 3)
    assert list(cache.entries) == ["a/y"]
    assert list(cache.unreadable) == ["a/x"]
    assert cache.apply(Change(PREFIX + "a/z", b"[]", 4)) is None


def test_selection_is_in_the_stores_order_and_goes_on_behind_a_key() -> None:
    cache = ResourceCache(KIND, PREFIX)
    keys = ["a/x", "a-b/x", "a/y", "b/x"]
    cache.load([KeyValue(PREFIX + key, value(key, {}), 2) for key in keys], 2)
    assert [entry.key for entry in cache.select(Filter())] == ["a-b/x", "a/x", "a/y", "b/x"]
    assert [entry.key for entry in cache.select(Filter("a"))] == ["a/x", "a/y"]
    assert [entry.key for entry in cache.select(Filter("a"), after="a/x")] == ["a/y"]
    assert [entry.key for entry in cache.select(Filter(), after="a/y")] == ["b/x"]


async def test_a_crowd_is_woken_once_for_many_events() -> None:
    cache = ResourceCache(KIND, PREFIX)
    cache.load([], 1)
    woken: list[int] = []

    async def wait() -> None:
        await cache.wait(20)
        woken.append(len(cache.events))

    async with asyncio.TaskGroup() as tasks:
        for _ in range(cache_module.CROWD):
            tasks.create_task(wait())
        await asyncio.sleep(0)
        for revision in range(2, 7):
            cache.apply(Change(PREFIX + f"a/{revision}", value(f"a/{revision}", {}), revision))
            cache.wake_soon()
            await asyncio.sleep(0)
    assert woken == [5] * cache_module.CROWD
