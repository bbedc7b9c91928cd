"""Quantities: Kubernetes' canonical form."""

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from control.api import quantity


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("0.5", "500m"), ("1024Mi", "1Gi"), ("1000m", "1"), ("1.5Gi", "1536Mi"), ("0.1Ki", "102400m"),
        ("12e6", "12e6"),
        ("1000k", "1M"), (".5", "500m"), ("5.", "5"), ("-1.5Gi", "-1536Mi"), ("1.0000000001", "1000000001n"),
        ("0", "0"), ("512", "512"), ("1Ki", "1Ki"), ("1025Ki", "1025Ki"), ("0Gi", "0"), ("1e-3", "1e-3"),
    ],
)  # fmt: skip
def test_canonical_form(text: str, written: str) -> None:
    assert quantity.canonical(text) == written


@pytest.mark.parametrize("text", ["", "x", "1x", "1 Gi", "Gi", "--1", "1.2.3", "1ki", "1mm"])
def test_what_is_no_quantity(text: str) -> None:
    with pytest.raises(quantity.QuantityError):
        quantity.parse(text)


numbers = st.decimals(min_value=-(10**9), max_value=10**9, places=3).map(lambda number: format(number, "f"))
suffixes = st.sampled_from(["", "m", "k", "M", "G", "Ki", "Mi", "Gi", "e3"])


@given(numbers, suffixes)
def test_the_canonical_form_has_the_value_and_is_stable(number: str, suffix: str) -> None:
    text = quantity.canonical(number + suffix)
    assert quantity.canonical(text) == text
    assert 0 <= quantity.parse(text) - quantity.parse(number + suffix) < Decimal("1e-9")


@given(numbers, numbers)
def test_sums(left: str, right: str) -> None:
    assert quantity.parse(quantity.add(left, right)) == Decimal(left) + Decimal(right)
    assert quantity.subtract(quantity.add(left, right), right) == quantity.canonical(left)


def test_rounding_goes_up() -> None:
    assert quantity.milli("1.0001") == 1001
    assert quantity.whole("100m") == 1
