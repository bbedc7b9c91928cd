"""Streams on real sockets with TLS at both ends: client, API server's door, and a kubelet that answers by script."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosedOK

from control.api.meta import Object
from control.api.resources import PODS, Resource
from control.api.status import ApiError, not_found
from control.apiserver.authz.authorizer import ModeAuthorizer
from control.apiserver.config import ApiServerConfig, EtcdConfig
from control.apiserver.request import ASGIScope, Receive, Send, StreamRequest, UserInfo, parse
from control.apiserver.rest import server as door
from control.apiserver.rest.exchange import read_headers, read_query
from control.apiserver.streams.kubelets import Kubelets
from control.apiserver.streams.pods import PodStreams
from control.apiserver.streams.relay import Backend, relay_http
from control.apiserver.streams.target import Address
from lab import pki

Answer = Callable[[bytes, asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
UPGRADE = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Protocol: v5.channel.k8s.io"


@dataclass
class World:
    """A node, a pod, and what the kubelet was asked."""

    folder: Path
    objects: dict[str, Object] = field(default_factory=dict)
    heads: list[bytes] = field(default_factory=list)
    port: int = 0

    async def get(self, resource: Resource, name: str, namespace: str = "") -> Object:
        try:
            return self.objects[name]
        except KeyError:
            raise not_found(resource.plural, name) from None


@asynccontextmanager
async def world(tmp_path: Path, answer: Answer, *, address: str = "127.0.0.1") -> AsyncIterator[World]:
    """Run a kubelet and the API server's door in front of it."""
    here = World(tmp_path)
    authority = pki.make_authority(tmp_path, "ca", "kubernetes")
    pki.issue(authority, tmp_path, "kubelet", "system:node:n1", usages=[pki.SERVER], addresses=[address])
    pki.issue(authority, tmp_path, "client", "kube-apiserver-kubelet-client")

    async def kubelet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            here.heads.append(head)
            assert writer.get_extra_info("peercert")["subject"][-1][0][1] == "kube-apiserver-kubelet-client"
            await answer(head, reader, writer)
        finally:
            writer.close()

    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(tmp_path / "ca.crt"))
    context.load_cert_chain(tmp_path / "kubelet.crt", tmp_path / "kubelet.key")
    context.verify_mode = ssl.CERT_REQUIRED
    node = await asyncio.start_server(kubelet, "127.0.0.1", 0, ssl=context)
    here.port = node.sockets[0].getsockname()[1]
    here.objects["n1"] = {
        "status": {
            "addresses": [{"type": "InternalIP", "address": "127.0.0.1"}],
            "daemonEndpoints": {"kubeletEndpoint": {"Port": here.port}},
        }
    }
    here.objects["p"] = {
        "metadata": {"name": "p", "namespace": "default"},
        "spec": {"nodeName": "n1", "containers": [{"name": "c"}]},
    }
    async with node:
        yield here


@asynccontextmanager
async def api(here: World, modes: tuple[str, ...] = ("AlwaysAllow",)) -> AsyncIterator[int]:
    """Serve the pod streams; whoever asks is ann."""
    config = ApiServerConfig(
        EtcdConfig(("fake",)),
        kubelet_client_certificate=here.folder / "client.crt",
        kubelet_client_key=here.folder / "client.key",
        kubelet_certificate_authority=here.folder / "ca.crt",
        kubelet_preferred_address_types=("InternalIP",),
    )
    streams = PodStreams(here, Kubelets(here, config), ModeAuthorizer(modes))  # type: ignore[arg-type]

    async def app(scope: ASGIScope, receive: Receive, send: Send) -> None:
        query = read_query(scope["query_string"])
        info = parse(scope["method"], scope["path"], query)
        request = StreamRequest(
            info, PODS, UserInfo("ann"), query, read_headers(scope["headers"]), scope, receive, send
        )
        handler = {
            "log": streams.log, "exec": streams.exec, "attach": streams.attach, "portforward": streams.port_forward
        }[info.subresource]  # fmt: skip
        try:
            await handler(request)
        except ApiError as error:
            body = orjson.dumps(error.status)
            headers = [(b"content-length", str(len(body)).encode())]
            await send({"type": "http.response.start", "status": error.code, "headers": headers})
            await send({"type": "http.response.body", "body": body})

    bound = door.bind("127.0.0.1", 0)
    context = door.tls_context(here.folder / "kubelet.crt", here.folder / "kubelet.key", ())
    task = asyncio.ensure_future(door.serve(app, bound, context))
    try:
        yield bound.getsockname()[1]
    finally:
        task.cancel()
        await asyncio.wait([task], timeout=10)
        bound.close()


async def open_stream(here: World, port: int, what: str, *, method: str = "GET", lines: str = "Accept: */*") -> Any:
    context = ssl.create_default_context(cafile=str(here.folder / "ca.crt"))
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
    path = f"/api/v1/namespaces/default/pods/p/{what}"
    writer.write(f"{method} {path} HTTP/1.1\r\nHost: x\r\n{lines}\r\n\r\n".encode())
    return reader, writer


async def echo(head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Agree to any upgrade, greet, and send everything back."""
    writer.write(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nhello ")
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()


@pytest.mark.parametrize(
    ("method", "lines"),
    [
        ("GET", UPGRADE + ", base64url.bearer.authorization.k8s.io.c2VjcmV0\r\nAuthorization: Bearer secret"),
        ("POST", "Connection: Upgrade\r\nUpgrade: SPDY/3.1\r\nX-Stream-Protocol-Version: v4.channel.k8s.io\r\n"
                 "Content-Length: 0"),
    ],
    ids=["websocket", "spdy"],
)  # fmt: skip
async def test_an_upgraded_connection_carries_bytes_both_ways(tmp_path: Path, method: str, lines: str) -> None:
    async with world(tmp_path, echo) as here, api(here) as port:
        stream = "exec?command=ls&stdout=true&stdin=true"
        reader, writer = await open_stream(here, port, stream, method=method, lines=lines)
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101 ")
        assert await reader.readexactly(6) == b"hello "
        sent = bytes(range(256)) * 4096
        writer.write(sent)
        assert await asyncio.wait_for(reader.readexactly(len(sent)), 20) == sent
        writer.close()
        asked = here.heads[0]
        assert asked.startswith(f"{method} /exec/default/p/c?command=ls&input=1&output=1 HTTP/1.1\r\n".encode())
        assert b"secret" not in asked
        assert b"c2VjcmV0" not in asked


async def test_the_end_of_the_backend_is_the_end_of_the_client(tmp_path: Path) -> None:
    async def short(head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 101 Switching Protocols\r\n\r\nbye")
        await writer.drain()

    async with world(tmp_path, short) as here, api(here) as port:
        reader, writer = await open_stream(here, port, "attach?stdout=true", lines=UPGRADE)
        await reader.readuntil(b"\r\n\r\n")
        assert await asyncio.wait_for(reader.read(), 10) == b"bye"
        writer.close()


async def test_what_the_kubelet_refuses_reaches_the_client(tmp_path: Path) -> None:
    async def refuse(head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 404 Not Found\r\nContent-Length: 12\r\n\r\nno container")
        await writer.drain()

    async with world(tmp_path, refuse) as here, api(here) as port:
        reader, writer = await open_stream(here, port, "exec?command=ls", lines=UPGRADE)
        answer = await asyncio.wait_for(reader.read(), 10)
        assert answer.startswith(b"HTTP/1.1 404 ")
        assert answer.endswith(b"no container")
        writer.close()


async def test_a_log_streams_line_by_line(tmp_path: Path) -> None:
    more = asyncio.Event()

    async def log(head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nTransfer-Encoding: chunked\r\n\r\n4\r\none\n\r\n")
        await writer.drain()
        await more.wait()
        writer.write(b"4\r\ntwo\n\r\n0\r\n\r\n")
        await writer.drain()

    async with world(tmp_path, log) as here, api(here) as port:
        reader, writer = await open_stream(here, port, "log?follow=true", lines="Connection: close")
        assert b"200 OK" in await reader.readuntil(b"\r\n\r\n")
        assert await asyncio.wait_for(reader.readuntil(b"one\n"), 10)
        more.set()
        assert b"two\n" in await asyncio.wait_for(reader.read(), 10)
        writer.close()


@pytest.mark.parametrize(("protocol", "wanted"), [("", b"one\n"), ("base64.binary.k8s.io", "b25lCg==")])
async def test_a_log_over_web_socket_is_told_by_messages(tmp_path: Path, protocol: str, wanted: bytes | str) -> None:
    async def log(head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert b"sec-websocket" not in head.lower()
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 4\r\n\r\none\n")
        await writer.drain()

    async with world(tmp_path, log) as here, api(here) as port, asyncio.timeout(10):
        context = ssl.create_default_context(cafile=str(here.folder / "ca.crt"))
        url = f"wss://127.0.0.1:{port}/api/v1/namespaces/default/pods/p/log?follow=true"
        protocols: Any = [protocol] if protocol else None
        async with connect(url, ssl=context, subprotocols=protocols) as socket:
            assert [await socket.recv(), await socket.recv()] == [type(wanted)(), wanted]
            with pytest.raises(ConnectionClosedOK):
                await socket.recv()


async def test_a_client_that_leaves_ends_the_kubelets_work(tmp_path: Path) -> None:
    left = asyncio.Event()

    async def log(head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\none\n\r\n")
        await writer.drain()
        await reader.read()
        left.set()

    async with world(tmp_path, log) as here, api(here) as port:
        reader, writer = await open_stream(here, port, "log?follow=true")
        await reader.readuntil(b"one\n")
        writer.close()
        await asyncio.wait_for(left.wait(), 10)


async def test_a_kubelet_with_another_name_is_not_believed(tmp_path: Path) -> None:
    async with world(tmp_path, echo, address="127.0.0.9") as here:
        # The door's own certificate is of no interest here: ask the stream without TLS in front.
        pki.issue(_authority(here), here.folder, "kubelet", "x", usages=[pki.SERVER], addresses=["127.0.0.1"])
        async with api(here) as port:
            reader, writer = await open_stream(here, port, "exec?command=ls", lines=UPGRADE)
            answer = await asyncio.wait_for(reader.read(), 10)
            assert b"HTTP/1.1 500 " in answer
            assert b"failed to verify certificate" in answer
            assert here.heads == []
            writer.close()


def _authority(here: World) -> pki.Authority:
    from cryptography import x509
    from cryptography.hazmat.primitives import serialization

    certificate = x509.load_pem_x509_certificate((here.folder / "ca.crt").read_bytes())
    key = serialization.load_pem_private_key((here.folder / "ca.key").read_bytes(), None)
    return pki.Authority(certificate, key)  # type: ignore[arg-type]


async def test_reading_is_not_entering(tmp_path: Path) -> None:
    """A WebSocket is a GET; whoever lacks create on pods/exec stays outside all the same."""
    async with world(tmp_path, echo) as here, api(here, ("RBAC",)) as port:
        reader, writer = await open_stream(here, port, "exec?command=ls", lines=UPGRADE)
        answer = await asyncio.wait_for(reader.read(), 10)
        assert b"HTTP/1.1 403 " in answer
        assert b'cannot create resource \\"pods/exec\\" in API group' in answer
        assert here.heads == []
        writer.close()


@pytest.mark.parametrize(
    ("pod", "what", "code", "text"),
    [
        ({"spec": {"containers": [{"name": "c"}]}}, "log", 200, b""),
        ({"spec": {"containers": [{"name": "c"}]}}, "exec?command=ls", 400, b"pod p does not have a host assigned"),
        ({}, "log?container=x", 400, b"container x is not valid for pod p"),
        ({"status": {"phase": "Succeeded"}}, "exec?command=ls", 400, b"completed pod; current phase is Succeeded"),
    ],
    ids=["log of no node", "exec on no node", "unknown container", "completed"],
)
async def test_what_never_reaches_a_kubelet(
    tmp_path: Path, pod: dict[str, Any], what: str, code: int, text: bytes
) -> None:
    async with world(tmp_path, echo) as here, api(here) as port:
        here.objects["p"] = {**here.objects["p"], **pod}
        lines = "Connection: close" if what.startswith("log") else UPGRADE
        reader, writer = await open_stream(here, port, what, lines=lines)
        answer = await asyncio.wait_for(reader.read(), 10)
        assert answer.startswith(f"HTTP/1.1 {code} ".encode())
        assert text in answer
        assert here.heads == []
        writer.close()


async def test_a_backend_that_is_not_there_is_told_by_name() -> None:
    info = parse("GET", "/api/v1/namespaces/default/pods/p/log", {})
    scope = {"method": "GET", "type": "http"}

    async def never(*_: Any) -> Any:
        await asyncio.Event().wait()

    request = StreamRequest(info, PODS, UserInfo("ann"), {}, {}, scope, never, never)
    with pytest.raises(ApiError, match=r"error dialing backend: dial tcp 127\.0\.0\.1:1: "):
        await relay_http(request, Backend(Address("127.0.0.1", 1), "/"))
