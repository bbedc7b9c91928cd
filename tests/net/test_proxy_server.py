"""The proxy's loop on a fake API and fake tables: when it writes, when it must not, what it tells."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial

import pytest

from control.api.resources import ENDPOINT_SLICES, NODES, SERVICES
from net.proxy.apply import IptablesApplier
from net.proxy.command import Duration
from net.proxy.config import ProxyConfig
from net.proxy.health import Answer, Health, HealthServer, proxy_answer, service_answer
from net.proxy.server import ProxyServer
from net.xtables import XtablesError
from tests.fakes.fake_client import FakeClient
from tests.fakes.fake_iptables import End, FakeIptables, Packet
from tests.net.topology import endpoint_slice, service

WEB = Packet("10.244.1.7", "10.96.0.1", 80)
CONFIG = ProxyConfig(
    hostname_override="n1",
    cluster_cidr="10.244.0.0/16",
    healthz_bind_address="",
    min_sync_period_s=0.02,
    canary_interval_s=0.02,
    metrics_bind_address="",
    remove_other_modes=False,
)


async def until(what: Callable[[], object], timeout_s: float = 30.0) -> None:
    async with asyncio.timeout(timeout_s):
        while not what():
            await asyncio.sleep(0.005)


@asynccontextmanager
async def running(client: FakeClient, fake: FakeIptables, config: ProxyConfig = CONFIG) -> AsyncIterator[ProxyServer]:
    server = ProxyServer(config, client, {4: partial(IptablesApplier, fake)})
    task = asyncio.ensure_future(server.serve())
    try:
        yield server
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def filled() -> FakeClient:
    client = FakeClient()
    client.put(NODES, {"metadata": {"name": "n1", "labels": {}}, "spec": {"podCIDRs": ["10.244.1.0/24"]}})
    client.put(SERVICES, service("web", "10.96.0.1"))
    client.put(ENDPOINT_SLICES, endpoint_slice("web", [("10.244.1.2", "n1")]))
    return client


async def test_rules_follow_the_api() -> None:
    client, fake = filled(), FakeIptables()
    async with running(client, fake):
        await until(lambda: fake.trace(WEB) == {End("ACCEPT", "10.244.1.2:8080")})
        client.put(ENDPOINT_SLICES, endpoint_slice("web", [("10.244.1.3", "n1")]))
        await until(lambda: fake.trace(WEB) == {End("ACCEPT", "10.244.1.3:8080")})
        client.remove(SERVICES, "web", "default")
        await until(lambda: fake.trace(WEB) == {End("ACCEPT", "10.96.0.1:80")})


async def test_nothing_is_written_before_the_lists_are_complete() -> None:
    client, fake = filled(), FakeIptables()
    for _ in range(3):
        client.fail_next("list", ENDPOINT_SLICES)
    async with running(client, fake):
        await until(lambda: any(call.resource == "services" for call in client.calls))
        assert fake.writes == []
        await until(lambda: fake.writes)
        assert fake.trace(WEB) == {End("ACCEPT", "10.244.1.2:8080")}


async def test_changes_are_gathered() -> None:
    client, fake = filled(), FakeIptables()
    async with running(client, fake, ProxyConfig(**{**CONFIG.__dict__, "min_sync_period_s": 0.2})):
        await until(lambda: fake.writes)
        for number in range(200):
            client.put(SERVICES, service(f"s{number}", f"10.96.1.{number}"))
        await until(lambda: "default/s199" in fake.writes[-1])
        assert len(fake.writes) <= 3


async def test_what_does_not_matter_writes_nothing() -> None:
    client, fake = filled(), FakeIptables()
    async with running(client, fake):
        await until(lambda: fake.writes)
        fake.writes.clear()
        touched = service("web", "10.96.0.1")
        touched["metadata"]["annotations"] = {"note": "new"}
        client.put(SERVICES, touched)
        client.put(SERVICES, service("other", "10.96.0.2"))
        await until(lambda: fake.writes)
        assert len(fake.writes) == 1
        assert "default/web" not in fake.writes[0].split("*nat")[0]


async def test_the_lock_held_by_another_is_waited_for() -> None:
    client, fake = filled(), FakeIptables()
    fake.fail_next = XtablesError("Another app is currently holding the xtables lock", 4)
    async with running(client, fake):
        await until(lambda: fake.trace(WEB) == {End("ACCEPT", "10.244.1.2:8080")})


async def test_a_flush_is_seen_by_the_canary() -> None:
    client, fake = filled(), FakeIptables()
    async with running(client, fake):
        await until(lambda: fake.writes)
        fake.tables = FakeIptables().tables
        await until(lambda: fake.trace(WEB) == {End("ACCEPT", "10.244.1.2:8080")})


async def test_rules_stay_when_the_api_goes() -> None:
    client, fake = filled(), FakeIptables()
    async with running(client, fake):
        await until(lambda: fake.writes)
        for _ in range(20):
            client.fail_next("watch")
        client.break_watches()
        await until(lambda: client.calls[-1].verb in ("watch", "list"))
        assert fake.trace(WEB) == {End("ACCEPT", "10.244.1.2:8080")}
    assert fake.trace(WEB) == {End("ACCEPT", "10.244.1.2:8080")}


async def ask(port: int, path: str) -> tuple[int, str]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    head, _, body = (await reader.read()).decode().partition("\r\n\r\n")
    writer.close()
    return int(head.split()[1]), body


async def test_health_is_answered_over_http() -> None:
    server, health = HealthServer(), Health(patience_s=60.0)

    async def respond(path: str) -> Answer:
        return proxy_answer(health, path, 100.0)

    port = await server.listen("127.0.0.1", 0, respond)
    try:
        assert (await ask(port, "/healthz"))[0] == 503
        health.synced(99.0)
        code, body = await ask(port, "/healthz?verbose")
        assert code == 200
        assert json.loads(body)["lastUpdated"] == "1970-01-01T00:01:39Z"
        assert (await ask(port, "/other"))[0] == 404
    finally:
        server.close_all()


@pytest.mark.parametrize(
    ("wanted_since_s", "eligible", "path", "code"),
    [
        pytest.param(None, True, "/healthz", 200, id="in step"),
        pytest.param(95.0, True, "/healthz", 200, id="a little behind"),
        pytest.param(10.0, True, "/healthz", 503, id="far behind"),
        pytest.param(None, False, "/healthz", 503, id="node is going"),
        pytest.param(None, False, "/livez", 200, id="going is no fault of ours"),
    ],
)
def test_health(wanted_since_s: float | None, eligible: bool, path: str, code: int) -> None:
    health = Health(60.0, last_synced_s=9.0, wanted_since_s=wanted_since_s, node_eligible=eligible)
    assert proxy_answer(health, path, 100.0)[0] == code


def test_a_service_without_local_endpoints_is_not_for_this_node() -> None:
    assert service_answer("default/web", 0, True)[0] == 503
    code, body, headers = service_answer("default/web", 2, True)
    assert (code, headers) == (200, {"X-Load-Balancing-Endpoint-Weight": "2"})
    assert json.loads(body)["service"] == {"namespace": "default", "name": "web"}
    assert service_answer("default/web", 2, False)[0] == 503


@pytest.mark.parametrize(
    ("text", "seconds"),
    [pytest.param("1s", 1.0, id="s"), pytest.param("250ms", 0.25, id="ms"), pytest.param("1m30s", 90.0, id="m and s")],
)
def test_durations(text: str, seconds: float) -> None:
    assert Duration().convert(text, None, None) == seconds
