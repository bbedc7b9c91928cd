"""Lists of a job's indexes, written as ``1,3-5,7``."""

from __future__ import annotations

from collections.abc import Iterator


class IndexesError(ValueError):
    """The text is no list of indexes; the message says why, in Kubernetes' words."""


def _number(text: str, completions: int) -> int:
    if not (text.removeprefix("-").removeprefix("+").isdecimal() and text.isascii()):
        raise IndexesError(f'cannot convert string to integer for index: "{text}"')
    if (number := int(text)) >= completions:
        raise IndexesError(f'too large index: "{text}"')
    return number


def _interval(text: str, completions: int) -> tuple[int, int]:
    first, *rest = text.split("-")
    if len(rest) > 1:
        raise IndexesError(
            f'the fragment "{text}" violates the requirement that an index interval can have at most two parts '
            "separated by '-'"
        )
    low = _number(first, completions)
    if not rest:
        return low, low
    high = _number(rest[0], completions)
    if low >= high:
        raise IndexesError(f"non-increasing order, previous: {low}, current: {high}")
    return low, high


def intervals(text: str, completions: int) -> Iterator[tuple[int, int]]:
    """Yield the intervals of a list, first and last index; raises IndexesError where the list goes wrong."""
    last: int | None = None
    for part in text.split(",") if text else ():
        low, high = _interval(part, completions)
        if last is not None and last >= low:
            raise IndexesError(f"non-increasing order, previous: {last}, current: {low}")
        last = high
        yield low, high


def count_indexes(text: str, completions: int) -> int:
    """Return how many indexes a list holds; raises IndexesError."""
    return sum(high - low + 1 for low, high in intervals(text, completions))


def first_shared(one: str, other: str, completions: int) -> int | None:
    """Return the first index that stands in both lists, None where none does or a list cannot be read."""
    try:
        left, right = list(intervals(one, completions)), list(intervals(other, completions))
    except IndexesError:
        return None
    shared = [max(a, c) for a, b in left for c, d in right if a <= d and c <= b]
    return min(shared, default=None)
