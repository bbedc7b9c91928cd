"""The cases of bench.store and how each is run against one cluster."""

from __future__ import annotations

import asyncio
import itertools
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from bench import http2
from bench.members import Members
from proto.etcd import rpc_pb2 as pb

VALUE = b"v" * 256
KEY = b"/registry/pods/d/p-%010d"
SEED_KEY = KEY % 0
WATCHED_KEY = b"/registry/watched/one-key----"
MARK = b"<<event>>"
"""Stands once in each watched value, so that events are counted without being decoded."""
WARM_UP_S = 0.5
CONNECTING_AT_ONCE = 50
GRPC_PROCESSES = 2
WATCHED_PUTS_IN_FLIGHT = 8

_numbers: Iterator[int] = itertools.count(1)


@dataclass(frozen=True)
class Case:
    """One row of the table."""

    name: str
    title: str
    kind: str = "put"
    connections: int = 1
    streams: int = 1
    """Calls in flight on each connection."""
    everywhere: bool = False
    """At all members' addresses instead of the leader's."""
    tls: bool = False
    goal: float | None = None
    """Wanted ratio of throughputs."""


CASES = (
    Case("put-1", "put, 1 in flight", goal=1.0),
    Case("put-64", "put, 64 in flight (8 × 8)", connections=8, streams=8, goal=3.0),
    Case("put-512", "put, 512 in flight (16 × 32)", connections=16, streams=32, goal=5.0),
    Case("put-256c", "put, 256 connections", connections=256, goal=1.5),
    Case("put-1000c", "put, 1,000 connections", connections=1000, goal=1.5),
    Case("put-64-all", "put, 64 in flight, all members", connections=9, streams=7, everywhere=True),
    Case("put-512-all", "put, 512 in flight, all members", connections=18, streams=28, everywhere=True),
    Case("txn-64", "create by Txn, 64 in flight", "txn", 8, 8, goal=2.0),
    Case("range-64", "linearizable Range, 64 in flight", "range", 8, 8, goal=1.5),
    Case("serializable-64", "serializable Range, 64 in flight", "serializable", 8, 8, goal=2.0),
    Case("watch-1000", "events to 1,000 watchers", "watch", 20, 50, goal=1.0),
    Case("h2load-64", "put of one key by h2load, 64 in flight", "h2load", 8, 8),
    Case("h2load-512", "put of one key by h2load, 512 in flight", "h2load", 16, 32),
    Case("grpcio-64", "put by grpcio, 64 in flight", "grpcio", GRPC_PROCESSES, 32),
    Case("tls-put-1", "put, 1 in flight, mutual TLS", tls=True),
    Case("tls-put-64", "put, 64 in flight, mutual TLS", connections=8, streams=8, tls=True),
    Case("tls-put-512", "put, 512 in flight, mutual TLS", connections=16, streams=32, tls=True),
)


@dataclass(frozen=True)
class Measured:
    """What one run of one case gave."""

    per_s: float
    p50_ms: float
    p99_ms: float
    cpu_us: float
    """CPU time of all members for each operation or event."""
    client_cpu_us: float
    failed: int


def next_key() -> bytes:
    """Return a key that no request has used."""
    return KEY % next(_numbers)


def put_body() -> bytes:
    """Return a PutRequest of a new key."""
    return b"\x0a\x1d" + next_key() + b"\x12\x80\x02" + VALUE


def txn_body() -> bytes:
    """Return a TxnRequest as kube-apiserver creates an object: put unless it is there, else read it."""
    return _TXN.replace(SEED_KEY, next_key())


_TXN = pb.TxnRequest(
    compare=[pb.Compare(key=SEED_KEY, target=pb.Compare.MOD, result=pb.Compare.EQUAL, mod_revision=0)],
    success=[pb.RequestOp(request_put=pb.PutRequest(key=SEED_KEY, value=VALUE))],
    failure=[pb.RequestOp(request_range=pb.RangeRequest(key=SEED_KEY))],
).SerializeToString()
_RANGE = pb.RangeRequest(key=SEED_KEY).SerializeToString()
_SERIALIZABLE = pb.RangeRequest(key=SEED_KEY, serializable=True).SerializeToString()
_WATCH = pb.WatchRequest(create_request=pb.WatchCreateRequest(key=WATCHED_KEY)).SerializeToString()
_WATCHED_PUT = pb.PutRequest(key=WATCHED_KEY, value=MARK.ljust(256, b"v")).SerializeToString()

_PUT = "/etcdserverpb.KV/Put"
_METHODS: dict[str, tuple[str, Callable[[], bytes]]] = {
    "put": (_PUT, put_body),
    "txn": ("/etcdserverpb.KV/Txn", txn_body),
    "range": ("/etcdserverpb.KV/Range", lambda: _RANGE),
    "serializable": ("/etcdserverpb.KV/Range", lambda: _SERIALIZABLE),
}


async def seed(members: Members) -> None:
    """Write the key that ranges read."""
    body = pb.PutRequest(key=SEED_KEY, value=VALUE).SerializeToString()
    if await http2.call(_PUT, await members.leader_port(), body, members.tls) is None:
        raise RuntimeError(f"{members.side} refused the first put")


async def run(case: Case, members: Members, duration_s: float) -> Measured:
    """Run one case for a while."""
    match case.kind:
        case "watch":
            return await _watch(case, members, duration_s)
        case "h2load":
            return await _h2load(case, members, duration_s)
        case "grpcio":
            return await _grpcio(case, members, duration_s)
        case _:
            return await _calls(case, members, duration_s)


async def _connect(members: Members, path: str, ports: list[int], count: int) -> list[http2.Connection]:
    gate = asyncio.Semaphore(CONNECTING_AT_ONCE)

    async def one(number: int) -> http2.Connection:
        async with gate, asyncio.timeout(20):
            return await http2.connect(path, ports[number % len(ports)], members.tls)

    return list(await asyncio.gather(*(one(number) for number in range(count))))


class _Meter:
    """Measures between its making and ``read``."""

    def __init__(self, members: Members) -> None:
        self._members = members
        self._at = time.perf_counter()
        self._members_s = members.cpu_s()
        self._client_s = time.process_time()

    def read(self, operations: int, latencies_s: list[float], failed: int, client_s: float | None = None) -> Measured:
        """Return what has been measured."""
        elapsed_s = time.perf_counter() - self._at
        members_s = self._members.cpu_s() - self._members_s
        client_s = time.process_time() - self._client_s if client_s is None else client_s
        ordered = sorted(latencies_s) or [0.0]
        count = max(operations, 1)
        return Measured(
            operations / elapsed_s,
            ordered[len(ordered) // 2] * 1e3,
            ordered[min(len(ordered) * 99 // 100, len(ordered) - 1)] * 1e3,
            members_s / count * 1e6,
            client_s / count * 1e6,
            failed,
        )


async def _calls(case: Case, members: Members, duration_s: float) -> Measured:
    path, body = _METHODS[case.kind]
    ports = members.client_ports if case.everywhere else [await members.leader_port()]
    load = http2.Load(body)
    for connection in await _connect(members, path, ports, case.connections):
        load.add(connection, case.streams)
    await asyncio.sleep(WARM_UP_S)
    load.restart()
    meter = _Meter(members)
    await asyncio.sleep(duration_s)
    measured = meter.read(len(load.latencies_s), load.latencies_s, load.failed)
    await load.stop()
    return measured


async def _watch(case: Case, members: Members, duration_s: float) -> Measured:
    """Count the events that arrive while one client changes the watched key; times are those of its puts."""
    port = await members.leader_port()
    events = 0
    tails: dict[tuple[int, int], bytes] = {}
    watching = await _connect(members, "/etcdserverpb.Watch/Watch", [port], case.connections)
    for number, connection in enumerate(watching):

        def count(stream_id: int, data: bytes, number: int = number) -> None:
            nonlocal events
            data = tails.get((number, stream_id), b"") + data
            events += data.count(MARK)
            tails[number, stream_id] = data[-len(MARK) + 1 :]

        connection.on_data = count
        for _ in range(case.streams):
            connection.start(_WATCH, last=False)
        connection.flush()
    load = http2.Load(lambda: _WATCHED_PUT)
    (writer,) = await _connect(members, _PUT, [port], 1)
    load.add(writer, WATCHED_PUTS_IN_FLIGHT)
    await asyncio.sleep(2 * WARM_UP_S)
    load.restart()
    events = 0
    meter = _Meter(members)
    await asyncio.sleep(duration_s)
    measured = meter.read(events, load.latencies_s, load.failed)
    await load.stop()
    for connection in watching:
        connection.close()
    return measured


async def _h2load(case: Case, members: Members, duration_s: float) -> Measured:
    """Have h2load put one key over and over; it knows HTTP's status alone, not gRPC's."""
    port = await members.leader_port()
    with tempfile.TemporaryDirectory() as directory:
        body, log = Path(directory) / "body", Path(directory) / "log"
        body.write_bytes(http2.message(put_body()))
        process = await asyncio.create_subprocess_exec(
            *("h2load", "-D", f"{duration_s * 1e3:.0f}ms", "--warm-up-time", f"{WARM_UP_S * 1e3:.0f}ms", "-t", "1"),
            *("-c", str(case.connections), "-m", str(case.streams), "-d", str(body), "--log-file", str(log)),
            *("-H", "content-type: application/grpc", "-H", "te: trailers", f"http://127.0.0.1:{port}{_PUT}"),
            stdout=asyncio.subprocess.PIPE,
        )
        await asyncio.sleep(WARM_UP_S)
        meter = _Meter(members)
        output, _ = await process.communicate()
        rows = [line.split("\t") for line in log.read_text().splitlines()]
    latencies_s = [int(row[2]) / 1e6 for row in rows]
    failed = sum(row[1] != "200" for row in rows)
    if not rows:
        raise RuntimeError(f"h2load came to nothing: {output.decode()[-500:]}")
    measured = meter.read(len(rows), latencies_s, failed, client_s=0.0)
    # h2load takes a moment to begin and to end; the rate counts what it measured itself.
    return replace(measured, per_s=len(rows) / duration_s)


async def _grpcio(case: Case, members: Members, duration_s: float) -> Measured:
    port = await members.leader_port()
    prefixes = [f"/registry/grpcio/{next(_numbers):010d}/" for _ in range(case.connections)]
    meter = _Meter(members)
    processes = [
        await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "bench.grpc_client", str(port), str(case.streams), f"{duration_s:g}", prefix),
            stdout=asyncio.subprocess.PIPE,
        )
        for prefix in prefixes
    ]
    outputs = await asyncio.gather(*(process.communicate() for process in processes))
    told = [json.loads(output) for output, _ in outputs]
    latencies_s = [latency for one in told for latency in one["latencies_s"]]
    measured = meter.read(len(latencies_s), latencies_s, sum(one["failed"] for one in told), client_s=0.0)
    return replace(measured, per_s=len(latencies_s) / duration_s)
