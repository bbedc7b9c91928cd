"""Watches over WebSocket on a real socket, as browsers and other programs open them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import orjson
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosedOK, InvalidStatus

from control.api.protobuf import decode_body
from control.api.protobuf_leaves import read_fields
from tests.control.apiserver.harness import CONFIG_MAPS, Api, config_map, running
from tests.control.apiserver.test_http_server import exchange, request, serving

PROTOBUF = "application/vnd.kubernetes.protobuf"


@asynccontextmanager
async def world() -> AsyncIterator[tuple[Api, str]]:
    async with running() as api, serving(app=api.app) as port:
        yield api, f"ws://127.0.0.1:{port}{CONFIG_MAPS}"


async def _next(socket: Any) -> Any:
    async with asyncio.timeout(10):
        return await socket.recv()


async def test_each_event_is_a_message_of_text() -> None:
    async with world() as (api, url), connect(f"{url}?watch=1", additional_headers={"Audit-ID": "mine"}) as socket:
        assert socket.response is not None
        assert socket.response.headers["Audit-ID"] == "mine"
        for name in ("a", "b"):
            await api.ask("POST", CONFIG_MAPS, config_map(name, k="ü" * 70_000))
        for name in ("a", "b"):
            event = await _next(socket)
            assert isinstance(event, str)
            assert event.endswith("\n")
            assert orjson.loads(event)["object"]["metadata"]["name"] == name
        async with asyncio.timeout(10):
            await (await socket.ping(b"still there?"))
        await socket.send("nobody reads this")
        await socket.send(b"n" * 300_000)
        await api.ask("DELETE", f"{CONFIG_MAPS}/a")
        assert orjson.loads(await _next(socket))["type"] == "DELETED"


async def test_protobuf_comes_as_binary() -> None:
    async with world() as (api, url), connect(f"{url}?watch=1", additional_headers={"Accept": PROTOBUF}) as socket:
        await api.ask("POST", CONFIG_MAPS, config_map("a", k="v"))
        event = await _next(socket)
        assert isinstance(event, bytes)
        fields = dict(read_fields(event))
        assert fields[1] == b"ADDED"
        assert isinstance(fields[2], bytes)
        raw = dict(read_fields(fields[2]))[1]
        assert isinstance(raw, bytes)
        assert decode_body(raw)["data"] == {"k": "v"}


async def test_the_end_of_the_watch_closes_the_socket() -> None:
    async with world() as (_, url), connect(f"{url}?watch=1&timeoutSeconds=1") as socket:
        with pytest.raises(ConnectionClosedOK):
            await _next(socket)
        assert socket.close_code == 1000


async def test_a_token_is_no_protocol_to_agree_to() -> None:
    protocols: Any = ["base64url.bearer.authorization.k8s.io.dG9rZW4", "base64.binary.k8s.io"]
    async with world() as (_, url), connect(f"{url}?watch=1", subprotocols=protocols) as socket:
        assert socket.subprotocol == "base64.binary.k8s.io"


async def test_what_is_refused_is_refused_by_a_status() -> None:
    async with world() as (api, url):
        api.door.denied.add("system:anonymous")
        with pytest.raises(InvalidStatus) as refused:
            async with connect(f"{url}?watch=1"):
                pass
        assert refused.value.response.status_code == 403
        assert orjson.loads(refused.value.response.body or b"")["reason"] == "Forbidden"
        api.door.denied.clear()
        port = int(url.split(":")[2].split("/")[0])
        head = request("Upgrade: websocket", "Sec-WebSocket-Version: 8", "Sec-WebSocket-Key: x")
        head = head.replace(b"GET / ", f"GET {CONFIG_MAPS}?watch=1 ".encode()).replace(b"close", b"Upgrade")
        assert b"missing or bad WebSocket Version" in await exchange(port, head)


async def test_a_client_that_masks_nothing_is_sent_away() -> None:
    async with world() as (_, url):
        port = int(url.split(":")[2].split("/")[0])
        head = request("Upgrade: websocket", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: x")
        head = head.replace(b"GET / ", f"GET {CONFIG_MAPS}?watch=1 ".encode()).replace(b"close", b"Upgrade")
        answer = await exchange(port, head + b"\x81\x01a")
        assert answer.startswith(b"HTTP/1.1 101")
        assert answer.endswith(b"\x88\x02\x03\xea")
