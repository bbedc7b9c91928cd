"""gRPC's values: timeouts, statuses, messages."""

from __future__ import annotations

import gzip

import pytest
from hypothesis import given
from hypothesis import strategies as st

from store.api.errors import Code, EtcdError
from store.frontdoor import grpc
from store.frontdoor.grpc import MessageReader
from store.frontdoor.headers import make_head
from tests.store.frontdoor.wire import message


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (b"1H", 3600.0), (b"2M", 120.0), (b"3S", 3.0), (b"4m", 0.004), (b"5u", 5e-6), (b"6n", 6e-9),
        (b"99999999S", 99_999_999.0), (b"0S", 0.0), (b"999999999S", None), (b"S", None), (b"1", None),
        (b"-1S", None), (b"1.5S", None), (b"1s", None), (b"", None), (b"1S ", None),
    ],
)  # fmt: skip
def test_timeouts(value: bytes, seconds: float | None) -> None:
    assert grpc.parse_timeout(value) == (None if seconds is None else pytest.approx(seconds))


@pytest.mark.parametrize(
    ("text", "encoded"),
    [("plain text", b"plain text"), ("100%", b"100%25"), ("a\nb", b"a%0Ab"), ("ö", b"%C3%B6"), ("\x7f", b"%7F")],
)
def test_status_texts(text: str, encoded: bytes) -> None:
    assert grpc.percent_encode(text) == encoded


@pytest.mark.parametrize(
    ("kind", "is_one"),
    [
        (b"application/grpc", True), (b"application/grpc+proto", True), (b"application/grpc;charset=x", True),
        (b"application/grpc-web", False), (b"application/json", False), (b"", False),
    ],
)  # fmt: skip
def test_content_types(kind: bytes, is_one: bool) -> None:
    fields = [(b":method", b"POST"), (b":scheme", b"http"), (b":path", b"/"), (b"content-type", kind)]
    assert grpc.is_grpc(make_head(fields, 4096)) == is_one


@given(st.lists(st.tuples(st.binary(max_size=300), st.booleans()), max_size=8), st.integers(1, 50))
def test_messages_come_out_however_they_come_in(messages: list[tuple[bytes, bool]], size: int) -> None:
    raw = b"".join(message(gzip.compress(one), 1) if zipped else message(one) for one, zipped in messages)
    reader = MessageReader(1000, is_gzip=True)
    found = [one for start in range(0, len(raw), size) for one in reader.feed(raw[start : start + size])]
    assert found == [one for one, _ in messages]
    assert reader.kept_bytes == 0


@given(st.binary(max_size=200))
def test_any_bytes_are_messages_or_refused(raw: bytes) -> None:
    reader = MessageReader(100, is_gzip=True)
    try:
        assert all(len(one) <= 100 for one in reader.feed(raw))
    except EtcdError:
        return
    assert reader.kept_bytes <= 105


def test_a_message_that_is_too_large_is_refused_at_its_prefix() -> None:
    with pytest.raises(EtcdError) as refused:
        MessageReader(100, is_gzip=False).feed(message(bytes(101))[:5])
    assert (refused.value.code, refused.value.text) == (
        Code.RESOURCE_EXHAUSTED,
        "grpc: received message larger than max (101 vs. 100)",
    )


@given(st.binary(max_size=30))
def test_a_sole_message_is_what_the_reader_finds(raw: bytes) -> None:
    sole = grpc.sole_message(raw)
    if sole is not None:
        reader = MessageReader(100, is_gzip=False)
        assert reader.feed(raw) == [sole]
        assert reader.kept_bytes == 0
