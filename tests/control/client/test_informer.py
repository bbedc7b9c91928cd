"""The informer's cache ends equal to the server's collection, whatever breaks on the way."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from control.api import meta
from control.api.meta import Object
from control.api.resources import CONFIG_MAPS, PODS
from control.client.informer import BY_OWNER, Cache, Informer, Informers, by_namespace, by_owner
from tests.fakes.fake_client import FakeClient


def config_map(name: str, **data: str) -> Object:
    return {"metadata": {"name": name, "namespace": "n"}, "data": data}


async def until(condition: Callable[[], bool], timeout_s: float = 30.0) -> None:
    async with asyncio.timeout(timeout_s):
        while not condition():
            await asyncio.sleep(0.002)


@asynccontextmanager
async def running(informer: Informer | Informers) -> AsyncIterator[None]:
    async with asyncio.TaskGroup() as group:
        task = group.create_task(informer.run())
        try:
            await asyncio.wait_for(informer.wait_synced(), 5)
            yield
        finally:
            task.cancel()


def names(informer: Informer) -> dict[str, Any]:
    return {meta.key(obj): obj.get("data") for obj in informer.objects()}


async def test_handlers_learn_of_each_change() -> None:
    client = FakeClient()
    await client.create(CONFIG_MAPS, config_map("old"))
    informer = Informer(client, CONFIG_MAPS)
    seen: list[tuple[str | None, str | None]] = []
    informer.add_handler(
        lambda old, new: seen.append((meta.name(old) if old else None, meta.name(new) if new else None))
    )
    async with running(informer):
        await client.create(CONFIG_MAPS, config_map("new"))
        await client.patch(CONFIG_MAPS, "old", {"data": {"k": "v"}}, "n")
        await client.delete(CONFIG_MAPS, "new", "n")
        await until(lambda: len(seen) == 4)
    assert seen == [(None, "old"), (None, "new"), ("old", "old"), ("new", None)]


async def test_a_late_handler_is_told_what_there_is() -> None:
    client = FakeClient()
    await client.create(CONFIG_MAPS, config_map("a"))
    informer = Informer(client, CONFIG_MAPS)
    async with running(informer):
        seen: list[Object | None] = []
        informer.add_handler(lambda _, new: seen.append(new))
    assert len(seen) == 1


async def test_after_410_the_difference_becomes_changes() -> None:
    client = FakeClient()
    await client.create(CONFIG_MAPS, config_map("gone"))
    await client.create(CONFIG_MAPS, config_map("stays"))
    informer = Informer(client, CONFIG_MAPS)
    gone: list[str] = []
    informer.add_handler(lambda old, new: gone.append(meta.name(old)) if old and new is None else None)
    async with running(informer):
        await client.delete(CONFIG_MAPS, "gone", "n")
        await client.create(CONFIG_MAPS, config_map("fresh"))
        client.compact()
        client.break_watches()
        await until(lambda: set(names(informer)) == {"n/stays", "n/fresh"})
    assert gone == ["gone"]


async def test_an_object_made_anew_under_its_name_is_two_changes() -> None:
    client = FakeClient()
    first = await client.create(CONFIG_MAPS, config_map("a"))
    informer = Informer(client, CONFIG_MAPS)
    seen: list[tuple[str, str]] = []
    informer.add_handler(lambda old, new: seen.append((meta.uid(old or {}), meta.uid(new or {}))))
    async with running(informer):
        client.fail_next("watch")
        client.break_watches()
        await client.delete(CONFIG_MAPS, "a", "n")
        second = await client.create(CONFIG_MAPS, config_map("a"))
        client.compact()
        await until(lambda: len(seen) == 3)
    assert seen == [("", meta.uid(first)), (meta.uid(first), ""), ("", meta.uid(second))]


async def test_failures_are_retried() -> None:
    client = FakeClient()
    await client.create(CONFIG_MAPS, config_map("a"))
    client.fail_next("list")
    informer = Informer(client, CONFIG_MAPS)
    async with running(informer):
        assert names(informer) == {"n/a": {}}


async def test_pages_are_joined() -> None:
    client = FakeClient()
    for index in range(1203):
        client.put(CONFIG_MAPS, config_map(f"c{index}"))
    informer = Informer(client, CONFIG_MAPS)
    async with running(informer):
        assert len(informer.cache) == 1203


async def test_one_informer_for_all_who_ask() -> None:
    informers = Informers(FakeClient())
    assert informers.of(PODS) is informers.of(PODS)
    assert informers.of(PODS) is not informers.of(PODS, field_selector="spec.nodeName=n1")
    async with running(informers):
        assert informers.of(PODS).has_synced


def test_indexes_follow_the_objects() -> None:
    cache = Cache({"namespace": by_namespace, BY_OWNER: by_owner})
    owned = config_map("a")
    owned["metadata"]["ownerReferences"] = [{"uid": "u1", "controller": True}]
    cache.put(owned)
    assert cache.by_index("namespace", "n") == [owned]
    assert cache.by_index(BY_OWNER, "u1") == [owned]
    cache.put(config_map("a"))
    assert cache.by_index(BY_OWNER, "u1") == []
    cache.remove("n/a")
    assert cache.by_index("namespace", "n") == []


STEPS = st.lists(
    st.tuples(st.sampled_from(["put", "delete", "compact", "break", "fail", "rest"]), st.sampled_from("abc")),
    max_size=25,
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(STEPS)
def test_the_cache_ends_as_the_server(steps: list[tuple[str, str]]) -> None:
    async def scenario() -> None:
        client = FakeClient()
        informer = Informer(client, CONFIG_MAPS)
        shadow: dict[str, Object] = {}

        def follow(old: Object | None, new: Object | None) -> None:
            if new is None:
                assert old is not None
                del shadow[meta.key(old)]
            else:
                assert (old is None) == (meta.key(new) not in shadow)
                shadow[meta.key(new)] = new

        informer.add_handler(follow)
        async with running(informer):
            for index, (step, name) in enumerate(steps):
                match step:
                    case "put":
                        client.put(CONFIG_MAPS, config_map(name, k=str(index)))
                    case "delete" if client.find(CONFIG_MAPS, name, "n"):
                        client.remove(CONFIG_MAPS, name, "n")
                    case "compact":
                        client.compact()
                    case "break":
                        client.break_watches()
                    case "fail":
                        client.fail_next("watch")
                    case _:
                        await asyncio.sleep(0)
            truth = {meta.key(obj): obj for obj in client.objects(CONFIG_MAPS)}
            await until(lambda: shadow == truth, 20)
            assert {meta.key(obj): obj for obj in informer.objects()} == truth

    from control.client import informer as module

    before, module.BACKOFF_FIRST_S = module.BACKOFF_FIRST_S, 0.001
    try:
        asyncio.run(scenario())
    finally:
        module.BACKOFF_FIRST_S = before
