"""Label selectors: their texts, what they match, and what is wrong with them in Kubernetes' words."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from control.api import selectors
from control.api.selectors import Requirement, SelectorError


@pytest.mark.parametrize(
    ("text", "labels", "expected"),
    [
        ("", {}, True),
        (" \t", {"a": "b"}, True),
        ("a", {"a": ""}, True),
        ("!a", {"a": ""}, False),
        ("! a , b", {"b": "x"}, True),
        ("a=b", {"a": "b"}, True),
        ("a == b", {"a": "c"}, False),
        ("a=", {"a": ""}, True),
        ("a=,b", {"a": "", "b": "1"}, True),
        ("a!=b", {}, True),
        ("a!=b", {"a": "b"}, False),
        ("a in (b, c)", {"a": "c"}, True),
        ("a in (b,)", {"a": ""}, True),
        ("a notin (b,c)", {}, True),
        ("a notin(b)", {"a": "b"}, False),
        ("in in (in,notin)", {"in": "notin"}, True),
        ("a>5", {"a": "6"}, True),
        ("a<5", {"a": "x"}, False),
        ("a>5", {}, False),
        ("x.io/a=b,c", {"x.io/a": "b", "c": ""}, True),
    ],
)
def test_matching(text: str, labels: dict[str, str], expected: bool) -> None:
    assert selectors.parse(text).matches(labels) is expected


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (",", "found ',', expected: !, identifier, or 'end of string'"),
        ("a,", "found '', expected: identifier after ','"),
        ("a b", "unable to parse requirement: found 'b', expected: in, notin, =, ==, !=, gt, lt"),
        ("!", "unable to parse requirement: found '', expected: identifier"),
        ("!a=b", "found '=', expected: ',' or 'end of string'"),
        ("a=b=c", "found '=', expected: ',' or 'end of string'"),
        ("a in b", "unable to parse requirement: found 'b' expected: '('"),
        ("a in (b", "unable to parse requirement: found '', expected: ')'"),
        ("a in (b c)", "unable to parse requirement: found 'c', expected: ')'"),
        ("a in (=)", "unable to parse requirement: found '=', expected: ',', ')' or identifier"),
        ("a=(b)", "unable to parse requirement: found '(', expected: identifier"),
        ("a=" + "x" * 64, "must be no more than 63"),
        ("-", '<nil>: Invalid value: "-": name part must consist of'),
    ],
)
def test_faults(text: str, fault: str) -> None:
    with pytest.raises(SelectorError) as caught:
        selectors.parse(text)
    assert fault in str(caught.value)


names = st.sampled_from(["a", "b", "x.io/c"])
values = st.sampled_from(["", "1", "22", "v"])
requirements = st.builds(Requirement, names, st.sampled_from(["Exists", "DoesNotExist"])) | st.builds(
    Requirement, names, st.sampled_from(["In", "NotIn"]), st.frozensets(values, min_size=1, max_size=3)
)


@given(st.lists(requirements, max_size=4), st.dictionaries(names, values))
def test_what_is_written_is_read_again(found: list[Requirement], labels: dict[str, str]) -> None:
    selector = selectors.Selector(tuple(found))
    again = selectors.parse(selectors.to_text(selector))
    assert again.matches(labels) == selector.matches(labels)


@given(st.text("ab=!(),<> \tin/-", max_size=20))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        found = selectors.parse(text)
    except SelectorError:
        return
    assert found.matches({}) in (True, False)
