"""The HTTP door on real sockets: who is at the other end, and what is too much."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from control.apiserver.request import ASGIScope, Receive, Send
from control.apiserver.rest import server as door
from lab import pki


async def echo(scope: ASGIScope, receive: Receive, send: Send) -> None:
    """Answer with the length of the client's certificate and of the body."""
    body = b""
    while (message := await receive())["type"] == "http.request":
        body += message.get("body", b"")
        if not message.get("more_body"):
            break
    text = f"{len(scope['state']['certificate'] or b'')} {len(body)}".encode()
    headers = [(b"content-length", str(len(text)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": text})


@asynccontextmanager
async def serving(context: ssl.SSLContext | None = None, app: Any = echo) -> AsyncIterator[int]:
    bound = door.bind("127.0.0.1", 0)
    task = asyncio.ensure_future(door.serve(app, bound, context))
    try:
        yield bound.getsockname()[1]
    finally:
        task.cancel()
        await asyncio.wait([task], timeout=10)
        bound.close()
        assert task.done()


async def exchange(port: int, data: bytes, context: ssl.SSLContext | None = None) -> bytes:
    """Send bytes and return everything that comes back until the server closes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
    writer.write(data)
    try:
        return await asyncio.wait_for(reader.read(), 10)
    finally:
        writer.close()


def request(*lines: str, body: bytes = b"") -> bytes:
    head = ["GET / HTTP/1.1", "Host: x", "Connection: close", *lines]
    return "\r\n".join([*head, "", ""]).encode() + body


async def test_a_body_arrives() -> None:
    async with serving() as port:
        assert (await exchange(port, request("Content-Length: 5", body=b"12345"))).endswith(b"0 5")


async def test_a_head_that_comes_at_once_has_the_same_bound() -> None:
    async with serving() as port:
        assert (await exchange(port, request(f"A: {'b' * (door.HEAD_BYTES_MAX - 1000)}"))).startswith(b"HTTP/1.1 200")
        assert (await exchange(port, request(f"A: {'b' * door.HEAD_BYTES_MAX}"))).startswith(b"HTTP/1.1 431")


async def test_a_head_without_end_is_refused() -> None:
    async with serving() as port:
        lines = [f"X-{number}: {'y' * 1000}" for number in range(2 * door.HEAD_BYTES_MAX // 1000)]
        try:
            answer = await exchange(port, request(*lines)[:-2] + b"Z: " + b"z" * 600_000)
        except ConnectionResetError:
            # The refusal was sent while we were still sending; the kernel may drop it with the connection.
            return
        assert answer == b"" or answer.startswith(b"HTTP/1.1 431")


async def test_a_head_that_dawdles_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(door, "HEAD_TIMEOUT_S", 0.1)
    async with serving() as port:
        assert await exchange(port, b"GET / HTTP/1.1\r\nHost:") == b""
        assert await exchange(port, b"") == b""


@pytest.mark.parametrize("data", [b"\x16\x03\x01\x02\x00", b"HELLO\r\n\r\n", b"GET\x00 / HTTP/1.1\r\n\r\n"])
async def test_what_is_no_http_gets_a_400(data: bytes) -> None:
    async with serving() as port:
        assert (await exchange(port, data)).startswith(b"HTTP/1.1 400")


async def test_certificates_are_seen_and_not_demanded(tmp_path: Path) -> None:
    authority = pki.make_authority(tmp_path, "ca", "kubernetes")
    pki.issue(authority, tmp_path, "server", "server", usages=[pki.SERVER], addresses=["127.0.0.1"])
    pki.issue(authority, tmp_path, "user", "user")
    context = door.tls_context(tmp_path / "server.crt", tmp_path / "server.key", (tmp_path / "ca.crt",))
    async with serving(context) as port:
        client = ssl.create_default_context(cafile=str(tmp_path / "ca.crt"))
        assert (await exchange(port, request(), client)).endswith(b"0 0")
        client.load_cert_chain(tmp_path / "user.crt", tmp_path / "user.key")
        length = int((await exchange(port, request(), client)).split()[-2])
        assert length > 200


async def test_running_requests_end_before_the_server_does() -> None:
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def slow(scope: ASGIScope, receive: Receive, send: Send) -> None:
        begun.set()
        await go_on.wait()
        await echo(scope, receive, send)

    bound = door.bind("127.0.0.1", 0)
    task = asyncio.ensure_future(door.serve(slow, bound, None))
    answering = asyncio.ensure_future(exchange(bound.getsockname()[1], request()))
    await begun.wait()
    task.cancel()
    await asyncio.sleep(0.05)
    assert not task.done()
    go_on.set()
    assert (await answering).endswith(b"0 0")
    await asyncio.wait([task], timeout=10)
    assert task.cancelled()
    bound.close()


async def test_requests_in_one_go_are_answered_in_order() -> None:
    async with serving() as port:
        first = b"POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc"
        second = b"POST /b HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n3\r\ncde\r\n0\r\n\r\n"
        answer = await exchange(port, first + second + request())
        assert [part[:3] for part in answer.split(b"\r\n\r\n")[1:]] == [b"0 3", b"0 5", b"0 0"]
        assert answer.count(b"connection: close") == 1


async def test_a_body_is_asked_for() -> None:
    async with serving() as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n")
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(b"ab")
        assert (await reader.readuntil(b"0 2")).startswith(b"HTTP/1.1 200 OK")
        writer.close()


async def test_large_bodies_pass_both_ways() -> None:
    async def back(scope: ASGIScope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        more = True
        while more:
            message = await receive()
            more = message["more_body"]
            await send({"type": "http.response.body", "body": message["body"], "more_body": more})

    async with serving(app=back) as port:
        body = bytes(range(256)) * 20_000
        answer = await exchange(port, request(f"Content-Length: {len(body)}", body=body))
        assert b"transfer-encoding: chunked" in answer
        at, found = answer.index(b"\r\n\r\n") + 4, b""
        while size := int(answer[at : (stop := answer.index(b"\r\n", at))], 16):
            found += answer[stop + 2 : stop + 2 + size]
            at = stop + 4 + size
        assert found == body


@pytest.mark.parametrize(
    ("head", "told", "body"),
    [
        (b"HEAD / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", b"content-length: 3\r\n", b""),
        (b"GET / HTTP/1.0\r\n\r\n", b"connection: close\r\n", b"0 0"),
        (b"GET http://x/y?z HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", b"date: ", b"0 0"),
    ],
    ids=["head", "1.0", "absolute"],
)
async def test_forms_of_requests(head: bytes, told: bytes, body: bytes) -> None:
    async with serving() as port:
        answer = await exchange(port, head)
        assert told in answer
        assert answer.endswith(b"\r\n\r\n" + body)


async def test_what_an_application_leaves_open_is_ended() -> None:
    async def broken(scope: ASGIScope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/half":
            await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"9")]})
        raise ValueError("broken")

    async with serving(app=broken) as port:
        assert (await exchange(port, request())).startswith(b"HTTP/1.1 500")
        assert (await exchange(port, b"GET /half HTTP/1.1\r\nHost: x\r\n\r\n")).endswith(b"\r\n\r\n")


async def test_a_client_that_leaves_is_noticed() -> None:
    left = asyncio.Event()

    async def patient(scope: ASGIScope, receive: Receive, send: Send) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        left.set()

    async with serving(app=patient) as port:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(request())
        await writer.drain()
        writer.close()
        async with asyncio.timeout(10):
            await left.wait()
