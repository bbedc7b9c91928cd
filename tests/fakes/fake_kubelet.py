"""A kubelet's streaming side without containers: commands run here, logs are a line that says what was asked.

It speaks the WebSocket protocols that kubectl and the Python clients bring through the API server: v5 and v4 for
commands, v4 for port-forwards, which it answers with an echo.
"""

from __future__ import annotations

import asyncio
import json
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from pathlib import Path
from urllib.parse import parse_qs, parse_qsl, urlsplit

from websockets.asyncio.server import ServerConnection, serve
from websockets.datastructures import Headers
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response
from websockets.typing import Subprotocol

STDIN, STDOUT, STDERR, ERROR, CLOSE = 0, 1, 2, 3, 255
PROTOCOLS = [Subprotocol("v5.channel.k8s.io"), Subprotocol("v4.channel.k8s.io")]
SUCCESS = {"metadata": {}, "status": "Success"}


def _failure(code: int) -> dict[str, object]:
    """Return what a kubelet says of a command that ended with a code of its own."""
    return {
        "metadata": {},
        "status": "Failure",
        "reason": "NonZeroExitCode",
        "message": f"command terminated with non-zero exit code: exit status {code}",
        "details": {"causes": [{"reason": "ExitCode", "message": str(code)}]},
    }


def _plain(connection: ServerConnection, request: Request) -> Response | None:
    """Answer what is no WebSocket."""
    split = urlsplit(request.path)
    what, *rest = split.path.strip("/").split("/")
    if what == "containerLogs":
        options = "".join(f" {name}={value}" for name, value in parse_qsl(split.query))
        text = f"log of {rest[0]}/{rest[1]} {rest[2]}{options}\n"
    elif what == "healthz":
        text = "ok"
    else:
        return None
    head = Headers({"Content-Type": "text/plain", "Content-Length": str(len(text)), "Connection": "close"})
    return Response(HTTPStatus.OK, "OK", head, text.encode())


async def _copy(source: asyncio.StreamReader | None, channel: int, socket: ServerConnection) -> None:
    while source is not None and (data := await source.read(65536)):
        await socket.send(bytes([channel]) + data)


async def _feed(socket: ServerConnection, sink: asyncio.StreamWriter | None) -> None:
    """Hand on what comes as input, until it ends."""
    try:
        async for received in socket:
            message = received.encode() if isinstance(received, str) else received
            if sink is not None and message[:1] == bytes([STDIN]):
                sink.write(message[1:])
                await sink.drain()
            elif sink is not None and message[:2] == bytes([CLOSE, STDIN]):
                sink.close()
    except (ConnectionClosed, ConnectionResetError, BrokenPipeError):
        return


async def _command(socket: ServerConnection, command: list[str], wants_input: bool) -> None:
    pipe = asyncio.subprocess.PIPE
    stdin = pipe if wants_input else asyncio.subprocess.DEVNULL
    started = await asyncio.create_subprocess_exec(*command, stdin=stdin, stdout=pipe, stderr=pipe)
    feeding = asyncio.ensure_future(_feed(socket, started.stdin))
    try:
        await asyncio.gather(_copy(started.stdout, STDOUT, socket), _copy(started.stderr, STDERR, socket))
        code = await started.wait()
        await socket.send(bytes([ERROR]) + json.dumps(_failure(code) if code else SUCCESS).encode())
    except ConnectionClosed:
        started.kill()
        await started.wait()
    finally:
        feeding.cancel()


async def _echo(socket: ServerConnection, ports: list[int]) -> None:
    """Announce each port on its two channels, then send back what comes on the data channels."""
    for index, port in enumerate(ports):
        for channel in (2 * index, 2 * index + 1):
            await socket.send(bytes([channel]) + port.to_bytes(2, "little"))
    async for message in socket:
        if len(message) > 1:
            await socket.send(message)


async def _serve(socket: ServerConnection) -> None:
    assert socket.request is not None
    split = urlsplit(socket.request.path)
    query = parse_qs(split.query)
    what = split.path.strip("/").split("/")[0]
    if what == "portForward":
        await _echo(socket, [int(port) for port in query["port"]])
    else:
        await _command(socket, query.get("command", ["cat"]), "input" in query)


@contextmanager
def fake_kubelet(folder: Path) -> Iterator[int]:
    """Serve on a free port with a folder's kubelet.crt, for clients of its ca.crt; yield the port."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(folder / "ca.crt"))
    context.load_cert_chain(folder / "kubelet.crt", folder / "kubelet.key")
    context.verify_mode = ssl.CERT_REQUIRED
    loop = asyncio.new_event_loop()
    begun, over = threading.Event(), asyncio.Event()
    ports: list[int] = []

    async def run() -> None:
        async with serve(
            _serve, "127.0.0.1", 0, ssl=context, process_request=_plain, subprotocols=PROTOCOLS, compression=None
        ) as server:
            ports.append(next(iter(server.sockets)).getsockname()[1])
            begun.set()
            await over.wait()

    def live() -> None:
        with asyncio.Runner(loop_factory=lambda: loop) as runner:
            runner.run(run())

    thread = threading.Thread(target=live, name="fake kubelet")
    thread.start()
    try:
        assert begun.wait(20), "the kubelet does not listen"
        yield ports[0]
    finally:
        loop.call_soon_threadsafe(over.set)
        thread.join(20)
