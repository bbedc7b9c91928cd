"""Evictions: what a budget lets go, what it spends, and what is told to those who must wait."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from control.api.meta import Object
from tests.control.apiserver.harness import PODS, Answer, Api, pod, running

BUDGETS = "/apis/policy/v1/namespaces/default/poddisruptionbudgets"
MERGE = "application/merge-patch+json"
READY = [{"type": "Ready", "status": "True"}]


async def set_pod(api: Api, name: str, *, phase: str = "Running", ready: bool = True) -> None:
    made = pod(name)
    made["metadata"]["labels"] = {"app": "web"}
    await api.ask("POST", PODS, made)
    await api.ask("POST", f"{PODS}/{name}/binding", {"target": {"name": "n1"}})
    status = {"status": {"phase": phase, "conditions": READY if ready else []}}
    assert (await api.ask("PATCH", f"{PODS}/{name}/status", status, content_type=MERGE)).code == 200


async def set_budget(api: Api, name: str = "b", spec: Object | None = None, **status: Any) -> None:
    selector = {"matchLabels": {"app": "web"}}
    budget = {"metadata": {"name": name}, "spec": {"minAvailable": 1, "selector": selector, **(spec or {})}}
    assert (await api.ask("POST", BUDGETS, budget)).code == 201
    state = {"status": {"observedGeneration": 1, **status}}
    assert (await api.ask("PATCH", f"{BUDGETS}/{name}/status", state, content_type=MERGE)).code == 200


async def evict(api: Api, name: str, query: str = "", **fields: Any) -> Answer:
    body = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name}, **fields}
    return await api.ask("POST", f"{PODS}/{name}/eviction{query}", body)


async def get(api: Api, url: str) -> Any:
    return (await api.ask("GET", url)).json


async def test_an_eviction_spends_the_budget_and_marks_the_pod() -> None:
    async with running() as api:
        await set_pod(api, "p")
        await set_budget(api, disruptionsAllowed=1, desiredHealthy=1, currentHealthy=2)
        answer = await evict(api, "p")
        assert (answer.code, answer.json["status"]) == (201, "Success")
        found = await get(api, f"{PODS}/p")
        assert found["metadata"]["deletionTimestamp"]
        mark = next(entry for entry in found["status"]["conditions"] if entry["type"] == "DisruptionTarget")
        assert (mark["status"], mark["reason"], mark["message"]) == (
            "True", "EvictionByEvictionAPI", "Eviction API: evicting"
        )  # fmt: skip
        status = (await get(api, f"{BUDGETS}/b"))["status"]
        assert (status["disruptionsAllowed"], list(status["disruptedPods"])) == (0, ["p"])
        condition = status["conditions"][0]
        assert (condition["type"], condition["status"], condition["reason"]) == (
            "DisruptionAllowed", "False", "InsufficientPods"
        )  # fmt: skip


@pytest.mark.parametrize(
    ("status", "spec", "ready", "code", "cause"),
    [
        ({"desiredHealthy": 2, "currentHealthy": 2}, {}, True, 429, "The disruption budget b needs 2 healthy pods and has 2 currently"),
        ({"observedGeneration": 0, "disruptionsAllowed": 1}, {}, True, 429, "The disruption budget b is still being processed by the server."),
        ({"desiredHealthy": 2, "currentHealthy": 2}, {}, False, 201, None),
        ({"desiredHealthy": 2, "currentHealthy": 1}, {}, False, 429, "The disruption budget b needs 2 healthy pods and has 1 currently"),
        ({"desiredHealthy": 2, "currentHealthy": 1}, {"unhealthyPodEvictionPolicy": "AlwaysAllow"}, False, 201, None),
        ({"disruptionsAllowed": 1}, {"selector": {"matchLabels": {"app": "db"}}}, True, 201, None),
        ({"desiredHealthy": 2, "currentHealthy": 2}, {"selector": {}}, True, 429, "The disruption budget b needs 2 healthy pods and has 2 currently"),
    ],
    ids=["no room", "not looked at", "an ill pod of a sound set", "an ill pod of an ill set", "an ill pod, always", "another's", "all pods"],
)  # fmt: skip
async def test_when_a_running_pod_may_go(
    status: Object, spec: Object, ready: bool, code: int, cause: str | None
) -> None:
    async with running() as api:
        await set_pod(api, "p", ready=ready)
        await set_budget(api, spec=spec, **status)
        answer = await evict(api, "p")
        assert answer.code == code, answer.body
        assert ("deletionTimestamp" in (await get(api, f"{PODS}/p"))["metadata"]) is (code == 201)
        if cause is not None:
            assert answer.json["message"] == "Cannot evict pod as it would violate the pod's disruption budget."
            assert answer.json["details"]["causes"] == [{"reason": "DisruptionBudget", "message": cause}]
            assert answer.headers.get("retry-after") in (None, "10")


@pytest.mark.parametrize("phase", ["Pending", "Succeeded", "Failed"])
async def test_a_pod_that_does_not_run_needs_no_budget(phase: str) -> None:
    async with running() as api:
        await set_pod(api, "p", phase=phase)
        await set_budget(api, desiredHealthy=9)
        assert (await evict(api, "p")).code == 201


async def test_two_budgets_are_one_too_many() -> None:
    async with running() as api:
        await set_pod(api, "p")
        for name in "ab":
            await set_budget(api, name, disruptionsAllowed=1)
        answer = await evict(api, "p")
        assert (answer.code, answer.json["message"]) == (
            500,
            "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.",
        )


async def test_a_dry_run_changes_nothing() -> None:
    async with running() as api:
        await set_pod(api, "p")
        await set_budget(api, disruptionsAllowed=1)
        before = [await get(api, f"{PODS}/p"), await get(api, f"{BUDGETS}/b")]
        assert (await evict(api, "p", "?dryRun=All")).code == 201
        assert (await evict(api, "p", deleteOptions={"dryRun": ["All"]})).code == 201
        assert [await get(api, f"{PODS}/p"), await get(api, f"{BUDGETS}/b")] == before


async def test_what_an_eviction_may_not_say() -> None:
    async with running() as api:
        await set_pod(api, "p")
        wrong = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "q"}}
        answer = await api.ask("POST", f"{PODS}/p/eviction", wrong)
        assert (answer.code, answer.json["message"]) == (400, "name in URL does not match name in Eviction object")
        bodies: list[Any] = [
            [],
            "x",
            7,
            None,
            {"metadata": []},
            {"kind": "Pod"},
            {"metadata": {"name": "p"}, "deleteOptions": 1},
        ]
        for body in bodies:
            answer = await api.ask("POST", f"{PODS}/p/eviction", body)
            assert (answer.code, answer.json["kind"]) == (400, "Status"), (body, answer.body)
        conflict = await evict(api, "p", deleteOptions={"preconditions": {"uid": "other"}})
        assert conflict.code == 409
        assert (await evict(api, "gone")).code == 404
        older = {"apiVersion": "policy/v1beta1", "kind": "Eviction", "metadata": {"name": "p"}}
        assert (await api.ask("POST", f"{PODS}/p/eviction", older)).code == 201


async def test_of_many_evictions_at_once_as_many_pass_as_there_is_room() -> None:
    async with running() as api:
        for index in range(6):
            await set_pod(api, f"p{index}")
        await set_budget(api, disruptionsAllowed=2, desiredHealthy=4, currentHealthy=6)
        answers = await asyncio.gather(*(evict(api, f"p{index}") for index in range(6)))
        assert sorted(answer.code for answer in answers) == [201, 201, 429, 429, 429, 429]


async def test_admission_sees_the_eviction_and_the_binding_as_what_they_are() -> None:
    async with running() as api:
        await set_pod(api, "p")
        await evict(api, "p")
        seen = [(each.operation, each.subresource, (each.object or {}).get("kind")) for each in api.door.seen]
        assert ("CREATE", "binding", "Binding") in seen
        assert ("CREATE", "eviction", "Eviction") in seen
        assert not [each for each in seen if each[:2] == ("UPDATE", "binding")]
