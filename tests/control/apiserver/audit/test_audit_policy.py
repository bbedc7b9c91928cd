"""Which rule is about which request, and which policies are none."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from control.apiserver.audit.policy import Level, parse
from control.apiserver.config import ConfigurationError
from control.apiserver.request import RequestInfo, UserInfo
from control.apiserver.request import parse as parse_request

ALICE = UserInfo("alice", groups=("dev", "system:authenticated"))


def policy(*rules: Any, **more: Any) -> dict[str, Any]:
    return {"apiVersion": "audit.k8s.io/v1", "kind": "Policy", "rules": list(rules), **more}


def info(method: str, path: str, **query: str) -> RequestInfo:
    return parse_request(method, path, {name: (value,) for name, value in query.items()})


GET_POD = info("GET", "/api/v1/namespaces/a/pods/web")
LIST_PODS = info("GET", "/api/v1/pods")
POD_LOG = info("GET", "/api/v1/namespaces/a/pods/web/log")
POD_STATUS = info("PATCH", "/api/v1/namespaces/a/pods/web/status")
SCALE = info("PUT", "/apis/apps/v1/namespaces/b/deployments/web/scale")
NODE = info("GET", "/api/v1/nodes/n")
HEALTH = info("GET", "/healthz/ping")

MATCHES: dict[str, tuple[dict[str, Any], RequestInfo, UserInfo | None, bool]] = {
    "everything": ({}, HEALTH, None, True),
    "user": ({"users": ["alice"]}, GET_POD, ALICE, True),
    "other user": ({"users": ["bob"]}, GET_POD, ALICE, False),
    "nobody": ({"users": ["alice"]}, GET_POD, None, False),
    "group": ({"userGroups": ["x", "dev"]}, GET_POD, ALICE, True),
    "nobody's group": ({"userGroups": ["dev"]}, GET_POD, None, False),
    "verb": ({"verbs": ["get"]}, GET_POD, ALICE, True),
    "other verb": ({"verbs": ["get"]}, LIST_PODS, ALICE, False),
    "namespace": ({"namespaces": ["a"]}, GET_POD, ALICE, True),
    "other namespace": ({"namespaces": ["b"]}, GET_POD, ALICE, False),
    "no namespace": ({"namespaces": [""]}, NODE, ALICE, True),
    "namespaces are no paths": ({"namespaces": [""]}, HEALTH, ALICE, False),
    "group of resources": ({"resources": [{"group": ""}]}, GET_POD, ALICE, True),
    "other group": ({"resources": [{"group": "apps"}]}, GET_POD, ALICE, False),
    "resource": ({"resources": [{"group": "", "resources": ["pods"]}]}, GET_POD, ALICE, True),
    "resource is not its subresource": ({"resources": [{"resources": ["pods"]}]}, POD_LOG, ALICE, False),
    "subresource": ({"resources": [{"resources": ["pods/log"]}]}, POD_LOG, ALICE, True),
    "any subresource": ({"resources": [{"resources": ["pods/*"]}]}, POD_STATUS, ALICE, True),
    "any subresource includes the resource": ({"resources": [{"resources": ["pods/*"]}]}, GET_POD, ALICE, True),
    "a subresource of all": ({"resources": [{"group": "apps", "resources": ["*/scale"]}]}, SCALE, ALICE, True),
    "another subresource of all": ({"resources": [{"resources": ["*/scale"]}]}, POD_LOG, ALICE, False),
    "all resources": ({"resources": [{"resources": ["*"]}]}, POD_LOG, ALICE, True),
    "name": ({"resources": [{"resources": ["pods"], "resourceNames": ["web"]}]}, GET_POD, ALICE, True),
    "other name": ({"resources": [{"resources": ["pods"], "resourceNames": ["db"]}]}, GET_POD, ALICE, False),
    "path": ({"nonResourceURLs": ["/healthz/ping"]}, HEALTH, ALICE, True),
    "paths": ({"nonResourceURLs": ["/healthz*"]}, HEALTH, ALICE, True),
    "other paths": ({"nonResourceURLs": ["/livez*"]}, HEALTH, ALICE, False),
    "paths are no resources": ({"nonResourceURLs": ["*"]}, GET_POD, ALICE, False),
    "all parts must fit": ({"users": ["alice"], "verbs": ["list"]}, GET_POD, ALICE, False),
}


@pytest.mark.parametrize("case", MATCHES)
def test_a_rule_is_about_what_fits_all_its_parts(case: str) -> None:
    rule, asked, user, fits = MATCHES[case]
    found, unknown = parse(policy({"level": "Request", **rule}))
    assert not unknown
    assert found.judge(user, asked).level == (Level.REQUEST if fits else Level.NONE)


def test_the_first_rule_that_fits_decides() -> None:
    found, _ = parse(policy({"level": "None", "verbs": ["get"]}, {"level": "RequestResponse"}))
    assert found.judge(ALICE, GET_POD).level is Level.NONE
    assert found.judge(ALICE, LIST_PODS).level is Level.REQUEST_RESPONSE


def test_omitted_stages_add_up_and_a_rule_knows_best_about_managed_fields() -> None:
    rules = (
        {"level": "Metadata", "verbs": ["get"], "omitStages": ["Panic"], "omitManagedFields": False},
        {"level": "Metadata"},
    )
    found, _ = parse(policy(*rules, omitStages=["RequestReceived"], omitManagedFields=True))
    wish = found.judge(ALICE, GET_POD)
    assert wish.omitted == {"RequestReceived", "Panic"}
    assert not wish.omit_managed_fields
    wish = found.judge(ALICE, LIST_PODS)
    assert wish.omitted == {"RequestReceived"}
    assert wish.omit_managed_fields


REFUSED: dict[str, tuple[Any, str]] = {
    "not ours": ({"apiVersion": "audit.k8s.io/v1beta1", "kind": "Policy"}, "expected apiVersion audit.k8s.io/v1"),
    "no rules": (policy(), "loaded illegal policy with 0 rules"),
    "no level": (policy({}), "rules[0].level: Required value"),
    "no such level": (
        policy({"level": "All"}),
        'rules[0].level: Unsupported value: "All": supported values: "None", "Metadata", "Request", "RequestResponse"',
    ),
    "no such stage": (
        policy({"level": "None", "omitStages": ["End"]}),
        'rules[0].omitStages[0]: Invalid value: "End":'
        " allowed stages are RequestReceived,ResponseStarted,ResponseComplete,Panic",
    ),
    "paths and resources": (
        policy({"level": "None", "nonResourceURLs": ["/x"], "namespaces": ["a"]}),
        "rules cannot apply to both regular resources and non-resource URLs",
    ),
    "relative path": (
        policy({"level": "None", "nonResourceURLs": ["x"]}),
        "rules[0].nonResourceURLs[0]: Invalid value: \"x\": non-resource URL rules must begin with a '/' character",
    ),
    "star inside": (
        policy({"level": "None", "nonResourceURLs": ["/*/x"]}),
        "non-resource URL wildcards '*' must be the final character of the rule",
    ),
    "group with a version": (
        policy({"level": "None", "resources": [{"group": "apps/v1"}]}),
        'rules[0].resources.group: Invalid value: "apps/v1"',
    ),
    "names without resources": (
        policy({"level": "None", "resources": [{"group": "", "resourceNames": ["x"]}]}),
        "using resourceNames requires at least one resource",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_wrong_is_told_in_kubernetes_words(case: str) -> None:
    written, text = REFUSED[case]
    with pytest.raises(ConfigurationError) as raised:
        parse(written)
    assert text in str(raised.value)


def test_fields_that_mean_nothing_are_named_and_left_out() -> None:
    found, unknown = parse(policy({"level": "Metadata", "verb": ["get"]}))
    assert unknown == ['unknown field "rules[0].verb"']
    assert found.judge(ALICE, LIST_PODS).level is Level.METADATA


ANYTHING: Any = st.recursive(
    st.none() | st.booleans() | st.integers() | st.sampled_from(["Metadata", "pods", "/x", "get", "RequestReceived"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["level", "users", "verbs", "resources", "group", "namespaces", "nonResourceURLs", "omitStages"]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=20,
)


@settings(max_examples=50)
@given(rules=ANYTHING, omitted=ANYTHING)
def test_whatever_stands_there_is_read_or_refused(rules: Any, omitted: Any) -> None:
    with contextlib.suppress(ConfigurationError):
        parse({**policy(), "rules": rules, "omitStages": omitted})
