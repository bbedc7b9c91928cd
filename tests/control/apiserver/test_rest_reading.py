"""Lists and watches as clients see them, over a store in memory."""

from __future__ import annotations

import asyncio

import pytest

from control.apiserver import watch
from tests.control.apiserver.harness import (
    CONFIG_MAPS,
    config_map,
    next_event,
    running,
)


async def test_lists_come_in_pages_of_one_revision() -> None:
    async with running() as api:
        for name in "abcde":
            await api.ask("POST", CONFIG_MAPS, config_map(name))
        first = (await api.ask("GET", f"{CONFIG_MAPS}?limit=2")).json
        assert first["metadata"]["remainingItemCount"] == 3
        await api.ask("DELETE", f"{CONFIG_MAPS}/d")
        seen = [item["metadata"]["name"] for item in first["items"]]
        token = first["metadata"]["continue"]
        while token:
            page = (await api.ask("GET", f"{CONFIG_MAPS}?limit=2&continue={token}")).json
            assert page["metadata"]["resourceVersion"] == first["metadata"]["resourceVersion"]
            seen += [item["metadata"]["name"] for item in page["items"]]
            token = page["metadata"].get("continue")
        assert seen == list("abcde")


async def test_a_page_of_a_compacted_revision_is_gone() -> None:
    async with running() as api:
        for name in "abc":
            await api.ask("POST", CONFIG_MAPS, config_map(name))
        token = (await api.ask("GET", f"{CONFIG_MAPS}?limit=1")).json["metadata"]["continue"]
        await api.ask("POST", CONFIG_MAPS, config_map("d"))
        await api.ask("GET", CONFIG_MAPS)
        api.store.compacted = api.store.at
        answer = await api.ask("GET", f"{CONFIG_MAPS}?limit=1&continue={token}")
        assert (answer.code, answer.json["reason"]) == (410, "Expired")


async def test_reads_see_every_write_acknowledged_before() -> None:
    async with running() as api:
        await api.ask("GET", CONFIG_MAPS)
        api.store.held = True
        await api.ask("POST", CONFIG_MAPS, config_map("a"))
        assert (await api.ask("GET", f"{CONFIG_MAPS}?resourceVersion=0")).json["items"] == []
        reading = asyncio.ensure_future(api.ask("GET", CONFIG_MAPS))
        await asyncio.sleep(0.01)
        assert not reading.done()
        api.store.held = False
        api.store.wake()
        assert len((await reading).json["items"]) == 1


async def test_watch_follows_a_selection() -> None:
    async with running() as api:
        await api.ask("POST", CONFIG_MAPS, config_map("before"))
        listed = (await api.ask("GET", CONFIG_MAPS)).json["metadata"]["resourceVersion"]
        async with api.watch(f"{CONFIG_MAPS}?watch=1&resourceVersion={listed}&labelSelector=x%3Dy") as events:
            obj = config_map("a")
            obj["metadata"]["labels"] = {"x": "y"}
            made = (await api.ask("POST", CONFIG_MAPS, obj)).json
            assert await next_event(events) == {"type": "ADDED", "object": made}
            kind = "application/merge-patch+json"
            patched = await api.ask("PATCH", f"{CONFIG_MAPS}/a", {"data": {"k": "v"}}, content_type=kind)
            assert await next_event(events) == {"type": "MODIFIED", "object": patched.json}
            hidden = {"metadata": {"labels": None}}
            left = (await api.ask("PATCH", f"{CONFIG_MAPS}/a", hidden, content_type=kind)).json
            event = await next_event(events)
            assert (event["type"], event["object"]["metadata"]["labels"]) == ("DELETED", {"x": "y"})
            assert event["object"]["metadata"]["resourceVersion"] == left["metadata"]["resourceVersion"]


async def test_watch_without_a_revision_begins_with_what_is_there() -> None:
    async with running() as api:
        await api.ask("POST", CONFIG_MAPS, config_map("a"))
        async with api.watch(f"{CONFIG_MAPS}?watch=true") as events:
            event = await next_event(events)
            assert (event["type"], event["object"]["metadata"]["name"]) == ("ADDED", "a")
            await api.ask("DELETE", f"{CONFIG_MAPS}/a")
            assert (await next_event(events))["type"] == "DELETED"


async def test_watch_list_ends_its_first_part_with_a_bookmark() -> None:
    async with running() as api:
        await api.ask("POST", CONFIG_MAPS, config_map("a"))
        query = "watch=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true"
        async with api.watch(f"{CONFIG_MAPS}?{query}") as events:
            assert (await next_event(events))["type"] == "ADDED"
            bookmark = await next_event(events)
            assert bookmark["type"] == "BOOKMARK"
            assert bookmark["object"]["metadata"]["annotations"] == {"k8s.io/initial-events-end": "true"}
            assert bookmark["object"]["kind"] == "ConfigMap"


async def test_watch_of_lost_events_is_told_so() -> None:
    async with running() as api:
        for name in "ab":
            await api.ask("POST", CONFIG_MAPS, config_map(name))
        await api.ask("GET", CONFIG_MAPS)
        async with api.watch(f"{CONFIG_MAPS}?watch=1&resourceVersion=1") as events:
            event = await next_event(events)
            assert (event["type"], event["object"]["code"], event["object"]["reason"]) == ("ERROR", 410, "Expired")
            assert await next_event(events) is None


async def test_watches_end_when_the_store_lost_their_events() -> None:
    async with running() as api:
        await api.ask("POST", CONFIG_MAPS, config_map("a"))
        listed = (await api.ask("GET", CONFIG_MAPS)).json["metadata"]["resourceVersion"]
        async with api.watch(f"{CONFIG_MAPS}?watch=1&resourceVersion={listed}") as events:
            api.store.held = True
            await api.ask("POST", CONFIG_MAPS, config_map("b"))
            await api.ask("POST", CONFIG_MAPS, config_map("c"))
            await api.ask("POST", CONFIG_MAPS, config_map("d"))
            api.store.held = False
            api.store.compact(api.store.at)
            event = await next_event(events)
            assert (event["type"], event["object"]["code"]) == ("ERROR", 410)
            assert await next_event(events) is None
        assert len((await api.ask("GET", CONFIG_MAPS)).json["items"]) == 4


async def test_watches_end_with_their_server() -> None:
    async with running() as api, api.watch(f"{CONFIG_MAPS}?watch=1") as events:
        api.feed.end_watches()
        assert await next_event(events) is None


async def test_a_watch_lives_as_long_as_it_asked_and_ends_with_one_bookmark() -> None:
    async with running() as api:
        async with api.watch(f"{CONFIG_MAPS}?watch=1&timeoutSeconds=1") as events:
            assert await next_event(events) is None
        async with api.watch(f"{CONFIG_MAPS}?watch=1&timeoutSeconds=1&allowWatchBookmarks=true") as events:
            assert (await next_event(events))["type"] == "BOOKMARK"
            assert await next_event(events) is None


async def test_bookmarks_come_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "BOOKMARK_INTERVAL_S", 0.2)
    types = []
    url = f"{CONFIG_MAPS}?watch=1&timeoutSeconds=1&allowWatchBookmarks=true"
    async with running() as api, api.watch(url) as events:
        while (event := await next_event(events)) is not None:
            types.append(event["type"])
    assert 1 <= len(types) <= 8
    assert set(types) == {"BOOKMARK"}
