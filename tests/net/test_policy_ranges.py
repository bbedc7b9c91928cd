"""Ranges of addresses and ports: unions, exceptions at their very edges, and the texts for nft."""

from __future__ import annotations

import ipaddress
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from net.policy import ranges

few = st.integers(0, 40)
some_ranges = st.lists(st.tuples(few, few).map(lambda pair: (min(pair), max(pair))), max_size=5)


def members(found: ranges.Ranges) -> set[int]:
    return {number for first, last in found for number in range(first, last + 1)}


@given(some_ranges)
def test_a_union_has_what_its_parts_have(parts: list[ranges.Range]) -> None:
    found = ranges.merged(parts)
    assert members(found) == members(tuple(parts))
    assert all(last + 1 < first for (_, last), (first, _) in itertools.pairwise(found))


@given(st.tuples(few, few).map(lambda pair: (min(pair), max(pair))), some_ranges)
def test_what_is_left_lacks_the_holes_alone(whole: ranges.Range, holes: list[ranges.Range]) -> None:
    found = ranges.without(whole, holes)
    assert members(found) == members((whole,)) - members(tuple(holes))
    assert found == ranges.merged(found)


@given(st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1), st.booleans())
def test_texts_mean_the_range(first: int, last: int, is_network: bool) -> None:
    first, last = min(first, last), max(first, last)
    if is_network:
        network = ipaddress.ip_network((first, last % 33), strict=False)
        first, last = int(network.network_address), int(network.broadcast_address)
    text = ranges.address_text(4, (first, last))
    if "-" in text:
        assert not is_network
        ends = [ipaddress.ip_address(end) for end in text.split("-")]
    else:
        network = ipaddress.ip_network(text)
        ends = [network.network_address, network.broadcast_address]
    assert [int(end) for end in ends] == [first, last]


@pytest.mark.parametrize(
    ("version", "cidr", "excepted", "text"),
    [
        (4, "10.0.0.0/30", ["10.0.0.1/32"], "10.0.0.0 10.0.0.2/31"),
        (4, "10.0.0.0/8", ["10.255.0.0/16"], "10.0.0.0-10.254.255.255"),
        (4, "0.0.0.0/0", [], "0.0.0.0/0"),
        (6, "2001:db8::/32", ["2001:db8::/33"], "2001:db8:8000::/33"),
        (6, "::/0", [], "::/0"),
    ],
)
def test_blocks(version: int, cidr: str, excepted: list[str], text: str) -> None:
    found_version, found = ranges.of_block(cidr, excepted)
    assert (found_version, " ".join(ranges.address_text(version, one) for one in found)) == (version, text)


@pytest.mark.parametrize(("cidr", "excepted"), [("x", []), ("10.0.0.0/8", ["::/0"]), ("10.0.0.0/8", ["y"])])
def test_what_is_no_block(cidr: str, excepted: list[str]) -> None:
    with pytest.raises(ValueError):
        ranges.of_block(cidr, excepted)
