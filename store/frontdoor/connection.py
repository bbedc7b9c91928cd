"""One HTTP/2 connection, the server's side, without I/O (RFC 9113).

Theory of operation. The owner gives what has arrived to ``receive`` and what time it is; streams are told of their
requests in the hooks of ``Stream``, within that call; answers are collected in ``outgoing`` until the owner takes them.
Whatever a peer sends ends in an answer, a reset stream or a closed connection; nothing raises out of ``receive``.

The connection's window is refilled as bytes arrive, so that no stream can hold up another; a stream's window follows
what its request has taken (``window_target``). All that a peer may pile up is bounded by ``abuse.Limits``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from store.frontdoor import frames
from store.frontdoor.abuse import COSTS, CREDIT_OF_SENT_FRAME, Allowance, Limits, PingStrikes
from store.frontdoor.frames import (
    ACK,
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    HEADERS,
    INITIAL_WINDOW,
    PADDED,
    PREFACE,
    STREAM_ID_MAX,
    ConnectionFault,
    ErrorCode,
    FrameReader,
    Setting,
    StreamFault,
)
from store.frontdoor.headers import Head, HeadCache, HeaderDecoder, status, trailers_fault
from store.frontdoor.outgoing import Outgoing, Stream

MakeStream = Callable[[Outgoing, int, Head], Stream]
_DRAIN_PING: Final = b"draining"
_ALIVE_PING: Final = b"alive???"
_DRAIN_WAIT_S = 1.0
_SKIPPED_MAX = 64


class Connection:
    """One connection."""

    def __init__(
        self, make_stream: MakeStream, wake: Callable[[], None], heads: HeadCache, limits: Limits, now: float
    ) -> None:
        self.outgoing = Outgoing(wake, self._ended)
        self.streams: dict[int, Stream] = {}
        self.orphans = 0
        """Handlers that still run for streams that are gone."""
        self.is_over = False
        """Whether the owner is to close the transport, once it has sent the rest."""
        self._make_stream = make_stream
        self._limits = limits
        self._reader = FrameReader()
        self._decoder = HeaderDecoder(heads, limits.header_list_bytes_max)
        self._preface = PREFACE
        self._has_settings = False
        self._window = limits.connection_window_bytes
        self._last_id = 0
        self._skipped: list[tuple[int, int]] = []
        self._resets: dict[int, bool] = {}
        """Stream → whether it was the peer that reset it."""
        self._forgotten_id = 0
        self._block: list[bytes] | None = None
        self._block_stream = 0
        self._block_ends_stream = False
        self._block_at = now
        self._now = self._heard_at = self._began_at = now
        self._goaway_at: float | None = None
        self._is_draining = False
        self._pinged_at: float | None = None
        self._allowance = Allowance(limits.control_frames_burst, limits.control_frames_per_s, now)
        self._resets_allowance = Allowance(limits.resets_burst, limits.resets_per_s, now)
        self._credited_frames = 0
        self._pings = PingStrikes(limits)
        self._handlers: dict[int, Callable[[int, int, bytes], None]] = {
            DATA: self._on_data,
            HEADERS: self._on_headers,
            frames.PRIORITY: self._on_priority,
            frames.RST_STREAM: self._on_reset,
            frames.SETTINGS: self._on_settings,
            frames.PUSH_PROMISE: self._on_push,
            frames.PING: self._on_ping,
            frames.GOAWAY: self._on_goaway,
            frames.WINDOW_UPDATE: self._on_window_update,
            CONTINUATION: self._on_continuation,
        }
        self._greet()

    def _greet(self) -> None:
        limits = self._limits
        settings = {
            Setting.HEADER_TABLE_SIZE: 0,
            Setting.MAX_CONCURRENT_STREAMS: limits.streams_max,
            Setting.INITIAL_WINDOW_SIZE: limits.window_bytes,
            Setting.MAX_HEADER_LIST_SIZE: limits.header_list_bytes_max,
        }
        self.outgoing.control(frames.encode_settings(settings))
        self.outgoing.control(frames.encode_window_update(0, limits.connection_window_bytes - INITIAL_WINDOW))

    # The owner's calls

    def receive(self, data: bytes, now: float) -> None:
        """Take what the peer has sent."""
        if self.is_over:
            return
        self._now = self._heard_at = self.outgoing.now = now
        try:
            if self._preface:
                data = self._after_preface(data)
            handlers = self._handlers
            for kind, flags, stream_id, payload in self._reader.feed(data):
                if self._block is not None and (kind != CONTINUATION or stream_id != self._block_stream):
                    raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "a head was not continued")
                handler = handlers.get(kind)
                try:
                    if handler is None:
                        self._spend(1.0)
                    elif self._has_settings or kind == frames.SETTINGS:
                        handler(flags, stream_id, payload)
                    else:
                        raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "the preface lacks SETTINGS")
                except StreamFault as fault:
                    self.reset(fault.stream_id, fault.code)
                if self.is_over:
                    return
        except ConnectionFault as fault:
            self.fail(fault.code, fault.text)

    def fail(self, code: ErrorCode, text: str) -> None:
        """End the connection and say why."""
        if not self.is_over:
            self.outgoing.control(frames.encode_goaway(self._last_id, code, text))
            self.abort()

    def abort(self) -> None:
        """End all streams: the peer is gone, or is to go."""
        self.is_over = True
        for stream in list(self.streams.values()):
            self._forget(stream, ErrorCode.CANCEL)

    def drain(self, now: float) -> None:
        """Tell the peer to start no more calls; those that run may end."""
        if self._goaway_at is None and not self.is_over:
            # The number of the last stream follows when the peer has had time to hear of this.
            self.outgoing.control(frames.encode_goaway(STREAM_ID_MAX, ErrorCode.NO_ERROR))
            self.outgoing.control(frames.encode(frames.PING, 0, 0, _DRAIN_PING))
            self._goaway_at = now

    def reset(self, stream_id: int, code: ErrorCode) -> None:
        """Give up a stream."""
        self._remember(stream_id, by_peer=False)
        self.outgoing.control(frames.encode_rst_stream(stream_id, code))
        stream = self.streams.get(stream_id)
        if stream is not None:
            self._forget(stream, code)

    def tick(self, now: float) -> None:
        """Do what time asks for; to be called about once a second."""
        self._now = self.outgoing.now = now
        limits = self._limits
        if self.is_over:
            return
        if not self._has_settings and now - self._began_at > limits.handshake_timeout_s:
            self.fail(ErrorCode.SETTINGS_TIMEOUT, "no preface")
        elif self._block is not None and now - self._block_at > limits.handshake_timeout_s:
            self.fail(ErrorCode.ENHANCE_YOUR_CALM, "a head takes too long")
        elif self._goaway_at is not None and not self._is_draining and now - self._goaway_at > _DRAIN_WAIT_S:
            self._close_door()
        elif self._pinged_at is not None and now - self._pinged_at > limits.keepalive_timeout_s:
            if self._heard_at <= self._pinged_at:
                self.fail(ErrorCode.NO_ERROR, "no answer to a ping")
            else:
                self._pinged_at = None
        elif self._pinged_at is None and 0 < limits.keepalive_interval_s < now - self._heard_at:
            self.outgoing.control(frames.encode(frames.PING, 0, 0, _ALIVE_PING))
            self._pinged_at = now
        for stream in list(self.outgoing.waiting.values()):
            if now - stream.moved_at > limits.stall_timeout_s:
                self.reset(stream.stream_id, ErrorCode.CANCEL)

    def refill(self, stream: Stream) -> None:
        """Let the peer send a stream as much as it can take."""
        if stream.is_remote_open and not self.is_over:
            room = stream.window_target() - stream.receive_window
            if room >= self._limits.window_bytes // 2:
                stream.receive_window += room
                self.outgoing.control(frames.encode_window_update(stream.stream_id, room))

    # Frames

    def _after_preface(self, data: bytes) -> bytes:
        size = min(len(data), len(self._preface))
        if data[:size] != self._preface[:size]:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "no HTTP/2 preface")
        self._preface = self._preface[size:]
        return data[size:]

    def _on_data(self, flags: int, stream_id: int, payload: bytes) -> None:
        size = len(payload)
        self._window -= size
        if self._window < self._limits.connection_window_bytes // 2:
            if self._window < 0:
                raise ConnectionFault(ErrorCode.FLOW_CONTROL_ERROR, "more than the connection's window")
            self._refill_connection()
        stream = self.streams.get(stream_id)
        if stream is None or not stream.is_remote_open:
            self._stray(DATA, stream_id)
            return
        if flags & PADDED:
            payload = frames.unpadded(payload)
        stream.receive_window -= size
        if stream.receive_window < 0:
            raise StreamFault(stream_id, ErrorCode.FLOW_CONTROL_ERROR, "more than the stream's window")
        has_ended = flags & END_STREAM != 0
        if not payload and not has_ended:
            self._spend(COSTS[DATA])
        length = stream.head.content_length
        if length is not None:
            stream.received_bytes += len(payload)
            if stream.received_bytes > length or (has_ended and stream.received_bytes < length):
                raise StreamFault(stream_id, ErrorCode.PROTOCOL_ERROR, "the body is not as long as its head says")
        if has_ended:
            stream.is_remote_open = False
            stream.received(payload, True)
            self._settle(stream)
        else:
            stream.received(payload, False)
            self.refill(stream)

    def _refill_connection(self) -> None:
        room = self._limits.connection_window_bytes - self._window
        self._window += room
        self.outgoing.control(frames.encode_window_update(0, room))

    def _on_headers(self, flags: int, stream_id: int, payload: bytes) -> None:
        if not stream_id & 1:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "HEADERS on a stream that is none of a client's")
        if flags & (PADDED | frames.WITH_PRIORITY):
            payload = frames.fragment(flags, payload)
        if flags & END_HEADERS:
            self._take_head(stream_id, payload, flags & END_STREAM != 0)
        else:
            self._block, self._block_at = [payload], self._now
            self._block_stream, self._block_ends_stream = stream_id, flags & END_STREAM != 0

    def _on_continuation(self, flags: int, stream_id: int, payload: bytes) -> None:
        if self._block is None:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "CONTINUATION of nothing")
        self._block.append(payload)
        size = sum(len(part) for part in self._block)
        if size > self._limits.header_list_bytes_max or len(self._block) > self._limits.header_frames_max:
            raise ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM, "a head is too large")
        if flags & END_HEADERS:
            block, self._block = b"".join(self._block), None
            self._take_head(stream_id, block, self._block_ends_stream)

    def _take_head(self, stream_id: int, block: bytes, has_ended: bool) -> None:
        last_id = self._last_id
        if stream_id <= last_id:
            self._take_trailers(stream_id, block, has_ended)
            return
        self._last_id = stream_id
        if stream_id != last_id + 2 and stream_id > 1:
            self._skipped.append((last_id + 1, stream_id - 1))
            del self._skipped[:-_SKIPPED_MAX]
        head = self._decoder.head(block)
        if self._is_draining:
            self._remember(stream_id, by_peer=False)
            return
        if len(self.streams) + self.orphans >= self._limits.streams_max:
            self._spend(COSTS[HEADERS])
            raise StreamFault(stream_id, ErrorCode.REFUSED_STREAM, "too many streams")
        if head.fault or (has_ended and head.content_length):
            self._spend(COSTS[HEADERS])
            raise StreamFault(stream_id, ErrorCode.PROTOCOL_ERROR, head.fault)
        stream = self._make_stream(self.outgoing, stream_id, head)
        stream.receive_window = self._limits.window_bytes
        stream.is_remote_open = not has_ended
        self.streams[stream_id] = stream
        if head.is_oversized:
            self.outgoing.begin(stream, status(431), ends_stream=True)
        else:
            stream.opened(has_ended)

    def _take_trailers(self, stream_id: int, block: bytes, has_ended: bool) -> None:
        fields = self._decoder.fields(block)
        stream = self.streams.get(stream_id)
        if stream is None or not stream.is_remote_open:
            self._stray(HEADERS, stream_id)
            return
        if not has_ended:
            raise StreamFault(stream_id, ErrorCode.PROTOCOL_ERROR, "trailers that end nothing")
        fault = trailers_fault(fields)
        if fault or (stream.head.content_length or 0) > stream.received_bytes:
            raise StreamFault(stream_id, ErrorCode.PROTOCOL_ERROR, fault)
        stream.is_remote_open = False
        stream.received(b"", True)
        self._settle(stream)

    def _on_priority(self, flags: int, stream_id: int, payload: bytes) -> None:
        frames.check_priority(stream_id, payload)
        self._spend(COSTS[frames.PRIORITY])

    def _on_reset(self, flags: int, stream_id: int, payload: bytes) -> None:
        code = frames.parse_rst_stream(stream_id, payload)
        if stream_id > self._last_id or not stream_id & 1:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "RST_STREAM of a stream that was never opened")
        if not self._resets_allowance.spend(1.0, self._now):
            raise ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM, "too many resets")
        stream = self.streams.get(stream_id)
        if stream is None:
            self._spend(COSTS[frames.RST_STREAM])
            return
        self._remember(stream_id, by_peer=True)
        self._forget(stream, code)

    def _on_settings(self, flags: int, stream_id: int, payload: bytes) -> None:
        settings = frames.parse_settings(flags, stream_id, payload)
        if flags & ACK:
            if not self._has_settings:
                raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "the preface lacks SETTINGS")
            self._decoder.acknowledged()
            return
        if self._has_settings:
            self._spend(COSTS[frames.SETTINGS])
        self._has_settings = True
        for setting, value in settings:
            if setting == Setting.INITIAL_WINDOW_SIZE:
                self.outgoing.change_initial_window(value, self.streams)
            elif setting == Setting.MAX_FRAME_SIZE:
                self.outgoing.frame_bytes_max = value
        self.outgoing.control(frames.encode(frames.SETTINGS, ACK, 0))

    def _on_push(self, flags: int, stream_id: int, payload: bytes) -> None:
        raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "a client cannot push")

    def _on_ping(self, flags: int, stream_id: int, payload: bytes) -> None:
        frames.check_ping(stream_id, payload)
        if flags & ACK:
            if payload == _DRAIN_PING and self._goaway_at is not None and not self._is_draining:
                self._close_door()
            elif payload == _ALIVE_PING:
                self._pinged_at = None
            else:
                self._spend(COSTS[frames.PING])
            return
        if self._pings.strike(self._now, self.outgoing.sent_frames):
            raise ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM, "too_many_pings")
        self._spend(COSTS[frames.PING])
        self.outgoing.control(frames.encode(frames.PING, ACK, 0, payload))

    def _on_goaway(self, flags: int, stream_id: int, payload: bytes) -> None:
        frames.check_goaway(stream_id, payload)
        self._spend(COSTS[frames.PING])

    def _on_window_update(self, flags: int, stream_id: int, payload: bytes) -> None:
        if stream_id > self._last_id or (stream_id and not stream_id & 1):
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "WINDOW_UPDATE of a stream that was never opened")
        increment = frames.parse_window_update(stream_id, payload)
        self._spend(COSTS[frames.WINDOW_UPDATE])
        if not stream_id:
            self.outgoing.grow(increment)
            return
        stream = self.streams.get(stream_id)
        if stream is not None:
            self.outgoing.grow_stream(stream, increment)

    # Streams

    def _spend(self, cost: float) -> None:
        sent = self.outgoing.sent_frames
        credit = (sent - self._credited_frames) * CREDIT_OF_SENT_FRAME
        self._credited_frames = sent
        if not self._allowance.spend(cost, self._now, credit):
            raise ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM, "too many frames without use")

    def _stray(self, kind: int, stream_id: int) -> None:
        """Take DATA or HEADERS of a stream that takes none."""
        if stream_id > self._last_id or not stream_id & 1:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "DATA of a stream that was never opened")
        if stream_id in self.streams:
            raise StreamFault(stream_id, ErrorCode.STREAM_CLOSED, "the request has ended")
        self._spend(1.0)
        if stream_id in self._resets:
            if self._resets[stream_id]:
                raise StreamFault(stream_id, ErrorCode.STREAM_CLOSED, "the peer has reset the stream")
        elif any(first <= stream_id <= last for first, last in self._skipped):
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "stream numbers must grow")
        elif stream_id > self._forgotten_id:
            raise ConnectionFault(ErrorCode.STREAM_CLOSED, "the stream is closed")

    def _remember(self, stream_id: int, *, by_peer: bool) -> None:
        self._resets[stream_id] = by_peer
        if len(self._resets) > self._limits.closed_streams_max:
            oldest = next(iter(self._resets))
            del self._resets[oldest]
            self._forgotten_id = max(self._forgotten_id, oldest)

    def _forget(self, stream: Stream, code: int) -> None:
        """Drop a stream that was reset."""
        del self.streams[stream.stream_id]
        stream.is_local_open = stream.is_remote_open = False
        self.outgoing.drop(stream)
        stream.closed(code)
        self._end_when_empty()

    def _ended(self, stream: Stream) -> None:
        """Take note that a stream's answer is complete."""
        if stream.is_remote_open:
            # The rest of the request is of no use to anybody.
            self._remember(stream.stream_id, by_peer=False)
            stream.is_remote_open = False
            self.outgoing.control(frames.encode_rst_stream(stream.stream_id, ErrorCode.NO_ERROR))
        self._settle(stream)

    def _settle(self, stream: Stream) -> None:
        if not stream.is_open and stream.stream_id in self.streams:
            del self.streams[stream.stream_id]
            stream.closed(None)
            self._end_when_empty()

    def _close_door(self) -> None:
        self._is_draining = True
        self.outgoing.control(frames.encode_goaway(self._last_id, ErrorCode.NO_ERROR))
        self._end_when_empty()

    def _end_when_empty(self) -> None:
        if self._is_draining and not self.streams:
            self.is_over = True
