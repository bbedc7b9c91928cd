"""What stands in memory may be older than what is stored, and a kind may go while its changes are told."""

from __future__ import annotations

import asyncio

import orjson
import pytest

from control.api.meta import Object
from control.api.resources import Resource
from control.apiserver.feed import Feed
from control.apiserver.kinds import load
from tests.control.apiserver.harness import CONFIG_MAPS, Api, config_map, running
from tests.fakes.fake_store import FakeStore

CONFIG_MAP_RESOURCE = Resource("", "v1", "configmaps", "ConfigMap")
KEY = "/registry/configmaps/default/a"


async def _elsewhere(api: Api, value: str) -> int:
    """Change the object as another server does, of whose write memory here does not hear."""
    api.store.held = True
    stored = api.store.state()[KEY]
    return await api.store.update(KEY, stored.value.replace(b'"here"', f'"{value}"'.encode()), stored.revision)


@pytest.mark.parametrize("dry_run", ["", "?dryRun=All"], ids=["for real", "dry run"])
def test_what_changes_nothing_in_memory_may_change_what_is_stored(dry_run: str) -> None:
    async def scenario() -> None:
        async with running() as api:
            await api.ask("POST", CONFIG_MAPS, config_map("a", key="here"))
            assert (await api.ask("GET", f"{CONFIG_MAPS}/a")).json["data"] == {"key": "here"}
            revision = await _elsewhere(api, "there")
            patch, kind = {"data": {"key": "here"}}, "application/merge-patch+json"
            answer = await api.ask("PATCH", f"{CONFIG_MAPS}/a{dry_run}", patch, content_type=kind)
            assert answer.json["data"] == {"key": "here"}
            stored = api.store.state()[KEY]
            assert orjson.loads(stored.value)["data"] == {"key": "there" if dry_run else "here"}
            assert (stored.revision == revision) == bool(dry_run)

    asyncio.run(scenario())


def test_a_patch_of_nothing_answers_with_what_is_stored() -> None:
    async def scenario() -> None:
        async with running() as api:
            await api.ask("POST", CONFIG_MAPS, config_map("a", key="here"))
            await api.ask("GET", f"{CONFIG_MAPS}/a")
            revision = await _elsewhere(api, "there")
            answer = await api.ask("PATCH", f"{CONFIG_MAPS}/a", {}, content_type="application/merge-patch+json")
            assert answer.json["data"] == {"key": "there"}
            assert answer.json["metadata"]["resourceVersion"] == str(revision)

    asyncio.run(scenario())


def test_the_feed_goes_on_when_a_kind_is_forgotten_while_its_changes_are_told() -> None:
    async def scenario() -> None:
        store, kinds = FakeStore(), load()
        feed = Feed(store, kinds)  # type: ignore[arg-type]
        kind = kinds.of(CONFIG_MAP_RESOURCE)
        forgotten: list[str] = []

        def changed(old: Object | None, new: Object | None) -> None:
            if new is not None and not forgotten:
                forgotten.append(new["metadata"]["name"])
                feed.forget(kinds.key_prefix(kind))

        feed.subscribe(kind.resource, changed)
        following = asyncio.ensure_future(feed.run())
        try:
            await feed.ready()
            await feed.cache(kind)
            await store.create(KEY, orjson.dumps(config_map("a")))
            revision = await store.create(KEY + "b", orjson.dumps(config_map("ab")))
            await feed.reach(revision)
            assert not following.done()
            assert forgotten == ["a"]
            assert len((await feed.cache(kind)).entries) == 2
        finally:
            following.cancel()
            await asyncio.wait([following])

    asyncio.run(scenario())
