"""What a request's query and body may say of how it is served, beside what it asks for."""

from __future__ import annotations

import asyncio

import pytest

from control.apiserver import watch
from control.apiserver.rest.app import asked_timeout_s
from tests.control.apiserver.harness import CONFIG_MAPS, PODS, Api, config_map, next_event, pod, running


@pytest.mark.parametrize(
    ("text", "code", "told"),
    [
        ("1m", 200, ""),
        ("0s", 200, ""),
        ("-3s", 200, ""),
        ("5", 400, 'time: missing unit in duration "5"'),
        ("soon", 400, 'time: invalid duration "soon"'),
    ],
)
async def test_a_request_may_say_how_long_it_may_take(text: str, code: int, told: str) -> None:
    async with running() as api:
        answer = await api.ask("GET", f"{CONFIG_MAPS}?timeout={text}")
        assert answer.code == code
        if told:
            assert answer.json["message"] == f"invalid timeout specified in the request URL - {told}"


async def test_a_request_ends_by_its_own_wish(monkeypatch: pytest.MonkeyPatch) -> None:
    async def never(*arguments: object) -> None:
        await asyncio.Event().wait()

    assert asked_timeout_s("50ms") == 0.05
    async with running() as api:
        monkeypatch.setattr(api.service, "page", never)
        answer = await api.ask("GET", f"{CONFIG_MAPS}?timeout=50ms")
        assert (answer.code, answer.json["reason"]) == (504, "Timeout")


async def test_the_query_of_a_deletion_counts_where_there_is_no_body() -> None:
    async with running() as api:
        await api.ask("POST", PODS, pod("p", nodeName="n"))
        url = f"{PODS}/p?gracePeriodSeconds=7"
        assert (await api.ask("DELETE", url, {"gracePeriodSeconds": 9, "dryRun": ["All"]})).code == 200
        assert "deletionTimestamp" not in (await api.ask("GET", f"{PODS}/p")).json["metadata"]
        assert (await api.ask("DELETE", url)).json["metadata"]["deletionGracePeriodSeconds"] == 7


async def test_a_watch_from_ahead_is_silent_until_its_revision(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "AHEAD_PAUSE_S", 0.05)
    async with running() as api:
        first = (await api.ask("POST", CONFIG_MAPS, config_map("a"))).json["metadata"]["resourceVersion"]
        ahead = int(first) + 2
        async with api.watch(f"{CONFIG_MAPS}?watch=1&resourceVersion={ahead}") as events:
            assert await _made(api, "b") == ahead - 1
            assert await _made(api, "c") == ahead
            assert await _made(api, "d") == ahead + 1
            assert (await next_event(events))["object"]["metadata"]["name"] == "d"
        async with api.watch(f"{CONFIG_MAPS}?watch=1&resourceVersion={ahead + 100}&timeoutSeconds=1") as events:
            assert await next_event(events) is None


async def _made(api: Api, name: str) -> int:
    answer = await api.ask("POST", CONFIG_MAPS, config_map(name))
    return int(answer.json["metadata"]["resourceVersion"])


async def test_checks_are_counted_for_those_who_judge_the_service() -> None:
    async with running() as api:
        await api.ask("GET", "/readyz")
        await api.ask("GET", "/livez/ping")
        told = (await api.ask("GET", "/metrics/slis")).body.decode().splitlines()
        assert 'kubernetes_healthcheck{name="ping",type="readyz"} 1' in told
        assert 'kubernetes_healthchecks_total{name="ping",status="success",type="livez"} 1' in told
        assert not [line for line in told if line.startswith("python_")]
        paths = (await api.ask("GET", "/")).json["paths"]
        assert {"/metrics/slis", "/livez/ping", "/readyz/ping"} <= set(paths)
