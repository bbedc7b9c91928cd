"""One connection of a gRPC client: many calls at once, written together, each answered or failed in the end.

What a turn of the loop asks leaves in one write. Bodies obey the server's windows; answers are bounded by a message's
largest size, streams by what their reader has taken.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import cast

from control.apiserver.wire import frames
from control.apiserver.wire.frames import ACK, END_HEADERS, END_STREAM, PADDED
from control.apiserver.wire.headers import HeadReader, ProtocolError

OK, CANCELLED, UNKNOWN, DEADLINE_EXCEEDED, RESOURCE_EXHAUSTED, INTERNAL, UNAVAILABLE = 0, 1, 2, 4, 8, 13, 14
"""Numbers of gRPC's codes."""
KEEPALIVE_S = 10.0
KEEPALIVE_TIMEOUT_S = 5.0
SWEEP_S = 0.2
CONNECTION_WINDOW_BYTES = 1 << 30
STREAM_WINDOW_BYTES = 8 << 20
STREAMS_MAX = 2048
REFUSALS_MAX = 10
REFUSED_PAUSE_S = 0.01
_CODE_OF_RESET = {7: UNAVAILABLE, 8: CANCELLED, 11: RESOURCE_EXHAUSTED}
_SETTINGS = frames.settings(
    ((frames.TABLE_SIZE, 0), (frames.ENABLE_PUSH, 0), (frames.INITIAL_WINDOW, STREAM_WINDOW_BYTES))
)


class WireError(Exception):
    """A call failed, with gRPC's code and text."""

    def __init__(self, code: int, details: str) -> None:
        super().__init__(f"{code}: {details}")
        self.code = code
        self.details = details


class Call:
    """One stream: a request and its one answer, or, without ``answer``, messages as they come."""

    __slots__ = (
        "answer", "deadline", "ended", "failure", "held", "messages", "parts", "refusals", "request", "size",
        "stream", "taken", "unsent", "waiter", "wanted", "window",
    )  # fmt: skip

    def __init__(self, answer: asyncio.Future[bytes] | None, deadline: float) -> None:
        self.answer = answer
        self.deadline = deadline
        self.stream = 0
        self.request: tuple[bytes, bytes, bool] = (b"", b"", True)
        """Head, message, and whether no more follows."""
        self.refusals = 0
        self.parts: list[bytes] = []
        self.size = 0
        self.wanted = 5
        """Bytes of ``parts`` that the next whole message needs."""
        self.held = 0
        """Bytes of a stream that came while its reader had not taken those before."""
        self.taken = 0
        """Bytes taken since the window was last opened."""
        self.window = 0
        self.unsent = b""
        self.messages: deque[bytes] = deque()
        self.waiter: asyncio.Future[None] | None = None
        self.failure: WireError | None = None
        self.ended = False

    def wake(self) -> None:
        """Let the stream's reader go on."""
        if self.waiter is not None and not self.waiter.done():
            self.waiter.set_result(None)


class Connection(asyncio.Protocol):
    """The protocol; made by ``loop.create_connection``."""

    def __init__(self, message_bytes_max: int) -> None:
        self._loop = asyncio.get_running_loop()
        self._message_bytes_max = message_bytes_max
        self._transport: asyncio.Transport | None = None
        self._reader = HeadReader()
        self._buffer = b""
        self._block: tuple[int, int, bytes] | None = None
        self._calls: dict[int, Call] = {}
        self._waiting: deque[Call] = deque()
        """Calls that the server's limit of streams holds back."""
        self._stalled: deque[Call] = deque()
        """Calls whose bodies wait for a window."""
        self._out: list[bytes] = []
        self._flushing = False
        self._next = 1
        self._streams_max = 0
        """None at all until the server has told how many it takes."""
        self._is_told = False
        self._window = frames.DEFAULT_WINDOW_BYTES
        self._stream_window = frames.DEFAULT_WINDOW_BYTES
        self._frame_bytes = frames.DEFAULT_FRAME_BYTES
        self._taken = 0
        self._sweep: asyncio.TimerHandle | None = None
        self._heard_at = self._loop.time()
        self._pinged_at = 0.0
        self.usable = True
        """Whether new calls may begin here."""

    @property
    def busy(self) -> bool:
        """Whether calls are under way."""
        return bool(self._calls or self._waiting)

    # What asyncio calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Say hello."""
        self._transport = cast(asyncio.Transport, transport)
        self._out += [frames.PREFACE, _SETTINGS, frames.window_update(0, CONNECTION_WINDOW_BYTES)]
        self._flush()

    def data_received(self, data: bytes) -> None:
        """Take what the server sends."""
        try:
            self._read(self._buffer + data if self._buffer else data)
        except ProtocolError as error:
            self.close(f"the server does not speak HTTP/2: {error}")
            return
        if self._out:
            self._flush()

    def connection_lost(self, exc: Exception | None) -> None:
        """Fail what is under way."""
        self._fail_all(f"the connection was lost: {exc}" if exc else "the server closed the connection")

    def close(self, reason: str = "the connection was closed") -> None:
        """Close at once; what is under way fails."""
        self._fail_all(reason)
        if self._transport is not None:
            self._transport.abort()

    def _fail_all(self, reason: str) -> None:
        self.usable = False
        if self._sweep is not None:
            self._sweep.cancel()
            self._sweep = None
        calls = [*self._calls.values(), *self._waiting]
        self._calls.clear()
        self._waiting.clear()
        self._stalled.clear()
        for call in calls:
            _fail(call, WireError(UNAVAILABLE, reason))

    # Asking.

    def begin(self, call: Call) -> None:
        """Send a call's request as soon as the server takes one more."""
        if self._sweep is None:
            self._heard_at, self._pinged_at = self._loop.time(), 0.0
            self._sweep = self._loop.call_later(SWEEP_S, self._look)
        if len(self._calls) >= self._streams_max:
            self._waiting.append(call)
            return
        head, message, last = call.request
        stream = call.stream = self._next
        self._next += 2
        if stream == 1:
            # Nothing is ever put into the table; a server that allows none at all wants to be told so first.
            head = frames.NO_TABLE + head
        if self._next > 1 << 30:
            self.usable = False
        self._calls[stream] = call
        size = len(message)
        body = b"\0" + size.to_bytes(4, "big") + message
        size += 5
        self._out.append(frames.frame(frames.HEADERS, END_HEADERS, stream, head))
        if size <= self._window and size <= self._stream_window and size <= self._frame_bytes and not self._stalled:
            self._window -= size
            call.window = self._stream_window - size
            self._out.append(frames.frame(frames.DATA, END_STREAM if last else 0, stream, body))
        else:
            # Streams that stay open send one small message; only whole requests can be large.
            call.window, call.unsent = self._stream_window, body
            self._stalled.append(call)
            self._send_stalled()
        self._schedule()

    def cancel(self, call: Call) -> None:
        """End a call whose answer nobody waits for any more."""
        call.ended = True
        if self._calls.pop(call.stream, None) is not None:
            self._out.append(frames.reset(call.stream))
            self._schedule()
        self._begin_waiting()

    def caught_up(self, call: Call) -> None:
        """Note that a stream's reader has taken all there was."""
        held, call.held = call.held, 0
        self._consumed(call, held)

    def _consumed(self, call: Call, size: int) -> None:
        """Let the server send again as much as was taken."""
        call.taken += size
        if call.taken >= STREAM_WINDOW_BYTES // 2 and call.stream in self._calls:
            self._out.append(frames.window_update(call.stream, call.taken))
            call.taken = 0
            self._schedule()

    def _schedule(self) -> None:
        if not self._flushing:
            self._flushing = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._flushing = False
        if self._out and self._transport is not None and not self._transport.is_closing():
            data = b"".join(self._out)
            self._out.clear()
            self._transport.write(data)

    def _send_stalled(self) -> None:
        for _ in range(len(self._stalled)):
            call = self._stalled.popleft()
            if call.stream not in self._calls:
                continue
            at = 0
            while at < len(call.unsent):
                size = min(len(call.unsent) - at, self._window, call.window, self._frame_bytes)
                if size <= 0:
                    break
                part = call.unsent[at : at + size]
                at += size
                self._window -= size
                call.window -= size
                ends = at == len(call.unsent) and call.answer is not None
                self._out.append(frames.frame(frames.DATA, END_STREAM if ends else 0, call.stream, part))
            call.unsent = call.unsent[at:]
            if call.unsent:
                self._stalled.append(call)

    def _begin_waiting(self) -> None:
        while self._waiting and self.usable and len(self._calls) < self._streams_max:
            call = self._waiting.popleft()
            if not call.ended:
                self.begin(call)

    def _look(self) -> None:
        """Fail what has waited too long, and see whether the server still lives."""
        now = self._loop.time()
        self._sweep = None
        calls = [*self._calls.values(), *self._waiting]
        for call in [each for each in calls if each.deadline <= now]:
            self.cancel(call)
            _fail(call, WireError(DEADLINE_EXCEEDED, "Deadline Exceeded"))
        if not self._calls and not self._waiting:
            return
        if self._pinged_at and now - self._pinged_at > KEEPALIVE_TIMEOUT_S:
            self.close("the server does not answer pings")
            return
        if not self._pinged_at and now - self._heard_at > KEEPALIVE_S:
            self._pinged_at = now
            self._out.append(frames.frame(frames.PING, 0, 0, b"raftsman"))
            self._schedule()
        self._sweep = self._loop.call_later(SWEEP_S, self._look)

    # Hearing.

    def _read(self, buffer: bytes) -> None:
        at, end = 0, len(buffer)
        self._heard_at, self._pinged_at = self._loop.time(), 0.0
        while end - at >= frames.HEAD_BYTES:
            size = buffer[at] << 16 | buffer[at + 1] << 8 | buffer[at + 2]
            stop = at + frames.HEAD_BYTES + size
            if stop > end:
                if size > frames.DEFAULT_FRAME_BYTES:
                    raise ProtocolError("a frame is larger than allowed")
                break
            kind, flags = buffer[at + 3], buffer[at + 4]
            stream = int.from_bytes(buffer[at + 5 : at + 9], "big") & 0x7FFFFFFF
            payload = buffer[at + 9 : stop]
            at = stop
            if kind == frames.DATA:
                self._take_data(stream, flags, payload)
            elif kind == frames.HEADERS:
                self._take_block(stream, flags, frames.bare(payload, flags))
            elif kind == frames.CONTINUATION:
                self._continue_block(stream, flags, payload)
            else:
                self._take_other(kind, flags, stream, payload)
        self._buffer = buffer[at:]

    def _take_data(self, stream: int, flags: int, payload: bytes) -> None:
        self._taken += len(payload)
        if self._taken >= CONNECTION_WINDOW_BYTES // 2:
            self._out.append(frames.window_update(0, self._taken))
            self._taken = 0
        call = self._calls.get(stream)
        if call is None:
            return
        body = frames.bare(payload, flags) if flags & PADDED else payload
        call.parts.append(body)
        call.size += len(body)
        if call.answer is None:
            call.held += len(payload)
            if call.size >= call.wanted:
                self._split(call)
            if not call.messages:
                self.caught_up(call)
        else:
            self._consumed(call, len(payload))
        if call.size > self._message_bytes_max + 5:
            self.cancel(call)
            _fail(call, WireError(RESOURCE_EXHAUSTED, f"the answer is larger than {self._message_bytes_max} bytes"))
        elif flags & END_STREAM:
            self._finish(call, UNKNOWN, "the answer has no trailers")

    @staticmethod
    def _split(call: Call) -> None:
        """Take whole messages out of what a stream has brought."""
        data = call.parts[0] if len(call.parts) == 1 else b"".join(call.parts)
        at, call.wanted = 0, 5
        while len(data) - at >= 5:
            size = 5 + int.from_bytes(data[at + 1 : at + 5], "big")
            if at + size > len(data):
                call.wanted = size
                break
            call.messages.append(data[at + 5 : at + size])
            at += size
        rest = data[at:]
        call.parts, call.size = [rest], len(rest)
        if at:
            call.wake()

    def _take_block(self, stream: int, flags: int, block: bytes) -> None:
        if not flags & END_HEADERS:
            self._block = (stream, flags, block)
            return
        head = self._reader.read(block)
        call = self._calls.get(stream)
        if call is None:
            return
        if flags & END_STREAM:
            if head.grpc_status >= 0:
                self._finish(call, head.grpc_status, head.message)
            else:
                self._finish(call, UNKNOWN, f"HTTP status {head.http_status} without a gRPC status")
        elif head.http_status not in (200, -1):
            self.cancel(call)
            code = UNAVAILABLE if head.http_status in (429, 502, 503, 504) else UNKNOWN
            _fail(call, WireError(code, f"HTTP status {head.http_status}"))

    def _continue_block(self, stream: int, flags: int, payload: bytes) -> None:
        if self._block is None or self._block[0] != stream:
            raise ProtocolError("a continuation of nothing")
        _, first_flags, block = self._block
        block += payload
        if len(block) > frames.BLOCK_BYTES_MAX:
            raise ProtocolError("headers without end")
        self._block = (stream, first_flags, block)
        if flags & END_HEADERS:
            self._block = None
            self._take_block(stream, first_flags | END_HEADERS, block)

    def _finish(self, call: Call, code: int, message: str) -> None:
        if self._calls.pop(call.stream, None) is None:
            return
        if call.unsent:
            # It answered before it had read everything: what is left need not be sent.
            self._out.append(frames.reset(call.stream))
            call.unsent = b""
        if self._waiting:
            self._begin_waiting()
        if code != OK:
            _fail(call, WireError(code, message))
        elif call.answer is None:
            call.ended = True
            call.wake()
        elif not call.answer.done():
            body = call.parts[0] if len(call.parts) == 1 else b"".join(call.parts)
            if len(body) < 5 or body[0] or int.from_bytes(body[1:5], "big") != len(body) - 5:
                _fail(call, WireError(INTERNAL, "the answer is no single message"))
            else:
                call.answer.set_result(body[5:])

    def _take_other(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if kind == frames.WINDOW_UPDATE:
            size = int.from_bytes(payload, "big") & 0x7FFFFFFF
            if stream == 0:
                self._window += size
            elif (call := self._calls.get(stream)) is not None:
                call.window += size
            if self._stalled:
                self._send_stalled()
        elif kind == frames.SETTINGS and not flags & ACK:
            self._take_settings(frames.read_settings(payload))
        elif kind == frames.PING and not flags & ACK:
            self._out.append(frames.frame(frames.PING, ACK, 0, payload))
        elif kind == frames.RST_STREAM:
            if (call := self._calls.pop(stream, None)) is not None:
                self._take_reset(call, int.from_bytes(payload, "big"))
        elif kind == frames.GOAWAY:
            self._go_away(int.from_bytes(payload[:4], "big") & 0x7FFFFFFF, payload[8:])
        elif kind == frames.PUSH_PROMISE:
            raise ProtocolError("a push that was forbidden")

    def _take_reset(self, call: Call, code: int) -> None:
        call.refusals += 1
        if code == frames.REFUSED_STREAM and self.usable and call.refusals <= REFUSALS_MAX and call.answer is not None:
            # The server has not looked at it, so that it can be asked again, a moment later.
            self._waiting.append(call)
            self._loop.call_later(REFUSED_PAUSE_S, self._begin_waiting)
            return
        _fail(call, WireError(_CODE_OF_RESET.get(code, INTERNAL), f"the server reset the stream ({code})"))
        self._begin_waiting()

    def _take_settings(self, told: dict[int, int]) -> None:
        known = self._streams_max if self._is_told else STREAMS_MAX
        self._streams_max, self._is_told = min(told.get(frames.STREAMS_MAX, known), STREAMS_MAX), True
        self._frame_bytes = min(told.get(frames.FRAME_MAX, self._frame_bytes), 1 << 20)
        if frames.INITIAL_WINDOW in told:
            change = told[frames.INITIAL_WINDOW] - self._stream_window
            self._stream_window += change
            for call in self._calls.values():
                call.window += change
        self._out.append(frames.frame(frames.SETTINGS, ACK, 0, b""))
        self._send_stalled()
        self._begin_waiting()

    def _go_away(self, last: int, debug: bytes) -> None:
        """Finish what the server still answers; the rest it has not looked at."""
        self.usable = False
        reason = f"the server is going away {debug.decode('utf-8', 'replace')[:100]}".rstrip()
        unseen = [call for stream, call in self._calls.items() if stream > last]
        unseen += self._waiting
        self._waiting.clear()
        for call in unseen:
            self._calls.pop(call.stream, None)
            _fail(call, WireError(UNAVAILABLE, reason))
        if not self._calls and self._transport is not None:
            self._transport.close()


def _fail(call: Call, error: WireError) -> None:
    call.ended = True
    call.failure = error
    if call.answer is None:
        call.wake()
    elif not call.answer.done():
        call.answer.set_exception(error)
