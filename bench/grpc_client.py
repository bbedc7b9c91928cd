"""Puts by grpcio from a process of its own: python -m bench.grpc_client PORT IN_FLIGHT SECONDS PREFIX.

Prints how many puts came back, how many failed and each one's time in seconds as JSON.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time

import grpc
import uvloop

from proto.etcd import rpc_pb2 as pb
from proto.etcd import rpc_pb2_grpc

VALUE = b"v" * 256


async def run(port: int, in_flight: int, duration_s: float, prefix: str) -> dict[str, object]:
    """Put distinct keys for a while."""
    latencies_s: list[float] = []
    failed = 0
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        stub = rpc_pb2_grpc.KVStub(channel)
        await stub.Put(pb.PutRequest(key=prefix.encode(), value=VALUE), wait_for_ready=True)
        end = time.perf_counter() + duration_s

        async def put_on(worker: int) -> None:
            nonlocal failed
            number = 0
            while (began := time.perf_counter()) < end:
                key = f"{prefix}{worker:04d}-{number:010d}".encode()
                number += 1
                try:
                    await stub.Put(pb.PutRequest(key=key, value=VALUE))
                except grpc.aio.AioRpcError:
                    failed += 1
                latencies_s.append(time.perf_counter() - began)

        async with asyncio.TaskGroup() as tasks:
            for worker in range(in_flight):
                tasks.create_task(put_on(worker))
    return {"latencies_s": latencies_s, "failed": failed}


if __name__ == "__main__":
    print(json.dumps(uvloop.run(run(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]), sys.argv[4]))))
