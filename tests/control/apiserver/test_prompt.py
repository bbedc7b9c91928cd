"""The short road of a get: taken where it leads there, answering as the long one does, and by the same rules."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from control.apiserver.etcd import StoreUnavailableError
from control.apiserver.flow.inflight import InFlightGate
from control.apiserver.request import Credentials, Judge, UserInfo
from control.apiserver.rest import server as door
from control.apiserver.rest.door import Host
from control.apiserver.rest.prompt import PromptGets
from control.apiserver.rest.recall import Head, Target
from tests.control.apiserver.harness import CONFIG_MAPS, TABLE, Api, config_map, running
from tests.control.apiserver.test_security import RBAC, named, secured

USERS: dict[str, UserInfo] = {}


class Counted(PromptGets):
    """Counts what was answered at once."""

    taken = 0

    def take(self, host: Host, head: Head, target: Target) -> bool:
        took = super().take(host, head, target)
        self.taken += took
        return took


class Client:
    """Speaks on one connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, prompt: Counted) -> None:
        self.reader = reader
        self.writer = writer
        self.prompt = prompt

    def send(self, url: str, method: str = "GET", **headers: str) -> None:
        lines = [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        self.writer.write("\r\n".join([f"{method} {url} HTTP/1.1", "host: x", *lines, "", ""]).encode())

    async def answer(self) -> tuple[str, bytes]:
        """Return an answer's head, without what differs each time, and its body."""
        async with asyncio.timeout(5):
            head = (await self.reader.readuntil(b"\r\n\r\n")).decode().lower()
            length = re.search(r"content-length: (\d+)", head)
            body = await self.reader.readexactly(int(length[1]) if length else 0)
        assert head.count("audit-id: ") == 1
        lines = [line for line in head.splitlines() if not line.startswith(("date: ", "audit-id: "))]
        return "\n".join([lines[0], *sorted(lines[1:])]), body

    async def ask(self, url: str, **headers: str) -> tuple[str, bytes]:
        self.send(url, **headers)
        return await self.answer()

    async def twice(self, url: str, **headers: str) -> bool:
        """Ask twice, see that both answers are the same, and tell whether the second was given at once."""
        before = self.prompt.taken
        first = await self.ask(url, **headers)
        assert await self.ask(url, **headers) == first
        return self.prompt.taken > before


def open_judge(api: Api) -> Judge:
    def proof(credentials: Credentials) -> Any:
        name = credentials.authorization
        return (lambda: USERS.setdefault(name, UserInfo(name))) if name else None

    return Judge(proof, lambda user, info: api.door.decide(user))


@asynccontextmanager
async def talking(api: Api, judge: Judge) -> AsyncIterator[Client]:
    prompt = Counted(api.service, judge, api.app.requests)
    bound = door.bind("127.0.0.1", 0)
    serving = asyncio.ensure_future(door.serve(api.app, bound, None, prompt=prompt))
    try:
        reader, writer = await asyncio.open_connection(*bound.getsockname())
        yield Client(reader, writer, prompt)
        writer.close()
    finally:
        serving.cancel()
        await asyncio.wait([serving], timeout=10)
        assert prompt.in_flight == 0
        bound.close()


@asynccontextmanager
async def open_api() -> AsyncIterator[tuple[Api, Client]]:
    async with running() as api:
        api.service.gate = InFlightGate(2, 2)
        made = await api.ask("POST", CONFIG_MAPS, config_map("a", x="y"), authorization="ann")
        assert made.code == 201
        async with talking(api, open_judge(api)) as client:
            yield api, client


@pytest.mark.parametrize(
    ("url", "headers", "at_once"),
    [
        (f"{CONFIG_MAPS}/a", {}, True),
        (f"{CONFIG_MAPS}/a", {"accept": "application/json", "user_agent": "Go-http-client/1.1"}, True),
        (f"{CONFIG_MAPS}/a", {"audit_id": "mine"}, True),
        (f"{CONFIG_MAPS}/a", {"accept": "*/*", "content_length": "0"}, True),
        (f"{CONFIG_MAPS}/a", {"accept": TABLE}, False),
        (f"{CONFIG_MAPS}/a", {"accept": "application/yaml"}, False),
        (f"{CONFIG_MAPS}/a", {"accept": "text/plain"}, False),
        (f"{CONFIG_MAPS}/a", {"accept": "application/json;as=Pig,x"}, False),
        (f"{CONFIG_MAPS}/a", {"accept": "application/json;pretty=1"}, False),
        (f"{CONFIG_MAPS}/a", {"accept": "application/vnd.kubernetes.protobuf, application/json"}, False),
        (f"{CONFIG_MAPS}/a", {"user_agent": "curl/8"}, False),
        (f"{CONFIG_MAPS}/a?pretty=true", {}, False),
        (f"{CONFIG_MAPS}/a?resourceVersion=0", {}, False),
        (f"{CONFIG_MAPS}/%61", {}, True),
        (f"{CONFIG_MAPS}/a/status", {}, False),
        (CONFIG_MAPS, {}, False),
        ("/api/v1/configmaps/a", {}, False),
        ("/api/v1/namespaces/default", {}, False),
        ("/apis/example.com/v1/namespaces/default/pigs/a", {}, False),
        ("/apis/autoscaling/v1/namespaces/default/horizontalpodautoscalers/a", {}, False),
        ("/version", {}, False),
    ],
)
async def test_both_roads_answer_alike(url: str, headers: dict[str, str], at_once: bool) -> None:
    async with open_api() as (_, client):
        assert await client.twice(url, authorization="ann", **headers) is at_once


async def test_what_is_missing_refused_or_unknown_is_told_as_ever() -> None:
    async with open_api() as (api, client):
        head, _ = await client.ask(f"{CONFIG_MAPS}/b", authorization="ann")
        assert " 404 " in head
        await client.twice(f"{CONFIG_MAPS}/b", authorization="ann")
        api.door.denied.add("bob")
        assert not await client.twice(f"{CONFIG_MAPS}/a", authorization="bob")
        assert not await client.twice(f"{CONFIG_MAPS}/a")
        api.door.denied.add("ann")
        assert " 403 " in (await client.ask(f"{CONFIG_MAPS}/a", authorization="ann"))[0]


async def test_it_reads_what_was_written_before() -> None:
    async with open_api() as (api, client):
        await client.ask(f"{CONFIG_MAPS}/a", authorization="ann")
        for number in range(20):
            wanted = config_map("a", x=str(number))
            assert (await api.ask("PUT", f"{CONFIG_MAPS}/a", wanted, authorization="ann")).code == 200
            _, body = await client.ask(f"{CONFIG_MAPS}/a", authorization="ann")
            assert f'"x":"{number}"'.encode() in body
        assert client.prompt.taken == 20
        assert (await api.ask("DELETE", f"{CONFIG_MAPS}/a", authorization="ann")).code == 200
        assert " 404 " in (await client.ask(f"{CONFIG_MAPS}/a", authorization="ann"))[0]


async def test_a_store_that_fails_is_told_and_seats_are_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    async with open_api() as (api, client):
        await client.ask(f"{CONFIG_MAPS}/a", authorization="ann")

        async def fails() -> int:
            raise StoreUnavailableError("no store member answered")

        with monkeypatch.context() as patch:
            patch.setattr(api.store, "revision", fails)
            for _ in range(3):
                assert " 503 " in (await client.ask(f"{CONFIG_MAPS}/a", authorization="ann"))[0]
        assert client.prompt.taken == 3
        assert await client.twice(f"{CONFIG_MAPS}/a", authorization="ann")


async def test_requests_in_one_go_and_clients_that_leave() -> None:
    async with open_api() as (api, client):
        await client.ask(f"{CONFIG_MAPS}/a", authorization="ann")
        for _ in range(5):
            client.send(f"{CONFIG_MAPS}/a", authorization="ann")
            await asyncio.sleep(0)
            client.send(f"{CONFIG_MAPS}/b", authorization="ann")
        codes = [(await client.answer())[0].split()[1] for _ in range(10)]
        assert codes == ["200", "404"] * 5
        client.send(f"{CONFIG_MAPS}/a", authorization="ann")
        client.writer.transport.abort()
        gate = api.service.gate
        assert isinstance(gate, InFlightGate)
        async with asyncio.timeout(5):
            while client.prompt.in_flight or gate.reads.taken:
                await asyncio.sleep(0.01)


async def test_a_right_or_a_token_that_is_taken_back_counts_at_once(tmp_path: Path) -> None:
    async with secured(tmp_path) as api:
        space = "/api/v1/namespaces/default"
        assert (await api.by("root", "POST", f"{space}/serviceaccounts", named("robot"))).code == 201
        asked = {"kind": "TokenRequest", "apiVersion": "authentication.k8s.io/v1", "spec": {"expirationSeconds": 600}}
        made = await api.by("root", "POST", f"{space}/serviceaccounts/robot/token", asked)
        bearer = f"Bearer {made.json['status']['token']}"
        await api.by("root", "POST", f"{space}/configmaps", named("a"))
        role = named("reads", rules=[{"verbs": ["get"], "apiGroups": [""], "resources": ["configmaps"]}])
        binding = named(
            "reads",
            roleRef={"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "reads"},
            subjects=[{"kind": "ServiceAccount", "name": "robot", "namespace": "default"}],
        )
        bindings = f"{RBAC}/namespaces/default/rolebindings"
        await api.by("root", "POST", f"{RBAC}/namespaces/default/roles", role)
        await api.by("root", "POST", bindings, binding)
        assert api.security.judge is not None

        async def code(client: Client) -> str:
            return (await client.ask(f"{space}/configmaps/a", authorization=bearer))[0].split()[1]

        async with talking(api, api.security.judge) as client, asyncio.timeout(10):
            while await code(client) != "200":
                await asyncio.sleep(0.01)
            assert await client.twice(f"{space}/configmaps/a", authorization=bearer)
            await api.by("root", "DELETE", f"{bindings}/reads")
            while await code(client) != "403":
                await asyncio.sleep(0.01)
            await api.by("root", "POST", bindings, binding)
            while await code(client) != "200":
                await asyncio.sleep(0.01)
            before = client.prompt.taken
            assert await client.twice(f"{space}/configmaps/a", authorization=bearer, impersonate_user="ann") is False
            assert client.prompt.taken == before
            await api.by("root", "DELETE", f"{space}/serviceaccounts/robot")
            while await code(client) != "401":
                await asyncio.sleep(0.01)
            before = client.prompt.taken
            assert await code(client) == "401"
            assert client.prompt.taken == before
