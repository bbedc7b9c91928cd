"""etcdserverpb.Watch: many watchers on one stream.

Two tasks serve a stream. The reader creates and cancels watchers and puts the answers in a bounded line; the sender
empties that line first, so that a watcher's creation is told before its first change, and then pulls from the
``WatchStream`` whatever is due. The sender waits where the client does not read, and then nothing is kept for it.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator
from typing import Any

from proto.etcd.rpc_pb2 import WatchCreateRequest, WatchRequest, WatchResponse
from store.api.access import Access
from store.api.backend import Backend, decode
from store.api.errors import EtcdError, Failure, of_refusal
from store.api.table import Call, ServiceTable, Stream, Streaming
from store.mvcc.encoding import block, scalar, tag
from store.mvcc.interval import Interval
from store.mvcc.watch import INVALID_WATCH_ID, Delivery, WatchOptions, WatchStream
from store.refusal import Refused

log = logging.getLogger(__name__)

_ANSWERS_MAX = 128
_OVERHEAD_BYTES = 512 * 1024
_WATCH_ID = tag(2, 0)
_CANCELED = tag(4, 0)
_COMPACT_REVISION = tag(5, 0)
_FRAGMENT = tag(7, 0)
_EVENT = tag(11, 2)

_EMPTY_RANGE = "mvcc: watcher range is empty"
_DUPLICATE_ID = "mvcc: duplicate watch ID provided on the WatchStream"


class WatchService:
    """Changes as they happen, or from the past."""

    def __init__(self, backend: Backend, access: Access) -> None:
        self._backend = backend
        self._access = access
        self._wakers: dict[WatchStream, Callable[[], None]] = {}
        self._encoded: dict[tuple[Any, ...], bytes] = {}
        """Messages of the entry that is being told of: watchers of the same get the same bytes."""

    def table(self) -> ServiceTable:
        """The methods of the service."""
        return {"/etcdserverpb.Watch/Watch": Streaming(self.watch)}

    def on_applied(self, index: int) -> None:
        """Wake the streams that the applied entry concerns."""
        for stream in self._backend.machine.watchers.woken():
            wake = self._wakers.get(stream)
            if wake is not None:
                try:
                    wake()
                except Exception:
                    # Consensus calls, which a defect in one stream must not end.
                    log.exception("a watch stream cannot be woken")
        self._encoded.clear()

    async def follow(self, wanted: Interval, start_revision: int) -> AsyncGenerator[Delivery]:
        """Yield what happens in a range from a revision on, for the services themselves; whoever iterates closes it."""
        watch_stream = self._backend.machine.watchers.open()
        signal = asyncio.Event()
        self._wakers[watch_stream] = signal.set
        try:
            watch_stream.create(0, wanted, start_revision)
            while True:
                delivery = watch_stream.take()
                if delivery is not None:
                    yield delivery
                elif watch_stream.is_busy:
                    await asyncio.sleep(0)
                else:
                    await signal.wait()
                    signal.clear()
        finally:
            del self._wakers[watch_stream]
            self._backend.machine.watchers.close(watch_stream)

    async def watch(self, stream: Stream, call: Call) -> None:
        """Serve one client stream until it ends."""
        watch_stream = self._backend.machine.watchers.open()
        session = _Session(self._backend, stream, watch_stream, self._encoded, lambda: self._access.caller(call).name)
        self._wakers[watch_stream] = session.wake
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(session.read())
                tasks.create_task(session.send())
                tasks.create_task(session.tick())
        except ExceptionGroup as failures:
            # One reason ends the stream; the group only wraps it.
            raise failures.exceptions[0] from None
        finally:
            del self._wakers[watch_stream]
            self._backend.machine.watchers.close(watch_stream)


class _Session:
    """One client stream."""

    def __init__(
        self,
        backend: Backend,
        stream: Stream,
        watch_stream: WatchStream,
        encoded: dict[tuple[Any, ...], bytes],
        name: Callable[[], str],
    ) -> None:
        self._name = name
        self._backend = backend
        self._stream = stream
        self._watch_stream = watch_stream
        self._encoded = encoded
        self._signal = asyncio.Event()
        self._unsent: deque[bytes] = deque()
        """What could not be sent at once; everything else waits until it has been."""
        self._is_idle = False
        """Whether the sender waits for something to do."""
        self._answers: deque[WatchResponse] = deque()
        self._has_room = asyncio.Event()
        self._has_room.set()

    async def read(self) -> None:
        """Carry out what the client asks; when it will ask no more, its watchers go on."""
        while (body := await self._stream.read()) is not None:
            request = decode(WatchRequest, body)
            # A creation and its answer must not be parted: changes would go out before the watcher is announced.
            await self._has_room.wait()
            match request.WhichOneof("request_union"):
                case "create_request":
                    self._answer(self._create(request.create_request))
                case "cancel_request":
                    watch_id = request.cancel_request.watch_id
                    if self._watch_stream.cancel(watch_id):
                        response = WatchResponse(header=self._backend.header(), watch_id=watch_id, canceled=True)
                        self._answer(response)
                case "progress_request":
                    self._watch_stream.request_progress()
                    self._signal.set()

    async def send(self) -> None:
        """Send answers, then whatever is due, for ever."""
        while True:
            while self._answers:
                answer = self._answers.popleft()
                self._has_room.set()
                await self._stream.write(answer.SerializeToString())
            while self._unsent:
                await self._stream.write(self._unsent.popleft())
            delivery = self._watch_stream.take()
            if delivery is not None:
                for message in self._messages(delivery):
                    await self._stream.write(message)
            elif self._watch_stream.is_busy:
                await asyncio.sleep(0)
            else:
                self._is_idle = True
                try:
                    await self._signal.wait()
                finally:
                    self._is_idle = False
                self._signal.clear()

    def wake(self) -> None:
        """Send what is due at once where nothing is in the way, else have the sender do it."""
        if not self._is_idle or self._answers or self._unsent or self._watch_stream.is_busy:
            self._signal.set()
            return
        while (delivery := self._watch_stream.take()) is not None:
            for message in self._shared(delivery):
                if self._unsent or not self._stream.try_write(message):
                    self._unsent.append(message)
            if self._unsent:
                self._signal.set()
                return
        if self._watch_stream.is_busy:
            self._signal.set()

    def _shared(self, delivery: Delivery) -> Iterable[bytes]:
        """The messages of a delivery; those that other streams get, too, are made once."""
        if delivery.options.fragment or not delivery.changes:
            return self._messages(delivery)
        key = (delivery.watch_id, delivery.options.prev_kv, *delivery.changes)
        message = self._encoded.get(key)
        if message is None:
            (message,) = self._messages(delivery)
            self._encoded[key] = message
        return (message,)

    async def tick(self) -> None:
        """Let periodic progress fall due; the jitter keeps streams that began together apart."""
        while True:
            interval_s = self._backend.limits.watch_progress_interval_s
            await asyncio.sleep(interval_s * random.uniform(1.0, 1.1))
            self._watch_stream.tick()
            self._signal.set()

    def _answer(self, response: WatchResponse) -> None:
        self._answers.append(response)
        if len(self._answers) >= _ANSWERS_MAX:
            self._has_room.clear()
        self._signal.set()

    def _create(self, request: WatchCreateRequest) -> WatchResponse:
        response = WatchResponse(header=self._backend.header(), created=True)
        start = request.key or b"\0"
        if not request.range_end:
            wanted = Interval(start, start + b"\0")
        else:
            wanted = Interval(start, None if request.range_end == b"\0" else request.range_end)
        watch_id: int | None = None
        denied = self._denied(start, request.range_end)
        if request.start_revision < 0:
            response.cancel_reason = Failure.COMPACTED.value[1]
        elif denied:
            response.cancel_reason = denied
        elif wanted.is_empty:
            response.cancel_reason = _EMPTY_RANGE
        else:
            options = WatchOptions(
                prev_kv=request.prev_kv,
                fragment=request.fragment,
                progress_notify=request.progress_notify,
                no_put=WatchCreateRequest.NOPUT in request.filters,
                no_delete=WatchCreateRequest.NODELETE in request.filters,
            )
            watch_id = self._watch_stream.create(request.watch_id, wanted, request.start_revision, options)
            if watch_id is None:
                response.cancel_reason = _DUPLICATE_ID
        response.watch_id = INVALID_WATCH_ID if watch_id is None else watch_id
        response.canceled = watch_id is None
        return response

    def _denied(self, key: bytes, range_end: bytes) -> str:
        """Why the caller may not watch a range; empty where he may."""
        try:
            self._backend.machine.auth.check_read(self._name(), key, range_end)
        except Refused as refused:
            return of_refusal(refused).as_go_prints_it()
        except EtcdError as error:
            return error.as_go_prints_it()
        return ""

    def _messages(self, delivery: Delivery) -> Iterator[bytes]:
        """The encoded responses of a delivery: one, or several where the client takes fragments."""
        head = self._backend.encoded_header(delivery.revision) + scalar(_WATCH_ID, delivery.watch_id)
        if delivery.compact_revision:
            yield head + scalar(_CANCELED, 1) + scalar(_COMPACT_REVISION, delivery.compact_revision)
            return
        with_previous = delivery.options.prev_kv
        events = [block(_EVENT, change.event(with_previous=with_previous)) for change in delivery.changes]
        if not delivery.options.fragment:
            yield head + b"".join(events)
            return
        bytes_max = self._backend.limits.request_bytes_max + _OVERHEAD_BYTES
        part: list[bytes] = []
        part_bytes = len(head)
        for event in events:
            if part and part_bytes + len(event) >= bytes_max:
                yield head + scalar(_FRAGMENT, 1) + b"".join(part)
                part, part_bytes = [], len(head)
            part.append(event)
            part_bytes += len(event)
        yield head + b"".join(part)
