"""Messages as bytes, held against the library; and what other servers say, kept and shown again."""

from __future__ import annotations

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.rdatatype
import dns.rrset
import pytest
from hypothesis import given
from hypothesis import strategies as st

from net.dns import answers, cache, chain, wire
from net.dns.cache import Cache
from net.dns.wire import MalformedError
from tests.net.dnsworld import made_book

LABELS = st.binary(min_size=1, max_size=63)
NAMES = st.lists(LABELS, max_size=6).filter(lambda labels: sum(len(label) + 1 for label in labels) < 255)


def query_of(name: str, kind: str = "A", **options: object) -> wire.Query:
    return wire.parse_query(dns.message.make_query(name, kind, **options).to_wire())  # type: ignore[arg-type]


def answered(name: str, lines: list[str], *, authority: tuple[str, ...] = (), rcode: int = 0, kind: str = "A") -> bytes:
    """Return another server's answer, with an OPT record at its end."""
    answer = dns.message.make_response(dns.message.make_query(name, kind, use_edns=0), recursion_available=True)
    answer.set_rcode(rcode)  # type: ignore[arg-type]
    for section, texts in ((answer.answer, lines), (answer.authority, authority)):
        for text in texts:
            owner, ttl, rdtype, data = text.split(" ", 3)
            section.append(dns.rrset.from_text(owner, int(ttl), "IN", rdtype, data))
    return answer.to_wire()


@given(NAMES, st.sampled_from([1, 28, 33, 255]), st.booleans(), st.integers(512, 4096))
def test_questions_are_read_as_the_library_reads_them(labels: list[bytes], kind: int, edns: bool, payload: int) -> None:
    name = dns.name.Name([*labels, b""])
    made = dns.message.make_query(name, dns.rdatatype.RdataType(kind), use_edns=0 if edns else -1, payload=payload)
    found = wire.parse_query(made.to_wire())
    assert (found.id, found.kind, found.klass, found.has_edns) == (made.id, kind, 1, edns)
    assert dns.name.from_wire(found.name, 0)[0].labels == name.labels
    assert found.key == found.name.lower()
    assert found.payload_max == (payload if edns else 512)
    assert answers.labels(found.name) == list(labels)


@given(st.binary(max_size=80))
def test_no_bytes_do_harm(data: bytes) -> None:
    for read in (wire.parse_query, wire.parse_response):
        try:
            read(data)
        except MalformedError:
            continue


@given(st.data())
def test_no_damaged_message_does_harm(data: st.DataObject) -> None:
    whole = bytearray(answered("a.example.", ["a.example. 60 CNAME b.example.", "b.example. 60 A 192.0.2.1"]))
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    for read in (wire.parse_query, wire.parse_response):
        try:
            read(bytes(whole))
        except MalformedError:
            continue


@given(st.binary(min_size=1, max_size=60))
def test_every_own_answer_is_a_message(text: bytes) -> None:
    """Whatever is asked below the zone, the library can read what is said."""
    query = wire.HEADER.pack(7, 0x0100, 1, 0, 0, 0) + bytes((min(63, len(text)),)) + text[:63]
    query += b"\x07default\x03svc\x07cluster\x05local\x00" + b"\x00\x01\x00\x01"
    found = answers.answer(made_book(), wire.parse_query(query), 512)
    assert isinstance(found, bytes)
    assert dns.message.from_wire(found).id == 7


@pytest.mark.parametrize(
    "data",
    [
        b"", b"\0" * 11, b"\0\1\1\0\0\0\0\0\0\0\0\0", b"\0\1\1\0\0\2\0\0\0\0\0\0\0\0\1\0\1",
        b"\0\1\1\0\0\1\0\0\0\0\0\0\xc0\x0c\0\1\0\1", b"\0\1\1\0\0\1\0\0\0\0\0\0\x40a\0\0\1\0\1",
        b"\0\1\1\0\0\1\0\0\0\0\0\0\5ab", b"\0\1\1\0\0\1\0\0\0\0\0\1\0\0\1\0\1",
        b"\0\1\1\0\0\1\0\0\0\0\0\0" + b"\x3f" + b"a" * 63 * 5, b"\0\1\1\0\0\1\0\0\0\0\0\2\0\0\1\0\1" + b"\0\0\x29\4\xd0\0\0\0\0\0\0" * 2,
    ],
    ids=["empty", "short", "no-question", "two", "pointer", "label-kind", "cut", "missing-record", "long", "two-opts"],
)  # fmt: skip
def test_what_is_no_question_is_refused(data: bytes) -> None:
    with pytest.raises(MalformedError):
        wire.parse_query(data)


SOA = "example. 900 SOA ns.example. host.example. 1 2 3 4 60"
LIFETIMES = [
    ("least-of-the-answers", answered("a.example.", ["a.example. 20 A 192.0.2.1", "a.example. 10 A 192.0.2.2"]), 10.0),
    ("capped", answered("a.example.", ["a.example. 900 A 192.0.2.1"]), 30.0),
    ("zero", answered("a.example.", ["a.example. 0 A 192.0.2.1"]), 0.0),
    ("missing", answered("a.example.", [], authority=(SOA,), rcode=3), 30.0),
    ("missing-short", answered("a.example.", [], authority=(SOA.replace("60", "7"),), rcode=3), 7.0),
    ("nothing-of-the-kind", answered("a.example.", [], authority=(SOA.replace("900", "8"),)), 8.0),
    ("missing-without-soa", answered("a.example.", [], rcode=3), 0.0),
    ("failure", answered("a.example.", [], rcode=2), 0.0),
]


@pytest.mark.parametrize(("data", "wanted"), [row[1:] for row in LIFETIMES], ids=[row[0] for row in LIFETIMES])
def test_answers_are_kept_as_long_as_they_allow(data: bytes, wanted: float) -> None:
    assert cache.lifetime_s(wire.parse_response(data), 30) == wanted


def test_a_kept_answer_is_shown_with_what_is_left_of_its_time() -> None:
    kept = Cache()
    data = answered("a.example.", ["a.example. 20 CNAME b.example.", "b.example. 15 A 192.0.2.1"])
    key = cache.cache_key(query_of("a.example."))
    kept.put(key, data, wire.parse_response(data), 100.0)
    found = kept.get(key, 106.5)
    assert found is not None
    query = query_of("A.Example.")
    shown = cache.present(found, query, 106.5, 512)
    answer = dns.message.from_wire(shown)
    assert (answer.id, answer.edns, query.name in shown) == (query.id, -1, True)
    assert [rrset.ttl for rrset in answer.answer] == [14, 9]
    assert dns.message.from_wire(cache.present(found, query_of("a.example.", use_edns=0), 107, 512)).edns == 0
    assert kept.get(key, 115.0) is None


def test_a_kept_answer_that_does_not_fit_is_asked_for_again_by_stream() -> None:
    data = answered("a.example.", [f"a.example. 20 A 192.0.2.{n}" for n in range(60)])
    kept = Cache().put(cache.cache_key(query_of("a.example.")), data, wire.parse_response(data), 1.0)
    cut = dns.message.from_wire(cache.present(kept, query_of("a.example."), 1.0, 512))
    assert cut.flags & dns.flags.TC
    assert not cut.answer
    whole = dns.message.from_wire(cache.present(kept, query_of("a.example."), 1.0, 65535))
    assert len(whole.answer[0]) == 60


def test_the_cache_is_bounded() -> None:
    kept = Cache(entries_max=3)
    data = answered("a.example.", ["a.example. 20 A 192.0.2.1"])
    for number in range(5):
        kept.put((bytes([number]), 1, 1, False, 0), data, wire.parse_response(data), 1.0)
    kept.get((b"\x02", 1, 1, False, 0), 1.0)
    kept.put((b"\x09", 1, 1, False, 0), data, wire.parse_response(data), 1.0)
    there = [n for n in range(10) if kept.get((bytes([n]), 1, 1, False, 0), 1.0)]
    assert there == [2, 4, 9]
    small = Cache(bytes_max=2 * len(data))
    for number in range(5):
        small.put((bytes([number]), 1, 1, False, 0), data, wire.parse_response(data), 1.0)
    assert len(small) == 2


def test_a_chain_is_one_answer() -> None:
    data = answered("www.example.", ["www.example. 60 CNAME b.example.", "b.example. 60 A 192.0.2.1"])
    query = query_of("outside.default.svc.cluster.local.", use_edns=0)
    whole = dns.message.from_wire(chain.joined(query, (b"\x03www\x07example\x00",), data, 5, 1232))
    assert [str(rrset.name) for rrset in whole.answer] == [
        "outside.default.svc.cluster.local.",
        "www.example.",
        "b.example.",
    ]
    assert (whole.id, whole.edns, whole.rcode()) == (query.id, 0, 0)
