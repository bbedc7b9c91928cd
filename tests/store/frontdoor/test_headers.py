"""Heads out of HPACK blocks: tables, kept heads, what is no request."""

from __future__ import annotations

from contextlib import suppress

import hpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from store.frontdoor.frames import ConnectionFault, ErrorCode
from store.frontdoor.headers import Field, HeadCache, HeaderDecoder, literal, make_head, timeout_in, trailers_fault

LIST_BYTES_MAX = 4096
REQUEST: list[Field] = [
    (b":method", b"POST"),
    (b":scheme", b"http"),
    (b":path", b"/s/m"),
    (b":authority", b"x"),
    (b"te", b"trailers"),
]


def block_of(encoder: hpack.Encoder, fields: list[Field], *, huffman: bool = True) -> bytes:
    return bytes(encoder.encode(fields, huffman=huffman))


def decoder_of(cache: HeadCache) -> HeaderDecoder:
    return HeaderDecoder(cache, LIST_BYTES_MAX)


def test_a_table_may_be_used_until_our_settings_are_acknowledged() -> None:
    cache, encoder = HeadCache(), hpack.Encoder()
    decoder = decoder_of(cache)
    for _ in range(3):
        assert decoder.head(block_of(encoder, REQUEST)).path == b"/s/m"
    assert not cache.heads, "such a block means something else on another connection"
    decoder.acknowledged()
    encoder.header_table_size = 0
    first = block_of(encoder, REQUEST)
    assert first[0] == 0x20, "the encoder gives up its table"
    head = decoder.head(first)
    assert head.path == b"/s/m"
    second = block_of(encoder, REQUEST)
    assert second == first[1:]
    assert decoder.head(second) is head
    assert list(cache.heads) == [second]


def test_kept_heads_are_shared_by_connections_without_tables_alone() -> None:
    cache = HeadCache()
    stateless, fresh = decoder_of(cache), decoder_of(cache)
    stateless.acknowledged()
    stateless.head(b"\x20" + literal(b":method", b"GET"))
    # Index 62 is the newest entry of a table: nonsense where there is none.
    content = b"".join(literal(*one) for one in REQUEST)
    kept = stateless.head(content)
    assert stateless.head(content) is kept
    assert fresh.head(content) is not kept
    with pytest.raises(ConnectionFault):
        stateless.head(b"\xbe")


def test_a_first_block_is_kept_and_its_table_filled_when_it_is_needed() -> None:
    cache, encoder = HeadCache(), hpack.Encoder()
    first, again = block_of(encoder, REQUEST), block_of(encoder, REQUEST)
    assert len(again) < len(first), "it refers to the table"
    known = decoder_of(cache).head(first)
    assert known.path == b"/s/m"
    for _ in range(2):
        decoder = decoder_of(cache)
        assert decoder.head(first) is known
        assert decoder.head(again).path == b"/s/m"
        decoder.acknowledged()
        assert decoder.head(b"\x20" + b"".join(literal(*one) for one in REQUEST)).path == b"/s/m"
    late = decoder_of(cache)
    late.acknowledged()
    with pytest.raises(ConnectionFault):
        late.head(first)
    late = decoder_of(cache)
    late.head(first)
    late.acknowledged()
    with pytest.raises(ConnectionFault):
        late.head(again)


field_lists = st.lists(
    st.tuples(st.sampled_from([b"te", b"token", b"x", b":path", b"grpc-timeout"]), st.sampled_from([b"", b"a", b"5S"])),
    max_size=4,
)


@given(st.lists(field_lists, min_size=1, max_size=5), st.integers(0, 5), st.booleans())
def test_what_is_kept_changes_nothing(lists: list[list[Field]], acknowledged_at: int, obeys: bool) -> None:
    """Decode the same blocks with and without what other connections have left."""
    encoder = hpack.Encoder()
    blocks = []
    for number, fields in enumerate(lists):
        if number == acknowledged_at and obeys:
            encoder.header_table_size = 0
        blocks.append(block_of(encoder, [*REQUEST, *fields]))
    warm = HeadCache()
    results = []
    for cache in (warm, warm, HeadCache()):
        decoder = decoder_of(cache)
        found: list[tuple[object, ...]] = []
        for number, block in enumerate(blocks):
            if number == acknowledged_at:
                decoder.acknowledged()
            try:
                head = decoder.head(block)
            except ConnectionFault as fault:
                found.append((fault.code, b"", b""))
                break
            found.append((bool(head.fault), head.path, head.timeout if not head.fault else None))
        results.append(found)
    assert results[0] == results[1] == results[2]


@pytest.mark.parametrize("huffman", [True, False], ids=["huffman", "plain"])
def test_heads_that_differ_by_their_deadline_are_kept_once(huffman: bool) -> None:
    cache, encoder = HeadCache(), hpack.Encoder()
    decoder = decoder_of(cache)
    encoder.header_table_size = 0
    decoder.acknowledged()
    decoder.head(block_of(encoder, REQUEST))
    for place in range(4, len(REQUEST) + 1):
        heads = []
        for value in (b"5S", b"4999871u", b"17m"):
            fields = [*REQUEST[:place], (b"grpc-timeout", value), *REQUEST[place:]]
            heads.append(decoder.head(block_of(encoder, fields, huffman=huffman)))
        assert [head.timeout for head in heads] == [b"5S", b"4999871u", b"17m"]
        assert len({id(head.origin) for head in heads}) == 1
        assert {head.path for head in heads} == {b"/s/m"}
        assert not any(head.fault for head in heads)
    assert len(cache.heads) == len(REQUEST) + 2 - 4
    early = decoder.head(block_of(encoder, [(b"grpc-timeout", b"1S"), *REQUEST], huffman=huffman))
    assert early.fault, "pseudo fields come first"
    assert decoder.head(block_of(encoder, [*REQUEST, (b"grpc-timeout", b" 1S")], huffman=huffman)).fault


@given(
    st.lists(
        st.tuples(st.sampled_from([b":path", b"te", b"grpc-timeout", b"x-grpc-timeout"]), st.binary(max_size=300)),
        max_size=8,
    ),
    st.booleans(),
    st.booleans(),
)
def test_a_deadline_is_found_where_it_stands(fields: list[Field], huffman: bool, is_sensitive: bool) -> None:
    encoder = hpack.Encoder()
    encoder.header_table_size = 0
    encoder.encode([])
    blocks = [
        bytes(encoder.encode([hpack.NeverIndexedHeaderTuple(*one) if is_sensitive else one], huffman=huffman))
        for one in fields
    ]
    names = [name for name, _ in fields]
    place = timeout_in(b"".join(blocks))
    if b"grpc-timeout" in names:
        first = names.index(b"grpc-timeout")
        start = sum(len(block) for block in blocks[:first])
        if place is None:
            assert len(fields[first][1]) > 100, "no deadline is so long"
        else:
            assert place[::2] == (start, start + len(blocks[first]))
    else:
        assert place is None


@given(st.binary(max_size=100))
def test_any_bytes_may_be_searched_for_a_deadline(block: bytes) -> None:
    place = timeout_in(block)
    assert place is None or 0 <= place[0] < place[1] < place[2] <= len(block)


@pytest.mark.parametrize(
    ("block", "code"),
    [
        (b"\xbe", ErrorCode.COMPRESSION_ERROR),
        (b"\x80", ErrorCode.COMPRESSION_ERROR),
        (b"\x00\x05ab", ErrorCode.COMPRESSION_ERROR),
        (b"\x00", ErrorCode.COMPRESSION_ERROR),
        (b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", ErrorCode.COMPRESSION_ERROR),
        (b"\x3f\xe2\x1f", ErrorCode.COMPRESSION_ERROR),
        (b"\x82\x20", ErrorCode.COMPRESSION_ERROR),
        (b"\x00\x81\xff\x00", ErrorCode.COMPRESSION_ERROR),
        (literal(b"a", bytes(3 * LIST_BYTES_MAX)), ErrorCode.ENHANCE_YOUR_CALM),
        (b"\x40\x01a\x7f\xa1\x1e" + bytes(4000) + b"\xbe" * 4, ErrorCode.ENHANCE_YOUR_CALM),
    ],
    ids=[
        "index without entry", "index zero", "cut value", "cut name", "endless number", "table too large",
        "table update behind a field", "bad huffman", "far too large", "bomb",
    ],
)  # fmt: skip
def test_blocks_that_end_the_connection(block: bytes, code: ErrorCode) -> None:
    with pytest.raises(ConnectionFault) as refused:
        decoder_of(HeadCache()).head(block)
    assert refused.value.code == code


def test_an_encoder_that_keeps_its_table_against_our_settings_is_refused() -> None:
    decoder = decoder_of(HeadCache())
    decoder.acknowledged()
    with pytest.raises(ConnectionFault) as refused:
        decoder.head(block_of(hpack.Encoder(), REQUEST))
    assert refused.value.code == ErrorCode.COMPRESSION_ERROR


@given(st.binary(max_size=300))
def test_no_block_does_more_than_be_refused(block: bytes) -> None:
    decoder = decoder_of(HeadCache())
    with suppress(ConnectionFault):
        decoder.head(block)


@given(st.integers(0, 200), st.integers(0, 255), st.booleans(), st.binary(max_size=4))
def test_no_altered_block_does_more_than_be_refused(place: int, byte: int, huffman: bool, end: bytes) -> None:
    decoder, encoder = decoder_of(HeadCache()), hpack.Encoder()
    encoder.header_table_size = 0
    decoder.acknowledged()
    decoder.head(block_of(encoder, REQUEST))
    block = bytearray(block_of(encoder, [*REQUEST, (b"grpc-timeout", b"4999871u")], huffman=huffman))
    block[place % len(block)] = byte
    for altered in (bytes(block), bytes(block) + end, bytes(block)[: place % len(block)]):
        try:
            head = decoder.head(altered)
        except ConnectionFault:
            decoder = decoder_of(HeadCache())
            decoder.acknowledged()
            decoder.head(b"\x20")
        else:
            plain = make_head(decoder.fields(altered), LIST_BYTES_MAX)
            assert bool(head.fault) == bool(plain.fault)
            assert head.fault or (head.path, head.timeout) == (plain.path, plain.timeout)


@given(st.lists(st.tuples(st.binary(max_size=200), st.binary(max_size=200)), max_size=5))
def test_our_blocks_say_what_they_should(fields: list[Field]) -> None:
    block = b"".join(literal(name, value) for name, value in fields)
    assert [tuple(one) for one in hpack.Decoder().decode(block, raw=True)] == fields


def without(name: bytes) -> list[Field]:
    return [one for one in REQUEST if one[0] != name]


@pytest.mark.parametrize(
    "fields",
    [
        without(b":method"),
        without(b":scheme"),
        without(b":path"),
        [*without(b":path"), (b":path", b"")],
        [*REQUEST, (b":late", b"")],
        [*REQUEST, (b":path", b"/again")],
        [(b":status", b"200"), *REQUEST],
        [(b":unknown", b"x"), *REQUEST],
        [REQUEST[0], *REQUEST],
        [*REQUEST, (b"Upper", b"x")],
        [*REQUEST, (b"", b"x")],
        [*REQUEST, (b"a b", b"x")],
        [*REQUEST, (b"a", b"x\ny")],
        [*REQUEST, (b"a", b"x\0")],
        [*REQUEST, (b"a", b" x")],
        [*REQUEST, (b"a", b"x\t")],
        [*REQUEST, (b"connection", b"close")],
        [*REQUEST, (b"transfer-encoding", b"chunked")],
        [*REQUEST, (b"upgrade", b"h2c")],
        [*REQUEST, (b"te", b"gzip")],
        [*REQUEST, (b"content-length", b"-1")],
        [*REQUEST, (b"content-length", b"1e3")],
        [(b":method", b"CONNECT")],
    ],
)
def test_what_is_no_request(fields: list[Field]) -> None:
    assert make_head(fields, LIST_BYTES_MAX).fault


def test_what_a_request_says() -> None:
    head = make_head([*REQUEST, (b"token", b"first"), (b"token", b"second"), (b"content-length", b"12")], 4096)
    assert (head.fault, head.method, head.path, head.content_length) == ("", b"POST", b"/s/m", 12)
    assert head.fields[b"token"] == b"first"
    assert not head.is_oversized
    assert make_head([*REQUEST, (b"a", bytes(5000))], 4096).fault
    assert make_head([*REQUEST, (b"a", b"x" * 5000)], 4096).is_oversized


def test_trailers_have_no_pseudo_fields() -> None:
    assert trailers_fault([(b":path", b"/")])
    assert not trailers_fault([(b"x", b"y")])
