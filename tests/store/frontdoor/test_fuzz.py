"""Any bytes, in any pieces: the connection takes them, answers in frames, stays small and never raises."""

from __future__ import annotations

import random
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from store.frontdoor import frames
from store.frontdoor.abuse import Limits
from store.frontdoor.frames import FRAME_BYTES_MAX, HEAD_BYTES, encode
from tests.store.frontdoor.wire import (
    END,
    END_BOTH,
    START,
    Side,
    block,
    data,
    headers,
    message,
    request_block,
    setting,
    u32,
)

LIMITS = Limits(streams_max=4, closed_streams_max=8, header_frames_max=4, header_list_bytes_max=2048)

stream_ids = st.sampled_from([0, 1, 2, 3, 5, 7, 9, 11, 2**31 - 1])
blocks = st.sampled_from(
    [
        request_block("/echo"),
        request_block("/x", ("content-length", "7")),
        request_block("/x", ("Token", "x")),
        block(("a", "b")),
        b"\x20" + request_block("/echo"),
        b"\xbe",
        b"",
    ]
)
frames_of_clients = st.one_of(
    st.builds(lambda one, content, flags: encode(frames.HEADERS, flags, one, content), stream_ids, blocks, st.sampled_from([0, 1, 4, 5, 5, 5, 0x25, 0xD])),
    st.builds(lambda one, content, flags: data(one, content, flags), stream_ids, st.sampled_from([b"", b"\0", message(b"x"), bytes(9000)]), st.sampled_from([0, 1, 8])),
    st.builds(lambda one, content: encode(frames.CONTINUATION, 4, one, content), stream_ids, blocks),
    st.builds(lambda one, code: encode(frames.RST_STREAM, 0, one, u32(code)), stream_ids, st.integers(0, 20)),
    st.builds(lambda one, size: encode(frames.WINDOW_UPDATE, 0, one, u32(size)), stream_ids, st.sampled_from([0, 1, 2**16, 2**31 - 1])),
    st.builds(lambda number, value: encode(frames.SETTINGS, 0, 0, setting(number, value)), st.integers(0, 8), st.sampled_from([0, 1, 2, 100, 65_535, 2**31 - 1, 2**32 - 1])),
    st.just(encode(frames.SETTINGS, frames.ACK, 0)),
    st.builds(lambda flags, payload: encode(frames.PING, flags, 0, payload), st.sampled_from([0, 1]), st.binary(min_size=7, max_size=8)),
    st.builds(lambda one: encode(frames.PRIORITY, 0, one, bytes(5)), stream_ids),
    st.builds(lambda kind, flags, one, payload: encode(kind, flags, one, payload), st.integers(0, 255), st.integers(0, 255), stream_ids, st.binary(max_size=20)),
)  # fmt: skip
conversations = st.lists(frames_of_clients, max_size=25).map(b"".join)


def check(side: Side) -> None:
    """What holds whatever was said."""
    connection = side.connection
    assert connection._reader.kept_bytes < FRAME_BYTES_MAX + HEAD_BYTES
    assert len(connection.streams) <= LIMITS.streams_max
    assert len(connection._resets) <= LIMITS.closed_streams_max
    assert set(connection.outgoing.waiting) <= set(connection.streams)
    if connection.is_over:
        assert not connection.streams
        assert not connection.outgoing.waiting
    opened = [event[1] for event in side.events if event[0] == "opened"]
    closed = [event[1] for event in side.events if event[0] == "closed"]
    assert len(set(opened)) == len(opened)
    assert sorted(opened, key=str) == sorted([*closed, *connection.streams], key=str), "each stream ends once"


@given(conversations, st.lists(st.integers(0, 10_000), max_size=10))
def test_the_pieces_do_not_matter(said: bytes, cuts: list[int]) -> None:
    whole, pieces = Side(LIMITS), Side(LIMITS)
    whole.say(START + said)
    stream = START + said
    for start, end in pairwise([0, *sorted(cut % len(stream) for cut in cuts), len(stream)]):
        pieces.say(stream[start:end])
    assert pieces.events == whole.events
    assert pieces.sent == whole.sent
    assert pieces.connection.is_over == whole.connection.is_over
    check(whole)


@given(conversations, st.floats(0, 200))
def test_whatever_is_said_the_connection_is_in_order(said: bytes, later: float) -> None:
    side = Side(LIMITS)
    side.say(START, said)
    check(side)
    side.connection.tick(later)
    side.take()
    check(side)
    side.connection.abort()
    check(side)


@given(st.binary(max_size=400))
def test_any_bytes_are_taken(said: bytes) -> None:
    for first in (b"", frames.PREFACE, START):
        side = Side(LIMITS)
        side.say(first, said)
        check(side)


@given(conversations, st.integers(0, 2**32), st.integers(1, 6))
def test_altered_frames_are_taken(said: bytes, seed: int, count: int) -> None:
    chance = random.Random(seed)
    altered = bytearray(said or b"\0")
    for _ in range(count):
        match chance.randrange(3):
            case 0:
                altered[chance.randrange(len(altered))] = chance.randrange(256)
            case 1:
                del altered[chance.randrange(len(altered)) :][: chance.randrange(10)]
            case _:
                altered.insert(chance.randrange(len(altered) + 1), chance.randrange(256))
        altered = altered or bytearray(1)
    side = Side(LIMITS)
    side.say(START, bytes(altered))
    check(side)


@given(st.lists(st.sampled_from(["grow", "grow stream", "send", "small", "large", "take"]), max_size=60))
def test_no_more_is_sent_than_the_windows_allow(steps: list[str]) -> None:
    side = Side()
    side.say(START, headers(1, request_block("/x"), END_BOTH))
    outgoing, stream = side.connection.outgoing, side.connection.streams[1]
    allowed_connection = allowed_stream = 65_535
    initial, queued = 65_535, 0
    for step in steps:
        match step:
            case "grow":
                side.say(encode(frames.WINDOW_UPDATE, 0, 0, u32(30_000)))
                allowed_connection += 30_000
            case "grow stream":
                side.say(encode(frames.WINDOW_UPDATE, 0, 1, u32(30_000)))
                allowed_stream += 30_000
            case "small" | "large":
                size = 100 if step == "small" else 100_000
                side.say(encode(frames.SETTINGS, 0, 0, setting(4, size)))
                allowed_stream += size - initial
                initial = size
            case "send":
                outgoing.send(stream, bytes(40_000))
                queued += 40_000
            case "take":
                side.take()
                outgoing.pump()
        side.take()
        sent = sum(len(payload) for kind, _, _, payload in side.sent if kind == frames.DATA)
        assert sent <= queued
        assert sent == queued or sent >= min(allowed_connection, allowed_stream)
        assert stream.send_window == allowed_stream - sent
        assert outgoing.window == allowed_connection - sent


def test_a_long_life_leaves_nothing_behind() -> None:
    side = Side(LIMITS)
    side.say(START)
    for number in range(1, 20_001, 2):
        side.now += 0.01
        side.say(headers(number, request_block("/echo")), data(number, b"", END))
        if number % 10 == 1:
            side.sent.clear()
            side.events.clear()
    assert side.goaway is None
    assert not side.connection.streams
    assert not side.connection._resets
    assert not side.connection.outgoing.out
