"""Rules: what one matches, what a set of them covers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from control.apiserver.authz.attributes import Attributes, forbidden_error
from control.apiserver.authz.rules import Rule, compact, uncovered
from control.apiserver.request import UserInfo

ANN = UserInfo("ann")


def ask(verb: str, resource: str, *, group: str = "", subresource: str = "", name: str = "") -> Attributes:
    return Attributes(ANN, verb, group, "v1", resource, subresource, "default", name)


def path(verb: str, where: str) -> Attributes:
    return Attributes(ANN, verb, path=where, is_resource_request=False)


@pytest.mark.parametrize(
    ("rule", "question", "expected"),
    [
        pytest.param(Rule(("get",), ("",), ("pods",)), ask("get", "pods"), True, id="exact"),
        pytest.param(Rule(("get",), ("",), ("pods",)), ask("list", "pods"), False, id="other verb"),
        pytest.param(Rule(("*",), ("*",), ("*",)), ask("x", "y", group="z", subresource="s"), True, id="all stars"),
        pytest.param(Rule(("get",), ("apps",), ("pods",)), ask("get", "pods"), False, id="other group"),
        pytest.param(Rule(("get",), ("",), ("pods",)), ask("get", "pods", subresource="log"), False, id="subresource"),
        pytest.param(Rule(("get",), ("",), ("pods/log",)), ask("get", "pods", subresource="log"), True, id="its own"),
        pytest.param(Rule(("get",), ("",), ("*/scale",)), ask("get", "x", subresource="scale"), True, id="any/scale"),
        pytest.param(Rule(("get",), ("",), ("*/scale",)), ask("get", "scale"), False, id="any/scale, plain"),
        pytest.param(Rule(("get",), ("",), ("pods",), ("a",)), ask("get", "pods", name="a"), True, id="name"),
        pytest.param(Rule(("get",), ("",), ("pods",), ("a",)), ask("get", "pods", name="b"), False, id="other name"),
        pytest.param(Rule(("list",), ("",), ("pods",), ("a",)), ask("list", "pods"), False, id="names, no name"),
        pytest.param(Rule(("get",), non_resource_urls=("/api",)), path("get", "/api"), True, id="url"),
        pytest.param(Rule(("get",), non_resource_urls=("/api/*",)), path("get", "/api/v1"), True, id="url prefix"),
        pytest.param(Rule(("get",), non_resource_urls=("/api/*",)), path("get", "/apis"), False, id="url no prefix"),
        pytest.param(Rule(("*",), ("*",), ("*",)), path("get", "/api"), False, id="resource rule on url"),
        pytest.param(Rule(("*",), non_resource_urls=("*",)), ask("get", "pods"), False, id="url rule on resource"),
    ],
)
def test_a_rule_allows(rule: Rule, question: Attributes, expected: bool) -> None:
    assert rule.allows(question) is expected


@pytest.mark.parametrize(
    ("held", "wanted", "expected"),
    [
        pytest.param([Rule(("*",), ("*",), ("*",))], Rule(("get",), ("x",), ("y",)), [], id="star covers"),
        pytest.param([], Rule(("get",), ("",), ("pods",)), ['{APIGroups:[""], Resources:["pods"], Verbs:["get"]}'],
                     id="nothing held"),
        pytest.param([Rule(("get",), ("",), ("pods",)), Rule(("list",), ("",), ("pods",))],
                     Rule(("get", "list"), ("",), ("pods",)), [], id="two rules together"),
        pytest.param([Rule(("get",), ("",), ("pods",), ("a",))], Rule(("get",), ("",), ("pods",)),
                     ['{APIGroups:[""], Resources:["pods"], Verbs:["get"]}'], id="named does not cover all"),
        pytest.param([Rule(("get",), ("",), ("pods",))], Rule(("get",), ("",), ("pods",), ("a",)), [], id="all covers named"),
        pytest.param([Rule(("get",), ("",), ("*/scale",))], Rule(("get",), ("",), ("x/scale",)), [], id="any scale"),
        pytest.param([], Rule(("get",), non_resource_urls=("/x",)), ['{NonResourceURLs:["/x"], Verbs:["get"]}'], id="url"),
        pytest.param([Rule(("get",), non_resource_urls=("/x/*",))], Rule(("get",), non_resource_urls=("/x/y",)), [],
                     id="url prefix"),
    ],
)  # fmt: skip
def test_covering(held: list[Rule], wanted: Rule, expected: list[str]) -> None:
    assert [rule.compact_text() for rule in compact(uncovered(held, [wanted]))] == expected


_words = st.sampled_from(["a", "b", "*", "a/x", "*/x"])
_some = st.lists(_words, min_size=1, max_size=2, unique=True).map(tuple)
_rules = st.builds(Rule, verbs=_some, api_groups=_some, resources=_some, resource_names=st.sampled_from([(), ("n",)]))
_plain = st.sampled_from(["a", "b", "c"])


@given(held=st.lists(_rules, max_size=3), wanted=_rules, verb=_plain, group=_plain, resource=_plain,
       subresource=st.sampled_from(["", "x", "y"]), name=st.sampled_from(["", "n", "m"]))  # fmt: skip
def test_what_is_covered_allows_nothing_new(
    held: list[Rule], wanted: Rule, verb: str, group: str, resource: str, subresource: str, name: str
) -> None:
    """The escalation check is sound: a covered rule never allows what the held ones refuse."""
    question = ask(verb, resource, group=group, subresource=subresource, name=name)
    if not uncovered(held, [wanted]) and wanted.allows(question):
        assert any(rule.allows(question) for rule in held)


@pytest.mark.parametrize(
    ("question", "message"),
    [
        (
            Attributes(UserInfo("x"), "list", "", "v1", "pods", namespace="default"),
            'pods is forbidden: User "x" cannot list resource "pods" in API group "" in the namespace "default"',
        ),
        (
            Attributes(UserInfo("x"), "get", "apps", "v1", "deployments", "scale", name="web"),
            'deployments.apps "web" is forbidden: User "x" cannot get resource "deployments/scale" in API group "apps"'
            " at the cluster scope",
        ),
        (
            Attributes(UserInfo("<x>"), "get", path="/metrics", is_resource_request=False),
            'forbidden: User "&lt;x&gt;" cannot get path "/metrics"',
        ),
    ],
    ids=["namespaced list", "subresource", "path"],
)
def test_refusals_have_upstreams_texts(question: Attributes, message: str) -> None:
    error = forbidden_error(question)
    assert (error.code, error.reason, error.message) == (403, "Forbidden", message)
