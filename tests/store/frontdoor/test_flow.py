"""Flow control both ways, and what waits for it."""

from __future__ import annotations

import hpack
import pytest

from store.frontdoor import frames
from store.frontdoor.abuse import Limits
from store.frontdoor.frames import ErrorCode, encode
from store.frontdoor.outgoing import OUT_BYTES_MAX, constant_headers
from tests.store.frontdoor.wire import (
    END_BOTH,
    PUT,
    START,
    Side,
    data,
    headers,
    request_block,
    setting,
    u32,
)

TRAILERS = b"\0\x0bgrpc-status\x010"


def body_of(sent: list[frames.Frame], stream_id: int) -> bytes:
    return b"".join(payload for kind, _, one, payload in sent if kind == frames.DATA and one == stream_id)


def open_streams(side: Side, *stream_ids: int) -> None:
    for stream_id in stream_ids:
        side.say(headers(stream_id, request_block(), END_BOTH))


def test_a_body_waits_for_both_windows_and_trailers_wait_for_the_body() -> None:
    side = Side()
    side.say(START, encode(frames.SETTINGS, 0, 0, setting(4, 10)))
    open_streams(side, 1)
    outgoing, stream = side.connection.outgoing, side.connection.streams[1]
    outgoing.begin(stream, b"\x88")
    outgoing.send(stream, b"0123456789abcdef")
    outgoing.end(stream, TRAILERS)
    assert body_of(side.take(), 1) == b"0123456789"
    assert body_of(side.say(encode(frames.WINDOW_UPDATE, 0, 1, u32(2))), 1) == b"ab"
    sent = side.say(encode(frames.WINDOW_UPDATE, 0, 1, u32(100)))
    assert [(kind, flags) for kind, flags, *_ in sent] == [(frames.DATA, 0), (frames.HEADERS, END_BOTH)]
    assert side.events[-1] == ("closed", 1, None)
    assert not outgoing.waiting


@pytest.mark.parametrize(
    ("connection_window", "stream_window", "sent"),
    [(65_535, 65_535, b"0123456789"), (65_535, 4, b"0123"), (6, 65_535, b"012345"), (65_535, 0, b"")],
    ids=["room enough", "a small stream", "a small connection", "no room"],
)
def test_a_whole_answer_goes_out_at_once_where_there_is_room(
    connection_window: int, stream_window: int, sent: bytes
) -> None:
    side = Side()
    side.say(START, encode(frames.SETTINGS, 0, 0, setting(4, stream_window)))
    open_streams(side, 1, 3)
    outgoing = side.connection.outgoing
    outgoing.begin(side.connection.streams[3], b"\x88", ends_stream=True)
    outgoing.window = connection_window
    first, last = constant_headers(b"\x88", ends_stream=False), constant_headers(TRAILERS, ends_stream=True)
    outgoing.answer(side.connection.streams[1], first, b"0123456789", last)
    assert body_of(side.take(), 1) == sent
    assert (1 in side.connection.streams) == (sent != b"0123456789")
    rest = side.say(encode(frames.WINDOW_UPDATE, 0, 0, u32(100)))
    if 1 in side.connection.streams:
        rest += side.say(encode(frames.WINDOW_UPDATE, 0, 1, u32(100)))
    assert sent + body_of(rest, 1) == b"0123456789"
    assert side.sent[-1] == (frames.HEADERS, END_BOTH, 1, TRAILERS)
    assert not side.connection.streams


def test_our_first_block_says_that_we_use_no_table() -> None:
    side = Side()
    side.say(START, encode(frames.SETTINGS, 0, 0, setting(1, 0)))
    decoder = hpack.Decoder()
    decoder.max_allowed_table_size = 0
    for stream_id in (1, 3):
        sent = side.say(headers(stream_id, request_block("/echo"), END_BOTH))
        blocks = [payload for kind, _, _, payload in sent if kind == frames.HEADERS]
        fields = [list(decoder.decode(block, raw=True)) for block in blocks]
        assert fields == [[(b":status", b"200")], [(b"grpc-status", b"0")]]


def test_streams_that_were_reset_are_remembered_for_a_while() -> None:
    side = Side(Limits(closed_streams_max=8))
    side.say(START)
    for number in range(1, 41, 2):
        side.say(headers(number, request_block(PUT, ("Token", "x"))))
    assert len(side.connection._resets) == 8
    for number in (1, 39):
        side.say(data(number, b"late"))
    assert side.goaway is None


def test_the_connections_window_is_shared_in_turns() -> None:
    side = Side()
    side.say(START, encode(frames.SETTINGS, 0, 0, setting(4, 1 << 20)))
    open_streams(side, 1, 3)
    outgoing = side.connection.outgoing
    for stream_id in (1, 3):
        outgoing.begin(side.connection.streams[stream_id], b"\x88")
        outgoing.send(side.connection.streams[stream_id], bytes(100_000))
    sent = side.take()
    assert len(body_of(sent, 1)) + len(body_of(sent, 3)) == 65_535
    assert not body_of(sent, 3), "the first had taken all there was"
    sent = side.say(encode(frames.WINDOW_UPDATE, 0, 0, u32(32_768)))
    assert (len(body_of(sent, 1)), len(body_of(sent, 3))) == (16_384, 16_384)


def test_a_smaller_initial_window_may_make_windows_negative() -> None:
    side = Side()
    side.say(START)
    open_streams(side, 1)
    outgoing, stream = side.connection.outgoing, side.connection.streams[1]
    outgoing.begin(stream, b"\x88")
    outgoing.send(stream, bytes(65_000))
    assert len(body_of(side.take(), 1)) == 65_000
    side.say(encode(frames.SETTINGS, 0, 0, setting(4, 100)))
    assert stream.send_window == 100 - 65_000
    outgoing.send(stream, b"x")
    assert body_of(side.say(encode(frames.WINDOW_UPDATE, 0, 1, u32(64_900))), 1) == b""
    assert body_of(side.say(encode(frames.WINDOW_UPDATE, 0, 1, u32(1))), 1) == b"x"


def test_output_is_bounded_until_it_is_taken() -> None:
    side = Side()
    side.say(START, encode(frames.SETTINGS, 0, 0, setting(4, 2**31 - 1)))
    side.say(encode(frames.WINDOW_UPDATE, 0, 0, u32(2**30)))
    open_streams(side, 1)
    outgoing, stream = side.connection.outgoing, side.connection.streams[1]
    outgoing.begin(stream, b"\x88")
    outgoing.send(stream, bytes(10 * OUT_BYTES_MAX))
    assert outgoing.out_bytes <= OUT_BYTES_MAX + 70_000
    assert outgoing.has_work
    outgoing.is_paused = True
    before = len(body_of(side.take(), 1))
    outgoing.pump()
    assert body_of(side.take(), 1) == b"", "the transport is full"
    outgoing.is_paused = False
    total = before
    while outgoing.has_work:
        outgoing.pump()
        total += len(body_of(side.take(), 1))
    assert total == 10 * OUT_BYTES_MAX


def test_a_client_may_not_send_more_than_a_window() -> None:
    side = Side(Limits(window_bytes=20_000))
    side.say(START, headers(1, request_block()))
    # The recorder takes a mebibyte, so that the window is refilled; a stream that takes nothing is not.
    side.connection.streams[1].receive_window = 20_000
    side.connection.refill = lambda stream: None  # type: ignore[method-assign]
    side.say(data(1, bytes(15_000)))
    assert side.resets == {}
    side.say(data(1, bytes(15_000)))
    assert side.resets == {1: ErrorCode.FLOW_CONTROL_ERROR}


def test_a_client_may_not_send_more_than_the_connections_window() -> None:
    side = Side(Limits(connection_window_bytes=70_000))
    side.say(START, headers(1, request_block()))
    side.connection._refill_connection = lambda: None  # type: ignore[method-assign]
    for _ in range(5):
        side.say(data(1, bytes(16_000)))
    assert side.goaway is not None
    assert side.goaway[1] == ErrorCode.FLOW_CONTROL_ERROR


def test_windows_are_refilled_as_bytes_are_taken() -> None:
    side = Side()
    side.say(START, headers(1, request_block()))
    for _ in range(70):
        side.say(data(1, bytes(16_000)))
    assert side.goaway is None
    assert side.resets == {}
    room = [
        (stream_id, int.from_bytes(payload, "big"))
        for kind, _, stream_id, payload in side.sent[3:]
        if kind == frames.WINDOW_UPDATE
    ]
    assert [stream_id for stream_id, _ in room] == [1, 1]
    assert sum(size for _, size in room) >= 1 << 20


def test_padding_counts() -> None:
    side = Side()
    side.say(START, headers(1, request_block()))
    side.say(data(1, b"\x64abc" + bytes(100), frames.PADDED))
    assert side.connection.streams[1].receive_window == (1 << 20) - 104
    assert side.events[-1] == ("received", 1, b"abc", False)


def test_a_client_that_takes_nothing_is_given_up() -> None:
    side = Side()
    side.say(START, encode(frames.SETTINGS, 0, 0, setting(4, 0)), headers(1, request_block("/echo"), END_BOTH))
    assert side.connection.outgoing.waiting
    side.connection.tick(60.0)
    assert not side.resets or side.take() == []
    side.connection.tick(121.0)
    side.take()
    assert side.resets == {1: ErrorCode.CANCEL}
    assert not side.connection.outgoing.waiting


def test_requests_for_nothing_are_told_by_their_stream() -> None:
    side = Side()
    side.say(START, headers(1, request_block(PUT), END_BOTH))
    assert side.events == [("opened", 1, PUT.encode(), True)]
