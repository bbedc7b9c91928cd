"""Frames: what is cut from bytes, what is refused, and how frames are built."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from store.frontdoor import frames
from store.frontdoor.frames import ConnectionFault, ErrorCode, Frame, FrameReader, Setting, StreamFault, encode
from tests.store.frontdoor.wire import setting, u32

FRAMES: list[Frame] = [
    (frames.DATA, 0, 1, b""),
    (frames.HEADERS, frames.END_HEADERS, 3, b"block"),
    (frames.SETTINGS, 0, 0, setting(1, 0)),
    (0xFA, 0xFF, 2**31 - 1, b"of a type that nobody knows"),
    (frames.DATA, frames.END_STREAM, 5, bytes(frames.FRAME_BYTES_MAX)),
    (frames.PING, frames.ACK, 0, b"12345678"),
]


@given(st.lists(st.integers(0, 17_000), max_size=12))
def test_frames_come_out_however_the_bytes_come_in(cuts: list[int]) -> None:
    stream = b"".join(encode(*frame) for frame in FRAMES)
    places = [0, *sorted(cut % (len(stream) + 1) for cut in cuts), len(stream)]
    reader = FrameReader()
    found = [frame for start, end in pairwise(places) for frame in reader.feed(stream[start:end])]
    assert found == FRAMES
    assert reader.kept_bytes == 0


def test_byte_by_byte_is_no_more_work_than_at_once() -> None:
    reader = FrameReader()
    stream = encode(frames.DATA, 0, 1, bytes(16_384))
    found = [frame for place in range(len(stream)) for frame in reader.feed(stream[place : place + 1])]
    assert found == [(frames.DATA, 0, 1, bytes(16_384))]


def test_the_reserved_bit_is_not_part_of_the_stream() -> None:
    raw = bytearray(encode(frames.PING, 0, 0, b"12345678"))
    raw[5] |= 0x80
    assert list(FrameReader().feed(bytes(raw))) == [(frames.PING, 0, 0, b"12345678")]


def test_a_frame_above_the_bound_is_refused_before_it_is_here() -> None:
    with pytest.raises(ConnectionFault) as refused:
        list(FrameReader().feed(b"\x00\x40\x01\x00\x00\x00\x00\x00\x01"))
    assert refused.value.code == ErrorCode.FRAME_SIZE_ERROR


@pytest.mark.parametrize(
    ("payload", "content"),
    [(b"\x00", b""), (b"\x00abc", b"abc"), (b"\x02abc\0\0", b"abc"), (b"\x03\0\0\0", b"")],
    ids=["nothing", "no padding", "padding", "nothing but padding"],
)
def test_padding_is_cut_off(payload: bytes, content: bytes) -> None:
    assert frames.unpadded(payload) == content


def test_a_head_is_freed_of_padding_and_priority() -> None:
    both = frames.PADDED | frames.WITH_PRIORITY
    assert frames.fragment(both, b"\x02" + b"prior" + b"block" + b"\0\0") == b"block"
    assert frames.fragment(frames.WITH_PRIORITY, b"priorblock") == b"block"
    assert frames.fragment(0, b"block") == b"block"


@pytest.mark.parametrize(
    ("parse", "code"),
    [
        (lambda: frames.unpadded(b""), ErrorCode.FRAME_SIZE_ERROR),
        (lambda: frames.unpadded(b"\x01"), ErrorCode.PROTOCOL_ERROR),
        (lambda: frames.unpadded(b"\x04abc"), ErrorCode.PROTOCOL_ERROR),
        (lambda: frames.fragment(frames.WITH_PRIORITY, b"1234"), ErrorCode.FRAME_SIZE_ERROR),
        (lambda: frames.parse_settings(0, 1, b""), ErrorCode.PROTOCOL_ERROR),
        (lambda: frames.parse_settings(0, 0, b"12345"), ErrorCode.FRAME_SIZE_ERROR),
        (lambda: frames.parse_settings(frames.ACK, 0, setting(1, 0)), ErrorCode.FRAME_SIZE_ERROR),
        (lambda: frames.parse_settings(0, 0, setting(2, 2)), ErrorCode.PROTOCOL_ERROR),
        (lambda: frames.parse_settings(0, 0, setting(4, 2**31)), ErrorCode.FLOW_CONTROL_ERROR),
        (lambda: frames.parse_settings(0, 0, setting(5, 16_383)), ErrorCode.PROTOCOL_ERROR),
        (lambda: frames.parse_settings(0, 0, setting(5, 2**24)), ErrorCode.PROTOCOL_ERROR),
        (lambda: frames.parse_window_update(0, b"123"), ErrorCode.FRAME_SIZE_ERROR),
        (lambda: frames.parse_window_update(0, u32(0)), ErrorCode.PROTOCOL_ERROR),
        (lambda: frames.parse_rst_stream(1, b"12345"), ErrorCode.FRAME_SIZE_ERROR),
        (lambda: frames.parse_rst_stream(0, u32(8)), ErrorCode.PROTOCOL_ERROR),
        (lambda: frames.check_priority(0, b"12345"), ErrorCode.PROTOCOL_ERROR),
        (lambda: frames.check_ping(1, b"12345678"), ErrorCode.PROTOCOL_ERROR),
        (lambda: frames.check_ping(0, b"1234567"), ErrorCode.FRAME_SIZE_ERROR),
        (lambda: frames.check_goaway(1, b"12345678"), ErrorCode.PROTOCOL_ERROR),
        (lambda: frames.check_goaway(0, b"1234567"), ErrorCode.FRAME_SIZE_ERROR),
    ],
)
def test_what_ends_a_connection(parse: Callable[[], object], code: ErrorCode) -> None:
    with pytest.raises(ConnectionFault) as refused:
        parse()
    assert refused.value.code == code


@pytest.mark.parametrize(
    ("parse", "code"),
    [
        (lambda: frames.parse_window_update(3, u32(2**31)), ErrorCode.PROTOCOL_ERROR),
        (lambda: frames.check_priority(3, b"1234"), ErrorCode.FRAME_SIZE_ERROR),
    ],
    ids=["window update of nothing but the reserved bit", "short priority"],
)
def test_what_ends_a_stream(parse: Callable[[], object], code: ErrorCode) -> None:
    with pytest.raises(StreamFault) as refused:
        parse()
    assert (refused.value.stream_id, refused.value.code) == (3, code)


def test_settings_are_read_in_their_order_and_unknown_ones_too() -> None:
    payload = setting(Setting.INITIAL_WINDOW_SIZE, 7) + setting(0x99, 1) + setting(Setting.INITIAL_WINDOW_SIZE, 8)
    assert frames.parse_settings(0, 0, payload) == [(4, 7), (0x99, 1), (4, 8)]


@pytest.mark.parametrize("size", [0, 1, 10, 11, 20, 25])
def test_a_long_block_is_continued(size: int) -> None:
    block = bytes(range(size))
    found = list(FrameReader().feed(frames.encode_headers(1, block, 10, ends_stream=True)))
    assert b"".join(payload for *_, payload in found) == block
    assert [kind for kind, *_ in found] == [frames.HEADERS] + [frames.CONTINUATION] * (len(found) - 1)
    assert [bool(flags & frames.END_HEADERS) for _, flags, _, _ in found] == [False] * (len(found) - 1) + [True]
    assert found[0][1] & frames.END_STREAM


def test_frames_of_ours_look_like_this() -> None:
    assert frames.encode_window_update(1, 5) == b"\0\0\4\x08\0\0\0\0\1\0\0\0\5"
    assert frames.encode_rst_stream(3, ErrorCode.CANCEL) == b"\0\0\4\x03\0\0\0\0\3\0\0\0\x08"
    assert frames.encode_goaway(7, 1, "why") == b"\0\0\x0b\x07\0\0\0\0\0\0\0\0\7\0\0\0\1why"
    assert frames.encode_settings({Setting.HEADER_TABLE_SIZE: 0}) == b"\0\0\6\4\0\0\0\0\0\0\1\0\0\0\0"
