"""What the checker lets through, evaluation never calls a type error; and no text breaks parser, checker or pricing."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from control.api.cel.costs import estimate
from control.api.cel.environment import compile_in
from control.api.cel.errors import CelError
from control.api.cel.values import NoOverload
from control.api.custom.declared import declared
from control.api.custom.rulefaults import rule_environment
from control.api.custom.rulevalues import to_cel
from tests.control.api.cel.schemas import OBJECT, place, schema

SPEC = place(schema(), "spec")
KNOWN = declared(SPEC)
assert KNOWN is not None
ENVIRONMENT = rule_environment(KNOWN, optional_old=False)
SELF = to_cel(OBJECT["spec"], SPEC)
WORDS = (
    "self.replicas", "self.name", "self.items", "self.objs", "self.m", "self.n", "self.b", "self.d", "self.t",
    "self.set", "self.keyed", "self.nested.a.b", "self.by", "self.?name", "1", "2.5", "'a'", "true", "null", "3u",
    "b'x'", "[1, 2]", "['a']", "{'a': 1}", "duration('1s')", "timestamp('2020-01-01T00:00:00Z')", "x", "i", "self",
)  # fmt: skip
BINARY = ("+", "-", "*", "/", "%", "==", "!=", "<", "<=", ">", ">=", "&&", "||", "in")
CALLS = (
    "{0}.size()", "size({0})", "{0}.all(x, {1})", "{0}.exists(x, {1})", "{0}.map(x, {1})", "{0}.filter(x, {1})",
    "{0}.all(i, x, {1})", "{0}.transformMap(i, x, {1})", "{0}.sortBy(x, {1})", "{0}[{1}]", "{0}[?{1}]", "string({0})",
    "int({0})", "double({0})", "type({0}) == type({1})", "dyn({0})", "{0} ? {1} : {0}", "!({0})", "-({0})",
    "{0}.startsWith({1})", "{0}.contains({1})", "{0}.matches('a')", "{0}.sum()", "{0}.max()", "{0}.isSorted()",
    "{0}.indexOf({1})", "{0}.join(',')", "{0}.orValue({1})", "{0}.optMap(x, {1})", "optional.of({0})", "{0}.hasValue()",
    "[{0}, {1}]", "{{'k': {0}}}", "{0}.distinct()", "{0}.reverse()", "sets.contains({0}, {1})", "'%s'.format([{0}])",
    "{0}.getHours()", "quantity({0})", "{0}.substring({1})", "has(self.name)", "{0}.first()", "{0}.slice(0, 1)",
)  # fmt: skip
EXPRESSIONS = st.recursive(
    st.sampled_from(WORDS),
    lambda inner: st.one_of(
        st.tuples(inner, st.sampled_from(BINARY), inner).map(lambda parts: f"({parts[0]} {parts[1]} {parts[2]})"),
        st.tuples(st.sampled_from(CALLS), inner, inner).map(lambda parts: parts[0].format(parts[1], parts[2])),
    ),
    max_leaves=8,
)
HIDDEN = ("dyn(", "[", "{", "null", "type(")
"""With these a type may be hidden from the checker."""


def run(text: str) -> tuple[Any, CelError | None]:
    """Return what an expression yields, or how it fails; raises CelError where it is not let through."""
    program = compile_in(text, ENVIRONMENT)
    assert KNOWN is not None
    estimate(program.node, KNOWN)
    try:
        return program.run({"self": SELF, "oldSelf": SELF}), None
    except CelError as error:
        return None, error


@settings(max_examples=150)
@given(EXPRESSIONS)
def test_what_is_let_through_is_no_type_error(text: str) -> None:
    try:
        _, error = run(text)
    except CelError:
        return
    if isinstance(error, NoOverload):
        assert any(part in text for part in HIDDEN), f"{text}: {error}"


@settings(max_examples=150)
@given(st.text(alphabet="self.abx1'\"`\\()[]{}?:!-+*/%<>=&|, \n\t@#é👑u", max_size=40))
def test_no_text_breaks_anything(text: str) -> None:
    with suppress(CelError):
        run(text)


def test_deep_expressions_are_refused_not_followed() -> None:
    for text in ("(" * 1000 + "1" + ")" * 1000, "!" * 1000 + "true", "[" * 1000, "self" + ".a" * 1000,
                 "1" + " + 1" * 1000, "true" + " && true" * 1000, "a ? b : " * 1000 + "c"):  # fmt: skip
        with suppress(CelError):
            run(text)
