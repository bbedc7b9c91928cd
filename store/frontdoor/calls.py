"""Calls: a stream of HTTP/2 on one side, a handler of the service table on the other."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any

from store.api.errors import Code, EtcdError, Failure
from store.api.table import Call, ServiceTable, Streaming, Unary
from store.frontdoor import grpc
from store.frontdoor.connection import Connection
from store.frontdoor.grpc import ANSWER_BLOCK, ANSWER_HEADERS, OK_TRAILERS, OK_TRAILERS_FRAME, MessageReader, Request
from store.frontdoor.headers import Head
from store.frontdoor.outgoing import Outgoing, Stream

log = logging.getLogger(__name__)

_MESSAGES_MAX = 64
"""Messages of one stream that wait for their handler; no more is taken until it has read some."""
_MESSAGE_OVERHEAD_BYTES = 256
_DEADLINE = EtcdError(Code.DEADLINE_EXCEEDED, "context deadline exceeded")
_NO_MESSAGE = EtcdError(Code.INTERNAL, "the request has no message")
_TWO_MESSAGES = EtcdError(Code.INTERNAL, "the request has more than one message")
_CUT_MESSAGE = EtcdError(Code.INTERNAL, "unexpected EOF")
_STOPPED = Failure.STOPPED.error()
_FULL = EtcdError(Code.RESOURCE_EXHAUSTED, "too many bytes of unfinished requests")

StartTask = Callable[[Coroutine[Any, Any, None]], "asyncio.Task[None]"]


class Desk:
    """What the calls of a server share: the table, tasks, and a bound on unfinished requests."""

    def __init__(self, table: ServiceTable, message_bytes_max: int, held_bytes_max: int, window_bytes: int) -> None:
        self.table = table
        self.window_bytes = window_bytes
        self.message_bytes_max = message_bytes_max
        self.held_bytes_max = held_bytes_max
        self.held_bytes = 0
        """Bytes of requests that no handler has taken yet."""
        self.loop: asyncio.AbstractEventLoop
        self.start_task: StartTask
        self.unfinished: dict[Rpc, float] = {}
        """Requests that have come in part, the oldest first, and since when."""

    def tick(self, now: float, timeout_s: float) -> None:
        """Refuse the requests that do not go on."""
        while self.unfinished:
            rpc, since = next(iter(self.unfinished.items()))
            if now - since <= timeout_s:
                return
            rpc.give_up()
            self.unfinished.pop(rpc, None)


class Rpc(Stream):
    """One call; it is the ``Stream`` and the ``Reply`` that the table's handlers get."""

    __slots__ = (
        "_call",
        "_connection",
        "_desk",
        "_held",
        "_message",
        "_messages",
        "_method",
        "_queued_bytes",
        "_reader",
        "_reading",
        "_request",
        "_runs",
        "_task",
        "_timer",
        "_writing",
    )

    def __init__(
        self, outgoing: Outgoing, stream_id: int, head: Head, connection: Connection, desk: Desk, common_name: str
    ) -> None:
        super().__init__(outgoing, stream_id, head)
        self._connection = connection
        self._desk = desk
        kept = head.origin or head
        request = kept.prepared
        if request is None:
            request = kept.prepared = grpc.request_of(kept, desk.table)
        assert isinstance(request, Request), "heads are prepared here alone"
        self._request = request
        self._method = request.method
        self._call = Call(request.metadata, common_name) if common_name else request.anonymous
        self._message = b""
        self._reader: MessageReader | None = None
        self._messages: deque[bytes] | None = None
        self._queued_bytes = 0
        self._held = 0
        self._runs = False
        """Whether a handler works on it."""
        self._task: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._reading: asyncio.Future[None] | None = None
        self._writing: asyncio.Future[None] | None = None

    # What the connection tells

    def opened(self, has_ended: bool) -> None:
        """Begin the call."""
        request = self._request
        if request.refusal is not None:
            self._end(request.refusal)
            return
        timeout = self.head.timeout
        if timeout is not None:
            timeout_s = grpc.parse_timeout(timeout)
            if timeout_s is None:
                self._end(EtcdError(Code.INTERNAL, f"malformed grpc-timeout: {timeout.decode('latin-1')!r}"))
                return
            self._timer = self._desk.loop.call_later(timeout_s, self._end, _DEADLINE)
        if isinstance(self._method, Streaming):
            self._run(self._serve_stream(self._method))
        elif has_ended:
            self._end(_NO_MESSAGE)

    def received(self, payload: bytes, has_ended: bool) -> None:
        """Take a part of the request."""
        if not self.is_local_open:
            return
        method = self._method
        if has_ended and self._reader is None and isinstance(method, Unary):
            message = grpc.sole_message(payload)
            if message is not None:
                self._serve(method, message)
                return
        try:
            self._take(payload, has_ended)
        except EtcdError as error:
            self._end(error)

    def closed(self, code: int | None) -> None:
        """Let go of everything; a handler that still runs is told to end."""
        if self._timer is not None:
            self._timer.cancel()
        if self._reader is not None:
            self._desk.held_bytes -= self._held
            self._held = 0
            self._desk.unfinished.pop(self, None)
        if self._runs:
            self._connection.orphans += 1
            if self._task is not None:
                self._task.cancel()

    def drained(self) -> None:
        """Let the handler send more."""
        if self._writing is not None and not self._writing.done():
            self._writing.set_result(None)

    def window_target(self) -> int:
        """Leave room for what the handler has not read yet."""
        messages = self._messages
        if messages is None:
            return self._desk.window_bytes
        if len(messages) >= _MESSAGES_MAX:
            return 0
        return self._desk.window_bytes - self._queued_bytes

    def stop(self) -> None:
        """End the call because the server stops."""
        self._end(_STOPPED)

    def give_up(self) -> None:
        """End the call because its request does not go on."""
        self._end(_DEADLINE)

    # Requests

    def _take(self, payload: bytes, has_ended: bool) -> None:
        """Take a request that comes in parts, or in a stream."""
        desk, reader = self._desk, self._reader
        if reader is None:
            reader = self._reader = MessageReader(desk.message_bytes_max, is_gzip=self._request.is_gzip)
            self._messages = deque()
        found = reader.feed(payload)
        assert self._messages is not None, "made with the reader"
        self._messages.extend(found)
        self._queued_bytes += sum(len(message) + _MESSAGE_OVERHEAD_BYTES for message in found)
        self._account()
        if has_ended and reader.kept_bytes:
            raise _CUT_MESSAGE
        if isinstance(self._method, Unary):
            if len(self._messages) > 1:
                raise _TWO_MESSAGES
            if has_ended:
                if not self._messages:
                    raise _NO_MESSAGE
                message = self._messages.popleft()
                self._queued_bytes = 0
                self._account()
                self._serve(self._method, message)
        elif self._reading is not None and not self._reading.done() and (found or has_ended):
            self._reading.set_result(None)

    def _account(self) -> None:
        """Keep the desk's sums of what is held; refuse what goes beyond."""
        desk, reader = self._desk, self._reader
        assert reader is not None, "only what comes in parts is held"
        held = reader.kept_bytes + self._queued_bytes
        desk.held_bytes += held - self._held
        self._held = held
        if reader.kept_bytes or (self._messages and isinstance(self._method, Unary)):
            desk.unfinished.setdefault(self, desk.loop.time())
        else:
            desk.unfinished.pop(self, None)
        if desk.held_bytes > desk.held_bytes_max:
            raise _FULL

    # Unary calls; the handler's reply

    def _serve(self, method: Unary, message: bytes) -> None:
        if method.direct is None:
            self._run(self._serve_unary(method, message))
            return
        self._runs = True
        self._message = message
        try:
            method.direct(message, self._call, self)
        except EtcdError as error:
            self.refuse(error)
        except Exception as error:
            log.exception("call failed method=%s", self._request.path)
            self.refuse(_defect(error))

    def send(self, message: bytes) -> None:
        """Answer with a message."""
        self._runs = False
        if self.is_local_open:
            self.outgoing.answer(self, ANSWER_HEADERS, grpc.frame_message(message), OK_TRAILERS_FRAME)
        else:
            self._connection.orphans -= 1

    def refuse(self, error: EtcdError) -> None:
        """Answer with a refusal."""
        self._runs = False
        if self.is_local_open:
            self._end(error)
        else:
            self._connection.orphans -= 1

    def wait(self) -> None:
        """Have the handler answer."""
        self._runs = False
        if not self.is_local_open:
            self._connection.orphans -= 1
        elif isinstance(self._method, Unary):
            self._run(self._serve_unary(self._method, self._message))

    def _end(self, error: EtcdError) -> None:
        """End the call with a refusal, whatever its handler does."""
        if not self.is_local_open:
            return
        if self.has_answered:
            self.outgoing.end(self, grpc.trailers(error))
        else:
            self.outgoing.begin(self, ANSWER_BLOCK + grpc.trailers(error), ends_stream=True)

    async def _serve_unary(self, method: Unary, message: bytes) -> None:
        try:
            answer = await method.handler(message, self._call)
        except EtcdError as error:
            self.refuse(error)
        except Exception as error:
            log.exception("call failed method=%s", self._request.path)
            self.refuse(_defect(error))
        else:
            self.send(answer)

    # Streaming calls

    async def read(self) -> bytes | None:
        """The next message of the client, None when it will send no more."""
        while True:
            if self._messages:
                message = self._messages.popleft()
                self._queued_bytes -= len(message) + _MESSAGE_OVERHEAD_BYTES
                self._account()
                self._connection.refill(self)
                return message
            if not self.is_local_open:
                raise ConnectionError("the client is gone")
            if not self.is_remote_open:
                return None
            self._reading = self._desk.loop.create_future()
            try:
                await self._reading
            finally:
                self._reading = None

    async def write(self, message: bytes) -> None:
        """Send a message; returns when the client can be sent another."""
        if not self.is_local_open:
            raise ConnectionError("the client is gone")
        if not self.has_answered:
            self.outgoing.begin(self, ANSWER_BLOCK)
        self.outgoing.send(self, grpc.frame_message(message))
        while self.pending is not None:
            self._writing = self._desk.loop.create_future()
            try:
                await self._writing
            finally:
                self._writing = None

    def try_write(self, message: bytes) -> bool:
        """Send a message if it can leave now; return whether it does."""
        return self.has_answered and self.outgoing.send_at_once(self, grpc.frame_message(message))

    async def _serve_stream(self, method: Streaming) -> None:
        try:
            await method.handler(self, self._call)
        except EtcdError as error:
            self.refuse(error)
        except ConnectionError as error:
            log.debug("call ended method=%s reason=%s", self._request.path, error)
            self.refuse(EtcdError(Code.CANCELLED, str(error)))
        except Exception as error:
            log.exception("call failed method=%s", self._request.path)
            self.refuse(_defect(error))
        else:
            self._complete()

    def _complete(self) -> None:
        self._runs = False
        if not self.is_local_open:
            self._connection.orphans -= 1
            return
        if not self.has_answered:
            self.outgoing.begin(self, ANSWER_BLOCK)
        self.outgoing.end(self, OK_TRAILERS)

    # Tasks

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        self._runs = True
        self._task = self._desk.start_task(work)
        self._task.add_done_callback(self._task_done)

    def _task_done(self, task: asyncio.Task[None]) -> None:
        if self._runs:
            # It was cancelled, perhaps before it began: because the client went, or because the server stops.
            self.refuse(_STOPPED)


def _defect(error: Exception) -> EtcdError:
    return EtcdError(Code.UNKNOWN, f"{type(error).__name__}: {error}")
