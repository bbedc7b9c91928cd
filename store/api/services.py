"""All services of one member, joined into the table that the front doors serve."""

from __future__ import annotations

import asyncio

from proto.etcd.rpc_pb2 import RangeRequest
from store.api.access import Access
from store.api.auth import AuthService
from store.api.backend import Backend, decode
from store.api.cluster import ClusterService
from store.api.election import ElectionService
from store.api.errors import Failure
from store.api.grpc_health import GrpcHealthService
from store.api.kv import KVService
from store.api.lease import LeaseService
from store.api.lock import LockService
from store.api.maintenance import MaintenanceService
from store.api.queues import Queues
from store.api.quota import keep_clearing
from store.api.table import (
    Call,
    DirectHandler,
    Reply,
    ServiceTable,
    Stream,
    StreamHandler,
    Streaming,
    Unary,
    UnaryHandler,
)
from store.api.watch import WatchService

_RANGE = "/etcdserverpb.KV/Range"
_OF_LEARNERS = {"/etcdserverpb.Maintenance/Status", "/etcdserverpb.Maintenance/Snapshot"}
"""What a learner answers besides serializable ranges."""


class Services:
    """The services, wired to what happens in the member."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        access = Access(backend)
        self._lease = LeaseService(backend, access)
        self._watch = WatchService(backend, access)
        self._cluster = ClusterService(backend, access)
        kv = KVService(backend, access)
        self._queues = Queues(kv, self._lease, self._watch)
        self._others = (
            kv,
            LockService(self._queues),
            ElectionService(self._queues, self._watch),
            self._cluster,
            MaintenanceService(backend, access),
            AuthService(backend, access),
            GrpcHealthService(),
        )
        backend.consensus.handle_questions(self._lease.answer)
        backend.consensus.on_leadership(self._lease.on_leadership)
        backend.consensus.on_applied(self._watch.on_applied)

    def table(self) -> ServiceTable:
        """Every method; a client that asks for a member with a leader is refused by one without."""
        table: dict[str, Unary | Streaming] = {}
        counters = self._backend.counters
        for service in (self._lease, self._watch, *self._others):
            for path, method in service.table().items():
                if isinstance(method, Unary):
                    handler = counters.unary(path, self._with_leader(path, method.handler))
                    table[path] = Unary(handler, method.direct and counters.direct(path, self._unasked(method.direct)))
                else:
                    stream_handler = counters.streaming(
                        path, self._while_leader(path, method.handler), client_streaming=method.client_streaming
                    )
                    table[path] = Streaming(stream_handler, method.client_streaming)
        return table

    async def run(self, name: str, client_urls: tuple[str, ...]) -> None:
        """Do what the services do by themselves; runs as long as the member serves."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._cluster.publish(name, client_urls))
            tasks.create_task(self._backend.watch_leader())
            tasks.create_task(self._backend.keep_scrubbing())
            tasks.create_task(keep_clearing(self._backend))
            tasks.create_task(self._lease.keep_clock())
            tasks.create_task(self._lease.expire())
            tasks.create_task(self._queues.run())

    def _check_learner(self, path: str, body: bytes = b"") -> None:
        """Refuse what a member without a vote does not do: almost everything, so that clients go elsewhere."""
        if not self._backend.consensus.is_learner or path in _OF_LEARNERS:
            return
        if path == _RANGE and decode(RangeRequest, body).serializable:
            return
        raise Failure.NOT_SUPPORTED_FOR_LEARNER.error()

    def _with_leader(self, path: str, handler: UnaryHandler) -> UnaryHandler:
        async def guarded(body: bytes, call: Call) -> bytes:
            self._check_learner(path, body)
            self._backend.require_leader(call)
            return await handler(body, call)

        return guarded

    def _unasked(self, direct: DirectHandler) -> DirectHandler:
        def unless_asked(body: bytes, call: Call, reply: Reply) -> None:
            if "hasleader" in call.metadata or self._backend.consensus.is_learner:
                reply.wait()
            else:
                direct(body, call, reply)

        return unless_asked

    def _while_leader(self, path: str, handler: StreamHandler) -> StreamHandler:
        async def guarded(stream: Stream, call: Call) -> None:
            self._check_learner(path)
            if not self._backend.require_leader(call):
                await handler(stream, call)
                return
            try:
                async with asyncio.TaskGroup() as tasks:
                    lost = tasks.create_task(self._fail_without_leader())
                    await handler(stream, call)
                    lost.cancel()
            except ExceptionGroup as failures:
                raise failures.exceptions[0] from None

        return guarded

    async def _fail_without_leader(self) -> None:
        await self._backend.leader_is_lost.wait()
        raise Failure.NO_LEADER.error()
