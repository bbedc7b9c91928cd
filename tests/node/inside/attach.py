"""Attach and port-forward through port 10250 to real pods."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from node.kubelet import Kubelet
from node.server import spdy
from tests.node.inside.conftest import NodeApi, container, is_ready, until
from tests.node.inside.streams import WebSocket, dial


async def test_attach_reads_and_writes_the_main_process(kubelet: Kubelet, api: NodeApi) -> None:
    command = "while read line; do echo got $line; done; echo end of input"
    api.run_pod("echo", container(command, stdin=True, stdinOnce=True), restartPolicy="Never")
    await until(lambda: "running" in api.container("echo").get("state", {}), what="it runs")
    path = "/attach/default/echo/main?input=1&output=1&error=1"
    socket = await WebSocket.open(kubelet, path, "v5.channel.k8s.io")
    socket.send(b"\0hello\n")
    socket.send(b"\xff\0")
    found = await socket.channels()
    assert found[1] == b"got hello\nend of input\n"
    await until(lambda: api.status("echo").get("phase") == "Succeeded", what="it ends with its input")


async def fetch(send: Callable[[bytes], None], receive: Callable[[], Awaitable[bytes]]) -> bytes:
    """One HTTP request over SPDY as port-forwards carry it."""
    client = spdy.SpdyClient()
    headers = {"port": "8080", "requestID": "0"}
    errors = client.open({"streamType": "error", **headers})
    client.send(errors, b"", end=True)
    data = client.open({"streamType": "data", **headers})
    send(bytes(client.outgoing))
    client.outgoing.clear()
    opened, body = 0, b""
    async with asyncio.timeout(20):
        while True:
            for event in client.receive(await receive()):
                if isinstance(event, spdy.Opened):
                    opened += 1
                    if opened == 2:
                        client.send(data, b"GET /hi HTTP/1.0\r\n\r\n", end=True)
                        send(bytes(client.outgoing))
                        client.outgoing.clear()
                if isinstance(event, spdy.Data):
                    assert event.stream_id == data or not event.data, event.data
                    body += event.data
                    if event.stream_id == data and event.end:
                        return body


async def test_port_forward_by_spdy(kubelet: Kubelet, api: NodeApi) -> None:
    await serve(api)
    reader, writer = await dial(kubelet)
    writer.write(
        b"POST /portForward/default/web HTTP/1.1\r\nHost: n1\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n"
        b"X-Stream-Protocol-Version: portforward.k8s.io\r\nContent-Length: 0\r\n\r\n"
    )
    assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101")
    assert (await fetch(writer.write, lambda: reader.read(65536))).endswith(b"hello\n")
    writer.close()


async def test_port_forward_by_web_socket(kubelet: Kubelet, api: NodeApi) -> None:
    await serve(api)
    socket = await WebSocket.open(kubelet, "/portForward/default/web", "SPDY/3.1+portforward.k8s.io")

    async def receive() -> bytes:
        return (await socket.receive())[1]

    assert (await fetch(socket.send, receive)).endswith(b"hello\n")
    socket.writer.close()


async def serve(api: NodeApi) -> None:
    """A pod that serves /hi."""
    command = "mkdir /tmp/w; echo hello > /tmp/w/hi; trap 'exit 0' TERM; httpd -f -p 8080 -h /tmp/w & wait $!"
    probe = {"tcpSocket": {"port": 8080}, "periodSeconds": 1}
    api.run_pod("web", container(command, readinessProbe=probe))
    await until(is_ready(api, "web"), what="it is ready")
