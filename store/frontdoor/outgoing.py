"""The sending half of an HTTP/2 connection: flow control and what waits for it.

Output is collected until the owner takes it, all that one pass of its loop has produced at once. What a stream may not
send yet waits at the stream; streams take turns, a frame each. ``out_bytes`` is bounded but for control frames, which
are small and whose number the connection bounds.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from store.frontdoor.frames import (
    DATA,
    END_HEADERS,
    END_STREAM,
    FRAME_BYTES_MAX,
    HEADERS,
    INITIAL_WINDOW,
    WINDOW_MAX,
    ConnectionFault,
    ErrorCode,
    StreamFault,
    encode,
    encode_headers,
)
from store.frontdoor.headers import NO_TABLE, Head

OUT_BYTES_MAX = 256 * 1024
"""From so much untaken output on, data waits at its stream."""
_SENT_FRAME_BYTES_MAX = 65_536


@dataclass(frozen=True)
class ConstantFrame:
    """A HEADERS frame whose block is always the same."""

    start: bytes
    """All before the stream's number."""
    block: bytes


def constant_headers(block: bytes, *, ends_stream: bool) -> ConstantFrame:
    """Make the frame of a constant block."""
    flags = END_HEADERS | (END_STREAM if ends_stream else 0)
    return ConstantFrame(encode(HEADERS, flags, 0, block)[:5], block)


class Stream:
    """One stream; what a subclass does with a request it does in the hooks at the end."""

    __slots__ = (
        "has_answered",
        "head",
        "is_local_open",
        "is_ready",
        "is_remote_open",
        "moved_at",
        "outgoing",
        "pending",
        "receive_window",
        "received_bytes",
        "send_window",
        "stream_id",
        "trailers",
    )

    def __init__(self, outgoing: Outgoing, stream_id: int, head: Head) -> None:
        self.outgoing = outgoing
        self.stream_id = stream_id
        self.head = head
        self.is_remote_open = True
        self.is_local_open = True
        self.send_window = outgoing.initial_window
        self.receive_window = 0
        self.received_bytes = 0
        self.pending: deque[memoryview] | None = None
        """What waits for a window."""
        self.trailers: bytes | None = None
        self.is_ready = False
        """Whether it stands in the line of those that may send."""
        self.has_answered = False
        self.moved_at = 0.0

    @property
    def is_open(self) -> bool:
        """Whether anything may still be sent or received on it."""
        return self.is_local_open or self.is_remote_open

    def opened(self, has_ended: bool) -> None:
        """Take note of the request's head."""

    def received(self, payload: bytes, has_ended: bool) -> None:
        """Take a part of the request's body."""

    def closed(self, code: int | None) -> None:
        """Take note that nothing can be sent or received any more; ``code`` is the reset's."""

    def drained(self) -> None:
        """Take note that nothing waits to be sent."""

    def window_target(self) -> int:
        """How many bytes the client may have under way to this stream."""
        return 0


class Outgoing:
    """What one connection has to send."""

    def __init__(self, wake: Callable[[], None], ended: Callable[[Stream], None]) -> None:
        self._wake = wake
        self._ended = ended
        self.out: list[bytes | memoryview] = []
        self.out_bytes = 0
        self.window = INITIAL_WINDOW
        self.initial_window = INITIAL_WINDOW
        self.frame_bytes_max = FRAME_BYTES_MAX
        self.is_paused = False
        self.now = 0.0
        self.sent_frames = 0
        """Counts frames of answers."""
        self.waiting: dict[int, Stream] = {}
        """The streams that have something to send and may not."""
        self._ready: deque[Stream] = deque()
        self._is_first_block = True

    @property
    def is_held(self) -> bool:
        """Whether data must wait until output has been taken."""
        return self.is_paused or self.out_bytes >= OUT_BYTES_MAX

    @property
    def has_work(self) -> bool:
        """Whether ``pump`` may have something to do."""
        return bool(self._ready) and self.window > 0 and not self.is_paused

    def take(self) -> bytes:
        """All output so far."""
        output = b"".join(self.out)
        self.out.clear()
        self.out_bytes = 0
        return output

    def control(self, frame: bytes) -> None:
        """Send a frame that needs no window."""
        if not self.out:
            self._wake()
        self.out.append(frame)
        self.out_bytes += len(frame)

    def answer(self, stream: Stream, first: ConstantFrame, body: bytes, last: ConstantFrame) -> None:
        """Send a whole answer; the usual one goes out in one piece."""
        length = len(body)
        if (
            self._is_first_block
            or length > FRAME_BYTES_MAX
            or length > self.window
            or length > stream.send_window
            or self.is_held
        ):
            self.begin(stream, first.block)
            self.send(stream, body)
            self.end(stream, last.block)
            return
        if not self.out:
            self._wake()
        self.window -= length
        stream_id = stream.stream_id.to_bytes(4, "big")
        self.out += (
            first.start,
            stream_id,
            first.block,
            length.to_bytes(3, "big"),
            b"\0\0",
            stream_id,
            body,
            last.start,
            stream_id,
            last.block,
        )
        self.out_bytes += length + 128
        self.sent_frames += 3
        stream.has_answered = True
        stream.is_local_open = False
        self._ended(stream)

    def begin(self, stream: Stream, block: bytes, *, ends_stream: bool = False) -> None:
        """Send the head of an answer."""
        if not stream.is_local_open:
            return
        stream.has_answered = True
        if self._is_first_block:
            self._is_first_block = False
            block = NO_TABLE + block
        self.sent_frames += 1
        self.control(encode_headers(stream.stream_id, block, self.frame_bytes_max, ends_stream=ends_stream))
        if ends_stream:
            self._finish(stream)

    def send(self, stream: Stream, data: bytes) -> None:
        """Send a part of an answer's body now, or as soon as the windows allow."""
        if not stream.is_local_open or not data:
            return
        if stream.pending is None:
            stream.pending = deque()
            stream.moved_at = self.now
            self.waiting[stream.stream_id] = stream
        stream.pending.append(memoryview(data))
        self._line_up(stream)
        self.pump()

    def send_at_once(self, stream: Stream, data: bytes) -> bool:
        """Send a part of an answer's body if nothing holds it up; return whether it was sent."""
        length = len(data)
        if (
            not stream.is_local_open
            or stream.pending is not None
            or length > FRAME_BYTES_MAX
            or length > self.window
            or length > stream.send_window
            or self.is_held
        ):
            return False
        if not self.out:
            self._wake()
        self.window -= length
        stream.send_window -= length
        self.out += (length.to_bytes(3, "big") + b"\0\0" + stream.stream_id.to_bytes(4, "big"), data)
        self.out_bytes += length + 9
        self.sent_frames += 1
        return True

    def end(self, stream: Stream, trailers: bytes) -> None:
        """End an answer once its body is sent, with trailers or without."""
        if not stream.is_local_open:
            return
        stream.trailers = trailers
        if stream.pending is None:
            self._end_now(stream)

    def pump(self) -> None:
        """Send what the windows allow."""
        ready = self._ready
        while ready and self.window > 0 and not self.is_held:
            stream = ready.popleft()
            stream.is_ready = False
            self._send_frame(stream)

    def grow(self, increment: int) -> None:
        """Let the connection send more."""
        if self.window + increment > WINDOW_MAX:
            raise ConnectionFault(ErrorCode.FLOW_CONTROL_ERROR, "the connection's window is too large")
        self.window += increment
        self.pump()

    def grow_stream(self, stream: Stream, increment: int) -> None:
        """Let a stream send more."""
        if stream.send_window + increment > WINDOW_MAX:
            raise StreamFault(stream.stream_id, ErrorCode.FLOW_CONTROL_ERROR, "the stream's window is too large")
        stream.send_window += increment
        self._line_up(stream)
        self.pump()

    def change_initial_window(self, size: int, streams: dict[int, Stream]) -> None:
        """Have all windows follow what they begin with; they may become negative."""
        change = size - self.initial_window
        self.initial_window = size
        for stream in streams.values():
            stream.send_window += change
            if stream.send_window > WINDOW_MAX:
                raise ConnectionFault(ErrorCode.FLOW_CONTROL_ERROR, "a stream's window is too large")
            self._line_up(stream)
        self.pump()

    def drop(self, stream: Stream) -> None:
        """Forget what a stream had to send."""
        stream.pending = stream.trailers = None
        self.waiting.pop(stream.stream_id, None)

    def _line_up(self, stream: Stream) -> None:
        if stream.pending is not None and not stream.is_ready and stream.send_window > 0:
            stream.is_ready = True
            self._ready.append(stream)

    def _send_frame(self, stream: Stream) -> None:
        pending = stream.pending
        if pending is None:
            return
        chunk = pending[0]
        size = min(len(chunk), stream.send_window, self.window, self.frame_bytes_max, _SENT_FRAME_BYTES_MAX)
        if size <= 0:
            return
        if size == len(chunk):
            pending.popleft()
        else:
            pending[0] = chunk[size:]
            chunk = chunk[:size]
        stream.send_window -= size
        self.window -= size
        stream.moved_at = self.now
        self.sent_frames += 1
        self.control(size.to_bytes(3, "big") + b"\0\0" + stream.stream_id.to_bytes(4, "big"))
        self.out.append(chunk)
        self.out_bytes += size
        if pending:
            self._line_up(stream)
            return
        stream.pending = None
        del self.waiting[stream.stream_id]
        if stream.trailers is not None:
            self._end_now(stream)
        else:
            stream.drained()

    def _end_now(self, stream: Stream) -> None:
        block = stream.trailers or b""
        stream.trailers = None
        self.sent_frames += 1
        if block:
            self.control(encode_headers(stream.stream_id, block, self.frame_bytes_max, ends_stream=True))
        else:
            self.control(encode(DATA, END_STREAM, stream.stream_id))
        self._finish(stream)

    def _finish(self, stream: Stream) -> None:
        stream.is_local_open = False
        self._ended(stream)
