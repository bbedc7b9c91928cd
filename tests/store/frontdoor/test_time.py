"""What time does to a connection: pings that are not answered, heads that do not end, a drain that is not heard."""

from __future__ import annotations

import pytest

from store.frontdoor import frames
from store.frontdoor.abuse import Allowance, Limits, PingStrikes
from store.frontdoor.frames import ErrorCode, encode
from tests.store.frontdoor.wire import END_BOTH, START, Side, headers, request_block

ALIVE = (frames.PING, 0, 0, b"alive???")
DRAINING = (frames.PING, 0, 0, b"draining")


def test_a_quiet_peer_is_asked_whether_it_lives() -> None:
    side = Side()
    side.say(START)
    side.connection.tick(7000.0)
    assert side.take() == []
    side.connection.tick(7201.0)
    assert side.take() == [ALIVE]
    side.now = 7210.0
    side.say(encode(frames.PING, frames.ACK, 0, b"alive???"))
    side.connection.tick(7230.0)
    assert not side.connection.is_over


@pytest.mark.parametrize("says", [b"", encode(frames.PRIORITY, 0, 1, bytes(5))], ids=["nothing", "something else"])
def test_who_does_not_answer_a_ping_is_gone_unless_it_speaks(says: bytes) -> None:
    side = Side()
    side.say(START)
    side.connection.tick(7201.0)
    side.now = 7205.0
    if says:
        side.say(says)
    side.connection.tick(7222.0)
    assert side.connection.is_over == (not says)


@pytest.mark.parametrize(
    ("said", "code"),
    [(b"", ErrorCode.SETTINGS_TIMEOUT), (START + encode(frames.HEADERS, 0, 1, b""), ErrorCode.ENHANCE_YOUR_CALM)],
    ids=["no preface", "half a head"],
)
def test_who_does_not_go_on_is_left(said: bytes, code: ErrorCode) -> None:
    side = Side()
    side.say(said)
    side.connection.tick(9.0)
    assert not side.connection.is_over
    side.connection.tick(11.0)
    side.take()
    assert side.goaway is not None
    assert side.goaway[1] == code


@pytest.mark.parametrize("is_answered", [True, False], ids=["answered", "not answered"])
def test_a_drain_names_the_last_stream_when_it_was_heard(is_answered: bool) -> None:
    side = Side()
    side.say(START, headers(1, request_block("/x"), END_BOTH))
    side.connection.drain(100.0)
    assert side.take() == [(frames.GOAWAY, 0, 0, b"\x7f\xff\xff\xff\0\0\0\0"), DRAINING]
    side.now = 100.5
    side.say(headers(3, request_block("/echo"), END_BOTH))
    if is_answered:
        side.say(encode(frames.PING, frames.ACK, 0, b"draining"))
    else:
        side.connection.tick(101.5)
        side.take()
    assert side.goaway == (3, ErrorCode.NO_ERROR, b"")
    assert side.say(headers(5, request_block("/echo"), END_BOTH)) == [], "it comes too late"
    assert not side.connection.is_over
    side.connection.outgoing.begin(side.connection.streams[1], b"\x88", ends_stream=True)
    assert side.connection.is_over, "nothing is left to do"


def test_an_allowance_refills_with_time_and_not_beyond() -> None:
    allowance = Allowance(10.0, 2.0, 0.0)
    assert allowance.spend(10.0, 0.0)
    assert not allowance.spend(1.0, 0.0)
    assert allowance.spend(1.0, 1.0)
    assert allowance.spend(10.0, 1000.0)
    assert not allowance.spend(1.0, 1000.0)
    assert allowance.spend(1.0, 1000.0, credit=3.0)


def test_strikes_are_forgiven_by_what_is_sent() -> None:
    strikes = PingStrikes(Limits(ping_strikes_max=2))
    assert [strikes.strike(now, 0) for now in (0.0, 1.0, 2.0)] == [False, False, False]
    assert not strikes.strike(3.0, 1)
    assert [strikes.strike(now, 1) for now in (4.0, 5.0, 6.0)] == [False, False, True]
    patient = PingStrikes(Limits(ping_strikes_max=0))
    assert not any(patient.strike(now, 0) for now in (0.0, 5.0, 10.0))
