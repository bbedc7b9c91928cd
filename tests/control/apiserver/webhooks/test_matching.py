"""Which webhooks a request concerns, and what their answers mean."""

from __future__ import annotations

import base64
from typing import Any

import orjson
import pytest

from control.api.cel.environment import CelError
from control.api.resources import CONFIG_MAPS, NAMESPACES, PODS, VALIDATING_WEBHOOKS, Resource
from control.apiserver.request import AdmissionRequest, UserInfo
from control.apiserver.webhooks import review
from control.apiserver.webhooks.matching import concerns, conditions_hold, hooks_of, in_order
from control.apiserver.webhooks.review import ReviewError

USER = UserInfo("anna", groups=("sailors",))
RULE: dict[str, Any] = {
    "operations": ["CREATE"],
    "apiGroups": [""],
    "apiVersions": ["v1"],
    "resources": ["pods"],
    "scope": "*",
}


def request(
    resource: Resource = PODS, operation: Any = "CREATE", subresource: str = "", labels: dict[str, str] | None = None
) -> AdmissionRequest:
    obj = {"metadata": {"name": "x", "labels": labels or {}}}
    namespace = "default" if resource.namespaced else ""
    return AdmissionRequest(operation, resource, USER, namespace, "x", subresource, obj)


def hook(rule: dict[str, Any] | None = None, **fields: Any) -> Any:
    made = {"name": "a.example.com", "clientConfig": {}, "rules": [{**RULE, **(rule or {})}], **fields}
    return hooks_of({"metadata": {"name": "c"}, "webhooks": [made]})[0]


CASES: list[tuple[str, Any, AdmissionRequest, bool]] = [
    ("fits", hook(), request(), True),
    ("other operation", hook(), request(operation="DELETE"), False),
    ("every operation", hook({"operations": ["*"]}), request(operation="DELETE"), True),
    ("other resource", hook(), request(CONFIG_MAPS), False),
    ("other group", hook({"apiGroups": ["apps"]}), request(), False),
    ("all resources", hook({"resources": ["*"]}), request(CONFIG_MAPS), True),
    ("subresource is not meant", hook(), request(subresource="status"), False),
    ("subresource", hook({"resources": ["pods/status"]}), request(subresource="status"), True),
    ("all subresources", hook({"resources": ["pods/*"]}), request(subresource="status"), True),
    ("everything", hook({"resources": ["*/*"]}), request(subresource="status"), True),
    ("other version, equivalent", hook({"apiVersions": ["v2"]}), request(), True),
    ("other version, exact", hook({"apiVersions": ["v2"]}, matchPolicy="Exact"), request(), False),
    ("scope", hook({"scope": "Cluster", "resources": ["*"]}), request(), False),
    ("scope of a namespace", hook({"scope": "Cluster", "resources": ["*"]}), request(NAMESPACES), True),
    ("namespace", hook(namespaceSelector={"matchLabels": {"sea": "red"}}), request(), True),
    ("other namespace", hook(namespaceSelector={"matchLabels": {"sea": "black"}}), request(), False),
    ("object", hook(objectSelector={"matchLabels": {"a": "b"}}), request(labels={"a": "b"}), True),
    ("other object", hook(objectSelector={"matchLabels": {"a": "b"}}), request(), False),
    ("configurations are never asked about", hook({"apiGroups": ["*"], "resources": ["*"]}),
     request(VALIDATING_WEBHOOKS), False),
]  # fmt: skip


@pytest.mark.parametrize(("asked", "about", "meant"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_whom_a_request_concerns(asked: Any, about: AdmissionRequest, meant: bool) -> None:
    assert concerns(asked, about, {"sea": "red"}) is meant


def test_a_namespace_is_judged_by_its_own_labels() -> None:
    asked = hook({"resources": ["namespaces"]}, namespaceSelector={"matchLabels": {"sea": "red"}})
    assert concerns(asked, request(NAMESPACES, labels={"sea": "red"}), {})
    assert not concerns(asked, request(NAMESPACES), {"sea": "red"})


def test_configurations_are_asked_by_name() -> None:
    found = in_order([{"metadata": {"name": name}} for name in ("b", "a", "c")])
    assert [configuration["metadata"]["name"] for configuration in found] == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("expressions", "holds"),
    [
        (["request.userInfo.username == 'anna'"], True),
        (["object.metadata.name == 'x'", "request.operation == 'DELETE'"], False),
        (["object.nothing == 1", "false"], False),
        (["object.nothing == 1", "true"], None),
    ],
    ids=["true", "one is false", "false is stronger than failing", "failing"],
)
def test_match_conditions(expressions: list[str], holds: bool | None) -> None:
    conditions = [{"name": str(index), "expression": text} for index, text in enumerate(expressions)]
    asked = hook(matchConditions=conditions)
    question = review.request_of(request())
    values = {"object": question["object"], "oldObject": None, "request": question, "authorizer": None}
    if holds is None:
        with pytest.raises(CelError):
            conditions_hold(asked.conditions, values)
    else:
        assert conditions_hold(asked.conditions, values) is holds


def answer(**response: Any) -> bytes:
    return orjson.dumps({"apiVersion": review.API_VERSION, "kind": review.KIND, "response": {"uid": "u", **response}})


def test_a_patch_is_read() -> None:
    operations = [{"op": "add", "path": "/a", "value": 1}]
    patch = base64.b64encode(orjson.dumps(operations)).decode()
    verdict = review.decode(answer(allowed=True, patch=patch, patchType="JSONPatch"), "u", may_patch=True)
    assert verdict.allowed
    assert verdict.patch == operations
    assert review.decode(answer(allowed=True, patch=patch, patchType="JSONPatch"), "u", may_patch=False).patch is None


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (b"{", "not JSON"),
        (orjson.dumps({"kind": "AdmissionReview"}), "expected webhook response"),
        (orjson.dumps({"apiVersion": review.API_VERSION, "kind": review.KIND}), "webhook response was absent"),
        (answer(uid="other"), 'expected response.uid="u"'),
        (answer(allowed=True, patch="e30="), "patchType"),
        (answer(allowed=True, patch="!", patchType="JSONPatch"), "base64"),
        (answer(allowed=True, patch="e30=", patchType="JSONPatch"), "no list"),
    ],
    ids=["garbage", "other kind", "no response", "other request", "no patch type", "no base64", "no list"],
)
def test_answers_that_are_none(body: bytes, told: str) -> None:
    with pytest.raises(ReviewError, match=told):
        review.decode(body, "u", may_patch=True)


@pytest.mark.parametrize(
    ("status", "refused"),
    [
        ({}, (403, "Forbidden", 'admission webhook "h" denied the request without explanation')),
        ({"message": "no"}, (403, "Forbidden", 'admission webhook "h" denied the request: no')),
        ({"code": 422, "reason": "Invalid", "message": "bad"}, (422, "Invalid",
                                                               'admission webhook "h" denied the request: bad')),
        ({"code": 200}, (403, "Forbidden", 'admission webhook "h" denied the request without explanation')),
    ],
    ids=["without a word", "message", "code and reason", "a success is none"],
)  # fmt: skip
def test_refusals_say_who_refused(status: dict[str, Any], refused: tuple[int, str, str]) -> None:
    verdict = review.decode(answer(allowed=False, status=status), "u", may_patch=False)
    assert review.refusal("h", verdict) == refused
