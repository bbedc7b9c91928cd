"""Clients of the simulated store: each does one thing after another and notes what it was told."""

from __future__ import annotations

import random
from dataclasses import dataclass

from proto.etcd.rpc_pb2 import (
    Compare,
    DeleteRangeRequest,
    DeleteRangeResponse,
    PutRequest,
    PutResponse,
    RangeRequest,
    RequestOp,
    TxnRequest,
    TxnResponse,
)
from proto.raft.command_pb2 import InternalRequest
from store.machine import Machine
from store.mvcc.plain import GuardHeld
from store.raft.contract import NoLeaderError, ProposalDroppedError, ProposalError, TooManyRequestsError
from tests.simulation.cluster import Cluster, Member
from tests.simulation.linearizability import Answer, Operation, Swap, check
from tests.simulation.machines import Recorder

_HAD_NO_EFFECT = (NoLeaderError, ProposalDroppedError, TooManyRequestsError)


@dataclass
class _Call:
    """One operation under way."""

    client: int
    kind: str
    key: bytes
    input: bytes | Swap | None
    called_at: float
    over: bool = False


class KeyClients:
    """Several clients that read and write a few keys, each waiting for its answers."""

    def __init__(self, cluster: Cluster, chance: random.Random, clients: int = 4, keys: int = 3) -> None:
        self.cluster = cluster
        self.operations: list[Operation] = []
        self.answered = 0
        self.stopped = False
        self.under_way = 0
        """Calls whose clients still wait."""
        self._chance = chance
        self._keys = [b"key-%d" % at for at in range(keys)]
        self._patience_s = cluster.limits.request_timeout_s + 1.0
        self._numbers = 0
        self._last_seen: dict[tuple[int, bytes], Answer] = {}
        for client in range(clients):
            cluster.agenda.at(cluster.clock.now + chance.random(), lambda client=client: self._next(client))  # type: ignore[misc]

    def check(self) -> None:
        """Check that what all clients saw is linearizable."""
        verdict = check(self.operations)
        assert verdict, f"{verdict}; seed={self.cluster.seed}"

    # One client.

    def _next(self, client: int) -> None:
        if self.stopped:
            return
        key, roll = self._chance.choice(self._keys), self._chance.random()
        member = self.cluster.choose()
        if member is None:
            self._think(client)
        elif roll < 0.4:
            self._get(client, member, key)
        elif roll < 0.65:
            self._put(client, member, key)
        elif roll < 0.75:
            self._delete(client, member, key)
        else:
            self._swap(client, member, key)

    def _think(self, client: int) -> None:
        pause_s = self._chance.choice((0.002, 0.02, 0.1, 0.5))
        self.cluster.agenda.at(self.cluster.clock.now + pause_s, lambda: self._next(client))

    def _value(self) -> bytes:
        self._numbers += 1
        return b"value-%d" % self._numbers

    def _put(self, client: int, member: Member, key: bytes) -> None:
        value = self._value()
        request = InternalRequest(put=PutRequest(key=key, value=value))
        self._propose(_Call(client, "put", key, value, self._now), member, request)

    def _delete(self, client: int, member: Member, key: bytes) -> None:
        request = InternalRequest(delete_range=DeleteRangeRequest(key=key))
        self._propose(_Call(client, "delete", key, None, self._now), member, request)

    def _swap(self, client: int, member: Member, key: bytes) -> None:
        value, seen = self._value(), self._last_seen.get((client, key), Answer())
        compare = Compare(key=key, result=Compare.EQUAL)
        if seen.value is not None and self._chance.random() < 0.5:
            compare.target, compare.value = Compare.VALUE, seen.value
            swap = Swap(value, expected=seen.value)
        else:
            compare.target, compare.mod_revision = Compare.MOD, seen.revision
            swap = Swap(value, expected_revision=seen.revision)
        put = RequestOp(request_put=PutRequest(key=key, value=value))
        look = RequestOp(request_range=RangeRequest(key=key))
        request = InternalRequest(txn=TxnRequest(compare=[compare], success=[put], failure=[look]))
        self._propose(_Call(client, "compare-and-swap", key, swap, self._now), member, request)

    def _get(self, client: int, member: Member, key: bytes) -> None:
        call = _Call(client, "get", key, None, self._now)
        self._expire(call)
        machine = member.machine

        def done(index: int | None) -> None:
            self._end(call, None if index is None else look(machine, key))

        self.cluster.do(member, lambda replica: replica.read_index(done))

    @property
    def _now(self) -> float:
        return self.cluster.clock.now

    def _propose(self, call: _Call, member: Member, request: InternalRequest) -> None:
        self._expire(call)
        payload = unlike_any_other(self.cluster, request)

        def done(result: object, error: ProposalError | None) -> None:
            if isinstance(error, _HAD_NO_EFFECT):
                self._forget(call)
            else:
                self._end(call, None if error is not None else answer_of(result))

        self.cluster.do(member, lambda replica: replica.propose(payload, done))

    def _expire(self, call: _Call) -> None:
        self.under_way += 1
        self.cluster.agenda.at(self._now + self._patience_s, lambda: self._end(call, None))

    def _forget(self, call: _Call) -> None:
        if not call.over:
            call.over = True
            self.under_way -= 1
            self._think(call.client)

    def _end(self, call: _Call, output: Answer | None) -> None:
        if call.over:
            return
        self._note(call, output)
        self._forget(call)

    def _note(self, call: _Call, output: Answer | None) -> None:
        if output is None and call.kind == "get":
            return
        operation = Operation(
            call.client,
            call.kind,  # type: ignore[arg-type]
            call.key,
            call.input,
            output,
            call.called_at,
            self._now if output is not None else None,
        )
        self.operations.append(operation)
        self.cluster.tell(str(operation))
        if output is None:
            return
        self.answered += 1
        if call.kind == "get":
            self._last_seen[call.client, call.key] = output
        elif call.kind == "put" and isinstance(call.input, bytes):
            self._last_seen[call.client, call.key] = Answer(call.input, revision=output.revision)


def unlike_any_other(cluster: Cluster, request: InternalRequest) -> bytes:
    """Return a request that differs from all others, so that one that is applied twice is seen."""
    if request.WhichOneof("request") not in ("put", "txn"):
        cluster._proposed += 1
        # Nobody looks at it as long as there are no users. What puts a value differs by that.
        request.auth_revision = cluster._proposed
    return request.SerializeToString()


def machine_of(machine: Recorder) -> Machine:
    """Return the store's state machine of a member."""
    assert isinstance(machine.inner, Machine)
    return machine.inner


def look(machine: Recorder, key: bytes) -> Answer:
    """Read one key of a member's own state."""
    store = machine_of(machine).store
    response = machine_of(machine).read_txn(TxnRequest(success=[RequestOp(request_range=RangeRequest(key=key))]))
    found = response.responses[0].response_range.kvs
    if not found:
        return Answer(header_revision=store.current_revision)
    return Answer(found[0].value, revision=found[0].mod_revision, header_revision=store.current_revision)


def answer_of(result: object) -> Answer:
    """Translate a response of the state machine; that to a plain put or swap may be just its revision."""
    if isinstance(result, GuardHeld):
        return Answer(revision=result.revision, header_revision=result.revision)
    if isinstance(result, int):
        return Answer(revision=result, header_revision=result)
    if isinstance(result, PutResponse):
        return Answer(revision=result.header.revision, header_revision=result.header.revision)
    if isinstance(result, DeleteRangeResponse):
        return Answer(succeeded=result.deleted > 0, header_revision=result.header.revision)
    assert isinstance(result, TxnResponse), f"an answer that nobody expects: {result!r}"
    revision = result.header.revision
    if result.succeeded:
        return Answer(revision=revision, header_revision=revision)
    return Answer(succeeded=False, header_revision=revision)
