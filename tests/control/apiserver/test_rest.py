"""The REST API as clients see it, over a store in memory."""

from __future__ import annotations

import asyncio
from typing import Any

import orjson
import pytest

from control.apiserver import watch
from tests.control.apiserver.harness import TABLE, Api, next_event, running

CONFIG_MAPS = "/api/v1/namespaces/default/configmaps"
PODS = "/api/v1/namespaces/default/pods"
DEPLOYMENTS = "/apis/apps/v1/namespaces/default/deployments"


def config_map(name: str, **data: str) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data}


def pod(name: str, **spec: Any) -> dict[str, Any]:
    containers = [{"name": "c", "image": "busybox"}]
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": {"containers": containers, **spec}}


def deployment(name: str, replicas: int = 1) -> dict[str, Any]:
    labels = {"app": name}
    template = {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "c", "image": "busybox"}]}}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name},
        "spec": {"replicas": replicas, "selector": {"matchLabels": labels}, "template": template},
    }


async def test_create_sets_what_the_server_decides() -> None:
    async with running() as api:
        made = await api.ask("POST", CONFIG_MAPS, config_map("a", x="y"))
        assert made.code == 201
        metadata = made.json["metadata"]
        assert metadata["namespace"] == "default"
        assert metadata["resourceVersion"] == "2"
        assert metadata["uid"]
        assert metadata["creationTimestamp"].endswith("Z")
        stored = orjson.loads(api.store.state()["/registry/configmaps/default/a"].value)
        assert "resourceVersion" not in stored["metadata"]
        assert (await api.ask("GET", f"{CONFIG_MAPS}/a")).json == made.json


async def test_names_are_generated() -> None:
    async with running() as api:
        obj = config_map("")
        obj["metadata"] = {"generateName": "x-"}
        names = {(await api.ask("POST", CONFIG_MAPS, obj)).json["metadata"]["name"] for _ in range(3)}
        assert len(names) == 3
        assert all(name.startswith("x-") and len(name) == 7 for name in names)


@pytest.mark.parametrize(
    ("method", "url", "body", "code", "reason"),
    [
        pytest.param("GET", f"{CONFIG_MAPS}/nope", None, 404, "NotFound", id="no such object"),
        pytest.param("GET", "/api/v1/namespaces/default/foos", None, 404, "NotFound", id="no such resource"),
        pytest.param("GET", "/apis/no/such/group", None, 404, "NotFound", id="no such group"),
        pytest.param("GET", "/nowhere", None, 404, "NotFound", id="no such path"),
        pytest.param("POST", f"{CONFIG_MAPS}/a", config_map("a"), 405, "MethodNotAllowed", id="create with a name"),
        pytest.param("PUT", CONFIG_MAPS, config_map("a"), 405, "MethodNotAllowed", id="update without a name"),
        pytest.param("POST", CONFIG_MAPS, b"{", 400, "BadRequest", id="broken JSON"),
        pytest.param("POST", CONFIG_MAPS, b"[]", 400, "BadRequest", id="not an object"),
        pytest.param("POST", CONFIG_MAPS, b"", 400, "BadRequest", id="no body"),
        pytest.param("POST", CONFIG_MAPS, b"\xff\xfe", 400, "BadRequest", id="not UTF-8"),
        pytest.param("POST", CONFIG_MAPS, pod("a"), 400, "BadRequest", id="another kind"),
        pytest.param("POST", CONFIG_MAPS, {**config_map("a"), "metadata": {"name": "a", "namespace": "b"}}, 400,
                     "BadRequest", id="another namespace"),
        pytest.param("POST", CONFIG_MAPS, {**config_map("a"), "metadata": 7}, 400, "BadRequest", id="metadata no map"),
        pytest.param("POST", CONFIG_MAPS, {**config_map("a"), "data": 7}, 400, "BadRequest", id="field of wrong type"),
        pytest.param("POST", f"{CONFIG_MAPS}?fieldValidation=Strict", {**config_map("a"), "no": 1}, 400, "BadRequest",
                     id="unknown field"),
        pytest.param("POST", f"{CONFIG_MAPS}?dryRun=Some", config_map("a"), 422, "Invalid", id="unknown dry run"),
        pytest.param("GET", f"{CONFIG_MAPS}?labelSelector=a%20b", None, 400, "BadRequest", id="bad label selector"),
        pytest.param("GET", f"{CONFIG_MAPS}?fieldSelector=data.x=1", None, 400, "BadRequest", id="bad field selector"),
        pytest.param("GET", f"{CONFIG_MAPS}?limit=x", None, 400, "BadRequest", id="bad limit"),
        pytest.param("GET", f"{CONFIG_MAPS}?continue=x", None, 400, "BadRequest", id="bad continue"),
        pytest.param("GET", f"{CONFIG_MAPS}?resourceVersion=x", None, 400, "BadRequest", id="bad revision"),
        pytest.param("GET", f"{CONFIG_MAPS}?resourceVersion=1&resourceVersionMatch=No", None, 422, "Invalid",
                     id="bad match"),
        pytest.param("GET", f"{CONFIG_MAPS}?watch=1&sendInitialEvents=true", None, 422, "Invalid",
                     id="initial events without match"),
        pytest.param("PATCH", f"{CONFIG_MAPS}/a", {}, 415, "UnsupportedMediaType", id="patch of no type"),
    ],
)  # fmt: skip
async def test_refusals_are_statuses(method: str, url: str, body: Any, code: int, reason: str) -> None:
    async with running() as api:
        answer = await api.ask(method, url, body)
        assert (answer.code, answer.json["kind"], answer.json["reason"]) == (code, "Status", reason), answer.json
        assert not [key for key in api.store.state() if key.startswith("/registry/")]


async def test_a_body_above_the_limit_is_refused() -> None:
    async with running(body_bytes_max=1000) as api:
        answer = await api.ask("POST", CONFIG_MAPS, config_map("a", x="y" * 1000))
        assert (answer.code, answer.json["reason"]) == (413, "RequestEntityTooLarge")


async def test_an_unexpected_failure_shows_nothing_of_itself(caplog: pytest.LogCaptureFixture) -> None:
    async with running() as api:

        async def broken(request: Any) -> Any:
            raise ZeroDivisionError("secret")

        api.door.mutate = broken  # type: ignore[method-assign]
        answer = await api.ask("POST", CONFIG_MAPS, config_map("a"))
        assert (answer.code, answer.json["reason"]) == (500, "InternalError")
        assert b"secret" not in answer.body
        assert b"Traceback" not in answer.body
        assert "secret" in caplog.text


async def test_an_unavailable_store_is_told_with_a_time_to_come_back() -> None:
    async with running() as api:
        await api.ask("GET", CONFIG_MAPS)
        api.store.down = True
        for method, url, body in (("GET", CONFIG_MAPS, None), ("POST", CONFIG_MAPS, config_map("a"))):
            answer = await api.ask(method, url, body)
            assert (answer.code, answer.headers["retry-after"]) == (503, "1")


async def test_who_may_not_is_told_in_kubernetes_words() -> None:
    async with running() as api:
        api.door.denied = {"bob"}
        answer = await api.ask("GET", f"{PODS}/x/log", authorization="bob")
        expected = 'pods "x" is forbidden: User "bob" cannot get resource "pods/log" in API group "" in the namespace "default"'
        assert (answer.code, answer.json["message"]) == (403, expected)
        answer = await api.ask("GET", "/version", authorization="bob")
        assert answer.json["message"] == 'forbidden: User "bob" cannot get path "/version"'


async def test_updates_are_guarded_by_the_revision() -> None:
    async with running() as api:
        made = (await api.ask("POST", CONFIG_MAPS, config_map("a", x="1"))).json
        changed = {**made, "data": {"x": "2"}}
        assert (await api.ask("PUT", f"{CONFIG_MAPS}/a", changed)).code == 200
        answer = await api.ask("PUT", f"{CONFIG_MAPS}/a", changed)
        assert (answer.code, answer.json["reason"]) == (409, "Conflict")
        unguarded = {**config_map("a", x="3")}
        assert (await api.ask("PUT", f"{CONFIG_MAPS}/a", unguarded)).json["data"] == {"x": "3"}
        other = {**made, "metadata": {"name": "a", "uid": "other"}}
        assert (await api.ask("PUT", f"{CONFIG_MAPS}/a", other)).json["reason"] == "Conflict"


async def test_an_update_that_changes_nothing_writes_nothing() -> None:
    async with running() as api:
        made = (await api.ask("POST", CONFIG_MAPS, config_map("a", x="1"))).json
        before = api.store.at
        assert (await api.ask("PUT", f"{CONFIG_MAPS}/a", made)).json == made
        assert api.store.at == before


async def test_dry_run_stores_nothing() -> None:
    async with running() as api:
        assert (await api.ask("POST", f"{CONFIG_MAPS}?dryRun=All", config_map("a"))).code == 201
        assert (await api.ask("GET", f"{CONFIG_MAPS}/a")).code == 404
        await api.ask("POST", CONFIG_MAPS, config_map("a", x="1"))
        patch = {"data": {"x": "2"}}
        kind = "application/merge-patch+json"
        answer = await api.ask("PATCH", f"{CONFIG_MAPS}/a?dryRun=All", patch, content_type=kind)
        assert answer.json["data"] == {"x": "2"}
        await api.ask("DELETE", f"{CONFIG_MAPS}/a?dryRun=All")
        assert (await api.ask("GET", f"{CONFIG_MAPS}/a")).json["data"] == {"x": "1"}


@pytest.mark.parametrize(
    ("kind", "patch"),
    [
        pytest.param("application/merge-patch+json", {"spec": {"replicas": 3}}, id="merge"),
        pytest.param("application/strategic-merge-patch+json", {"spec": {"replicas": 3}}, id="strategic"),
        pytest.param(
            "application/json-patch+json", [{"op": "replace", "path": "/spec/replicas", "value": 3}], id="json"
        ),
    ],
)
async def test_patches_bump_the_generation(kind: str, patch: Any) -> None:
    async with running() as api:
        await api.ask("POST", DEPLOYMENTS, deployment("web"))
        answer = await api.ask("PATCH", f"{DEPLOYMENTS}/web", patch, content_type=kind)
        assert (answer.code, answer.json["spec"]["replicas"], answer.json["metadata"]["generation"]) == (200, 3, 2)
        label = {"metadata": {"labels": {"a": "b"}}}
        answer = await api.ask("PATCH", f"{DEPLOYMENTS}/web", label, content_type="application/merge-patch+json")
        assert answer.json["metadata"]["generation"] == 2


async def test_patches_of_many_writers_all_arrive() -> None:
    async with running() as api:
        await api.ask("POST", CONFIG_MAPS, config_map("a"))
        kind = "application/merge-patch+json"
        patches = [api.ask("PATCH", f"{CONFIG_MAPS}/a", {"data": {f"k{n}": "v"}}, content_type=kind) for n in range(6)]
        assert {answer.code for answer in await asyncio.gather(*patches)} == {200}
        assert len((await api.ask("GET", f"{CONFIG_MAPS}/a")).json["data"]) == 6


async def test_status_and_spec_are_written_apart() -> None:
    async with running() as api:
        made = (await api.ask("POST", DEPLOYMENTS, {**deployment("web"), "status": {"replicas": 9}})).json
        assert made["status"] == {}
        reported = {**made, "spec": {**made["spec"], "replicas": 7}, "status": {"replicas": 1}}
        answer = (await api.ask("PUT", f"{DEPLOYMENTS}/web/status", reported)).json
        assert (answer["spec"]["replicas"], answer["status"], answer["metadata"]["generation"]) == (
            1,
            {"replicas": 1},
            1,
        )
        wished = {**answer, "spec": {**made["spec"], "replicas": 2}, "status": {}}
        answer = (await api.ask("PUT", f"{DEPLOYMENTS}/web", wished)).json
        assert (answer["spec"]["replicas"], answer["status"]) == (2, {"replicas": 1})


async def test_scale() -> None:
    async with running() as api:
        await api.ask("POST", DEPLOYMENTS, deployment("web", 2))
        scale = (await api.ask("GET", f"{DEPLOYMENTS}/web/scale")).json
        assert (scale["kind"], scale["spec"], scale["status"]["selector"]) == ("Scale", {"replicas": 2}, "app=web")
        patch = {"spec": {"replicas": 5}}
        answer = await api.ask("PATCH", f"{DEPLOYMENTS}/web/scale", patch, content_type="application/merge-patch+json")
        assert answer.json["spec"] == {"replicas": 5}
        stale = {**scale, "spec": {"replicas": 1}}
        assert (await api.ask("PUT", f"{DEPLOYMENTS}/web/scale", stale)).json["reason"] == "Conflict"
        wrong = {**answer.json, "spec": {"replicas": -1}}
        assert (await api.ask("PUT", f"{DEPLOYMENTS}/web/scale", wrong)).json["reason"] == "Invalid"
        assert (await api.ask("GET", f"{DEPLOYMENTS}/web")).json["spec"]["replicas"] == 5


async def test_deletion_waits_for_finalizers() -> None:
    async with running() as api:
        obj = config_map("a")
        obj["metadata"]["finalizers"] = ["x/y"]
        await api.ask("POST", CONFIG_MAPS, obj)
        answer = (await api.ask("DELETE", f"{CONFIG_MAPS}/a")).json
        assert answer["metadata"]["deletionTimestamp"]
        answer["metadata"]["finalizers"] = []
        assert (await api.ask("PUT", f"{CONFIG_MAPS}/a", answer)).code == 200
        assert (await api.ask("GET", f"{CONFIG_MAPS}/a")).code == 404


async def test_deletion_at_once_answers_with_a_status() -> None:
    async with running() as api:
        made = (await api.ask("POST", CONFIG_MAPS, config_map("a"))).json
        wrong = {"preconditions": {"uid": "other"}}
        assert (await api.ask("DELETE", f"{CONFIG_MAPS}/a", wrong)).json["reason"] == "Conflict"
        answer = (await api.ask("DELETE", f"{CONFIG_MAPS}/a")).json
        assert (answer["status"], answer["details"]["uid"]) == ("Success", made["metadata"]["uid"])
        assert (await api.ask("DELETE", f"{CONFIG_MAPS}/a")).code == 404


async def assigned_pod(api: Api, name: str, node: str = "n1") -> None:
    await api.ask("POST", PODS, pod(name))
    binding = {
        "apiVersion": "v1",
        "kind": "Binding",
        "metadata": {"name": name},
        "target": {"kind": "Node", "name": node},
    }
    assert (await api.ask("POST", f"{PODS}/{name}/binding", binding)).code == 201


async def test_binding_assigns_a_pod_once() -> None:
    async with running() as api:
        await assigned_pod(api, "p")
        found = (await api.ask("GET", f"{PODS}/p")).json
        assert found["spec"]["nodeName"] == "n1"
        assert found["status"]["conditions"][0]["type"] == "PodScheduled"
        binding = {"metadata": {"name": "p"}, "target": {"name": "n2"}}
        answer = await api.ask("POST", f"{PODS}/p/binding", binding)
        assert answer.code == 409
        assert 'already assigned to node "n1"' in answer.json["message"]


async def test_pods_get_their_grace() -> None:
    async with running() as api:
        await api.ask("POST", PODS, pod("idle"))
        await api.ask("DELETE", f"{PODS}/idle")
        assert (await api.ask("GET", f"{PODS}/idle")).code == 404
        await assigned_pod(api, "p")
        answer = (await api.ask("DELETE", f"{PODS}/p")).json
        assert answer["metadata"]["deletionGracePeriodSeconds"] == 30
        answer = (await api.ask("DELETE", f"{PODS}/p", {"gracePeriodSeconds": 5})).json
        assert answer["metadata"]["deletionGracePeriodSeconds"] == 5
        answer = (await api.ask("DELETE", f"{PODS}/p", {"gracePeriodSeconds": 60})).json
        assert answer["metadata"]["deletionGracePeriodSeconds"] == 5
        assert (await api.ask("DELETE", f"{PODS}/p", {"gracePeriodSeconds": 0})).code == 200
        assert (await api.ask("GET", f"{PODS}/p")).code == 404


async def test_eviction_asks_the_budget() -> None:
    async with running() as api:
        labelled = pod("p")
        labelled["metadata"]["labels"] = {"app": "web"}
        await api.ask("POST", PODS, labelled)
        await api.ask("POST", f"{PODS}/p/binding", {"target": {"name": "n1"}})
        running_status = {"status": {"phase": "Running"}}
        await api.ask("PATCH", f"{PODS}/p/status", running_status, content_type="application/merge-patch+json")
        budget = {
            "apiVersion": "policy/v1",
            "kind": "PodDisruptionBudget",
            "metadata": {"name": "b"},
            "spec": {"minAvailable": 1, "selector": {"matchLabels": {"app": "web"}}},
        }
        url = "/apis/policy/v1/namespaces/default/poddisruptionbudgets"
        await api.ask("POST", url, budget)
        eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "p"}}
        assert (await api.ask("POST", f"{PODS}/p/eviction", eviction)).code == 429
        allowed = {"status": {"disruptionsAllowed": 1, "observedGeneration": 1}}
        await api.ask("PATCH", f"{url}/b/status", allowed, content_type="application/merge-patch+json")
        assert (await api.ask("POST", f"{PODS}/p/eviction", eviction)).code == 201
        assert (await api.ask("GET", f"{PODS}/p")).json["metadata"]["deletionTimestamp"]
        assert (await api.ask("GET", f"{url}/b")).json["status"]["disruptionsAllowed"] == 0


async def test_a_namespace_goes_when_it_is_finalized() -> None:
    async with running() as api:
        made = await api.ask("POST", "/api/v1/namespaces", {"kind": "Namespace", "metadata": {"name": "x"}})
        assert made.json["spec"]["finalizers"] == ["kubernetes"]
        assert made.json["metadata"]["labels"] == {"kubernetes.io/metadata.name": "x"}
        gone = (await api.ask("DELETE", "/api/v1/namespaces/x")).json
        assert gone["status"]["phase"] == "Terminating"
        gone["spec"]["finalizers"] = []
        assert (await api.ask("PUT", "/api/v1/namespaces/x/finalize", gone)).code == 200
        assert (await api.ask("GET", "/api/v1/namespaces/x")).code == 404


async def test_delete_collection_takes_what_is_selected() -> None:
    async with running() as api:
        for name, labels in (("a", {"x": "1"}), ("b", {"x": "2"})):
            obj = config_map(name)
            obj["metadata"]["labels"] = labels
            await api.ask("POST", CONFIG_MAPS, obj)
        assert len((await api.ask("DELETE", f"{CONFIG_MAPS}?labelSelector=x%3D1")).json["items"]) == 1
        assert [item["metadata"]["name"] for item in (await api.ask("GET", CONFIG_MAPS)).json["items"]] == ["b"]


async def test_lists_come_in_pages_of_one_revision() -> None:
    async with running() as api:
        for name in "abcde":
            await api.ask("POST", CONFIG_MAPS, config_map(name))
        first = (await api.ask("GET", f"{CONFIG_MAPS}?limit=2")).json
        assert first["metadata"]["remainingItemCount"] == 3
        await api.ask("DELETE", f"{CONFIG_MAPS}/d")
        seen = [item["metadata"]["name"] for item in first["items"]]
        token = first["metadata"]["continue"]
        while token:
            page = (await api.ask("GET", f"{CONFIG_MAPS}?limit=2&continue={token}")).json
            assert page["metadata"]["resourceVersion"] == first["metadata"]["resourceVersion"]
            seen += [item["metadata"]["name"] for item in page["items"]]
            token = page["metadata"].get("continue")
        assert seen == list("abcde")


async def test_a_page_of_a_compacted_revision_is_gone() -> None:
    async with running() as api:
        for name in "abc":
            await api.ask("POST", CONFIG_MAPS, config_map(name))
        token = (await api.ask("GET", f"{CONFIG_MAPS}?limit=1")).json["metadata"]["continue"]
        await api.ask("POST", CONFIG_MAPS, config_map("d"))
        await api.ask("GET", CONFIG_MAPS)
        api.store.compacted = api.store.at
        answer = await api.ask("GET", f"{CONFIG_MAPS}?limit=1&continue={token}")
        assert (answer.code, answer.json["reason"]) == (410, "Expired")


async def test_reads_see_every_write_acknowledged_before() -> None:
    async with running() as api:
        await api.ask("GET", CONFIG_MAPS)
        api.store.held = True
        await api.ask("POST", CONFIG_MAPS, config_map("a"))
        assert (await api.ask("GET", f"{CONFIG_MAPS}?resourceVersion=0")).json["items"] == []
        reading = asyncio.ensure_future(api.ask("GET", CONFIG_MAPS))
        await asyncio.sleep(0.01)
        assert not reading.done()
        api.store.held = False
        api.store.wake()
        assert len((await reading).json["items"]) == 1


async def test_watch_follows_a_selection() -> None:
    async with running() as api:
        await api.ask("POST", CONFIG_MAPS, config_map("before"))
        listed = (await api.ask("GET", CONFIG_MAPS)).json["metadata"]["resourceVersion"]
        async with api.watch(f"{CONFIG_MAPS}?watch=1&resourceVersion={listed}&labelSelector=x%3Dy") as events:
            obj = config_map("a")
            obj["metadata"]["labels"] = {"x": "y"}
            made = (await api.ask("POST", CONFIG_MAPS, obj)).json
            assert await next_event(events) == {"type": "ADDED", "object": made}
            kind = "application/merge-patch+json"
            patched = await api.ask("PATCH", f"{CONFIG_MAPS}/a", {"data": {"k": "v"}}, content_type=kind)
            assert await next_event(events) == {"type": "MODIFIED", "object": patched.json}
            hidden = {"metadata": {"labels": None}}
            left = (await api.ask("PATCH", f"{CONFIG_MAPS}/a", hidden, content_type=kind)).json
            event = await next_event(events)
            assert (event["type"], event["object"]["metadata"]["labels"]) == ("DELETED", {"x": "y"})
            assert event["object"]["metadata"]["resourceVersion"] == left["metadata"]["resourceVersion"]


async def test_watch_without_a_revision_begins_with_what_is_there() -> None:
    async with running() as api:
        await api.ask("POST", CONFIG_MAPS, config_map("a"))
        async with api.watch(f"{CONFIG_MAPS}?watch=true") as events:
            event = await next_event(events)
            assert (event["type"], event["object"]["metadata"]["name"]) == ("ADDED", "a")
            await api.ask("DELETE", f"{CONFIG_MAPS}/a")
            assert (await next_event(events))["type"] == "DELETED"


async def test_watch_list_ends_its_first_part_with_a_bookmark() -> None:
    async with running() as api:
        await api.ask("POST", CONFIG_MAPS, config_map("a"))
        query = "watch=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true"
        async with api.watch(f"{CONFIG_MAPS}?{query}") as events:
            assert (await next_event(events))["type"] == "ADDED"
            bookmark = await next_event(events)
            assert bookmark["type"] == "BOOKMARK"
            assert bookmark["object"]["metadata"]["annotations"] == {"k8s.io/initial-events-end": "true"}
            assert bookmark["object"]["kind"] == "ConfigMap"


async def test_watch_of_lost_events_is_told_so() -> None:
    async with running() as api:
        for name in "ab":
            await api.ask("POST", CONFIG_MAPS, config_map(name))
        await api.ask("GET", CONFIG_MAPS)
        answer = await api.ask("GET", f"{CONFIG_MAPS}?watch=1&resourceVersion=1")
        assert (answer.code, answer.json["reason"]) == (410, "Expired")


async def test_watches_end_when_the_store_lost_their_events() -> None:
    async with running() as api:
        await api.ask("POST", CONFIG_MAPS, config_map("a"))
        listed = (await api.ask("GET", CONFIG_MAPS)).json["metadata"]["resourceVersion"]
        async with api.watch(f"{CONFIG_MAPS}?watch=1&resourceVersion={listed}") as events:
            api.store.held = True
            await api.ask("POST", CONFIG_MAPS, config_map("b"))
            await api.ask("POST", CONFIG_MAPS, config_map("c"))
            await api.ask("POST", CONFIG_MAPS, config_map("d"))
            api.store.held = False
            api.store.compact(api.store.at)
            event = await next_event(events)
            assert (event["type"], event["object"]["code"]) == ("ERROR", 410)
            assert await next_event(events) is None
        assert len((await api.ask("GET", CONFIG_MAPS)).json["items"]) == 4


async def test_watches_end_with_their_server() -> None:
    async with running() as api, api.watch(f"{CONFIG_MAPS}?watch=1") as events:
        api.feed.end_watches()
        assert await next_event(events) is None


async def test_a_watch_lives_as_long_as_it_asked_and_ends_with_one_bookmark() -> None:
    async with running() as api:
        async with api.watch(f"{CONFIG_MAPS}?watch=1&timeoutSeconds=1") as events:
            assert await next_event(events) is None
        async with api.watch(f"{CONFIG_MAPS}?watch=1&timeoutSeconds=1&allowWatchBookmarks=true") as events:
            assert (await next_event(events))["type"] == "BOOKMARK"
            assert await next_event(events) is None


async def test_bookmarks_come_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "BOOKMARK_INTERVAL_S", 0.2)
    types = []
    url = f"{CONFIG_MAPS}?watch=1&timeoutSeconds=1&allowWatchBookmarks=true"
    async with running() as api, api.watch(url) as events:
        while (event := await next_event(events)) is not None:
            types.append(event["type"])
    assert 1 <= len(types) <= 8
    assert set(types) == {"BOOKMARK"}


async def test_tables() -> None:
    async with running() as api:
        await api.ask("POST", PODS, pod("p"))
        table = (await api.ask("GET", f"{PODS}?limit=500", accept=TABLE)).json
        assert (table["kind"], table["rows"][0]["cells"][:3]) == ("Table", ["p", "0/1", "Pending"])
        assert table["rows"][0]["object"]["kind"] == "PartialObjectMetadata"
        one = (await api.ask("GET", f"{PODS}/p?includeObject=Object", accept=TABLE)).json
        assert one["rows"][0]["object"]["kind"] == "Pod"
        async with api.watch(f"{PODS}?watch=1", accept=TABLE) as events:
            first = await next_event(events)
            await api.ask("DELETE", f"{PODS}/p")
            second = await next_event(events)
        assert [bool(event["object"]["columnDefinitions"]) for event in (first, second)] == [True, False]


async def test_one_kind_in_two_versions() -> None:
    async with running() as api:
        scaler = {
            "apiVersion": "autoscaling/v1",
            "kind": "HorizontalPodAutoscaler",
            "metadata": {"name": "web"},
            "spec": {"maxReplicas": 3, "scaleTargetRef": {"kind": "Deployment", "name": "web"},
                     "targetCPUUtilizationPercentage": 50},
        }  # fmt: skip
        v1, v2 = (
            f"/apis/autoscaling/{version}/namespaces/default/horizontalpodautoscalers" for version in ("v1", "v2")
        )
        made = await api.ask("POST", v1, scaler)
        assert (made.code, made.json["apiVersion"]) == (201, "autoscaling/v1")
        new = (await api.ask("GET", f"{v2}/web")).json
        assert new["spec"]["metrics"][0]["resource"]["target"] == {"type": "Utilization", "averageUtilization": 50}
        old = (await api.ask("GET", v1)).json["items"][0]
        assert old["spec"]["targetCPUUtilizationPercentage"] == 50
        event = {"apiVersion": "events.k8s.io/v1", "kind": "Event", "metadata": {"name": "e"}, "note": "n",
                 "regarding": {"kind": "Pod", "name": "p"}, "eventTime": "2026-01-01T00:00:00.000000Z"}  # fmt: skip
        url = "/apis/events.k8s.io/v1/namespaces/default/events"
        assert (await api.ask("POST", url, event)).json["note"] == "n"
        core = (await api.ask("GET", "/api/v1/namespaces/default/events?fieldSelector=involvedObject.name%3Dp")).json
        assert core["items"][0]["message"] == "n"
        async with api.watch(f"{url}?watch=1") as events:
            assert (await next_event(events))["object"]["regarding"]["name"] == "p"


async def test_yaml_in_and_out() -> None:
    async with running() as api:
        body = b"apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\ndata: {when: '2026-01-01'}\n"
        assert (await api.ask("POST", CONFIG_MAPS, body, content_type="application/yaml")).code == 201
        answer = await api.ask("GET", f"{CONFIG_MAPS}/a", accept="application/yaml")
        assert (answer.headers["content-type"], b"kind: ConfigMap" in answer.body) == ("application/yaml", True)
        refused = await api.ask("GET", f"{CONFIG_MAPS}/a", accept="text/html")
        assert (refused.code, refused.json["reason"]) == (406, "NotAcceptable")


async def test_warnings_travel_in_headers() -> None:
    async with running() as api:
        answer = await api.ask("POST", CONFIG_MAPS, {**config_map("a"), "no": 1})
        assert (answer.code, answer.headers["warning"]) == (201, '299 - "unknown field \\"no\\""')


@pytest.mark.parametrize(
    ("accept", "kind", "content_type"),
    [
        pytest.param("application/json", "APIGroupList", "application/json", id="plain"),
        pytest.param(
            "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json",
            "APIGroupDiscoveryList",
            "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList",
            id="aggregated",
        ),
        pytest.param(
            "application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList,application/json",
            "APIGroupDiscoveryList",
            "application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList",
            id="aggregated, older",
        ),
    ],
)
async def test_discovery_by_accept(accept: str, kind: str, content_type: str) -> None:
    async with running() as api:
        answer = await api.ask("GET", "/apis", accept=accept)
        assert (answer.json["kind"], answer.headers["content-type"]) == (kind, content_type)


async def test_discovery_names_every_group_version() -> None:
    async with running() as api:
        for group in (await api.ask("GET", "/apis")).json["groups"]:
            for version in group["versions"]:
                listed = (await api.ask("GET", f"/apis/{version['groupVersion']}")).json
                assert listed["groupVersion"] == version["groupVersion"]
                assert listed["resources"]
        core = (await api.ask("GET", "/api/v1")).json["resources"]
        eviction = next(entry for entry in core if entry["name"] == "pods/eviction")
        assert (eviction["group"], eviction["version"], eviction["kind"]) == ("policy", "v1", "Eviction")


async def test_openapi_documents_are_found_through_the_index() -> None:
    async with running() as api:
        index = (await api.ask("GET", "/openapi/v3")).json["paths"]
        url = index["apis/apps/v1"]["serverRelativeURL"]
        answer = await api.ask("GET", url)
        assert "io.k8s.api.apps.v1.Deployment" in answer.json["components"]["schemas"]
        again = await api.ask("GET", url, if_none_match=answer.headers["etag"])
        assert again.code == 304


async def test_health() -> None:
    async with running() as api:
        assert (await api.ask("GET", "/readyz")).body == b"ok"
        assert b"[+]ping ok" in (await api.ask("GET", "/livez?verbose")).body
        assert (await api.ask("GET", "/healthz/ping")).code == 200
        assert (await api.ask("GET", "/healthz/nope")).code == 404
        assert (await api.ask("GET", "/version")).json["gitVersion"].startswith("v1.36")
