"""Verbs and their parameters, as kube-apiserver understands them."""

from __future__ import annotations

import asyncio
import base64
from typing import Any

import orjson
import pytest

from tests.control.apiserver.harness import (
    CONFIG_MAPS,
    DEPLOYMENTS,
    PODS,
    Answer,
    Api,
    config_map,
    deployment,
    next_event,
    pod,
    running,
)

MERGE, JSON_PATCH = "application/merge-patch+json", "application/json-patch+json"
STRATEGIC, APPLY = "application/strategic-merge-patch+json", "application/apply-patch+yaml"
JOBS = "/apis/batch/v1/namespaces/default/jobs"
LEASES = "/apis/coordination.k8s.io/v1/namespaces/default/leases"


def token(**fields: Any) -> str:
    return base64.urlsafe_b64encode(orjson.dumps(fields)).decode().rstrip("=")


def names(answer: Answer) -> list[str]:
    return [item["metadata"]["name"] for item in answer.json["items"]]


async def filled(api: Api, letters: str = "abcde") -> None:
    for name in letters:
        assert (await api.ask("POST", CONFIG_MAPS, config_map(name))).code == 201


@pytest.mark.parametrize(
    ("query", "code", "text"),
    [
        ("limit=-1", 200, ""),
        ("limit=2x", 400, 'strconv.ParseInt: parsing "2x": invalid syntax'),
        ("limit=99999999999999999999", 400, "value out of range"),
        ("limit=1_0", 400, "invalid syntax"),
        ("resourceVersion=%D9%A3", 400, "invalid syntax"),
        ("resourceVersion=99999999999999999999", 400, "value out of range"),
        ("continue=x", 400, "invalid continue token: continue key is not valid"),
        (f"continue={token(v='v0', rv=3, start='a')}", 400, "server does not recognize this encoded version"),
        (f"continue={token(v='meta.k8s.io/v1', rv=0, start='a')}", 400, "incorrect encoded start resourceVersion"),
        (f"continue={token(v='meta.k8s.io/v1', rv=1 << 63, start='a')}", 400, "incorrect encoded start"),
        (f"continue={token(v='meta.k8s.io/v1', rv=True, start='a')}", 400, "incorrect encoded start"),
        (f"continue={token(v='meta.k8s.io/v1', rv=3, start='')}", 400, "encoded start key empty"),
        (f"continue={token(v='meta.k8s.io/v1', rv=3, start=[])}", 400, "encoded start key empty"),
        (f"resourceVersion=1&continue={token(v='meta.k8s.io/v1', rv=3, start='a')}", 400,
         "specifying resource version is not allowed when using continue"),
        ("resourceVersionMatch=Exact", 422, "resourceVersionMatch is forbidden unless resourceVersion is provided"),
        ("resourceVersionMatch=Exact&resourceVersion=0", 422, "is forbidden for resourceVersion"),
        ("resourceVersionMatch=Some&resourceVersion=1", 422,
         'Unsupported value: "Some": supported values: "Exact", "NotOlderThan", ""'),
        ("sendInitialEvents=false", 422, "sendInitialEvents is forbidden for list"),
        ("watch=1&sendInitialEvents=1&resourceVersionMatch=Exact", 422, "setting resourceVersionMatch to NotOlderThan"),
        ("watch=1&resourceVersionMatch=NotOlderThan", 422, "is forbidden for watch unless sendInitialEvents"),
        ("labelSelector=a%20b", 400, "unable to parse requirement: found 'b', expected: in, notin, =, ==, !=, gt, lt"),
        ("labelSelector=a%3Db,", 400, "found '', expected: identifier after ','"),
        ("labelSelector=a%20in%20()", 400, "values set can't be empty"),
        ("labelSelector=-a", 400, 'unable to parse requirement: <nil>: Invalid value: "-a": name part must'),
        ("labelSelector=a%3Db%40c", 400, 'values[0][a]: Invalid value: "b@c": a valid label must'),
        ("labelSelector=a%3E1.5", 400, "for 'Gt', 'Lt' operators, the value must be an integer"),
        ("fieldSelector=data.x%3D1", 400, "field label not supported: data.x"),
        ("fieldSelector=metadata.name%3Da%3Db", 400, "unescaped character in value"),
        ("fieldSelector=metadata.name", 400, "can't understand"),
    ],
)  # fmt: skip
async def test_what_lists_may_ask(query: str, code: int, text: str) -> None:
    async with running() as api:
        await filled(api, "a")
        answer = await api.ask("GET", f"{CONFIG_MAPS}?{query}")
        assert (answer.code, text in answer.json.get("message", "")) == (code, True), answer.json


async def test_several_faults_of_a_list_are_told_at_once() -> None:
    async with running() as api:
        answer = await api.ask("GET", f"{CONFIG_MAPS}?resourceVersionMatch=Some&sendInitialEvents=1")
        assert [(cause["field"], cause["reason"]) for cause in answer.json["details"]["causes"]] == [
            ("resourceVersionMatch", "FieldValueForbidden"),
            ("resourceVersionMatch", "FieldValueNotSupported"),
            ("sendInitialEvents", "FieldValueForbidden"),
        ]


async def test_a_list_that_lost_its_revision_may_go_on_with_what_is_there() -> None:
    async with running() as api:
        await filled(api)
        first = (await api.ask("GET", f"{CONFIG_MAPS}?limit=2")).json
        await api.ask("DELETE", f"{CONFIG_MAPS}/d")
        await api.ask("POST", CONFIG_MAPS, config_map("f"))
        await api.ask("GET", CONFIG_MAPS)
        api.store.compacted = api.store.at
        answer = await api.ask("GET", f"{CONFIG_MAPS}?limit=2&continue={first['metadata']['continue']}")
        assert (answer.code, answer.json["reason"]) == (410, "Expired")
        assert "use the continue token in this response" in answer.json["message"]
        rest, going = [], answer.json["metadata"]["continue"]
        while going:
            page = await api.ask("GET", f"{CONFIG_MAPS}?limit=2&continue={going}")
            rest += names(page)
            going = page.json["metadata"].get("continue")
        assert rest == list("cef")


async def test_lists_of_an_exact_revision_and_of_no_older_one() -> None:
    async with running() as api:
        await filled(api, "ab")
        revision = (await api.ask("GET", CONFIG_MAPS)).json["metadata"]["resourceVersion"]
        await api.ask("POST", CONFIG_MAPS, config_map("c"))
        await api.ask("GET", CONFIG_MAPS)
        for query, expected in (
            (f"resourceVersion={revision}&resourceVersionMatch=Exact", "ab"),
            (f"resourceVersion={revision}&limit=9", "ab"),
            (f"resourceVersion={revision}", "abc"),
            (f"resourceVersion={revision}&resourceVersionMatch=NotOlderThan&limit=9", "abc"),
            ("resourceVersion=0&limit=1", "abc"),
            ("resourceVersion=0&resourceVersionMatch=NotOlderThan", "abc"),
        ):
            answer = await api.ask("GET", f"{CONFIG_MAPS}?{query}")
            assert "".join(names(answer)) == expected, query
            exact = expected == "ab"
            assert (answer.json["metadata"]["resourceVersion"] == revision) is exact
        api.store.compacted = api.store.at
        gone = await api.ask("GET", f"{CONFIG_MAPS}?resourceVersion={revision}&resourceVersionMatch=Exact")
        assert gone.json["message"] == "The resourceVersion for the provided list is too old."
        assert "continue" not in gone.json["metadata"]


@pytest.mark.parametrize("query", ["watch", "watch=true", "watch=True", "watch=1", "watch=yes"])
async def test_all_but_no_means_yes(query: str) -> None:
    async with running() as api:
        await filled(api, "a")
        async with api.watch(f"{CONFIG_MAPS}?{query}&timeoutSeconds=1&allowWatchBookmarks=True") as events:
            assert [(await next_event(events))["type"], (await next_event(events))["type"]] == ["ADDED", "BOOKMARK"]
        assert names(await api.ask("GET", f"{CONFIG_MAPS}?watch=False")) == ["a"]
        one = await api.ask("GET", f"{CONFIG_MAPS}/a?{query}")
        assert one.json["kind"] == "ConfigMap"


async def test_a_watch_without_initial_events_begins_now() -> None:
    async with running() as api:
        await filled(api, "a")
        query = "watch=1&sendInitialEvents=false&resourceVersionMatch=NotOlderThan"
        async with api.watch(f"{CONFIG_MAPS}?{query}") as events:
            await api.ask("POST", CONFIG_MAPS, config_map("b"))
            assert (await next_event(events))["object"]["metadata"]["name"] == "b"


@pytest.mark.parametrize(
    ("method", "content_type", "query", "kind", "field", "text"),
    [
        ("POST", "application/json", "dryRun=Some", "CreateOptions", "dryRun", 'Unsupported value: ["Some"]: supported values: "All"'),
        ("PUT", "application/json", "dryRun=", "UpdateOptions", "dryRun", 'Unsupported value: [""]'),
        ("POST", "application/json", "fieldValidation=Some", "CreateOptions", "fieldValidation", 'supported values: "", "Ignore", "Strict", "Warn"'),
        ("PATCH", MERGE, "force=true", "PatchOptions", "force", "Forbidden: may not be specified for non-apply patch"),
        ("PATCH", MERGE, "fieldManager=" + "x" * 129, "PatchOptions", "fieldManager", "Too long: may not be more than 128 bytes"),
        ("PUT", "application/json", "fieldManager=a%07", "UpdateOptions", "fieldManager", "invalid character U+0007 (at position 1)"),
        ("PATCH", APPLY, "", "PatchOptions", "fieldManager", "Required value: is required for apply patch"),
        ("DELETE", "application/json", "propagationPolicy=Some", "DeleteOptions", "propagationPolicy", 'supported values: "Foreground", "Background", "Orphan", "nil"'),
        ("DELETE", "application/json", "dryRun=Some", "DeleteOptions", "dryRun", "Unsupported value"),
    ],
)  # fmt: skip
async def test_what_writes_may_ask(
    method: str, content_type: str, query: str, kind: str, field: str, text: str
) -> None:
    async with running() as api:
        await filled(api, "a")
        url = CONFIG_MAPS if method == "POST" else f"{CONFIG_MAPS}/a"
        body = None if method == "DELETE" else config_map("b" if method == "POST" else "a")
        answer = await api.ask(method, f"{url}?{query}", body, content_type=content_type)
        assert answer.code == 422, answer.json
        assert answer.json["message"].startswith(f'{kind}.meta.k8s.io "" is invalid: {field}: ')
        assert text in answer.json["message"]
        assert names(await api.ask("GET", CONFIG_MAPS)) == ["a"]


@pytest.mark.parametrize("body", [
    {"preconditions": 5}, {"dryRun": 5}, {"gracePeriodSeconds": "x"}, {"propagationPolicy": []}, {"kind": "Pod"},
    {"orphanDependents": "no"}, [], 7, {"preconditions": {"uid": {}}},
], ids=str)  # fmt: skip
async def test_options_of_the_wrong_form_delete_nothing(body: Any) -> None:
    async with running() as api:
        await filled(api, "a")
        for url in (f"{CONFIG_MAPS}/a", CONFIG_MAPS):
            assert (await api.ask("DELETE", url, body)).code == 400
        assert names(await api.ask("GET", CONFIG_MAPS)) == ["a"]


async def test_updates_that_must_name_their_revision() -> None:
    async with running() as api:
        lease = {"metadata": {"name": "l"}, "spec": {"holderIdentity": "x"}}
        made = await api.ask("PUT", f"{LEASES}/l", lease)
        assert made.code == 201
        blind = await api.ask("PUT", f"{LEASES}/l", lease)
        assert (blind.code, blind.json["message"]) == (
            422,
            'leases.coordination.k8s.io "l" is invalid: metadata.resourceVersion: Invalid value: 0: must be specified for '
            "an update",
        )
        assert (await api.ask("PUT", f"{LEASES}/l", made.json)).code == 200
        await filled(api, "a")
        assert (await api.ask("PUT", f"{CONFIG_MAPS}/a", config_map("a", x="y"))).code == 200
        again = await api.ask(
            "PUT", f"{LEASES}/other", {**made.json, "metadata": {**made.json["metadata"], "name": "other"}}
        )
        assert (again.code, "uid mismatch" in again.json["message"]) == (409, True)


async def test_preconditions_of_deletions() -> None:
    async with running() as api:
        await filled(api, "a")
        for wish, text in (
            ({"uid": "other"}, "the UID in the precondition (other) does not match the UID in record ("),
            (
                {"resourceVersion": "1"},
                "the ResourceVersion in the precondition (1) does not match the ResourceVersion",
            ),
        ):
            answer = await api.ask("DELETE", f"{CONFIG_MAPS}/a", {"preconditions": wish})
            assert (answer.code, answer.json["reason"], text in answer.json["message"]) == (409, "Conflict", True)
        metadata = (await api.ask("GET", f"{CONFIG_MAPS}/a")).json["metadata"]
        right = {name: metadata[name] for name in ("uid", "resourceVersion")}
        assert (await api.ask("DELETE", f"{CONFIG_MAPS}/a", {"preconditions": right})).code == 200


@pytest.mark.parametrize(
    ("url", "body", "options", "finalizers"),
    [
        (JOBS, "job", {}, ["orphan"]),
        (JOBS, "job", {"propagationPolicy": "Background"}, None),
        (JOBS, "job", {"orphanDependents": False}, None),
        (DEPLOYMENTS, "deployment", {}, None),
        (DEPLOYMENTS, "deployment", {"propagationPolicy": "Foreground"}, ["foregroundDeletion"]),
        (DEPLOYMENTS, "deployment", {"orphanDependents": True}, ["orphan"]),
    ],
)
async def test_what_becomes_of_dependents(url: str, body: str, options: Any, finalizers: list[str] | None) -> None:
    async with running() as api:
        obj = deployment("x")
        if body == "job":
            template = {"spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "i"}]}}
            obj = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "x"}, "spec": {"template": template}}
        assert (await api.ask("POST", url, obj)).code == 201
        answer = await api.ask("DELETE", f"{url}/x", options)
        left = await api.ask("GET", f"{url}/x")
        if finalizers is None:
            assert left.code == 404
        else:
            assert answer.json["metadata"]["finalizers"] == finalizers == left.json["metadata"]["finalizers"]


async def test_a_pods_grace_is_shortened_and_never_prolonged() -> None:
    async with running() as api:
        await api.ask("POST", PODS, pod("p", nodeName="n1"))
        first = (await api.ask("DELETE", f"{PODS}/p")).json["metadata"]
        assert first["deletionGracePeriodSeconds"] == 30
        for options in ({}, {"gracePeriodSeconds": 60}, {"propagationPolicy": "Foreground"}):
            assert (await api.ask("DELETE", f"{PODS}/p", options)).json["metadata"] == first
        shorter = (await api.ask("DELETE", f"{PODS}/p", {"gracePeriodSeconds": 5})).json["metadata"]
        assert (shorter["deletionGracePeriodSeconds"], shorter["generation"]) == (5, first["generation"])
        assert shorter["deletionTimestamp"] < first["deletionTimestamp"]
        ended = await api.ask("DELETE", f"{PODS}/p", {"gracePeriodSeconds": -7})
        assert ended.json["metadata"]["deletionGracePeriodSeconds"] == 1
        await api.ask("DELETE", f"{PODS}/p", {"gracePeriodSeconds": 0})
        assert (await api.ask("GET", f"{PODS}/p")).code == 404


async def test_202_tells_that_dependents_go_first() -> None:
    async with running() as api:
        obj = config_map("a")
        obj["metadata"]["finalizers"] = ["x/y"]
        await api.ask("POST", CONFIG_MAPS, obj)
        assert (await api.ask("DELETE", f"{CONFIG_MAPS}/a", {"orphanDependents": False})).code == 202
        assert (await api.ask("DELETE", f"{CONFIG_MAPS}/a")).code == 200


async def test_collections_are_deleted_by_the_page_too() -> None:
    async with running() as api:
        await filled(api)
        page = await api.ask("DELETE", f"{CONFIG_MAPS}?limit=2")
        assert (names(page), page.json["metadata"]["remainingItemCount"]) == (["a", "b"], 3)
        await api.ask("DELETE", f"{CONFIG_MAPS}?fieldSelector=metadata.name%3Dd&dryRun=All")
        assert names(await api.ask("GET", CONFIG_MAPS)) == ["c", "d", "e"]
        assert (await api.ask("DELETE", f"{CONFIG_MAPS}?resourceVersionMatch=Exact")).code == 422


DRY: list[tuple[str, str, str, Any, int]] = [
    ("POST", CONFIG_MAPS, "application/json", config_map("new"), 201),
    ("PUT", f"{CONFIG_MAPS}/a", "application/json", config_map("a", x="dry"), 200),
    ("PATCH", f"{CONFIG_MAPS}/a", MERGE, {"data": {"x": "dry"}}, 200),
    ("PATCH", f"{CONFIG_MAPS}/a", STRATEGIC, {"data": {"x": "dry"}}, 200),
    ("PATCH", f"{CONFIG_MAPS}/a", JSON_PATCH, [{"op": "add", "path": "/data", "value": {"x": "dry"}}], 200),
    ("PATCH", f"{CONFIG_MAPS}/new", APPLY, {"apiVersion": "v1", "kind": "ConfigMap", "data": {"x": "dry"}}, 201),
    ("PUT", f"{LEASES}/new", "application/json", {"metadata": {"name": "new"}, "spec": {}}, 201),
    ("DELETE", f"{CONFIG_MAPS}/a", "application/json", None, 200),
    ("DELETE", CONFIG_MAPS, "application/json", None, 200),
    ("DELETE", f"{PODS}/p", "application/json", None, 200),
    ("POST", f"{PODS}/p/binding", "application/json", {"target": {"name": "n"}}, 201),
    ("POST", f"{PODS}/p/eviction", "application/json", {"metadata": {"name": "p"}}, 201),
    ("PATCH", f"{PODS}/p/status", MERGE, {"status": {"message": "dry"}}, 200),
    ("PATCH", f"{DEPLOYMENTS}/d/scale", MERGE, {"spec": {"replicas": 7}}, 200),
]


async def test_a_dry_run_stores_nothing() -> None:
    async with running() as api:
        await filled(api, "a")
        assert (await api.ask("POST", PODS, pod("p"))).code == 201
        assert (await api.ask("POST", DEPLOYMENTS, deployment("d"))).code == 201
        before = api.store.at
        for method, url, content_type, body, code in DRY:
            answer = await api.ask(method, f"{url}?dryRun=All&fieldManager=m", body, content_type=content_type)
            assert (answer.code, api.store.at) == (code, before), (method, url, answer.body)


@pytest.mark.parametrize(
    ("method", "content_type", "body", "fault"),
    [
        ("POST", "application/json", b'{"metadata":{"name":"b"},"data":{"a":"1","a":"2"}}', 'duplicate field "data.a"'),
        ("PATCH", MERGE, b'{"data":{"a":"1","a":"2"}}', 'duplicate field "data.a"'),
        ("PATCH", STRATEGIC, b'{"data":{"a":"1","a":"2"}}', 'duplicate field "data.a"'),
        ("PATCH", MERGE, b'{"more":1}', 'unknown field "more"'),
        ("PATCH", APPLY, b'apiVersion: v1\nkind: ConfigMap\ndata:\n  a: "1"\n  a: "2"\n', 'line 5: key "a" already set in map'),
        ("PATCH", APPLY, b'{"apiVersion":"v1","kind":"ConfigMap","data":{"a":"1","a":"2"}}', "data.a"),
    ],
)  # fmt: skip
async def test_field_validation(method: str, content_type: str, body: bytes, fault: str) -> None:
    async with running() as api:
        await filled(api, "a")
        url = (CONFIG_MAPS if method == "POST" else f"{CONFIG_MAPS}/a") + "?fieldManager=m&fieldValidation="
        strict = await api.ask(method, url + "Strict", body, content_type=content_type)
        assert (strict.code, fault in strict.json["message"]) == (
            422 if content_type in (MERGE, STRATEGIC) else 400,
            True,
        )
        ignored = await api.ask(method, url + "Ignore&dryRun=All", body, content_type=content_type)
        assert (ignored.code < 300, "warning" in ignored.headers) == (True, False)
        warned = await api.ask(method, url, body, content_type=content_type)
        assert (warned.code < 300, fault.replace('"', '\\"') in warned.headers["warning"]) == (True, True)


async def test_codes_of_patches() -> None:
    async with running() as api:
        await filled(api, "a")
        url = f"{CONFIG_MAPS}/a"
        for content_type, body, code in (
            ("application/json", {}, 415),
            ("", {}, 415),
            (MERGE, b"{", 400),
            (MERGE, [], 400),
            (JSON_PATCH, {}, 400),
            (JSON_PATCH, [{"op": "test", "path": "/data/x", "value": "y"}], 422),
            (JSON_PATCH, [{"op": "add", "path": "/x"}] * 10_001, 413),
            (MERGE, {"metadata": {"resourceVersion": "1"}}, 409),
            (MERGE, {"metadata": {"uid": "x"}}, 409),
            (MERGE, {"metadata": {"name": "b"}}, 400),
            (MERGE, {"metadata": {"namespace": "b"}}, 400),
            (MERGE, {"data": 5}, 422),
            (APPLY, {"apiVersion": "v2", "kind": "ConfigMap"}, 400),
            (APPLY, {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"managedFields": [{}]}}, 400),
        ):
            answer = await api.ask("PATCH", url + "?fieldManager=m", body, content_type=content_type)
            assert (answer.code, answer.json["kind"]) == (code, "Status"), (content_type, body, answer.body)
        gone = await api.ask("PATCH", f"{CONFIG_MAPS}/none", {}, content_type=MERGE)
        assert gone.code == 404


async def test_a_patch_of_copies_does_not_fill_the_memory() -> None:
    async with running() as api:
        await api.ask("POST", CONFIG_MAPS, config_map("a", x="y" * 50_000))
        doubling = [{"op": "copy", "from": "/data", "path": f"/data/{number}"} for number in range(40)]
        answer = await api.ask("PATCH", f"{CONFIG_MAPS}/a", doubling, content_type=JSON_PATCH)
        assert answer.code == 422
        assert "exceeding the limit 3145728" in answer.json["details"]["causes"][0]["message"]


async def test_a_changed_type_is_a_change() -> None:
    async with running() as api:
        await filled(api, "a")
        obj = (await api.ask("GET", f"{CONFIG_MAPS}/a")).json
        test = [{"op": "test", "path": "/metadata/generation", "value": True}]
        api_object = deployment("d")
        assert (await api.ask("POST", DEPLOYMENTS, api_object)).json["metadata"]["generation"] == 1
        answer = await api.ask("PATCH", f"{DEPLOYMENTS}/d", test, content_type=JSON_PATCH)
        assert answer.code == 422
        assert obj["kind"] == "ConfigMap"


async def test_names_that_nobody_can_find_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("control.apiserver.registry.generated_name", lambda base: base + "a")
    async with running() as api:
        obj = config_map("")
        obj["metadata"] = {"generateName": "x"}
        assert (await api.ask("POST", CONFIG_MAPS, obj)).code == 201
        answer = await api.ask("POST", CONFIG_MAPS, obj)
        assert (answer.code, answer.json["message"]) == (
            409,
            'configmaps "xa" already exists, the server was not able to generate a unique name for the object',
        )


async def test_a_cluster_wide_object_needs_no_namespace() -> None:
    async with running() as api:
        node = {"metadata": {"name": "n", "namespace": "left-over"}}
        made = await api.ask("POST", "/api/v1/nodes", node)
        assert (made.code, made.json["metadata"].get("namespace")) == (201, None)


async def test_a_body_for_a_handler_has_a_type_too() -> None:
    async with running() as api:
        await api.ask("POST", PODS, pod("p"))
        for url, body in (
            (f"{PODS}/p/binding", {"target": "n"}),
            (f"{PODS}/p/binding", []),
            (f"{PODS}/p/binding", {"kind": "Pod", "apiVersion": "v1"}),
            (f"{PODS}/p/eviction", {"deleteOptions": 5}),
            (f"{PODS}/p/eviction", None),
        ):
            answer = await api.ask("POST", url, body)
            assert (answer.code, answer.json["reason"]) == (400, "BadRequest"), (url, body, answer.json)
        old = {"apiVersion": "policy/v1beta1", "kind": "Eviction", "metadata": {"name": "p"}}
        assert (await api.ask("POST", f"{PODS}/p/eviction?dryRun=All", old)).code == 201


async def test_many_writers_of_one_object_lose_nothing() -> None:
    async with running() as api:
        await filled(api, "a")

        async def add(number: int) -> int:
            body = {"apiVersion": "v1", "kind": "ConfigMap", "data": {f"k{number}": "v"}}
            return (await api.ask("PATCH", f"{CONFIG_MAPS}/a?fieldManager=m{number}", body, content_type=APPLY)).code

        assert set(await asyncio.gather(*(add(number) for number in range(8)))) == {200}
        assert len((await api.ask("GET", f"{CONFIG_MAPS}/a")).json["data"]) == 8
