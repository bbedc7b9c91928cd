"""Conversions without wires: what a webhook is asked, what is remembered, and what of its answers is believed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson
import pytest

from control.api.custom.version import versions_of
from control.api.meta import Object
from control.api.status import ApiError
from control.apiserver.custom.conversion import BATCH_OBJECTS_MAX, ConversionError, Conversions, read_answer, review
from control.apiserver.kinds import Kind
from control.apiserver.webhooks.caller import CallError

SCHEMA = {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}}
DEFINITION: Object = {
    "metadata": {"name": "posts.a.io", "uid": "u", "generation": 1},
    "spec": {
        "group": "a.io",
        "scope": "Cluster",
        "names": {"plural": "posts", "kind": "Post"},
        "conversion": {
            "strategy": "Webhook",
            "webhook": {"clientConfig": {"url": "https://x"}, "conversionReviewVersions": ["v3", "v1"]},
        },
        "versions": [
            {"name": "v1", "served": True, "storage": False, "schema": SCHEMA},
            {"name": "v2", "served": True, "storage": True, "schema": SCHEMA},
        ],
    },
}
V1, V2 = (Kind(version.served, version) for version in versions_of(DEFINITION))


class Stub:
    """A caller that answers by itself."""

    def __init__(self) -> None:
        self.sizes: list[int] = []
        self.gone = False

    async def ask(self, client: Mapping[str, Any], body: bytes, timeout_s: float) -> bytes:
        if self.gone:
            raise CallError('Post "https://x": refused')
        request = orjson.loads(body)["request"]
        self.sizes.append(len(request["objects"]))
        made = [{**obj, "apiVersion": request["desiredAPIVersion"], "new": True} for obj in request["objects"]]
        response = {"uid": request["uid"], "convertedObjects": made, "result": {"status": "Success"}}
        return orjson.dumps({"apiVersion": "apiextensions.k8s.io/v1", "kind": "ConversionReview", "response": response})


def post(number: int, version: str = "v2") -> Object:
    metadata = {"name": f"p{number}", "uid": f"u{number}", "resourceVersion": str(number)}
    return {"apiVersion": f"a.io/{version}", "kind": "Post", "metadata": metadata}


async def test_lists_are_asked_for_in_batches_and_once() -> None:
    stub = Stub()
    conversions = Conversions(stub)  # type: ignore[arg-type]
    objects = [post(number) for number in range(BATCH_OBJECTS_MAX + 7)]
    made = await conversions.many([*objects, post(9999, "v1")], V1)
    assert stub.sizes == [BATCH_OBJECTS_MAX, 7]
    assert [obj["apiVersion"] for obj in made] == ["a.io/v1"] * len(made)
    assert [obj["metadata"]["name"] for obj in made[:-1]] == [obj["metadata"]["name"] for obj in objects]
    assert "new" not in made[-1]
    assert await conversions.many(objects, V1) == made[:-1]
    assert stub.sizes == [BATCH_OBJECTS_MAX, 7]
    await conversions.one({**objects[0], "metadata": {**objects[0]["metadata"], "resourceVersion": "2"}}, V1)
    assert stub.sizes[2:] == [1]


async def test_what_need_not_be_converted_is_not_asked_for() -> None:
    stub = Stub()
    stub.gone = True
    conversions = Conversions(stub)  # type: ignore[arg-type]
    assert await conversions.one(post(1), V2) == post(1)
    with pytest.raises(ApiError, match=r'conversion webhook for a.io/v2, Kind=Post failed: Post "https://x": refused'):
        await conversions.one(post(1), V1)


ANSWERS: list[tuple[str, Any, str]] = [
    ("garbage", b"{", "is not JSON"),
    ("no object", b"[]", "is no object"),
    ("other kind", {"kind": "Status"}, "expected webhook response of apiextensions.k8s.io/v1"),
    ("no response", {"response": None}, "no response provided"),
    ("other request", {"response": {"uid": "x"}}, "expected response.uid="),
    ("failure", {"result": {"status": "Failure", "message": "no"}}, "failed: no"),
    ("without a word", {"result": {}}, "response.result.status was '', not 'Success'"),
    ("too few", {"convertedObjects": []}, "returned 0 objects, expected 1"),
    ("no objects", {"convertedObjects": [1]}, "it is no object"),
    ("other version", {"convertedObjects": [post(1)]}, "invalid groupVersion"),
    ("other kind of object", {"convertedObjects": [{**post(1, "v1"), "kind": "X"}]}, "invalid kind"),
    ("no metadata", {"convertedObjects": [{"apiVersion": "a.io/v1", "kind": "Post"}]}, "missing metadata"),
    ("other object", {"convertedObjects": [post(2, "v1")]}, "must have the same name: p1 != p2"),
    ("bad labels", {"convertedObjects": [{**post(1, "v1"), "metadata": {**post(1)["metadata"],
                                                                        "labels": {"-": "x"}}}]}, "metadata.labels"),
    ("labels that are none", {"convertedObjects": [{**post(1, "v1"), "metadata": {**post(1)["metadata"],
                                                                                  "labels": [1]}}]}, "map of strings"),
]  # fmt: skip


@pytest.mark.parametrize(("answer", "told"), [case[1:] for case in ANSWERS], ids=[case[0] for case in ANSWERS])
def test_what_is_not_believed(answer: Any, told: str) -> None:
    assert V1.custom is not None
    assert V1.custom.webhook is not None
    question = review(V1.custom.webhook, "a.io/v1", [post(1)])
    if isinstance(answer, dict):
        head = {"apiVersion": "apiextensions.k8s.io/v1", "kind": "ConversionReview"}
        if not {"kind", "response"} & set(answer):
            response = {"uid": question["request"]["uid"], "result": {"status": "Success"}, **answer}
            answer = {"response": response}
        answer = orjson.dumps({**head, **answer})
    with pytest.raises(ConversionError, match=told.replace("(", r"\(")):
        read_answer(answer, question, [post(1)])


def test_reviews_are_made_in_a_version_that_both_speak() -> None:
    assert V1.custom is not None
    assert V1.custom.webhook is not None
    assert V1.custom.webhook.review_version == "v1"
    old = {**DEFINITION, "spec": {**DEFINITION["spec"], "conversion": {"strategy": "Webhook", "webhook": {
        "clientConfig": {}, "conversionReviewVersions": ["v1beta1"]}}}}  # fmt: skip
    webhook = versions_of(old)[0].webhook
    assert webhook is not None
    question = review(webhook, "a.io/v1", [post(1)])
    assert question["apiVersion"] == "apiextensions.k8s.io/v1beta1"
    response = {"convertedObjects": [post(1, "v1")], "result": {"status": "Success"}}
    assert read_answer(orjson.dumps({"response": response}), question, [post(1)])[0]["apiVersion"] == "a.io/v1"


def test_a_deprecated_version_names_the_one_to_use() -> None:
    versions = [
        {"name": name, "served": True, "storage": name == "v2", "deprecated": old}
        for name, old in (("v1beta1", True), ("v1", False), ("v2", False), ("v3alpha1", True), ("v10beta1", True))
    ]
    made = {**DEFINITION, "spec": {**DEFINITION["spec"], "versions": versions}}
    group, kind = DEFINITION["spec"]["group"], DEFINITION["spec"]["names"]["kind"]
    told = {version.served.resource.version: version.warning for version in versions_of(made)}
    assert told["v1beta1"] == f"{group}/v1beta1 {kind} is deprecated; use {group}/v2 {kind}"
    assert told["v2"] == ""
    versions[1]["served"] = versions[2]["served"] = False
    told = {version.served.resource.version: version.warning for version in versions_of(made)}
    assert told["v1beta1"] == f"{group}/v1beta1 {kind} is deprecated"
