"""Clients that write and read a few keys through all members while things break, and the verdict afterwards."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc

from proto.etcd import rpc_pb2 as pb
from proto.etcd import rpc_pb2_grpc
from proto.etcd.kv_pb2 import Event
from tests.simulation import linearizability
from tests.simulation.linearizability import Answer, Operation, Swap
from tests.store.faults.history import Call, Change, Kind, Outcome, findings
from tests.store.processes import NAMES, StoreCluster

PREFIX = b"w/"
END = b"w/end"
KEYS = 6
CALL_TIMEOUT_S = 3.0
NO_SPACE = "etcdserver: mvcc: database space exceeded"
_KINDS: dict[Kind, linearizability.Kind] = {
    Kind.PUT: "put",
    Kind.GET: "get",
    Kind.DELETE: "delete",
    Kind.SWAP: "compare-and-swap",
}
REFUSALS = {NO_SPACE, "etcdserver: no leader", "etcdserver: too many requests"}
"""Answers that promise that nothing was done."""


class Workload:
    """Several clients, each at one member after the other, and all that they were told."""

    def __init__(self, cluster: StoreCluster, seed: int, clients: int = 6, pause_s: float = 0.01) -> None:
        self.calls: list[Call] = []
        self._cluster = cluster
        self._seed = seed
        self._clients = clients
        self._pause_s = pause_s
        self._stopping = False
        self.reasons: dict[str, int] = {}
        """Texts of the refusals and failures, and how often each was heard."""

    @property
    def done(self) -> int:
        """How many writes were acknowledged so far."""
        return sum(call.outcome is Outcome.DONE and call.changed for call in self.calls)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Have the clients work while the context lasts, and end their last calls."""
        async with asyncio.TaskGroup() as tasks:
            for number in range(self._clients):
                tasks.create_task(self._client(number))
            try:
                yield
            finally:
                self._stopping = True

    async def more(self, count: int, timeout_s: float = 40.0) -> None:
        """Wait until so many more writes are acknowledged."""
        wanted = self.done + count
        async with asyncio.timeout(timeout_s):
            while self.done < wanted:
                await asyncio.sleep(0.02)

    async def _client(self, number: int) -> None:
        dice = random.Random(f"{self._seed}/{number}")
        channels = [self._cluster.channel(name) for name in NAMES]
        stubs = [rpc_pb2_grpc.KVStub(channel) for channel in channels]
        last: dict[bytes, bytes | None] = {}
        count = 0
        try:
            while not self._stopping:
                count += 1
                stub = stubs[number % len(stubs)] if dice.random() < 0.7 else dice.choice(stubs)
                key = PREFIX + b"%d" % dice.randrange(KEYS)
                kind = dice.choices(list(Kind), weights=(5, 4, 1, 3))[0]
                call = Call(number, kind, key, time.monotonic())
                if kind in (Kind.PUT, Kind.SWAP):
                    call.value = b"%d.%d" % (number, count)
                if kind is Kind.SWAP:
                    call.expected = last.get(key)
                self.calls.append(call)
                await self._make(call, stub)
                if call.outcome is Outcome.DONE:
                    last[key] = call.value if call.changed else call.seen
                await asyncio.sleep(self._pause_s * 2 * dice.random())
        finally:
            for channel in channels:
                await channel.close()

    async def _make(self, call: Call, stub: rpc_pb2_grpc.KVAsyncStub) -> None:
        try:
            await _ask(call, stub)
        except grpc.aio.AioRpcError as error:
            text = error.details() or error.code().name
            self.reasons[text] = self.reasons.get(text, 0) + 1
            if text in REFUSALS:
                call.outcome = Outcome.REFUSED
            await asyncio.sleep(0.05)
        else:
            call.outcome = Outcome.DONE
            call.returned_at = time.monotonic()


async def _ask(call: Call, stub: rpc_pb2_grpc.KVAsyncStub) -> None:
    read = pb.RangeRequest(key=call.key)
    if call.kind is Kind.PUT:
        put = await stub.Put(pb.PutRequest(key=call.key, value=call.value or b""), timeout=CALL_TIMEOUT_S)
        call.revision, call.changed = put.header.revision, True
    elif call.kind is Kind.GET:
        found = await stub.Range(read, timeout=CALL_TIMEOUT_S)
        call.revision = found.header.revision
        call.seen = found.kvs[0].value if found.kvs else None
    elif call.kind is Kind.DELETE:
        deleted = await stub.DeleteRange(pb.DeleteRangeRequest(key=call.key), timeout=CALL_TIMEOUT_S)
        call.revision, call.changed = deleted.header.revision, deleted.deleted > 0
    else:
        compare = pb.Compare(key=call.key, result=pb.Compare.EQUAL)
        if call.expected is None:
            compare.target, compare.create_revision = pb.Compare.CREATE, 0
        else:
            compare.target, compare.value = pb.Compare.VALUE, call.expected
        put_request = pb.PutRequest(key=call.key, value=call.value or b"")
        swapped = await stub.Txn(
            pb.TxnRequest(
                compare=[compare],
                success=[pb.RequestOp(request_put=put_request)],
                failure=[pb.RequestOp(request_range=read)],
            ),
            timeout=CALL_TIMEOUT_S,
        )
        call.revision, call.changed = swapped.header.revision, swapped.succeeded
        if not swapped.succeeded:
            kvs = swapped.responses[0].response_range.kvs
            call.seen = kvs[0].value if kvs else None


async def verdict(cluster: StoreCluster, workload: Workload) -> list[str]:
    """All that is wrong: in what clients were told, and between the members."""
    revision, changes = await _changes(cluster)
    hashes = {name: await hash_at(cluster, name, revision) for name in NAMES}
    wrong = findings(workload.calls, changes)
    if len(set(hashes.values())) != 1:
        wrong.append(f"the members differ at revision {revision}: {hashes}")
    return wrong


def operations(calls: list[Call]) -> list[Operation]:
    """The same calls as the search for a linear order wants them; histories of real runs are too long for it."""
    return [_operation(call) for call in calls if call.outcome is not Outcome.REFUSED]


def _operation(call: Call) -> Operation:
    done = call.outcome is Outcome.DONE
    answer = Answer(
        value=call.seen if call.kind is Kind.GET else None,
        succeeded=call.changed or call.kind is Kind.GET,
        revision=call.revision if call.changed else 0,
        header_revision=call.revision,
    )
    return Operation(
        client=call.client,
        kind=_KINDS[call.kind],
        key=call.key,
        input=Swap(call.value or b"", call.expected) if call.kind is Kind.SWAP else call.value,
        output=answer if done else None,
        called_at=call.called_at,
        returned_at=call.returned_at if done else None,
    )


async def hash_at(cluster: StoreCluster, name: str, revision: int) -> tuple[int, int]:
    """A member's HashKV and compact revision, as soon as it has caught up."""
    async with cluster.channel(name) as channel, asyncio.timeout(40):
        while True:
            try:
                answer = await rpc_pb2_grpc.MaintenanceStub(channel).HashKV(
                    pb.HashKVRequest(revision=revision), timeout=CALL_TIMEOUT_S
                )
            except grpc.aio.AioRpcError:
                await asyncio.sleep(0.1)
            else:
                return answer.hash, answer.compact_revision


async def _changes(cluster: StoreCluster) -> tuple[int, list[Change]]:
    """All changes as a watch from the first one tells them, up to a last one that is made here, and its revision."""
    name = await cluster.leader()
    async with cluster.channel(name) as channel, asyncio.timeout(40):
        while True:
            try:
                put = await rpc_pb2_grpc.KVStub(channel).Put(pb.PutRequest(key=END), timeout=CALL_TIMEOUT_S)
                break
            except grpc.aio.AioRpcError:
                await asyncio.sleep(0.1)
        stream = rpc_pb2_grpc.WatchStub(channel).Watch()
        create = pb.WatchCreateRequest(key=PREFIX, range_end=b"w0", start_revision=1)
        await stream.write(pb.WatchRequest(create_request=create))
        changes: list[Change] = []
        while not changes or changes[-1].revision < put.header.revision:
            answer = await stream.read()
            assert isinstance(answer, pb.WatchResponse)
            assert not answer.canceled, answer
            for event in answer.events:
                value = None if event.type == Event.DELETE else event.kv.value
                changes.append(Change(event.kv.key, value, event.kv.mod_revision))
        stream.cancel()
        return put.header.revision, [change for change in changes if change.key != END]
