"""A plain gRPC client of the store, or of etcd, by the stubs of this repository: keys, a transaction, a watch, a lease.

raftsman store --data-dir /tmp/store &
python examples/store_client.py localhost:2379
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import grpc

from proto.etcd import rpc_pb2 as pb
from proto.etcd import rpc_pb2_grpc


async def tour(endpoint: str) -> None:
    """Walk through the services."""
    async with grpc.aio.insecure_channel(endpoint) as channel:
        kv = rpc_pb2_grpc.KVStub(channel)
        watches = rpc_pb2_grpc.WatchStub(channel).Watch()
        await watches.write(pb.WatchRequest(create_request=pb.WatchCreateRequest(key=b"greeting", prev_kv=True)))
        await watches.read()  # the announcement of the watcher

        lease = await rpc_pb2_grpc.LeaseStub(channel).LeaseGrant(pb.LeaseGrantRequest(TTL=60))
        created = await kv.Txn(
            pb.TxnRequest(
                compare=[pb.Compare(key=b"greeting", target=pb.Compare.VERSION, result=pb.Compare.EQUAL, version=0)],
                success=[pb.RequestOp(request_put=pb.PutRequest(key=b"greeting", value=b"hello", lease=lease.ID))],
                failure=[pb.RequestOp(request_range=pb.RangeRequest(key=b"greeting"))],
            )
        )
        sys.stdout.write(f"created: {created.succeeded}, at revision {created.header.revision}\n")
        found = await kv.Range(pb.RangeRequest(key=b"greeting"))
        sys.stdout.write(f"found: {found.kvs[0].value.decode()}, version {found.kvs[0].version}\n")
        await rpc_pb2_grpc.LeaseStub(channel).LeaseRevoke(pb.LeaseRevokeRequest(ID=lease.ID))

        seen = 0
        while seen < 2:
            told: Any = await watches.read()
            for event in told.events:
                seen += 1
                kind = "deleted" if event.type == event.DELETE else "put"
                sys.stdout.write(f"watched: {kind} {event.kv.key.decode()} at revision {event.kv.mod_revision}\n")


if __name__ == "__main__":
    asyncio.run(tour(sys.argv[1] if len(sys.argv) > 1 else "localhost:2379"))
