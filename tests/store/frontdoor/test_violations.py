"""Whatever RFC 9113 forbids a client is answered with the code that it asks for, on the stream or the connection."""

from __future__ import annotations

import pytest

from store.frontdoor import frames
from store.frontdoor.frames import ErrorCode, encode
from tests.store.frontdoor.wire import (
    END,
    END_BOTH,
    PUT,
    SETTINGS,
    START,
    Side,
    block,
    data,
    headers,
    request_block,
    setting,
    u32,
)

HALF = headers(1, request_block())
"""A request whose body is to come."""
WHOLE = headers(1, request_block(), END_BOTH)
"""A request without a body."""
ANSWERED = headers(1, request_block("/echo"), END_BOTH)
"""A request that has been answered: its stream is closed."""
RESET = HALF + encode(frames.RST_STREAM, 0, 1, u32(8))
CONTINUED = encode(frames.HEADERS, 0, 1, b"\x20")
PROTOCOL, SIZE, FLOW, CLOSED = (
    ErrorCode.PROTOCOL_ERROR,
    ErrorCode.FRAME_SIZE_ERROR,
    ErrorCode.FLOW_CONTROL_ERROR,
    ErrorCode.STREAM_CLOSED,
)

OF_THE_CONNECTION: dict[str, tuple[bytes, ErrorCode]] = {
    "preface: other bytes (3.4)": (b"GET / HTTP/1.1\r\n\r\n", PROTOCOL),
    "preface: no SETTINGS (3.4)": (frames.PREFACE + encode(frames.PING, 0, 0, b"12345678"), PROTOCOL),
    "preface: an acknowledgement first (3.4)": (frames.PREFACE + encode(frames.SETTINGS, frames.ACK, 0), PROTOCOL),
    "frame larger than our bound (4.2)": (START + encode(frames.DATA, 0, 1, bytes(16_385)), SIZE),
    "head of nonsense (4.3)": (START + encode(frames.HEADERS, END_BOTH, 1, b"\xbe"), ErrorCode.COMPRESSION_ERROR),
    "HEADERS on stream 0 (6.2)": (START + headers(0, request_block()), PROTOCOL),
    "HEADERS on an even stream (5.1.1)": (START + headers(2, request_block()), PROTOCOL),
    "HEADERS on a skipped stream (5.1.1)": (START + headers(5, request_block()) + headers(3, request_block()), PROTOCOL),
    "HEADERS on a closed stream (5.1)": (START + ANSWERED + headers(1, request_block(), END_BOTH), CLOSED),
    "HEADERS with too much padding (6.2)": (START + encode(frames.HEADERS, 0xC, 1, b"\x05ab"), PROTOCOL),
    "HEADERS cut before its priority (6.2)": (START + encode(frames.HEADERS, 0x24, 1, b"ab"), SIZE),
    "DATA on stream 0 (6.1)": (START + data(0, b"x"), PROTOCOL),
    "DATA on an idle stream (5.1)": (START + data(1, b"x"), PROTOCOL),
    "DATA on an even stream (5.1.1)": (START + HALF + data(2, b"x"), PROTOCOL),
    "DATA on a closed stream (5.1)": (START + ANSWERED + data(1, b"x"), CLOSED),
    "DATA with too much padding (6.1)": (START + HALF + data(1, b"\x09abc", frames.PADDED), PROTOCOL),
    "PRIORITY on stream 0 (6.3)": (START + encode(frames.PRIORITY, 0, 0, bytes(5)), PROTOCOL),
    "RST_STREAM on stream 0 (6.4)": (START + encode(frames.RST_STREAM, 0, 0, u32(8)), PROTOCOL),
    "RST_STREAM on an idle stream (6.4)": (START + encode(frames.RST_STREAM, 0, 1, u32(8)), PROTOCOL),
    "RST_STREAM of 3 bytes (6.4)": (START + HALF + encode(frames.RST_STREAM, 0, 1, b"abc"), SIZE),
    "SETTINGS on a stream (6.5)": (START + encode(frames.SETTINGS, 0, 1), PROTOCOL),
    "SETTINGS of 5 bytes (6.5)": (START + encode(frames.SETTINGS, 0, 0, b"12345"), SIZE),
    "SETTINGS acknowledged with content (6.5)": (START + encode(frames.SETTINGS, 1, 0, setting(1, 1)), SIZE),
    "SETTINGS push of 2 (6.5.2)": (START + encode(frames.SETTINGS, 0, 0, setting(2, 2)), PROTOCOL),
    "SETTINGS window too large (6.5.2)": (START + encode(frames.SETTINGS, 0, 0, setting(4, 2**31)), FLOW),
    "SETTINGS frame size too small (6.5.2)": (START + encode(frames.SETTINGS, 0, 0, setting(5, 100)), PROTOCOL),
    "SETTINGS overflow a window (6.9.2)": (
        START + HALF + encode(frames.WINDOW_UPDATE, 0, 1, u32(2**31 - 1 - 65_535))
        + encode(frames.SETTINGS, 0, 0, setting(4, 65_536)),
        FLOW,
    ),
    "PUSH_PROMISE of a client (8.4)": (START + HALF + encode(frames.PUSH_PROMISE, 4, 1, u32(2)), PROTOCOL),
    "PING on a stream (6.7)": (START + encode(frames.PING, 0, 1, b"12345678"), PROTOCOL),
    "PING of 6 bytes (6.7)": (START + encode(frames.PING, 0, 0, b"123456"), SIZE),
    "GOAWAY on a stream (6.8)": (START + encode(frames.GOAWAY, 0, 1, bytes(8)), PROTOCOL),
    "WINDOW_UPDATE of the connection by 0 (6.9)": (START + encode(frames.WINDOW_UPDATE, 0, 0, u32(0)), PROTOCOL),
    "WINDOW_UPDATE of 3 bytes (6.9)": (START + encode(frames.WINDOW_UPDATE, 0, 0, b"abc"), SIZE),
    "WINDOW_UPDATE on an idle stream (5.1)": (START + encode(frames.WINDOW_UPDATE, 0, 1, u32(1)), PROTOCOL),
    "WINDOW_UPDATE overflows the connection (6.9.1)": (
        START + encode(frames.WINDOW_UPDATE, 0, 0, u32(2**31 - 1)), FLOW,
    ),
    "CONTINUATION of nothing (6.10)": (START + encode(frames.CONTINUATION, 4, 1, b""), PROTOCOL),
    "CONTINUATION behind a finished head (6.10)": (START + HALF + encode(frames.CONTINUATION, 4, 1, b""), PROTOCOL),
    "CONTINUATION on stream 0 (6.10)": (START + CONTINUED + encode(frames.CONTINUATION, 4, 0, b""), PROTOCOL),
    "CONTINUATION of another stream (6.10)": (START + CONTINUED + encode(frames.CONTINUATION, 4, 3, b""), PROTOCOL),
    "DATA within a head (6.10)": (START + CONTINUED + data(1, b"x"), PROTOCOL),
    "a frame of an unknown type within a head (5.5)": (START + CONTINUED + encode(0xFA, 0, 1, b"x"), PROTOCOL),
    "PING within a head (6.2)": (START + CONTINUED + encode(frames.PING, 0, 0, b"12345678"), PROTOCOL),
}  # fmt: skip

OF_THE_STREAM: dict[str, tuple[bytes, ErrorCode]] = {
    "DATA behind END_STREAM (5.1)": (WHOLE + data(1, b"x"), CLOSED),
    "HEADERS behind END_STREAM (5.1)": (WHOLE + headers(1, block(("a", "b")), END_BOTH), CLOSED),
    "DATA behind RST_STREAM (5.1)": (RESET + data(1, b"x"), CLOSED),
    "HEADERS behind RST_STREAM (5.1)": (RESET + headers(1, block(("a", "b")), END_BOTH), CLOSED),
    "WINDOW_UPDATE by 0 (6.9)": (HALF + encode(frames.WINDOW_UPDATE, 0, 1, u32(0)), PROTOCOL),
    "WINDOW_UPDATE overflows the stream (6.9.1)": (HALF + encode(frames.WINDOW_UPDATE, 0, 1, u32(2**31 - 1)), FLOW),
    "PRIORITY of 4 bytes (6.3)": (HALF + encode(frames.PRIORITY, 0, 1, bytes(4)), SIZE),
    "trailers that do not end the stream (8.1)": (HALF + headers(1, block(("a", "b"))), PROTOCOL),
    "trailers with a pseudo field (8.3)": (HALF + headers(1, block((":path", "/")), END_BOTH), PROTOCOL),
    "no :path (8.3.1)": (headers(1, block((":method", "POST"), (":scheme", "http"))), PROTOCOL),
    "field name in capitals (8.2.1)": (headers(1, request_block(PUT, ("Token", "x"))), PROTOCOL),
    "field of HTTP/1.1 (8.2.2)": (headers(1, request_block(PUT, ("connection", "close"))), PROTOCOL),
    "more body than announced (8.1.1)": (
        headers(1, request_block(PUT, ("content-length", "2"))) + data(1, b"abc"), PROTOCOL,
    ),
    "less body than announced (8.1.1)": (
        headers(1, request_block(PUT, ("content-length", "2"))) + data(1, b"a", END), PROTOCOL,
    ),
    "no body though announced (8.1.1)": (headers(1, request_block(PUT, ("content-length", "2")), END_BOTH), PROTOCOL),
    "trailers come before the announced body (8.1.1)": (
        headers(1, request_block(PUT, ("content-length", "2"))) + headers(1, block(("a", "b")), END_BOTH), PROTOCOL,
    ),
}  # fmt: skip

NO_VIOLATION: dict[str, bytes] = {
    "a frame of an unknown type (5.5)": encode(0xFA, 0xFF, 0, b"anything"),
    "an unknown setting (6.5.2)": encode(frames.SETTINGS, 0, 0, setting(0x99, 1)),
    "unknown flags": data(1, b"x", 0x40),
    "WINDOW_UPDATE on a closed stream (5.1)": ANSWERED.replace(b"\0\0\0\1", b"\0\0\0\3", 1)
    + encode(frames.WINDOW_UPDATE, 0, 3, u32(1)),
    "RST_STREAM on a closed stream (5.1)": ANSWERED.replace(b"\0\0\0\1", b"\0\0\0\3", 1)
    + encode(frames.RST_STREAM, 0, 3, u32(0)),
    "PRIORITY on an idle stream (5.1)": encode(frames.PRIORITY, 0, 99, bytes(5)),
    "padded DATA": data(1, b"\x02x\0\0", frames.PADDED),
    "an empty DATA": data(1, b""),
    "trailers": headers(1, block(("a", "b")), END_BOTH),
    "an acknowledged ping that was never sent (6.7)": encode(frames.PING, frames.ACK, 0, b"12345678"),
    "GOAWAY of the client (6.8)": encode(frames.GOAWAY, 0, 0, bytes(8)),
}


@pytest.mark.parametrize(("said", "code"), OF_THE_CONNECTION.values(), ids=OF_THE_CONNECTION)
def test_a_violation_that_ends_the_connection(said: bytes, code: ErrorCode) -> None:
    side = Side()
    side.say(said)
    assert side.goaway is not None
    assert side.goaway[1] == code, side.goaway
    assert side.connection.is_over
    assert not side.connection.streams
    assert side.say(START) == [], "nothing is answered any more"


@pytest.mark.parametrize(("said", "code"), OF_THE_STREAM.values(), ids=OF_THE_STREAM)
def test_a_violation_that_ends_a_stream(said: bytes, code: ErrorCode) -> None:
    side = Side()
    side.say(START, said)
    assert side.goaway is None
    assert side.resets == {1: code}
    assert 1 not in side.connection.streams
    sent = side.say(headers(3, request_block("/echo"), END_BOTH))
    assert [kind for kind, *_ in sent] == [frames.HEADERS, frames.DATA, frames.HEADERS], "other streams are served"


@pytest.mark.parametrize("said", NO_VIOLATION.values(), ids=NO_VIOLATION)
def test_what_is_not_forbidden(said: bytes) -> None:
    side = Side()
    side.say(START, HALF, said)
    assert side.goaway is None
    assert side.resets == {}


@pytest.mark.parametrize("end", [END, 0], ids=["at the end", "in the middle"])
def test_a_stream_that_was_refused_may_still_be_spoken_to(end: int) -> None:
    side = Side()
    side.say(START, headers(1, request_block(PUT, ("Token", "x"))), data(1, b"abc", end), data(1, b""))
    assert side.goaway is None
    assert side.resets == {1: PROTOCOL}


def test_a_connection_that_says_nothing_wrong_is_greeted() -> None:
    side = Side()
    sent = side.say(frames.PREFACE, SETTINGS)
    assert [(kind, flags) for kind, flags, *_ in sent] == [
        (frames.SETTINGS, 0),
        (frames.WINDOW_UPDATE, 0),
        (frames.SETTINGS, frames.ACK),
    ]
    settings = dict(frames.parse_settings(0, 0, sent[0][3]))
    assert settings[frames.Setting.HEADER_TABLE_SIZE] == 0
