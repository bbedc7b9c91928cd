"""The health paths: names, exclusion, single checks, what strangers are told."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest

from control.apiserver import checks
from control.apiserver.checks import Life, health_of
from control.apiserver.config import ApiServerConfig, EtcdConfig
from control.apiserver.etcd import StoreUnavailableError
from control.apiserver.rest.exchange import Exchange
from control.apiserver.rest.health import Check, Health, fine, hook
from control.apiserver.rest.server import never


async def broken() -> str:
    return "the disk is full"


async def ask(health: Health, url: str) -> tuple[int, str, Mapping[str, str]]:
    """Serve one health path and return code, body and headers."""
    path, _, query = url.partition("?")
    code, body, headers = 0, b"", {}

    async def receive() -> Any:
        raise AssertionError("nothing is read")

    async def send(message: Any) -> None:
        nonlocal code, body, headers
        if message["type"] == "http.response.start":
            code, headers = message["status"], {name.decode(): value.decode() for name, value in message["headers"]}
        else:
            body += message["body"]

    scope = {"method": "GET", "path": path, "query_string": query.encode(), "headers": []}
    await health.serve(Exchange(scope, receive, send), path.strip("/").split("/"))
    return code, body.decode(), headers


CHECKS: dict[str, Check] = {"ping": fine, "etcd": fine, "poststarthook/rbac/bootstrap-roles": hook(lambda: True)}


@pytest.mark.parametrize(
    ("url", "code", "body"),
    [
        ("/livez", 200, "ok"),
        (
            "/livez?verbose",
            200,
            "[+]ping ok\n[+]etcd ok\n[+]poststarthook/rbac/bootstrap-roles ok\nlivez check passed\n",
        ),
        (
            "/healthz?verbose=1&exclude=etcd",
            200,
            "[+]ping ok\n[+]etcd excluded: ok\n[+]poststarthook/rbac/bootstrap-roles ok\nhealthz check passed\n",
        ),
        (
            "/readyz",
            500,
            "[+]ping ok\n[+]etcd ok\n[+]poststarthook/rbac/bootstrap-roles ok\n[-]disk failed: reason withheld\n"
            "readyz check failed\n",
        ),
        ("/readyz?exclude=disk", 200, "ok"),
        (
            "/readyz?exclude=disk&exclude=nothing&verbose",
            200,
            "[+]ping ok\n[+]etcd ok\n[+]poststarthook/rbac/bootstrap-roles ok\n[+]disk excluded: ok\n"
            'warn: some health checks cannot be excluded: no matches for "nothing"\nreadyz check passed\n',
        ),
        ("/readyz/disk", 500, "internal server error: the disk is full\n"),
        ("/readyz/etcd", 200, "ok"),
        ("/livez/poststarthook/rbac/bootstrap-roles", 200, "ok"),
    ],
)
async def test_answers(url: str, code: int, body: str) -> None:
    found = await ask(Health(CHECKS, {"disk": broken}), url)
    assert found[:2] == (code, body)
    assert found[2]["content-type"] == "text/plain; charset=utf-8"


class Store:
    """A store that answers, hangs or fails."""

    def __init__(self) -> None:
        self.asked = 0
        self.hangs = False
        self.fails = False

    async def revision(self) -> int:
        self.asked += 1
        if self.hangs:
            await asyncio.Event().wait()
        if self.fails:
            raise StoreUnavailableError("no store member answered")
        return 1


class Following:
    following = True


def built(store: Store, life: Life, feed: Any = None, **settings: Any) -> Health:
    config = ApiServerConfig(EtcdConfig(("fake",)), etcd_healthcheck_timeout_s=0.01, **settings)
    return health_of(config, store, feed or Following(), life, {"bootstrap-controller": lambda: life.prepared})  # type: ignore[arg-type]


async def test_a_store_that_hangs_or_fails_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "STORE_ANSWER_S", 0.0)
    store = Store()
    health = built(store, Life(prepared=True))
    assert (await ask(health, "/livez"))[0] == 200
    store.hangs = True
    assert (await ask(health, "/livez/etcd"))[1] == "internal server error: etcd failed: context deadline exceeded\n"
    store.hangs, store.fails = False, True
    assert (await ask(health, "/readyz/etcd-readiness"))[1].endswith("etcd failed: no store member answered\n")


async def test_many_askers_are_one_question_to_the_store() -> None:
    store = Store()
    health = built(store, Life(prepared=True))
    await asyncio.gather(*(ask(health, "/livez") for _ in range(50)))
    assert store.asked == 1


async def test_readiness_ends_before_life_does() -> None:
    life, feed = Life(), Following()
    health = built(Store(), life, feed)
    assert (await ask(health, "/readyz"))[0] == 500
    life.prepared = True
    assert (await ask(health, "/readyz"))[:2] == (200, "ok")
    life.ending = True
    assert (await ask(health, "/readyz/shutdown"))[1] == "internal server error: process is shutting down\n"
    assert "[-]shutdown failed: reason withheld" in (await ask(health, "/readyz?verbose"))[1]
    assert (await ask(health, "/livez"))[0] == 200
    life.ending, feed.following = False, False
    assert "[-]informer-sync failed" in (await ask(health, "/readyz"))[1]
    assert (await ask(health, "/livez"))[0] == 200


async def test_a_long_start_is_forgiven() -> None:
    assert (await ask(built(Store(), Life()), "/livez"))[0] == 500
    assert (await ask(built(Store(), Life(), livez_grace_period_s=60.0), "/livez"))[0] == 200
    assert (await ask(built(Store(), Life(), livez_grace_period_s=60.0), "/readyz"))[0] == 500
    assert not never()
