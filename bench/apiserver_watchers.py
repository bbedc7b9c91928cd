"""A thousand watchers in one process: ``python -m bench.apiserver_watchers``; what they do comes as JSON on stdin.

Each event is decoded where it arrives. Prints "ready" once all watch, "counting" once events flow, and one line of
JSON at the end.
"""

from __future__ import annotations

import asyncio
import json
import resource
import ssl
import sys
import time
from typing import Any, cast

import httptools
import orjson
import uvloop

from bench import http2
from proto.control import resources_pb2 as pb

CONNECTING_AT_ONCE = 32
STREAMS = 50
CONNECTION_PAUSE_S = 0.1
EVENTS_BEFORE = 20
"""Events that each watcher is told of before they count."""
_WATCH = "/raftsman.control.v1.Resources/Watch"


class Counter:
    """Counts events from a moment on."""

    def __init__(self) -> None:
        self.ready = 0
        self.events = 0
        self.lost = 0
        self._wanted = 0
        self._done = asyncio.Event()

    def add_ready(self, count: int) -> None:
        """Note that watches have begun."""
        self.ready += count
        if self._wanted and self.ready >= self._wanted:
            self._done.set()

    async def all_ready(self, wanted: int) -> None:
        """Wait until so many watches have begun."""
        self._wanted = wanted
        self.add_ready(0)
        await self._done.wait()

    async def all_told(self, wanted: int) -> None:
        """Wait until so many events have come."""
        while True:
            if self.events >= wanted:
                return
            await asyncio.sleep(0.05)


class RestWatcher(asyncio.Protocol):
    """One watch over HTTP/1.1: every line is parsed."""

    def __init__(self, request: bytes, counter: Counter) -> None:
        self._request = request
        self._counter = counter
        self._parser: Any = httptools.HttpResponseParser(self)
        self._tail = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        cast(asyncio.Transport, transport).write(self._request)

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self._counter.lost += 1

    def on_headers_complete(self) -> None:
        self._counter.add_ready(self._parser.get_status_code() == 200)

    def on_body(self, body: bytes) -> None:
        *lines, self._tail = (self._tail + body).split(b"\n")
        for line in lines:
            orjson.loads(line)
        self._counter.events += len(lines)


def context(told: dict[str, Any], alpn: str, user: str = "") -> ssl.SSLContext:
    made = ssl.create_default_context(cafile=f"{told['pki']}/ca.crt")
    made.set_alpn_protocols([alpn])
    if user:
        made.load_cert_chain(f"{told['pki']}/{user}.crt", f"{told['pki']}/{user}.key")
    return made


async def by_rest(told: dict[str, Any], counter: Counter) -> None:
    """Open all watches over REST, each with a connection of its own."""
    head = f"GET {told['path']} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {told['token']}\r\n\r\n".encode()
    tls, gate, loop = context(told, "http/1.1"), asyncio.Semaphore(CONNECTING_AT_ONCE), asyncio.get_running_loop()

    async def one() -> None:
        async with gate:
            await loop.create_connection(
                lambda: RestWatcher(head, counter), "127.0.0.1", told["port"], ssl=tls, server_hostname="127.0.0.1",
                ssl_handshake_timeout=120,
            )  # fmt: skip

    await asyncio.gather(*(one() for _ in range(told["watchers"])))


async def by_grpc(told: dict[str, Any], counter: Counter) -> None:
    """Open all watches over the hub, fifty streams a connection."""
    target = pb.Target(version="v1", resource="configmaps", namespace=told["namespace"])
    request = pb.WatchRequest(target=target, resource_version=told["resource_version"]).SerializeToString()
    tls = context(told, "h2", "user")
    for _ in range(told["watchers"] // STREAMS):
        connection = await http2.connect(_WATCH, told["port"], tls)
        tails: dict[int, bytes] = {}

        def take(stream: int, data: bytes, tails: dict[int, bytes] = tails) -> None:
            data = tails.get(stream, b"") + data
            at = 0
            while len(data) - at >= 5 and len(data) - at - 5 >= (size := int.from_bytes(data[at + 1 : at + 5], "big")):
                counter.events += len(pb.WatchResponse.FromString(data[at + 5 : at + 5 + size]).events)
                at += 5 + size
            tails[stream] = data[at:]

        def lost() -> None:
            counter.lost += STREAMS

        def ended(stream: int, body: bytes, ok: bool) -> None:
            counter.lost += 1

        connection.on_data, connection.on_lost, connection.on_done = take, lost, ended
        for _ in range(STREAMS):
            connection.start(request, last=True)
        connection.flush()
        counter.add_ready(STREAMS)
        # Watches begin one by one on the other side: whoever opens a thousand at a time is told to come back.
        await asyncio.sleep(CONNECTION_PAUSE_S)


async def main() -> None:
    told = json.loads(sys.stdin.readline())
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 65_536), hard))
    counter = Counter()
    await (by_rest if told["way"] == "rest" else by_grpc)(told, counter)
    async with asyncio.timeout(120):
        await counter.all_ready(told["watchers"])
    print("ready", flush=True)
    # The load takes a moment to get going.
    async with asyncio.timeout(120):
        await counter.all_told(told["watchers"] * EVENTS_BEFORE)
    print("counting", flush=True)
    counter.events = 0
    began, cpu_s = time.perf_counter(), time.process_time()
    await asyncio.sleep(told["duration_s"])
    elapsed_s = time.perf_counter() - began
    figures = {
        "events": counter.events, "elapsed_s": elapsed_s, "lost": counter.lost,
        "cpu_s": time.process_time() - cpu_s,
    }  # fmt: skip
    print(json.dumps(figures), flush=True)


if __name__ == "__main__":
    uvloop.run(main())
