"""The pure encoders of nftables elements and operations."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from net.nftables import elements
from net.nftables.elements import Found, decode, element
from net.nftables.operations import AddElements, DeleteElements, Table, element_at, messages

TABLE = Table("ip", "kube-proxy")
KEY = elements.concatenation(elements.address("10.96.0.1"), elements.protocol("tcp"), elements.port(80))


def test_a_key_is_padded_part_by_part() -> None:
    assert KEY.hex(" ", 4) == "0a600001 06000000 00500000"
    assert elements.concatenation(elements.address("fd00::1"), b"\1").hex() == "fd00" + "0" * 27 + "1" + "01000000"


@pytest.mark.parametrize(
    ("found"),
    [
        pytest.param(Found(KEY), id="key alone"),
        pytest.param(Found(KEY, elements.value(b"\n\0\0\1\x1f\x90\0\0")), id="value"),
        pytest.param(Found(KEY, elements.goto("endpoints-3")), id="goto"),
        pytest.param(Found(KEY, elements.DROP), id="drop"),
        pytest.param(Found(KEY, key_end=KEY, flags=1), id="range"),
        pytest.param(Found(KEY, timeout_ms=10_800_000, comment="default/web"), id="timeout and comment"),
    ],
)
def test_what_is_encoded_is_decoded(found: Found) -> None:
    encoded = element(
        found.key,
        found.data,
        key_end=found.key_end,
        flags=found.flags,
        timeout_ms=found.timeout_ms,
        comment=found.comment,
    )
    assert len(encoded) % 4 == 0
    assert decode(encoded[4:]) == found


def test_verdicts_name_their_chain() -> None:
    assert elements.chain_of(elements.goto("a-chain")) == "a-chain"
    assert elements.chain_of(elements.DROP) == ""
    assert elements.chain_of(elements.value(KEY)) == ""


@pytest.mark.parametrize(
    ("network", "keys"),
    [
        pytest.param("10.0.0.0/8", ["0a000000", "0b000000"], id="closed by the next address"),
        pytest.param("255.0.0.0/8", ["ff000000"], id="up to the end"),
        pytest.param("192.0.2.1/32", ["c0000201", "c0000202"], id="one address"),
    ],
)
def test_intervals(network: str, keys: list[str]) -> None:
    found = [decode(item[4:]) for item in elements.interval(*elements.prefix(network))]
    assert [item.key.hex() for item in found] == keys
    assert [item.ends_interval for item in found] == [False, True][: len(keys)]


@given(st.lists(st.binary(min_size=4, max_size=40), min_size=1, max_size=200), st.data())
def test_an_offset_leads_to_its_element(keys: list[bytes], data: st.DataObject) -> None:
    encoded = [element(key) for key in keys]
    ((_, _, body),) = messages(DeleteElements(TABLE, "names", encoded))
    wanted = data.draw(st.integers(0, len(keys) - 1))
    head = 16 + len(body) - sum(map(len, encoded))
    offset = head + sum(len(item) for item in encoded[:wanted]) + 4
    assert decode(element_at(body, offset)[4:]).key == keys[wanted]


def test_many_elements_are_several_messages() -> None:
    encoded = [element(number.to_bytes(4, "big")) for number in range(10_000)]
    bodies = [body for _, _, body in messages(AddElements(TABLE, "addresses", encoded))]
    assert len(bodies) > 1
    assert all(len(body) < 65_536 for body in bodies)
    assert list(messages(AddElements(TABLE, "addresses", []))) == []
