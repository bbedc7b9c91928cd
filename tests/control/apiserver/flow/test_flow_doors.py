"""A flood at both doors, on real sockets: others and the nodes' Leases get through, the flooder is told to wait."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest

from control.api.meta import Object
from control.api.resources import CONFIG_MAPS, FLOW_SCHEMAS, LEASES, PRIORITY_LEVELS
from control.api.status import ApiError
from control.apiserver.flow.gate import FlowGate
from control.apiserver.flow.inflight import InFlightGate
from control.apiserver.flow.keeper import FlowKeeper
from control.apiserver.grpc import HubServer
from control.apiserver.loopback import LoopbackClient
from control.apiserver.request import Credentials, Gate, RequestInfo, UserInfo
from control.apiserver.rest import server as door
from control.client.client import Client, ListOptions
from control.client.grpc import GrpcClient
from control.client.kubeconfig import Kubeconfig, Material
from control.client.rest import RestClient
from tests.control.apiserver.harness import Answer, Api, config_map, running
from tests.fakes.fake_store import FakeStore

AUTHENTICATED = "system:authenticated"
NODE = f"system:node:n1;system:nodes,{AUTHENTICATED}"
FLOOD, SEATS = 60, 40
DEADLINE_S = 30


class SlowStore(FakeStore):
    """Writes of ConfigMaps last until they are let go."""

    def __init__(self) -> None:
        super().__init__()
        self.go_on = asyncio.Event()
        self.holding = 0

    async def create(self, key: str, value: bytes, ttl_s: int = 0) -> int:
        if "/configmaps/default/" in key:
            self.holding += 1
            await self.go_on.wait()
        return await super().create(key, value, ttl_s)


class Named:
    """Believes whoever says "Bearer name;group,group"."""

    async def authenticate(self, credentials: Credentials) -> UserInfo | None:
        name, _, groups = credentials.authorization.removeprefix("Bearer ").partition(";")
        return UserInfo(name, groups=tuple(groups.split(",")))


def lease(name: str) -> Object:
    spec = {"holderIdentity": name, "leaseDurationSeconds": 40}
    return {"apiVersion": LEASES.api_version, "kind": "Lease", "metadata": {"name": name}, "spec": spec}


@asynccontextmanager
async def flow_server(gate_of: Any) -> AsyncIterator[tuple[Api, SlowStore, Kubeconfig]]:
    """Serve REST and the hub through a gate; the store's ConfigMaps are slow."""
    store = SlowStore()
    async with running(store) as api:
        api.service._authenticator = Named()
        api.service.gate = gate_of(api)
        bound = door.bind("127.0.0.1", 0)
        hub = HubServer(replace(api.service.config, grpc_port=0), api.service)
        await hub.start()
        tasks = [asyncio.ensure_future(door.serve(api.app, bound, None)), asyncio.ensure_future(hub.run())]
        keeper = None
        if isinstance(api.service.gate, FlowGate):
            loopback = LoopbackClient()
            loopback.service = api.service
            keeper = FlowKeeper(api.service.gate, api.feed, loopback)
            tasks.append(asyncio.ensure_future(keeper.run()))
        try:
            async with asyncio.timeout(DEADLINE_S):
                while keeper is not None and not (keeper.complete and len(keeper._gate.levels) == 8):
                    await asyncio.sleep(0.01)
            yield api, store, Kubeconfig(f"http://127.0.0.1:{bound.getsockname()[1]}", (f"127.0.0.1:{hub.port}",))
        finally:
            store.go_on.set()
            api.feed.end_watches()
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks, timeout=20)
            bound.close()


def fair_gate(api: Api) -> Gate:
    return FlowGate(SEATS, 15.0, lambda info: 0)


def connect(config: Kubeconfig, transport: str, who: str) -> Client:
    config = replace(config, token=Material(who.encode()))
    return GrpcClient(config) if transport == "hub" else RestClient(config)


async def outcome(doing: Awaitable[Any]) -> str:
    """Return the reason of a refusal, empty for success."""
    try:
        await doing
    except ApiError as error:
        return error.reason
    return ""


@asynccontextmanager
async def flooding(config: Kubeconfig, transport: str) -> AsyncIterator[list[asyncio.Task[str]]]:
    """Have one client write more than the server serves at once."""
    flooder = connect(config, transport, f"flooder;{AUTHENTICATED}")
    tasks = [
        asyncio.ensure_future(outcome(flooder.create(CONFIG_MAPS, config_map(f"f{number}"), "default")))
        for number in range(FLOOD)
    ]
    try:
        yield tasks
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        await flooder.close()


@pytest.mark.parametrize("transport", ["rest", "hub"])
async def test_a_flood_starves_neither_leases_nor_others(transport: str) -> None:
    async with flow_server(fair_gate) as (api, store, config), flooding(config, transport) as flood:
        gate = api.service.gate
        assert isinstance(gate, FlowGate)
        level = gate.levels["global-default"]
        node = connect(config, transport, NODE)
        other = connect(config, transport, f"other;{AUTHENTICATED}")
        async with asyncio.timeout(DEADLINE_S):
            while level.queues.waiting < FLOOD - level.current:
                await asyncio.sleep(0.01)
            made = await node.create(LEASES, lease("n1"), "kube-node-lease")
            for _ in range(5):
                made = await node.update(LEASES, made)
            # Somebody else of the same level waits for one seat, not behind the whole flood.
            reading = asyncio.ensure_future(outcome(other.list(CONFIG_MAPS, "default", ListOptions(limit=1))))
            while level.queues.waiting <= FLOOD - level.current:
                await asyncio.sleep(0.01)
            assert not any(task.done() for task in flood)
            store.go_on.set()
            assert await reading == ""
            assert {await task for task in flood} == {""}
        await node.close()
        await other.close()
        assert level.idle


@pytest.mark.parametrize("transport", ["rest", "hub"])
async def test_without_fair_queues_a_flood_locks_leases_out(transport: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the gate is there for; and that the test above can fail."""
    monkeypatch.setattr("control.client.rest.ATTEMPTS_MAX", 0)
    async with (
        flow_server(lambda api: InFlightGate(SEATS, SEATS)) as (_, store, config),
        flooding(config, transport) as flood,
    ):
        async with asyncio.timeout(DEADLINE_S):
            while sum(task.done() for task in flood) < FLOOD - SEATS:
                await asyncio.sleep(0.01)
        node = connect(config, transport, NODE)
        assert await outcome(node.create(LEASES, lease("n1"), "kube-node-lease")) == "TooManyRequests"
        await node.close()
        store.go_on.set()
        assert [await task for task in flood].count("TooManyRequests") == FLOOD - SEATS


@pytest.mark.parametrize("transport", ["rest", "hub"])
async def test_open_watches_take_no_seats(transport: str) -> None:
    async with flow_server(fair_gate) as (api, _, config):
        gate = api.service.gate
        assert isinstance(gate, FlowGate)
        level = gate.levels["global-default"]
        client = connect(config, transport, f"alice;{AUTHENTICATED}")
        seen: list[str] = []

        async def watch() -> None:
            async for event in client.watch(LEASES, "", ListOptions(send_initial_events=True)):
                seen.append(event.type)

        watches = [asyncio.ensure_future(watch()) for _ in range(3 * level.current)]
        async with asyncio.timeout(DEADLINE_S / 4):
            while len(seen) < len(watches) or not level.idle:
                await asyncio.sleep(0.01)
        written = RequestInfo("update", "", True, "coordination.k8s.io", "v1", "leases", "", "a", "x")
        assert gate.watches.interested(written) == len(watches)
        for task in watches:
            task.cancel()
        await asyncio.wait(watches)
        async with asyncio.timeout(DEADLINE_S):
            while gate.watches.interested(written):
                await asyncio.sleep(0.01)
        await client.close()


@pytest.mark.parametrize("transport", ["rest", "hub"])
async def test_our_clients_come_back_when_they_are_told_to(transport: str) -> None:
    async with flow_server(lambda api: InFlightGate(1, 1)) as (_, store, config):
        client = connect(config, transport, f"alice;{AUTHENTICATED}")
        first = asyncio.ensure_future(client.create(CONFIG_MAPS, config_map("first"), "default"))
        async with asyncio.timeout(DEADLINE_S):
            while not store.holding:
                await asyncio.sleep(0.01)
            second = asyncio.ensure_future(client.create(CONFIG_MAPS, config_map("second"), "default"))
            await asyncio.sleep(0.1)
            assert not second.done()
            store.go_on.set()
            assert (await first)["metadata"]["name"] == "first"
            assert (await second)["metadata"]["name"] == "second"
        await client.close()


async def bearer(api: Api, method: str, url: str, who: str, body: Any = None) -> Answer:
    return await api.ask(method, url, body, authorization=f"Bearer {who}")


async def test_the_objects_of_every_cluster_are_there_and_tell_of_themselves() -> None:
    async with flow_server(fair_gate) as (api, _, config):
        admin = connect(config, "rest", f"admin;system:masters,{AUTHENTICATED}")
        levels = await admin.list(PRIORITY_LEVELS)
        assert len(levels.items) == 8
        async with asyncio.timeout(DEADLINE_S):
            while True:
                schemas = (await admin.list(FLOW_SCHEMAS)).items
                if all((each.get("status") or {}).get("conditions") for each in schemas):
                    break
                await asyncio.sleep(0.01)
        assert len(schemas) == 13
        assert {each["status"]["conditions"][0]["reason"] for each in schemas} == {"Found"}
        assert {each["metadata"]["generation"] for each in schemas} == {1}
        answer = await bearer(api, "GET", "/api/v1/namespaces/default/configmaps", f"alice;{AUTHENTICATED}")
        by_uid = {each["metadata"]["uid"]: each["metadata"]["name"] for each in [*schemas, *levels.items]}
        assert by_uid[answer.headers["x-kubernetes-pf-flowschema-uid"]] == "global-default"
        assert by_uid[answer.headers["x-kubernetes-pf-prioritylevel-uid"]] == "global-default"
        await admin.close()


async def test_what_is_edited_stays_and_what_is_mandatory_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("control.apiserver.flow.keeper.KEEP_INTERVAL_S", 0.05)
    async with flow_server(fair_gate) as (api, _, config):
        admin = connect(config, "rest", f"admin;system:masters,{AUTHENTICATED}")
        fixed = await admin.get(FLOW_SCHEMAS, "catch-all")
        # The keeper writes their statuses meanwhile: these updates are about any revision.
        del fixed["metadata"]["resourceVersion"]
        fixed["spec"]["matchingPrecedence"] = 9000
        with pytest.raises(ApiError, match="spec of 'catch-all' must equal the fixed value"):
            await admin.update(FLOW_SCHEMAS, fixed)
        await admin.delete(FLOW_SCHEMAS, "catch-all")
        await admin.delete(PRIORITY_LEVELS, "workload-low")
        mine = await admin.get(PRIORITY_LEVELS, "system")
        del mine["metadata"]["resourceVersion"]
        mine["metadata"]["annotations"]["apf.kubernetes.io/autoupdate-spec"] = "false"
        mine["spec"]["limited"]["nominalConcurrencyShares"] = 300
        await admin.update(PRIORITY_LEVELS, mine)
        theirs = await admin.get(PRIORITY_LEVELS, "node-high")
        del theirs["metadata"]["resourceVersion"]
        theirs["spec"]["limited"]["nominalConcurrencyShares"] = 1
        await admin.update(PRIORITY_LEVELS, theirs)
        lost = await admin.get(FLOW_SCHEMAS, "probes")
        del lost["metadata"]["resourceVersion"], lost["metadata"]["uid"]
        lost["metadata"] = {"name": "lost"}
        lost["spec"]["priorityLevelConfiguration"]["name"] = "nowhere"
        await admin.create(FLOW_SCHEMAS, lost)

        async def settled() -> bool:
            back = (
                await outcome(admin.get(FLOW_SCHEMAS, "catch-all")),
                await outcome(admin.get(PRIORITY_LEVELS, "workload-low")),
            )
            shares = (await admin.get(PRIORITY_LEVELS, "node-high"))["spec"]["limited"]["nominalConcurrencyShares"]
            told = ((await admin.get(FLOW_SCHEMAS, "lost")).get("status") or {}).get("conditions") or [{}]
            return back == ("", "") and shares == 40 and told[0].get("status") == "True"

        async with asyncio.timeout(DEADLINE_S):
            while not await settled():
                await asyncio.sleep(0.02)
        told = (await admin.get(FLOW_SCHEMAS, "lost"))["status"]["conditions"][0]
        assert told["message"] == (
            'This FlowSchema references the PriorityLevelConfiguration object named "nowhere" but there is no such object'
        )
        kept = await admin.get(PRIORITY_LEVELS, "system")
        assert kept["spec"]["limited"]["nominalConcurrencyShares"] == 300
        gate = api.service.gate
        assert isinstance(gate, FlowGate)
        async with asyncio.timeout(DEADLINE_S):
            while "workload-low" not in gate.levels or gate.levels["system"].wish.shares != 300:
                await asyncio.sleep(0.02)
        await admin.close()


async def test_the_tables_are_served_as_text() -> None:
    async with flow_server(fair_gate) as (api, _, _):
        url = "/debug/api_priority_and_fairness/dump_priority_levels"
        answer = await bearer(api, "GET", url, f"admin;system:masters,{AUTHENTICATED}")
        assert answer.headers["content-type"] == "text/plain; charset=utf-8"
        assert len(answer.body.splitlines()) == 9
        missing = await bearer(api, "GET", "/debug/api_priority_and_fairness/x", f"admin;{AUTHENTICATED}")
        assert missing.code == 404


async def test_a_large_answer_keeps_its_seat_until_it_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a client that reads nothing could have any number of answers lie in memory."""
    async with flow_server(fair_gate) as (api, store, config):
        store.go_on.set()
        admin = connect(config, "rest", f"admin;system:masters,{AUTHENTICATED}")
        for number in range(12):
            await admin.create(CONFIG_MAPS, config_map(f"c{number}", text="x" * 900_000), "default")
        await admin.close()
        gate = api.service.gate
        assert isinstance(gate, FlowGate)
        level = gate.levels["global-default"]
        host, _, port = config.server.removeprefix("http://").partition(":")
        asked = (
            "GET /api/v1/namespaces/default/configmaps HTTP/1.1\r\nHost: x\r\n"
            f"Authorization: Bearer a;{AUTHENTICATED}\r\n\r\n"
        ).encode()
        for patience_s in (60.0, 0.01):
            monkeypatch.setattr("control.apiserver.rest.exchange.TAKEN_S", patience_s)
            reader, writer = await asyncio.open_connection(host, int(port), limit=1 << 16)
            try:
                writer.write(asked)
                async with asyncio.timeout(DEADLINE_S):
                    head = await reader.readuntil(b"\r\n\r\n")
                    if patience_s > 1:
                        assert level.queues.executing == 1
                        lines = head.lower().splitlines()
                        length = next(int(line.split(b":")[1]) for line in lines if line.startswith(b"content-length"))
                        await reader.readexactly(length)
                    while not level.idle:
                        await asyncio.sleep(0.01)
            finally:
                writer.close()


async def test_a_hub_that_ends_lets_calls_and_watches_end() -> None:
    store = SlowStore()
    async with running(store) as api:
        hub = HubServer(replace(api.service.config, grpc_port=0), api.service)
        await hub.start()
        serving = asyncio.ensure_future(hub.run())
        client = GrpcClient(Kubeconfig("http://127.0.0.1:1", (f"127.0.0.1:{hub.port}",)))

        seen: list[str] = []

        async def watch() -> None:
            async for event in client.watch(LEASES, "", ListOptions(send_initial_events=True)):
                seen.append(event.type)

        try:
            async with asyncio.timeout(DEADLINE_S):
                watching = asyncio.ensure_future(watch())
                creating = asyncio.ensure_future(client.create(CONFIG_MAPS, config_map("slow"), "default"))
                while not (store.holding and seen):
                    await asyncio.sleep(0.01)
                api.feed.end_watches()
                serving.cancel()
                await watching
                assert seen == ["BOOKMARK", "BOOKMARK"]
                assert not creating.done()
                assert await outcome(client.get(CONFIG_MAPS, "x", "default")) == "ServiceUnavailable"
                store.go_on.set()
                assert (await creating)["metadata"]["name"] == "slow"
        finally:
            await client.close()
            serving.cancel()
            await asyncio.wait([serving], timeout=20)
