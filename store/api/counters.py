"""What the services count of their calls: plain integers, found once per method."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

from store.api.errors import Code, EtcdError
from store.api.table import Call, DirectHandler, Reply, Stream, StreamHandler, UnaryHandler

_API_VERSIONS_MAX = 32
_UNKNOWN_VERSION = "unknown"


@dataclass
class MethodCounts:
    """The calls of one method."""

    kind: str
    """As go-grpc-prometheus calls it: unary, bidi_stream, server_stream."""
    started: int = 0
    received: int = 0
    sent: int = 0
    handled: list[int] = field(default_factory=lambda: [0] * len(Code))
    """By code."""


@dataclass
class Counters:
    """Everything that the services of one member count."""

    methods: dict[str, MethodCounts] = field(default_factory=dict)
    """By path."""
    client_requests: dict[str, list[int]] = field(default_factory=lambda: {_UNKNOWN_VERSION: [0, 0]})
    """By the client's API version: calls, streams."""
    received_bytes: int = 0
    sent_bytes: int = 0
    proposals_failed: int = 0
    read_indexes_failed: int = 0
    leases_renewed: int = 0
    leases_expired: int = 0
    health_successes: int = 0
    health_failures: int = 0

    def method(self, path: str, kind: str) -> MethodCounts:
        """The counts of a method."""
        return self.methods.setdefault(path, MethodCounts(kind))

    def of_client(self, call: Call) -> list[int]:
        """The counts of calls and streams for what a client says of itself."""
        version = call.metadata.get("client-api-version", _UNKNOWN_VERSION)
        counts = self.client_requests.get(version)
        if counts is None:
            if len(self.client_requests) > _API_VERSIONS_MAX:
                return self.client_requests[_UNKNOWN_VERSION]  # clients may say anything
            counts = self.client_requests[version] = [0, 0]
        return counts

    def unary(self, path: str, handler: UnaryHandler) -> UnaryHandler:
        """The handler, counted."""
        counts = self.method(path, "unary")

        async def counted(body: bytes, call: Call) -> bytes:
            self.of_client(call)[0] += 1
            counts.started += 1
            counts.received += 1
            self.received_bytes += len(body)
            code = Code.CANCELLED
            try:
                response = await handler(body, call)
                code = Code.OK
            except EtcdError as error:
                code = error.code
                raise
            except Exception:
                code = Code.UNKNOWN
                raise
            finally:
                counts.handled[code] += 1
            counts.sent += 1
            self.sent_bytes += len(response)
            return response

        return counted

    def direct(self, path: str, handler: DirectHandler) -> DirectHandler:
        """The direct way, counted where it is the one that answers."""
        counts = self.method(path, "unary")

        def counted(body: bytes, call: Call, reply: Reply) -> None:
            counting = _CountedReply(reply, self, counts, call, len(body))
            try:
                handler(body, call, counting)
            except EtcdError as error:
                counting.refuse(error)

        return counted

    def streaming(self, path: str, handler: StreamHandler, *, client_streaming: bool) -> StreamHandler:
        """The handler, counted."""
        counts = self.method(path, "bidi_stream" if client_streaming else "server_stream")

        async def counted(stream: Stream, call: Call) -> None:
            self.of_client(call)[1] += 1
            counts.started += 1
            code = Code.CANCELLED
            try:
                await handler(_CountedStream(stream, self, counts), call)
                code = Code.OK
            except EtcdError as error:
                code = error.code
                raise
            except Exception:
                code = Code.UNKNOWN
                raise
            finally:
                counts.handled[code] += 1

        return counted


class _CountedReply:
    """A reply that counts the call when it is given."""

    __slots__ = ("_call", "_counters", "_counts", "_received_bytes", "_reply")

    def __init__(self, reply: Reply, counters: Counters, counts: MethodCounts, call: Call, received_bytes: int) -> None:
        self._reply = reply
        self._counters = counters
        self._counts = counts
        self._call = call
        self._received_bytes = received_bytes

    def wait(self) -> None:
        self._reply.wait()

    def send(self, message: bytes) -> None:
        self._note(0)
        self._counts.sent += 1
        self._counters.sent_bytes += len(message)
        self._reply.send(message)

    def refuse(self, error: EtcdError) -> None:
        self._note(error.code)
        self._reply.refuse(error)

    def _note(self, code: int) -> None:
        counters, counts = self._counters, self._counts
        counters.of_client(self._call)[0] += 1
        counts.started += 1
        counts.received += 1
        counts.handled[code] += 1
        counters.received_bytes += self._received_bytes


class _CountedStream:
    """A stream that counts its messages."""

    def __init__(self, stream: Stream, counters: Counters, counts: MethodCounts) -> None:
        self._read = stream.read
        self._write: Callable[[bytes], Coroutine[Any, Any, None]] = stream.write
        self._try_write = stream.try_write
        self._counters = counters
        self._counts = counts

    async def read(self) -> bytes | None:
        message = await self._read()
        if message is not None:
            self._counts.received += 1
            self._counters.received_bytes += len(message)
        return message

    def write(self, message: bytes) -> Coroutine[Any, Any, None]:
        self._counts.sent += 1
        self._counters.sent_bytes += len(message)
        return self._write(message)

    def try_write(self, message: bytes) -> bool:
        if not self._try_write(message):
            return False
        self._counts.sent += 1
        self._counters.sent_bytes += len(message)
        return True
