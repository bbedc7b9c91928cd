"""The REST API as clients see it, over a store in memory."""

from __future__ import annotations

import asyncio
from typing import Any

import orjson
import pytest

from tests.control.apiserver.harness import (
    CONFIG_MAPS,
    DEPLOYMENTS,
    PODS,
    Api,
    config_map,
    deployment,
    pod,
    running,
)


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
